"""Sequence classifiers (BERT, RoBERTa, DeBERTa and their kin): loading, tokenising, batching, predicting, saving.

The K outputs of every classifier follow the label order; a checkpoint that says otherwise is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from mjd.backends import onednn
from mjd.backends.checkpoints import check_quantisation, check_unread_weights, load_tokenizer, loading
from mjd.backends.devices import keep_freed_memory
from mjd.distributions import Floats, Ints
from mjd.errors import DataError, ModelError
from mjd.io import Provenance, write_text
from mjd.labels import LabelSet, same_name

log = logging.getLogger(__name__)

# Padded tokens in one prediction batch; bounds the memory, and larger batches are no faster on a CPU.
TOKENS_PER_BATCH = 4096
# Names of embeddings of absolute positions: BERT's kin, BART's, GPT-2's.
_POSITION_TABLES = frozenset({"position_embeddings", "embed_positions", "wpe"})


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of a data set, tokenised once and padded only when batched.

    Attributes:
        input_ids: per item its token ids, special tokens included.
        token_type_ids: per item 0 for the first text, 1 for the second; None if the tokenizer makes none.
        lengths: tokens per item [n_items].
        pad_id: token id of padding.
        pad_type_id: token type of padding.
        full_lengths: tokens per item before truncation [n_items]; None: nothing was truncated.
    """

    input_ids: list[Ints]
    token_type_ids: list[Ints] | None
    lengths: Ints
    pad_id: int
    pad_type_id: int
    full_lengths: Ints | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """Items that lost tokens, bool [n_items]."""
        full = self.lengths if self.full_lengths is None else self.full_lengths
        return np.asarray(full > self.lengths)


def load_encoder(
    directory: str | Path, labels: LabelSet, *, pretrained_head: bool, seed: int, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a classifier with K = len(labels) outputs in label order, in float32 and evaluation mode.

    Args:
        directory: Hugging Face model directory with tokenizer; nothing is downloaded.
        labels: the labels; their names become (fresh head) or are checked against (trained head) `id2label`.
        pretrained_head: True keeps the checkpoint's classification head; False draws a new one, whatever the
            checkpoint holds.
        seed: seed of every weight the checkpoint does not supply. The global random state is left alone.
        device: where the model goes.

    Raises:
        ModelError: the directory is not a usable checkpoint, its label order differs, or it has no trained head.
    """
    names = dict(enumerate(labels.names))
    fresh = {} if pretrained_head else {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if not Path(directory).is_dir():
        raise ModelError(f"{directory} is not a directory.", "Give a Hugging Face model directory.")
    with _quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cure = "Give a directory with config.json, weights and tokenizer of a BERT-, RoBERTa- or DeBERTa-like model."
        check_quantisation(directory, str(directory))
        with loading(directory, str(directory), "a sequence classifier", cure):
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **fresh)
            if pretrained_head:
                check_label_order(config.id2label, labels, str(directory))
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                ignore_mismatched_sizes=not pretrained_head,
                output_loading_info=True,
                trust_remote_code=False,
            )
        check_unread_weights(loaded["unexpected_keys"], str(directory))
        tokenizer = encoder_tokenizer(directory)
        _check_weights(model, loaded["missing_keys"], directory, pretrained_head)
        if not pretrained_head:
            _renew_head(model, seed)
    _limit_length(tokenizer, model)
    with loading(directory, str(directory), "a sequence classifier", cure):
        model = model.to(device).eval()
    keep_freed_memory()
    onednn.use_in_linear_layers(model)
    return model, tokenizer


def encoder_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory, which reads `[SEP]` or `</s>` in a text as text; raises `ModelError`."""
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(directory, str(directory))
    tokenizer.split_special_tokens = True
    return tokenizer


def check_label_order(id2label: Mapping[int, str], labels: LabelSet, where: str) -> None:
    """Check that a checkpoint's outputs follow the label order; case does not matter.

    Args:
        id2label: the checkpoint's label names by output position.
        labels: the labels, in label order.
        where: the checkpoint, for the message.

    Raises:
        ModelError: names or order differ.
    """
    found = [str(id2label[index]) for index in sorted(id2label)]
    if len(found) == len(labels) and all(map(same_name, found, labels.names)):
        return
    expected = ", ".join(labels.names)
    if sorted(name.casefold() for name in found) == sorted(name.casefold() for name in labels.names):
        problem, cure = "a checkpoint whose label order differs", "List task.labels in the checkpoint's order, or train"
    else:
        problem, cure = "a checkpoint with other labels", "Give its config.json an id2label with these names, or train"
    raise ModelError(
        f"{where} is {problem}: its id2label is {', '.join(found)}, the configuration's task.labels are {expected}.",
        f"{cure} the head anew on labelled pairs.",
    )


def encode(
    tokenizer: PreTrainedTokenizerBase, frame: pd.DataFrame, text_fields: Sequence[str], max_length: int
) -> EncodedTexts:
    """Tokenise one or two text fields of every row, in row order, with the tokenizer's special tokens.

    Pairs longer than `max_length` tokens lose tokens from the longer text first. Token types are made only if the
    tokenizer makes them for its model.

    Args:
        tokenizer: the encoder's tokenizer.
        frame: a table with the text columns.
        text_fields: one or two column names.
        max_length: longest item in tokens.

    Raises:
        DataError: a text column is missing.
        ModelError: the model takes no `max_length` tokens, or the tokenizer has no padding token.
    """
    for field in text_fields:
        if field not in frame:
            present = ", ".join(map(str, frame.columns))
            raise DataError(f"Text column {field!r} is missing (has: {present}).", "Fix task.text_fields.")
    if max_length > tokenizer.model_max_length:
        raise ModelError(
            f"max_length is {max_length}, but this encoder takes at most {tokenizer.model_max_length} tokens.",
            "Lower the encoder's max_length.",
        )
    if tokenizer.pad_token_id is None:
        raise ModelError("The encoder's tokenizer has no padding token.", "Use a BERT- or RoBERTa-like model.")
    if frame.empty:
        return EncodedTexts([], None, np.zeros(0, dtype=np.int64), tokenizer.pad_token_id, 0)
    columns = [frame[field].astype(str).tolist() for field in text_fields]
    plain = {"padding": False, "return_attention_mask": False, "verbose": False}
    found = tokenizer(*columns, truncation=False, **plain)
    rows = {name: _int_arrays(found[name]) for name in ("input_ids", "token_type_ids") if name in found}
    full_lengths = np.array([len(ids) for ids in rows["input_ids"]], dtype=np.int64)
    # Whole first, so that what is lost is known; then only the long ones again.
    long = np.flatnonzero(full_lengths > max_length)
    if long.size:
        chosen = [[column[index] for index in long] for column in columns]
        cut = tokenizer(*chosen, truncation="longest_first", max_length=max_length, **plain)
        for name, of_all in rows.items():
            for index, ids in zip(long, _int_arrays(cut[name]), strict=True):
                of_all[index] = ids
    input_ids = rows["input_ids"]
    return EncodedTexts(
        input_ids=input_ids,
        token_type_ids=rows.get("token_type_ids"),
        lengths=np.array([len(ids) for ids in input_ids], dtype=np.int64),
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        full_lengths=full_lengths,
    )


def warn_of_truncation(
    truncated: npt.NDArray[np.bool_], uids: pd.Series, what: str, max_length: int
) -> dict[str, int | list[str]]:
    """Log a warning where texts lost tokens at `max_length`.

    Args:
        truncated: bool [n_items]; uids: of the items, in the same order.
        what: the items, for the message: a split, a round, the pairs.

    Returns:
        Number of items, number truncated and the first uids, for provenance.
    """
    named = [str(uid) for uid in uids[truncated][:5]]
    if named:
        log.warning(
            "%s: %d of %d texts (%.1f %%) are longer than max_length %d and lose their end: %s%s. Raise the encoder's "
            "max_length.",
            what,
            truncated.sum(),
            len(truncated),
            100 * truncated.mean(),
            max_length,
            ", ".join(named),
            f" and {truncated.sum() - len(named)} more" * (int(truncated.sum()) > len(named)),
        )
    return {"n": len(truncated), "n_truncated": int(truncated.sum()), "first_uids": named}


def collate(encoded: EncodedTexts, indices: Sequence[int] | Ints, device: torch.device) -> dict[str, torch.Tensor]:
    """Model inputs of the items at `indices`, padded on the right to the longest of them.

    Returns:
        `input_ids`, `attention_mask` (1 for tokens) and, if the tokenizer makes them, `token_type_ids`; each int64
        [len(indices), longest].
    """
    lengths = encoded.lengths[indices]
    mask = np.arange(lengths.max()) < lengths[:, None]

    def padded(rows: list[Ints], fill: int) -> torch.Tensor:
        table = np.full(mask.shape, fill, dtype=np.int64)
        table[mask] = np.concatenate([rows[index] for index in indices])
        return torch.from_numpy(table).to(device)

    batch = {"input_ids": padded(encoded.input_ids, encoded.pad_id)}
    batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(device)
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = padded(encoded.token_type_ids, encoded.pad_type_id)
    return batch


def length_sorted_batches(lengths: Ints, tokens_per_batch: int) -> list[Ints]:
    """Item positions in batches of similar length, longest first, so that little is padded.

    Args:
        lengths: tokens per item [n_items].
        tokens_per_batch: most padded tokens in a batch; an item longer than this is a batch of its own.

    Returns:
        Batches that together hold every position once.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[Ints] = []
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches


def predict(model: PreTrainedModel, encoded: EncodedTexts, tokens_per_batch: int = TOKENS_PER_BATCH) -> Floats:
    """Predicted distributions in item order and label order, without dropout; the model's mode is restored.

    Returns:
        Probabilities [n_items, K], rows sum to 1.
    """
    was_training = model.training
    model.train(False)
    probabilities = np.empty((len(encoded), int(model.config.num_labels or 0)), dtype=np.float64)
    with torch.inference_mode():
        for batch in length_sorted_batches(encoded.lengths, tokens_per_batch):
            logits = model(**collate(encoded, batch, model.device)).logits
            # Softmax in double on the CPU: mps has no float64.
            probabilities[batch] = logits.cpu().double().softmax(dim=-1).numpy()
    model.train(was_training)
    return probabilities


def save_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str | Path,
    about: Provenance | None = None,
) -> None:
    """Write a Hugging Face model directory (weights as safetensors, config, tokenizer) at once; replaces an old one.

    `about`, the provenance, goes into its `mjd.json`.
    """
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with _quiet_transformers():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        if about is not None:
            write_text(json.dumps(dict(about), indent=2, sort_keys=True, default=str) + "\n", temporary / "mjd.json")
        # Temporary directories and safetensors files are private to their owner: open them as any other output.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _int_arrays(rows: Sequence[Sequence[int]]) -> list[Ints]:
    return [np.asarray(row, dtype=np.int64) for row in rows]


def _is_head(key: str, model: PreTrainedModel) -> bool:
    return not key.startswith(f"{model.base_model_prefix}.")


def _check_weights(model: PreTrainedModel, missing: set[str], directory: str | Path, pretrained_head: bool) -> None:
    """Refuse a checkpoint without encoder weights, or without a head where one is wanted.

    A pooler may be missing from checkpoints trained without one (masked language models): it is then drawn anew.
    """
    lacking = sorted(key for key in missing if (pretrained_head or not _is_head(key, model)) and ".pooler." not in key)
    if lacking:
        raise ModelError(
            f"{directory} lacks weights of the classifier: {', '.join(lacking[:3])}{', ...' * (len(lacking) > 3)}.",
            "Give a complete checkpoint (with its trained classification head, if it is not trained here).",
        )


def _limit_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Let the tokenizer know how many tokens the model has positions for, where its own files do not say so.

    Models of RoBERTa's kind number positions after the padding token's id, so that their first places are never used;
    BART's skip as many as their `offset`. Relative positions and rotary ones have no table and no end.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in _POSITION_TABLES or not isinstance(module, torch.nn.Embedding):
            continue
        padding = 0 if module.padding_idx is None else module.padding_idx + 1
        longest = module.num_embeddings - int(getattr(module, "offset", padding))
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)


def _renew_head(model: PreTrainedModel, seed: int) -> None:
    """Draw the classification head anew: the same for every checkpoint of one architecture, with or without a head."""
    torch.manual_seed(seed)
    drawn = AutoModelForSequenceClassification.from_config(model.config)
    head = {key: value for key, value in drawn.state_dict().items() if _is_head(key, model)}
    model.load_state_dict(head, strict=False)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence loading reports and progress bars: fresh heads are meant to be newly initialised."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
