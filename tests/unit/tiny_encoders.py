"""Tiny random encoders with real tokenizers, saved as Hugging Face directories."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2Tokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from tests.unit.conftest import CLUES, SCENES

SENTENCES = [*SCENES, *(f"it is {clue} so" for clue in CLUES.values())]
# Large initial weights make predictions differ visibly between items, and training fast.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


def _save_encoder(
    directory: Path, architecture: type[PreTrainedModel], config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> Path:
    """Write an encoder without a head and with its tokenizer; weights are drawn under a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _words_and_letters() -> tuple[list[str], list[str]]:
    words = sorted({word for sentence in SENTENCES for word in sentence.lower().split()})
    return words, sorted({letter for word in words for letter in word})


def save_tiny_bert(directory: Path) -> Path:
    """A tiny BERT with a WordPiece tokenizer: [CLS] a [SEP] b [SEP], two token types.

    Its vocabulary is listed, not trained: the trainer numbers pieces in another order in every process, and a tiny
    model may then learn or not.
    """
    words, letters = _words_and_letters()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=64)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES)
    return _save_encoder(directory, BertModel, config, tokenizer)


def save_tiny_roberta(directory: Path) -> Path:
    """A tiny RoBERTa with a trained byte-level BPE: <s> a </s></s> b </s>, no token types."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = RobertaTokenizer(vocab=trained.get_vocab(), merges=merges, model_max_length=64)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES,
    )
    return _save_encoder(directory, RobertaModel, config, tokenizer)


def save_tiny_deberta(directory: Path) -> Path:
    """A tiny DeBERTa-v2 with a Unigram tokenizer and relative attention; its vocabulary is listed as BERT's is."""
    words, letters = _words_and_letters()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocab = [(piece, 0.0) for piece in special]
    vocab += [(f"▁{word}", -3.0) for word in words] + [(letter, -6.0) for letter in ["▁", *letters]]
    tokenizer = DebertaV2Tokenizer(vocab=vocab, model_max_length=64)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES,
    )
    return _save_encoder(directory, DebertaV2Model, config, tokenizer)
