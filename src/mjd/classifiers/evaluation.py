"""Predictions of the classifiers on dev, test and out-of-distribution rounds, and the tables made from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mjd import schemas
from mjd.distributions import Floats, aligned, distribution_frame, from_counts
from mjd.errors import DataError
from mjd.evaluation.metrics import (
    HUMAN_TIE,
    PREDICTED_TIE,
    accuracy,
    cross_entropy,
    f1,
    kl_divergence,
    majority,
    near_ties,
    share_of_ties,
    top_labels,
)
from mjd.labels import LabelSet
from mjd.logs import Progress

if TYPE_CHECKING:
    import torch

# The system of the pre-trained encoder with an untrained head (`Config.classifier_systems`).
ZERO_SHOT = "zero-shot-lm"

EVALUATED_SPLITS = ("dev", "test")
FINETUNING_METRICS = (
    "kl",
    "reference_kl",
    "ce_loss",
    "weighted_f1",
    "macro_f1",
    "reference_weighted_f1",
    "reference_macro_f1",
)
# Those that follow the paper's definitions: the others say the same of a system, but for a factor or ties.
REFERENCE_METRICS = ("reference_kl", "reference_weighted_f1", "reference_macro_f1")
OOD_METRICS = ("accuracy", "macro_f1", "weighted_f1")
# What tables say about the items of a row beside their number.
FINETUNING_COUNTS = ("n", "share_ties", "n_truncated")
OOD_COUNTS = ("n", "n_truncated")

log = logging.getLogger(__name__)


def predict_systems(
    checkpoints: Mapping[tuple[str, int], str | Path],
    zero_shot: tuple[str | Path, Sequence[int]],
    items: pd.DataFrame,
    ood: pd.DataFrame,
    *,
    labels: LabelSet,
    text_fields: Sequence[str],
    max_length: int,
    device: torch.device,
) -> pd.DataFrame:
    """Predict dev, test and every OOD round with every classifier of one encoder; each text is tokenised once.

    Args:
        checkpoints: per (system slug, seed) a trained model directory, the base classifier included (`mnli-ft-lm`).
        zero_shot: the pre-trained encoder, and the seeds of its untrained heads (system `zero-shot-lm`).
        items: schema `items`; rows of split dev and test are predicted.
        ood: schema `ood`.
        labels: the labels; each checkpoint's `id2label` is checked.
        text_fields: one or two text columns.
        max_length: longest item in tokens.
        device: where to predict.

    Returns:
        Schema `predictions`; `split` is dev, test or the OOD round. Zero-shot comes first, then `checkpoints` in order.
        `attrs["truncated"]` says how many texts of each split and round lost tokens at `max_length`.

    Raises:
        DataError: an item appears twice in a split, a round is named like a split, or a text column is missing.
        ModelError: a checkpoint cannot be used.
    """
    # Imported here: the tables below are made without torch and transformers, seconds of import.
    from mjd.classifiers.model import encode, load_encoder, predict, warn_of_truncation

    texts = _evaluation_texts(items, ood, text_fields)
    encoder_dir, head_seeds = zero_shot
    runs = [(ZERO_SHOT, seed, encoder_dir) for seed in head_seeds]
    runs += [(system, seed, directory) for (system, seed), directory in checkpoints.items()]
    encoded = None
    truncated: dict[str, dict[str, int | list[str]]] = {}
    found: list[pd.DataFrame] = []
    with Progress("predicting", len(runs) * len(texts), "items") as progress:
        for system, seed, directory in runs:
            model, tokenizer = load_encoder(
                directory, labels, pretrained_head=system != ZERO_SHOT, seed=seed, device=device
            )
            if encoded is None:
                encoded = encode(tokenizer, texts, text_fields, max_length)
                for split in texts["split"].unique():
                    here = (texts["split"] == split).to_numpy()
                    named = texts.loc[here, "uid"]
                    truncated[split] = warn_of_truncation(encoded.truncated[here], named, split, max_length)
            frame = distribution_frame(texts["uid"], predict(model, encoded), labels)
            found.append(frame.assign(system=system, seed=seed, split=texts["split"], truncated=encoded.truncated))
            progress.done(len(texts))
    columns = schemas.columns(schemas.predictions(labels))
    predictions = pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)
    predictions.attrs["truncated"] = truncated
    return predictions


def finetuning_table(predictions: pd.DataFrame, items: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """Scores on dev and test against the HJD, one row a system, split and seed.

    Columns: system, split, seed, then in nats `kl` = mean KL(HJD‖prediction), `reference_kl` = kl / K (what the
    paper's `kl_div(reduction="mean")` reports), `ce_loss` = mean -Σ HJD ln prediction, then `weighted_f1` and
    `macro_f1` against the majority label of the HJD, where any of the labels that tie is right
    (`mjd.evaluation.metrics.f1`);
    `reference_weighted_f1` and `reference_macro_f1` take the first of them in label order as gold, as the paper does.
    `n` items, of which the share `share_ties` has several gold labels, and `n_truncated` lost tokens at `max_length`.

    Args:
        predictions: schema `predictions`.
        items: schema `items`, with `hjd_*` on dev and test.
        labels: the labels.

    Raises:
        DataError: an item lacks its HJD or a prediction, or appears twice.
    """
    hjd = from_counts(items, "hjd", labels)
    rows = []
    for split in EVALUATED_SPLITS:
        uids = items.loc[items["split"] == split, "uid"]
        gold = aligned(uids, hjd, labels, f"HJD of the {split} items")
        warn_of_near_ties(gold, uids, split)
        right = top_labels(gold, HUMAN_TIE)
        for system, seed, p, n_truncated in _predictions_of(predictions, split, uids, labels):
            predicted = top_labels(p, PREDICTED_TIE)
            kl = float(kl_divergence(gold, p).mean())
            rows.append(
                {
                    "system": system,
                    "split": split,
                    "seed": seed,
                    "kl": kl,
                    "reference_kl": kl / len(labels),
                    "ce_loss": float(cross_entropy(gold, p).mean()),
                    "weighted_f1": f1(right, predicted, len(labels), "weighted"),
                    "macro_f1": f1(right, predicted, len(labels), "macro"),
                    "reference_weighted_f1": f1(majority(gold), majority(p), len(labels), "weighted"),
                    "reference_macro_f1": f1(majority(gold), majority(p), len(labels), "macro"),
                    "n": len(uids),
                    "share_ties": share_of_ties(right),
                    "n_truncated": n_truncated,
                }
            )
    return pd.DataFrame(rows, columns=["system", "split", "seed", *FINETUNING_METRICS, *FINETUNING_COUNTS])


def ood_table(predictions: pd.DataFrame, ood: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """Scores on the out-of-distribution rounds, one row a system, round and seed.

    Columns: system, round, seed, `accuracy`, `macro_f1`, `weighted_f1` against the gold label, `n` items, and how many
    of them, `n_truncated`, lost tokens at `max_length`. F1 is over all K labels: a classifier that always predicts one
    of three balanced labels scores 0.167. There is one gold label an item; predicted labels that tie count in equal
    parts (`mjd.evaluation.metrics.f1`).

    Args:
        predictions: schema `predictions`.
        ood: schema `ood`.
        labels: the labels.

    Raises:
        DataError: an item lacks a prediction or appears twice, or a gold label is unknown.
    """
    rows = []
    for name, items in ood.groupby("round", sort=False):
        gold = np.array([labels.index(key) for key in items["label"]])
        for system, seed, p, n_truncated in _predictions_of(predictions, str(name), items["uid"], labels):
            predicted = top_labels(p, PREDICTED_TIE)
            rows.append(
                {
                    "system": system,
                    "round": name,
                    "seed": seed,
                    "accuracy": accuracy(gold, predicted, len(labels)),
                    "macro_f1": f1(gold, predicted, len(labels), "macro"),
                    "weighted_f1": f1(gold, predicted, len(labels), "weighted"),
                    "n": len(items),
                    "n_truncated": n_truncated,
                }
            )
    return pd.DataFrame(rows, columns=["system", "round", "seed", *OOD_METRICS, *OOD_COUNTS])


def summarise_seeds(table: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, groups in order of first appearance.

    Args:
        table: one row a group and seed (`finetuning_table`, `ood_table`).
        keys: columns that name a group, e.g. system and split; add `n` to keep the number of items.
        metrics: columns to summarise.

    Returns:
        The keys, per metric its mean (`kl`) and standard deviation (`kl_sd`, NaN for one seed), and `n_seeds`.
    """
    groups = table.groupby(list(keys), sort=False, dropna=False)
    summary = pd.DataFrame(
        {
            name: values
            for metric in metrics
            for name, values in ((metric, groups[metric].mean()), (f"{metric}_sd", groups[metric].std(ddof=1)))
        }
    )
    return summary.assign(n_seeds=groups.size()).reset_index()


def warn_of_near_ties(hjd: Floats, uids: pd.Series, what: str) -> None:
    """Log a warning where shares may be ties that a file has rounded away (`mjd.evaluation.metrics.near_ties`)."""
    near = near_ties(hjd)
    if near.any():
        log.warning(
            "%s: the two highest shares of %d of %d HJDs differ by 0.001 or less, as rounding makes of ties (%s). The "
            "higher one is gold: write shares with at least six decimals where they should tie.",
            what,
            near.sum(),
            len(near),
            ", ".join(map(str, uids[near][:3])),
        )


def _evaluation_texts(items: pd.DataFrame, ood: pd.DataFrame, text_fields: Sequence[str]) -> pd.DataFrame:
    """Split, uid and texts of everything to predict: dev, test, then the OOD rounds in their order."""
    for name in sorted(set(EVALUATED_SPLITS) & set(ood["round"])):
        raise DataError(f"An out-of-distribution round is named {name!r}, like a split.", "Rename the round.")
    parts = [items[items["split"] == split] for split in EVALUATED_SPLITS]
    parts += [part.assign(split=name) for name, part in ood.groupby("round", sort=False)]
    texts = pd.concat([part[["split", "uid", *text_fields]] for part in parts], ignore_index=True)
    twice = texts.duplicated(["split", "uid"])
    if twice.any():
        row = texts[twice].iloc[0]
        raise DataError(f"Item {row['uid']} appears twice in {row['split']}.", "Give every item its own uid.")
    return texts


def _predictions_of(
    predictions: pd.DataFrame, split: str, uids: pd.Series, labels: LabelSet
) -> list[tuple[str, int, Floats, int | None]]:
    """System, seed, probabilities [n_items, K] in the order of `uids` and truncated items of every run, one to one.

    The number of truncated items is None in predictions of versions that did not count them.
    """
    if uids.empty:
        return []
    found = []
    for (system, seed), run in predictions.groupby(["system", "seed"], sort=False):
        frame = run[run["split"] == split]
        where = f"Predictions of {system} (seed {seed}) on {split}"
        extra = ~frame["uid"].isin(uids)
        if extra.any():
            raise DataError(
                f"{where}: item {frame.loc[extra, 'uid'].iloc[0]} is not in {split}.",
                "Predict again: the items have changed.",
            )
        p = aligned(uids, frame, labels, where)
        n_truncated = int(frame["truncated"].sum()) if "truncated" in frame else None
        found.append((str(system), int(str(seed)), p, n_truncated))
    return found
