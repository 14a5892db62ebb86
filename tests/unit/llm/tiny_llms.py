"""Tiny random decoder-only models with a byte-level tokenizer, saved as Hugging Face directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
    xLSTMConfig,
    xLSTMForCausalLM,
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
    "max_position_embeddings": 2048,
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
    "opt": (
        OPTConfig,
        OPTForCausalLM,
        {name: n for name, n in _SHARED.items() if name != "num_key_value_heads"}
        | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "mixtral": (MixtralConfig, MixtralForCausalLM, _SHARED | {"num_local_experts": 4}),
}
_STATE_SPACE = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
_LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 7.0, 9.0]}
# What prefix trees do not fit: position biases, recurrent and state-space layers, convolutions, chunks, attention
# sinks, angles that depend on the longest prompt of a batch.
_OTHERS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bloom": (BloomConfig, BloomForCausalLM, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": (MptConfig, MptForCausalLM, {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 2048}),
    "falcon": (
        FalconConfig,
        FalconForCausalLM,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    ),
    "gpt_neo": (
        GPTNeoConfig,
        GPTNeoForCausalLM,
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 24,
        },
    ),
    "openai-gpt": (
        OpenAIGPTConfig,
        OpenAIGPTLMHeadModel,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    ),
    "mamba": (MambaConfig, MambaForCausalLM, {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": (
        Mamba2Config,
        Mamba2ForCausalLM,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 16,
        },
    ),
    "rwkv": (RwkvConfig, RwkvForCausalLM, {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}),
    "xlstm": (
        xLSTMConfig,
        xLSTMForCausalLM,
        {"hidden_size": 32, "embedding_dim": 32, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 16},
    ),
    "recurrent_gemma": (
        RecurrentGemmaConfig,
        RecurrentGemmaForCausalLM,
        {
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "lru_width": 32,
            "attention_window_size": 24,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "jamba": (
        JambaConfig,
        JambaForCausalLM,
        _SHARED
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    # Each of its layers has both attention and a state.
    "falcon_h1": (
        FalconH1Config,
        FalconH1ForCausalLM,
        _SHARED | _STATE_SPACE | {"head_dim": 8, "mamba_d_ssm": 64},
    ),
    "lfm2": (Lfm2Config, Lfm2ForCausalLM, _SHARED | {"layer_types": ["conv", "full_attention"]}),
    "gpt_oss": (
        GptOssConfig,
        GptOssForCausalLM,
        _SHARED | {"head_dim": 8, "sliding_window": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "llama4": (
        Llama4TextConfig,
        Llama4ForCausalLM,
        _SHARED
        | {
            "intermediate_size_mlp": 48,
            "head_dim": 8,
            "attention_chunk_size": 24,
            "num_local_experts": 2,
            "layer_types": ["chunked_attention", "full_attention"],
        },
    ),
    "phi3": (
        Phi3Config,
        Phi3ForCausalLM,
        _SHARED
        | {
            "original_max_position_embeddings": 64,
            "rope_parameters": _LONGROPE | {"original_max_position_embeddings": 64},
        },
    ),
}
# What Transformers loads as causal language models, though their logits depend on the tokens that follow.
_NOT_CAUSAL: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bert": (BertConfig, BertLMHeadModel, {name: n for name, n in _SHARED.items() if name != "num_key_value_heads"}),
    "xlnet": (XLNetConfig, XLNetLMHeadModel, {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
}
FAMILIES = tuple(_MODELS)
# As parameters of tests: full and sliding attention in every loop, the others in the whole one.
FAMILY_PARAMETERS = [
    family if family in ("llama", "gemma2") else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES
]
OTHER_FAMILIES = tuple(_OTHERS)
NOT_CAUSAL = tuple(_NOT_CAUSAL)


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
    config_class, model_class, values = (_MODELS | _OTHERS | _NOT_CAUSAL)[family]
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
