"""Tiny random decoder-only models with a byte-level tokenizer, saved as Hugging Face directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_SHARED = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
# Windows of 24 tokens make sliding-window layers matter in short prompts.
_MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, _SHARED),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, _SHARED | {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, _SHARED | {"head_dim": 16}),
    "gemma": (GemmaConfig, GemmaForCausalLM, _SHARED | {"head_dim": 8}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, _SHARED | {"head_dim": 8, "sliding_window": 24}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        _SHARED | {"head_dim": 8, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "mistral": (MistralConfig, MistralForCausalLM, _SHARED | {"sliding_window": 24}),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}),
    # Its attention adds position biases of its own, which prefix trees know nothing of.
    "bloom": (BloomConfig, BloomForCausalLM, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
FAMILIES = tuple(family for family in _MODELS if family != "bloom")


def byte_tokenizer(rewrite: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """One token a byte; `rewrite` maps characters to other text before that."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    if rewrite:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(a, b) for a, b in rewrite.items()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", chat_template=_TEMPLATE
    )


def save_tiny_llm(directory: Path, family: str = "llama", rewrite: dict[str, str] | None = None) -> Path:
    """Save a random model of `family`, its weights large enough for scores to differ clearly."""
    config_class, model_class, values = _MODELS[family]
    tokenizer = byte_tokenizer(rewrite)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        model = model_class(config_class(vocab_size=len(tokenizer), **ids, **values))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
