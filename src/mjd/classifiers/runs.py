"""One fine-tuning run: the base classifier trained on a system's soft labels, the best step kept.

Procedure: arXiv 2412.13942, section 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from mjd import __version__
from mjd.classifiers.model import EncodedTexts, encode, load_encoder, predict, save_classifier
from mjd.classifiers.resume import FinishedRuns
from mjd.classifiers.training import bucketed_batches, seeded, train_steps
from mjd.config.classifiers import FineTuning
from mjd.distributions import Floats, Ints, aligned, from_counts
from mjd.errors import DataError
from mjd.evaluation.metrics import HUMAN_TIE, PREDICTED_TIE, Bools, cross_entropy, f1, share_of_ties, top_labels
from mjd.labels import LabelSet

# How the best step is chosen, part of the key of finished runs: another choice keeps other weights.
_SELECTION = "dev macro-F1, any tied label is right"

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class FineTuningJob:
    """What all fine-tuning runs of one encoder share.

    Attributes:
        base_dir: model directory of the base classifier; its `id2label` is checked.
        items: schema `items`; rows of split train (text) and dev (text and `hjd_*`) are used.
        labels, text_fields, max_length, device: as in `train_base`.
        settings: epochs, learning rate, batch size, evaluation interval (its `seeds` count is not used here).
        waiting_dir: where finished runs wait for the others; the same job started again goes on from them.
    """

    base_dir: str | Path
    items: pd.DataFrame
    labels: LabelSet
    text_fields: Sequence[str]
    max_length: int
    device: torch.device
    settings: FineTuning
    waiting_dir: str | Path


@dataclass(frozen=True)
class FineTuningRun:
    """One run: a system's slug, its distributions (`uid`, `p_*`), a seed, and the model directory to write.

    `may_lack_items`: it trains on the items that have a distribution (MJDs under `unanswered: drop`).
    """

    slug: str
    target: pd.DataFrame
    seed: int
    output_dir: str | Path
    may_lack_items: bool = False

    def targets(self, uids: pd.Series, labels: LabelSet) -> tuple[Floats, Ints]:
        """Soft labels [n_items, K] in the order of `uids`, NaN where it has none, and the places of the items it has.

        Raises:
            DataError: an item lacks a distribution and may not, or all do.
        """
        has = uids.isin(self.target["uid"]).to_numpy() if self.may_lack_items else np.ones(len(uids), bool)
        if not has.any():
            raise DataError(f"System {self.slug} has no distribution of a train item.", "Ask for its MJDs again.")
        found = np.full((len(uids), len(labels)), np.nan)
        found[has] = aligned(uids[has].reset_index(drop=True), self.target, labels, f"System {self.slug}")
        return found, np.flatnonzero(has)


@dataclass(frozen=True)
class EndedRun:
    """A run that ended: its key among the finished runs, its history, and whether an earlier job had trained it."""

    key: str
    history: pd.DataFrame
    earlier: bool


class RunTrainer:
    """Model, tokens and dev set in memory, for any number of runs one after the other."""

    def __init__(self, job: FineTuningJob) -> None:
        self.job = job
        self.train, dev = items_of(job.items, "train"), items_of(job.items, "dev")
        hjd = hjd_of(dev, job.labels)
        self.model, self.tokenizer = load_encoder(
            job.base_dir, job.labels, pretrained_head=True, seed=0, device=job.device
        )
        self.base = _copy_weights(self.model)
        self.encoded = encode(self.tokenizer, self.train, job.text_fields, job.max_length)
        self.dev = DevSet(encode(self.tokenizer, dev, job.text_fields, job.max_length), hjd, top_labels(hjd, HUMAN_TIE))
        self.finished = FinishedRuns(job.waiting_dir)
        self.shared = self._hash_of_shared()

    def run(self, run: FineTuningRun) -> EndedRun:
        """Train from the base weights, keep the best step; the history is step, train_loss, dev scores and is_best."""
        targets, has = run.targets(self.train["uid"], self.job.labels)
        own = f"{self.shared} {run.slug} {run.seed} ".encode() + targets.tobytes()
        key = hashlib.sha256(own).hexdigest()[:32]
        earlier = self.finished.history(key)
        if earlier is not None:
            return EndedRun(key, earlier, True)
        batches = [has[batch] for batch in finetuning_batches(self.encoded.lengths[has], self.job.settings, run.seed)]
        self.model.load_state_dict(self.base)
        with seeded(run.seed, self.job.device):
            history = _finetune(self.model, self.encoded, targets, batches, self.dev, self.job.settings)
        self.finished.put(key, history, lambda directory: save_classifier(self.model, self.tokenizer, directory))
        return EndedRun(key, history, False)

    def _hash_of_shared(self) -> str:
        """SHA-256 of everything but the targets and the seed that decides a run."""
        job = self.job
        found = hashlib.sha256(
            f"{__version__} {torch.__version__} {torch.get_num_threads()} {job.device.type} {job.labels} "
            f"{job.settings.model_dump_json(exclude={'seeds'})} {_SELECTION}".encode()
        )
        for tensor in self.base.values():
            found.update(tensor.cpu().numpy().tobytes())
        for encoded in (self.encoded, self.dev.encoded):
            for rows in (encoded.input_ids, encoded.token_type_ids or []):
                found.update(np.concatenate([*rows, encoded.lengths]).tobytes())
        found.update(self.dev.hjd.tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class DevSet:
    """Dev items: tokens, HJD [n_items, K], and their majority labels, several where they tie: bool [n_items, K]."""

    encoded: EncodedTexts
    hjd: Floats
    gold: Bools


def _finetune(
    model: PreTrainedModel,
    encoded: EncodedTexts,
    targets: Floats,
    batches: Sequence[Ints],
    dev: DevSet,
    settings: FineTuning,
) -> pd.DataFrame:
    """One run; leaves the best step's weights in `model`. Returns step, train_loss, dev scores and is_best."""
    rows: list[dict[str, float]] = []
    losses: list[float] = []
    best_score, best_step = (-1.0, 0.0), 0
    best_weights: StateDict = {}
    steps = train_steps(model, encoded, targets, batches, learning_rate=settings.learning_rate)
    for step, loss in enumerate(steps, start=1):
        losses.append(loss)
        if step % settings.evaluate_every and step != len(batches):
            continue
        p = predict(model, dev.encoded)
        macro_f1 = f1(dev.gold, top_labels(p, PREDICTED_TIE), p.shape[1], "macro")
        dev_loss = float(cross_entropy(dev.hjd, p).mean())
        scores = {"dev_macro_f1": macro_f1, "dev_loss": dev_loss, "dev_share_ties": share_of_ties(dev.gold)}
        rows.append({"step": step, "train_loss": float(np.mean(losses))} | scores)
        losses.clear()
        # Rounded: equal F1 of other errors may differ in the last digit, by the order in which labels are summed.
        score = (round(macro_f1, 12), -dev_loss)
        if score > best_score:
            best_score, best_step, best_weights = score, step, _copy_weights(model)
    model.load_state_dict(best_weights)
    return pd.DataFrame(rows).assign(is_best=lambda frame: frame["step"] == best_step)


def finetuning_batches(lengths: Ints, settings: FineTuning, seed: int) -> list[Ints]:
    """Batches of a fine-tuning run; they depend on lengths, batch size, epochs and seed alone.

    So runs of one seed see the same batches, whatever their targets are.
    """
    return bucketed_batches(lengths, settings.batch_size, settings.epochs, seed)


def hjd_of(dev: pd.DataFrame, labels: LabelSet) -> Floats:
    """HJD of the dev items [n_items, K]; raises `DataError` naming an item that has none."""
    return aligned(dev["uid"], from_counts(dev, "hjd", labels), labels, "HJD of the dev items")


def items_of(items: pd.DataFrame, split: str) -> pd.DataFrame:
    """The items of a split; raises `DataError` where there are none."""
    found = items[items["split"] == split].reset_index(drop=True)
    if found.empty:
        raise DataError(f"There are no {split} items to fine-tune with.", f"Give items whose split is {split}.")
    return found


def _copy_weights(model: PreTrainedModel) -> StateDict:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
