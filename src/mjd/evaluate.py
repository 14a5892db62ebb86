"""Predictions of the classifiers on dev, test and out-of-distribution rounds, and the tables made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mjd import schemas
from mjd.distributions import Floats, aligned, distribution_frame, from_counts
from mjd.errors import DataError
from mjd.labels import LabelSet
from mjd.logs import Progress
from mjd.metrics import cross_entropy, f1, kl_divergence, majority

if TYPE_CHECKING:
    import torch

# The system of the pre-trained encoder with an untrained head (`Config.classifier_systems`).
ZERO_SHOT = "zero-shot-lm"

EVALUATED_SPLITS = ("dev", "test")
FINETUNING_METRICS = ("kl", "reference_kl", "ce_loss", "weighted_f1", "macro_f1")
OOD_METRICS = ("accuracy", "macro_f1", "weighted_f1")


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

    Raises:
        DataError: an item appears twice in a split, a round is named like a split, or a text column is missing.
        ModelError: a checkpoint cannot be used.
    """
    # Imported here: the tables below are made without torch and transformers, seconds of import.
    from mjd.classifier import encode, load_encoder, predict

    texts = _evaluation_texts(items, ood, text_fields)
    encoder_dir, head_seeds = zero_shot
    runs = [(ZERO_SHOT, seed, encoder_dir) for seed in head_seeds]
    runs += [(system, seed, directory) for (system, seed), directory in checkpoints.items()]
    encoded = None
    found: list[pd.DataFrame] = []
    with Progress("predicting", len(runs) * len(texts), "items") as progress:
        for system, seed, directory in runs:
            model, tokenizer = load_encoder(
                directory, labels, pretrained_head=system != ZERO_SHOT, seed=seed, device=device
            )
            encoded = encoded or encode(tokenizer, texts, text_fields, max_length)
            frame = distribution_frame(texts["uid"], predict(model, encoded), labels)
            found.append(frame.assign(system=system, seed=seed, split=texts["split"]))
            progress.done(len(texts))
    columns = schemas.columns(schemas.predictions(labels))
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def finetuning_table(predictions: pd.DataFrame, items: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """Scores on dev and test against the HJD, one row a system, split and seed.

    Columns: system, split, seed, then in nats `kl` = mean KL(HJD‖prediction), `reference_kl` = kl / K (what the
    paper's `kl_div(reduction="mean")` reports), `ce_loss` = mean -Σ HJD ln prediction, then `weighted_f1` and
    `macro_f1` against the majority label of the HJD (the first in label order on ties), and `n` items.

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
        for system, seed, p in _predictions_of(predictions, split, uids, labels):
            kl = float(kl_divergence(gold, p).mean())
            rows.append(
                {
                    "system": system,
                    "split": split,
                    "seed": seed,
                    "kl": kl,
                    "reference_kl": kl / len(labels),
                    "ce_loss": float(cross_entropy(gold, p).mean()),
                    "weighted_f1": f1(majority(gold), majority(p), len(labels), "weighted"),
                    "macro_f1": f1(majority(gold), majority(p), len(labels), "macro"),
                    "n": len(uids),
                }
            )
    return pd.DataFrame(rows, columns=["system", "split", "seed", *FINETUNING_METRICS, "n"])


def ood_table(predictions: pd.DataFrame, ood: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """Scores on the out-of-distribution rounds, one row a system, round and seed.

    Columns: system, round, seed, `accuracy`, `macro_f1`, `weighted_f1` against the gold label, and `n` items. F1 is
    over all K labels: a classifier that always predicts one of three balanced labels scores 0.167.

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
        for system, seed, p in _predictions_of(predictions, str(name), items["uid"], labels):
            predicted = majority(p)
            rows.append(
                {
                    "system": system,
                    "round": name,
                    "seed": seed,
                    "accuracy": float((predicted == gold).mean()),
                    "macro_f1": f1(gold, predicted, len(labels), "macro"),
                    "weighted_f1": f1(gold, predicted, len(labels), "weighted"),
                    "n": len(items),
                }
            )
    return pd.DataFrame(rows, columns=["system", "round", "seed", *OOD_METRICS, "n"])


def summarise_seeds(table: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, groups in order of first appearance.

    Args:
        table: one row a group and seed (`finetuning_table`, `ood_table`).
        keys: columns that name a group, e.g. system and split; add `n` to keep the number of items.
        metrics: columns to summarise.

    Returns:
        The keys, per metric its mean (`kl`) and standard deviation (`kl_sd`, NaN for one seed), and `n_seeds`.
    """
    groups = table.groupby(list(keys), sort=False)
    summary = pd.DataFrame(
        {
            name: values
            for metric in metrics
            for name, values in ((metric, groups[metric].mean()), (f"{metric}_sd", groups[metric].std(ddof=1)))
        }
    )
    return summary.assign(n_seeds=groups.size()).reset_index()


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
) -> list[tuple[str, int, Floats]]:
    """System, seed and probabilities [n_items, K] in the order of `uids`, for every run, joined one to one."""
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
        found.append((str(system), int(str(seed)), aligned(uids, frame, labels, where)))
    return found
