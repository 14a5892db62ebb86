"""Small real tokenizers of the kinds that language models have, each with chat markers, saved as model directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
# Added, but not special: those that models write.
ADDED = ["<think>", "</think>", "<tool_call>"]
# Letters stand alone, at the start of words, after brackets and after spaces.
TEXTS = [
    "A B C D E F",
    "(A) (B) (C)",
    "[/INST]A [/INST]B",
    "x y z",
    "The answer is A or B, or C.",
    "im_start end think",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Mistral-Instruct: the prompt ends in [/INST], without a space.
MISTRAL = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
KINDS = ("byte-level", "unigram-always", "unigram-first", "bpe-metaspace", "llama-legacy", "wordpiece")


def tokenizer_of(kind: str, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A tokenizer trained on a few words."""
    alphabet = sorted(
        set("".join(TEXTS) + "<|>/_:.,!?'\"{}[]()0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    )
    metaspace = {"prepend_scheme": "first" if kind == "unigram-first" else "always"}
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=600, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    elif kind.startswith("unigram"):
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
        tokenizer.decoder = decoders.Metaspace(**metaspace)
        pieces = [(text, 0.0) for text in SPECIAL]
        pieces += [("▁", -2.0), *((c, -5.0) for c in alphabet), *(("▁" + c, -4.0) for c in alphabet)]
        pieces += [(word, -3.0) for word in ("▁answer", "▁The", "think", "start")]
        tokenizer.model = models.Unigram(list(dict(pieces).items()), unk_id=0)
        trainer = None
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        if kind == "llama-legacy":
            steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            tokenizer.normalizer = normalizers.Sequence(steps)
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
        tokenizer.decoder = decoders.Metaspace(**metaspace)
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=[*alphabet, "▁"])
    if trainer:
        # Words that begin with a letter and a space, so that both spellings are pieces.
        tokenizer.train_from_iterator(TEXTS * 20, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=template,
    )


def save_tokenizer(directory: Path, kind: str, template: str | None = CHATML, more: Sequence[str] = ()) -> Path:
    """Save a tokenizer of `kind`, with `more` special tokens, as a model directory without weights."""
    tokenizer = tokenizer_of(kind, template)
    tokenizer.add_tokens(list(more), special_tokens=True)
    tokenizer.save_pretrained(directory)
    return directory
