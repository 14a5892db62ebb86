"""Loading checkpoints: whatever Transformers raises over one becomes a `ModelError` with its cause and cure."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from mjd.backends.packages import missing_packages
from mjd.errors import MjdError, ModelError
from mjd.logs import named

log = logging.getLogger(__name__)

# Some of these a tokenizer knows, whatever its language.
_SAMPLE = "the A of e 1 . и 的 の ا अ ε"
# Ends of the names of tensors beside quantised weights: ignoring them would leave wrong weights.
_QUANTISED = re.compile(
    r"(weight_scale\w*|scale_inv|input_scale|qweight|qzeros|\.scales|g_idx|absmax|quant_map|quant_state\S*|SCB"
    r"|weight_packed|_blocks|_scales)$"
)


@contextlib.contextmanager
def loading(directory: str | Path, name: str, what: str, cure: str) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint's files are read into a `ModelError` about `name`.

    Args:
        what: as which it is loaded, such as "a language model".
        cure: what to do about a cause that is not known.
    """
    try:
        yield
    except MjdError:
        raise
    except Exception as error:  # damaged or foreign files fail anywhere in the readers
        raise _explained(error, Path(directory), name, what, cure) from error


def load_tokenizer(directory: str | Path, name: str) -> Any:
    """The tokenizer of a model directory; no code of the directory is run.

    Raises:
        ModelError: it cannot be read, or has no vocabulary: Transformers makes an empty one where files are missing.
    """
    cure = "Give a complete directory: tokenizer.json, or the files that its tokenizer class reads."
    with loading(directory, name, "a tokenizer", cure):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        known = set(tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}
    if not known:
        problem = f"The tokenizer of {name} has no vocabulary: it knows no word of any language."
        raise ModelError(problem, missing_packages(Path(directory)) or cure)
    return tokenizer


def check_quantisation(directory: str | Path, name: str) -> None:
    """Raise `ModelError` where a checkpoint is quantised in a way that Transformers would ignore."""
    method = _quantisation(Path(directory))
    if method is None:
        return
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if not any(known == method or known.startswith(f"{method}_") for known in AUTO_QUANTIZER_MAPPING):
        raise ModelError(f"{name} is quantised ({method}), which Transformers does not know.", _OTHER_WAYS)


def check_decoder_only(directory: str | Path, name: str) -> None:
    """Raise `ModelError` for a model of encoder and decoder: of BART, Transformers would run the decoder alone."""
    if _config(Path(directory)).get("is_encoder_decoder"):
        raise ModelError(
            f"{name} has an encoder and a decoder, and is no causal language model.", "Use a decoder-only model."
        )


def check_unread_weights(unexpected: Iterable[str], name: str) -> None:
    """Raise `ModelError` where tensors that belong to quantised weights were not read: the weights would be wrong."""
    found = sorted(key for key in unexpected if _QUANTISED.search(key))
    if found:
        raise ModelError(
            f"{name} holds quantised weights, but its config.json does not say how ({', '.join(found[:3])} not read).",
            _OTHER_WAYS,
        )


def warn_of_unread_weights(unexpected: Collection[str], name: str) -> None:
    """Log tensors of a language model's checkpoint that were not read: its config.json may be of another model."""
    if unexpected:
        log.warning(
            "%s: %d tensors of the checkpoint are not read: %s", name, len(unexpected), named(sorted(unexpected))
        )


_OTHER_WAYS = (
    "Give the checkpoint that is not quantised, or run an LLM with engine: vllm (vllm.quantisation names the way)."
)


def _explained(error: Exception, directory: Path, name: str, what: str, cure: str) -> ModelError:
    whole = " ".join(str(error).split()) or type(error).__name__
    text = whole[:400]
    problem = f"{name} cannot be loaded as {what} ({text})."
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in whole:
        return ModelError(
            f"Memory ran out while {name} was loaded as {what}.",
            "Use a machine with more (resources.mem_mb, resources.gpu), a smaller model, or dtype: bfloat16.",
        )
    if "trust_remote_code" in whole:
        return ModelError(
            f"{name} needs program code of its own, which mjd does not run.",
            "Use a model of an architecture that Transformers has itself.",
        )
    method = _quantisation(directory)
    if method is not None and what != "a tokenizer":
        package = re.search(r"pip install (?:-U |--upgrade )?`?([\w.\[\]>=<-]+)", whole)
        install = f"Install what it needs beside mjd (`.venv/bin/pip install {package[1]}`). " if package else ""
        return ModelError(f"{name} is quantised ({method}) and cannot be loaded ({text}).", install + _OTHER_WAYS)
    if what == "a tokenizer" and (packages := missing_packages(directory)):
        return ModelError(problem, packages)
    if isinstance(error, ImportError):
        return ModelError(problem, "Install the missing package into the environment that runs mjd's jobs.")
    return ModelError(problem, cure)


def _quantisation(directory: Path) -> str | None:
    """Name of the method by which a checkpoint is quantised; None where it is not, or its config cannot be read."""
    found = _config(directory).get("quantization_config")
    if not isinstance(found, dict):
        return None
    # Early checkpoints of bitsandbytes do not name it.
    early = "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else "unknown method"
    return str(found.get("quant_method") or early)


def _config(directory: Path) -> dict[str, Any]:
    """The keys of config.json; none where it cannot be read."""
    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
