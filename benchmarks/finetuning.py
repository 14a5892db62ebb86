"""Soft-label fine-tuning of several systems and seeds: mjd against a Hugging Face Trainer that pads to max_length.

    python benchmarks/finetuning.py results/downloads/models/all-minilm-l6-v2 [--items ITEMS.parquet]

Both start from one checkpoint and take the same batches in the same order for the same number of steps, score dev at
the same steps, and run without dropout, so that the losses can be compared. The Trainer is set up as the reference
implementation does it: a process-wide tokenised copy of the data a run, every item padded to 128 tokens.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from mjd.classifiers.finetuning import finetune_systems
from mjd.classifiers.model import encode, load_encoder, save_classifier
from mjd.classifiers.runs import FineTuningJob, FineTuningRun, finetuning_batches
from mjd.classifiers.training import MAX_GRADIENT_NORM, WEIGHT_DECAY, soft_cross_entropy, train_steps
from mjd.config.classifiers import FineTuning
from mjd.config.files import read_config
from mjd.distributions import from_counts
from mjd.io import read_parquet
from mjd.labels import LabelSet

TEXTS = ("premise", "hypothesis")
MAX_LENGTH = 128


def save_base(encoder: str, directory: Path, labels: LabelSet) -> None:
    """A checkpoint with an untrained head and no dropout, as a stand-in for the base classifier."""
    model, tokenizer = load_encoder(encoder, labels, pretrained_head=False, seed=1, device=torch.device("cpu"))
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        setattr(model.config, name, 0.0)
    save_classifier(model, tokenizer, directory)


def run_mjd(base: Path, items: pd.DataFrame, labels: LabelSet, settings: FineTuning, systems: int, out: Path) -> Any:
    """Seconds a run, and the training history."""
    hjd = from_counts(items[items["split"] == "train"], "hjd", labels)
    job = FineTuningJob(base, items, labels, TEXTS, MAX_LENGTH, torch.device("cpu"), settings, out / "waiting")
    runs = [
        FineTuningRun(f"system-{k}", hjd, seed, out / f"{k}-{seed}")
        for seed in range(settings.seeds)
        for k in range(systems)
    ]
    start = time.perf_counter()
    history = finetune_systems(job, runs, processes=torch.get_num_threads())
    return (time.perf_counter() - start) / len(runs), history


class SoftLabelTrainer(Trainer):  # type: ignore[misc]
    """The usual way: soft cross-entropy in `compute_loss`; batches in a given order."""

    order: list[int]
    first_loss: float | None = None

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        targets = inputs.pop("labels")
        outputs = model(**inputs)
        loss = soft_cross_entropy(outputs.logits, targets)
        if self.first_loss is None and model.training:
            self.first_loss = loss.item()
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, *_: Any) -> Any:
        return self.order


class Padded(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Items tokenised and padded to `MAX_LENGTH`, with HJDs as labels."""

    def __init__(self, tokenizer: Any, items: pd.DataFrame, labels: LabelSet) -> None:
        texts = [items[name].tolist() for name in TEXTS]
        self.inputs = tokenizer(
            *texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        self.targets = torch.tensor(items[labels.columns("hjd")].to_numpy(np.float32))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.inputs.items()} | {"labels": self.targets[index]}


def run_trainer(base: Path, items: pd.DataFrame, labels: LabelSet, settings: FineTuning, out: Path) -> Any:
    """Seconds of one run (epoch by epoch in mjd's order), and the loss of its first step."""
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    train, dev = (items[items["split"] == split] for split in ("train", "dev"))
    encoded = encode(tokenizer, train, TEXTS, MAX_LENGTH)
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=settings.learning_rate,
        num_train_epochs=1,
        max_steps=len(finetuning_batches(encoded.lengths, settings, 0)),
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRADIENT_NORM,
        eval_strategy="steps",
        eval_steps=settings.evaluate_every,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    trainer = SoftLabelTrainer(
        model=model,
        args=arguments,
        train_dataset=Padded(tokenizer, train, labels),
        eval_dataset=Padded(tokenizer, dev, labels),
    )
    trainer.order = [int(i) for batch in finetuning_batches(encoded.lengths, settings, 0) for i in batch]
    trainer.train()
    return time.perf_counter() - start, trainer.first_loss


def first_loss(base: Path, items: pd.DataFrame, labels: LabelSet, settings: FineTuning) -> float:
    """mjd's loss of the first step of seed 0."""
    model, tokenizer = load_encoder(base, labels, pretrained_head=True, seed=0, device=torch.device("cpu"))
    train = items[items["split"] == "train"]
    encoded = encode(tokenizer, train, TEXTS, MAX_LENGTH)
    batches = finetuning_batches(encoded.lengths, settings, 0)
    steps: Iterator[float] = train_steps(
        model, encoded, train[labels.columns("hjd")].to_numpy(), batches, learning_rate=settings.learning_rate
    )
    return next(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="model directory of a pre-trained encoder")
    parser.add_argument("--items", help="items.parquet of a run; default: the bundled sample")
    parser.add_argument("--train-items", type=int, default=120)
    parser.add_argument("--dev-items", type=int, default=120)
    parser.add_argument("--systems", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    labels = read_config("config/config.yaml").labels
    sample = "resources/sample/synthetic_items.csv"
    items = read_parquet(arguments.items) if arguments.items else pd.read_csv(sample)
    limits = {"train": arguments.train_items, "dev": arguments.dev_items}
    items = pd.concat([items[items["split"] == split].head(n) for split, n in limits.items()], ignore_index=True)
    settings = FineTuning(epochs=1, batch_size=4, evaluate_every=15, seeds=2)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        save_base(arguments.encoder, base, labels)
        our_loss = first_loss(base, items, labels, settings)
        ours, theirs = [], []
        for turn in range(arguments.turns):  # in turn, so that both meet the same machine
            took, history = run_mjd(base, items, labels, settings, systems=arguments.systems, out=Path(folder) / "ours")
            ours.append(took)
            took, their_loss = run_trainer(base, items, labels, settings, Path(folder) / "theirs")
            theirs.append(took)
            print(f"turn {turn + 1}: mjd {ours[-1]:.2f} s a run, Trainer {theirs[-1]:.2f} s a run", flush=True)
    steps = int(history["step"].max())
    our_time, their_time = statistics.median(ours), statistics.median(theirs)
    print(f"{len(items)} items, {steps} steps a run, dev scored every {settings.evaluate_every}, no dropout; medians")
    print(f"Trainer, padded to {MAX_LENGTH}: {their_time:.2f} s a run, first loss {their_loss:.6f}")
    print(
        f"mjd: {our_time:.2f} s a run ({arguments.systems} systems x {settings.seeds} seeds), first loss {our_loss:.6f}"
    )
    print(f"{their_time / our_time:.1f} times as fast; first losses differ by {abs(our_loss - their_loss):.1e}")


if __name__ == "__main__":
    main()
