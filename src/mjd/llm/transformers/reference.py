"""What other ways of running a model are compared with: one prompt alone, unpadded, without a cache, eager attention.

Eager attention is the code that a model's authors wrote: every attention of Transformers that replaces it (SDPA) may
leave out what it has no argument for, such as soft caps, attention sinks and position biases.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from mjd.errors import ModelError
from mjd.llm.transformers.tree_attention import HARMLESS, asked

log = logging.getLogger(__name__)

# Largest difference in logits that is taken for rounding, where logits have a standard deviation of 1 or more.
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.5

# SDPA that refuses what it cannot do, where Transformers' own leaves it out.
STRICT_SDPA = "mjd_strict_sdpa"
_SDPA_ARGUMENTS = set(inspect.signature(sdpa_attention_forward).parameters) | HARMLESS
_SDPA_ARGUMENTS |= {"sliding_window", "past_key_values", "cache_params"}  # windows are in the mask

# Most memory of one layer's attention weights in eager attention, bytes.
EAGER_BYTES = 2**29
# Most memory that a float32 copy of half-precision weights may take where free memory is unknown, bytes.
FLOAT32_BYTES = 2 * 2**30


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward call has an argument of that name (and does not just swallow it)."""
    return name in _arguments(model.__class__)


@functools.cache
def _arguments(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def logits_alone(model: Any, ids: Sequence[int], n_last: int = 1) -> torch.Tensor:
    """Float32 logits [n_last, vocabulary] after the last tokens of one prompt (token ids)."""
    keep = {"logits_to_keep": n_last} if accepts(model, "logits_to_keep") else {}
    out = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, **keep)
    return torch.as_tensor(out.logits[0, -n_last:]).float()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference of logits; equal infinities (tokens ruled out) do not differ."""
    return float((found - expected).abs().masked_fill(found == expected, 0.0).max())


def tolerance(expected: torch.Tensor, dtype: torch.dtype) -> float:
    """Largest difference that is rounding: absolute, and less where the logits [..., vocabulary] are nearly equal."""
    spread = float(expected[expected.isfinite()].std())
    return TOLERANCES.get(dtype, HALF_TOLERANCE) * min(1.0, spread)


def check_finite(logits: torch.Tensor, name: str, n_tokens: int) -> None:
    """Refuse logits [..., vocabulary] that no model means; minus infinity rules a single token out.

    Raises:
        ModelError: a value is NaN or plus infinity, or a row has no finite value.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise ModelError(
            f"The logits of {name} are not finite (prompt of {n_tokens} tokens).",
            "Set dtype: float32 or bfloat16 (float16 overflows in many models); else the weights are damaged: "
            "download them again.",
        )


def can_set_attention(model: Any) -> bool:
    """Whether Transformers can exchange the model's attention after it is loaded."""
    return bool(model._can_set_attn_implementation())


def set_attention(model: Any, name: str) -> None:
    """Use the attention of that name from now on, where the model allows it; else it stays what it was loaded with."""
    if model.config._attn_implementation != name and can_set_attention(model):
        model.set_attn_implementation(name)


def exact_attention(model: Any, probes: Sequence[Sequence[int]]) -> str:
    """`sdpa` where it does all that the model asks of its attention and equals eager on the probes; else `eager`."""
    if not can_set_attention(model):
        return str(model.config._attn_implementation)
    _register()
    try:
        set_attention(model, "eager")
        expected = [logits_alone(model, ids) for ids in probes]
        for name in (STRICT_SDPA, "sdpa"):
            model.set_attn_implementation(name)
            for ids, one in zip(probes, expected, strict=True):
                apart = difference(logits_alone(model, ids), one)
                if not apart <= tolerance(one, model.dtype):
                    raise ModelError(f"logits differ by {apart:.2g}", "")
        return "sdpa"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        log.info("Eager attention is used instead of SDPA: %s", error)
        return "eager"


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(STRICT_SDPA, _strict_sdpa)
    AttentionMaskInterface.register(STRICT_SDPA, sdpa_mask)


def _strict_sdpa(module: torch.nn.Module, *tensors: Any, **arguments: Any) -> Any:
    """Transformers' SDPA; an argument that it would ignore is an error."""
    unknown = asked(arguments) - _SDPA_ARGUMENTS
    if unknown:
        raise ModelError(f"SDPA cannot do what {type(module).__name__} asks ({', '.join(sorted(unknown))}).", "")
    return sdpa_attention_forward(module, *tensors, **arguments)


def longest_eager(model: Any) -> int:
    """Longest prompt (tokens) whose attention weights, of one layer in float32, fit `EAGER_BYTES`."""
    heads = getattr(model.config.get_text_config(), "num_attention_heads", None) or 1
    return int((EAGER_BYTES / 4 / (max(heads) if isinstance(heads, (list, tuple)) else heads)) ** 0.5)


def other_token(ids: Sequence[int], place: int, model: Any) -> list[int]:
    """The prompt with another of its tokens at a place (any other token where it has one only)."""
    others = [token for token in ids if token != ids[place]]
    changed = list(ids)
    changed[place] = others[-1] if others else (ids[place] + 1) % model.config.get_text_config().vocab_size
    return changed


def is_causal(model: Any, ids: Sequence[int]) -> bool:
    """Whether logits after a token do not depend on the tokens that follow it, tried by changing the last one.

    Encoders (BERT) and permutation models (XLNet), which Transformers loads as causal models too, fail here.
    """
    if len(ids) < 2:
        return True
    changed = other_token(ids, -1, model)
    before, after = (logits_alone(model, one, 2)[0] for one in (ids, changed))
    return difference(after, before) <= tolerance(before, model.dtype) / 10


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Half-precision weights as float32 where memory allows, so that rounding hides no difference; then as before."""
    tensors = [t for t in chain(model.parameters(), model.buffers()) if t.dtype in (torch.bfloat16, torch.float16)]
    more = sum(2 * t.numel() for t in tensors)
    is_quantized = getattr(model, "hf_quantizer", None) is not None
    if is_quantized or more > _free_bytes(model.device):
        yield
        return
    dtypes = [t.dtype for t in tensors]
    try:
        with torch.inference_mode(False):
            for one in tensors:
                one.data = one.data.float()
        yield
    finally:
        with torch.inference_mode(False):
            for one, dtype in zip(tensors, dtypes, strict=True):
                one.data = one.data.to(dtype)


def _free_bytes(device: torch.device) -> float:
    """Memory that float32 copies may take: half of a GPU's free memory, little elsewhere."""
    if device.type == "cuda":
        return 0.5 * torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else FLOAT32_BYTES
    return min(free / 2, FLOAT32_BYTES)
