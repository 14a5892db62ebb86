"""Training classifiers on label distributions: loss, batches, steps, and the base classifier (one-hot).

Procedure: arXiv 2412.13942, section 5; its reference implementation trains with the Hugging Face `Trainer`, whose
gradient clipping and linear decay of the learning rate are kept here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from mjd.classifiers.model import EncodedTexts, collate, encode, load_encoder, save_classifier, warn_of_truncation
from mjd.config.classifiers import BaseClassifier
from mjd.distributions import Floats, Ints
from mjd.errors import DataError, ModelError
from mjd.io import Provenance
from mjd.labels import LabelSet
from mjd.logs import Progress

log = logging.getLogger(__name__)

WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
LOG_EVERY_STEPS = 100

# A length bucket is this many batches, as in the length-grouped sampler of Hugging Face transformers.
BATCHES_PER_BUCKET = 50


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy -Σ target · ln softmax(logits), averaged over items.

    Inputs:
        +-------------------------------------------+--------------------------------------+
        | Inputs                                    | Labels                               |
        +===========================================+======================================+
        | logits [n_items, K] in label order        | probabilities [n_items, K], rows sum |
        |                                           | to 1 (one-hot for hard labels)       |
        +-------------------------------------------+--------------------------------------+

    Returns:
        A scalar in nats; its smallest value is the mean entropy of the targets, not 0.
    """
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def bucketed_batches(lengths: Ints, batch_size: int, epochs: int, seed: int) -> list[Ints]:
    """Batches of items of similar length for all epochs, so that little is padded.

    Each epoch's random order is cut into buckets of up to 50 batches (fewer for small data, so that epochs differ);
    buckets are sorted by length and cut into batches, and the batches are shuffled.

    Args:
        lengths: tokens per item [n_items].
        batch_size: items a batch; the last of an epoch may be smaller.
        epochs: passes over the items.
        seed: seed of every order.
    """
    generator = torch.Generator().manual_seed(seed)
    bucket_size = batch_size * max(1, min(len(lengths) // (4 * batch_size), BATCHES_PER_BUCKET))
    batches: list[Ints] = []
    for _ in range(epochs):
        order = torch.randperm(len(lengths), generator=generator).numpy()
        buckets = [bucket[np.argsort(-lengths[bucket], kind="stable")] for bucket in _split(order, bucket_size)]
        epoch = [batch for bucket in buckets for batch in _split(bucket, batch_size)]
        batches += [epoch[index] for index in torch.randperm(len(epoch), generator=generator).tolist()]
    return batches


def train_steps(
    model: PreTrainedModel,
    encoded: EncodedTexts,
    targets: Floats,
    batches: Sequence[Ints],
    *,
    learning_rate: float,
    warmup_share: float = 0.0,
) -> Iterator[float]:
    """Train on `batches` in turn with AdamW; yields the loss of each step (soft cross-entropy, nats) after its update.

    The learning rate rises linearly over the first `warmup_share` of the steps, then falls linearly to 0. Weight decay
    is 0.01, none on biases and layer norms; gradients are clipped to norm 1. The caller may evaluate between steps and
    sets the random seed (dropout).

    Args:
        model: a classifier; trained in place.
        encoded: the items' tokens.
        targets: distributions [n_items, K] in label order.
        batches: item positions of each step.
        learning_rate: peak learning rate.
        warmup_share: share of steps with rising learning rate.

    Raises:
        ModelError: the loss is not finite.
    """
    optimizer = _optimizer(model, learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup_share * len(batches)), len(batches))
    all_targets = torch.tensor(targets, dtype=torch.float32, device=model.device)
    for step, batch in enumerate(batches, start=1):
        model.train()
        logits = model(**collate(encoded, batch, model.device)).logits
        loss = soft_cross_entropy(logits, all_targets[torch.as_tensor(batch, device=model.device)])
        value = loss.item()
        if not np.isfinite(value):
            raise ModelError(f"The training loss is {value} at step {step}.", "Lower the learning rate.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        yield value


def train_base(
    encoder_dir: str | Path,
    pairs: pd.DataFrame,
    output_dir: str | Path,
    *,
    labels: LabelSet,
    text_fields: Sequence[str],
    max_length: int,
    device: torch.device,
    settings: BaseClassifier,
    seed: int,
    about: Provenance | None = None,
) -> Floats:
    """Train the base classifier (the paper's MNLI-FT-LM) on labelled pairs and save it as a model directory.

    Args:
        encoder_dir: a pre-trained encoder; its classification head is drawn anew under `seed`.
        pairs: schema `pairs`: the text fields and `label`, a label key.
        output_dir: Hugging Face model directory to write (whole or not at all); `id2label` is the label order.
        labels: the labels.
        text_fields: one or two text columns.
        max_length: longest pair in tokens.
        device: where to train.
        settings: epochs, learning rate, batch size, warm-up.
        seed: seed of head, batches and dropout.
        about: provenance, kept in the directory's `mjd.json` together with the number of truncated pairs.

    Returns:
        The loss of every step, nats [n_steps].

    Raises:
        DataError: there are no pairs, a label is unknown or a text column is missing.
        ModelError: the encoder cannot be used, or the loss is not finite.
    """
    if pairs.empty:
        raise DataError("There are no labelled pairs to train the base classifier on.", "Check data.pairs.")
    targets = np.eye(len(labels))[[labels.index(key) for key in pairs["label"]]]
    model, tokenizer = load_encoder(encoder_dir, labels, pretrained_head=False, seed=seed, device=device)
    encoded = encode(tokenizer, pairs, text_fields, max_length)
    truncated = warn_of_truncation(
        encoded.truncated, pairs.get("uid", pairs.index.to_series()), "labelled pairs", max_length
    )
    batches = bucketed_batches(encoded.lengths, settings.batch_size, settings.epochs, seed)
    losses: list[float] = []
    with seeded(seed, device), Progress("base classifier", len(batches), "steps") as progress:
        for loss in train_steps(
            model,
            encoded,
            targets,
            batches,
            learning_rate=settings.learning_rate,
            warmup_share=settings.warmup_share,
        ):
            losses.append(loss)
            progress.done()
            if len(losses) % LOG_EVERY_STEPS == 0 or len(losses) == len(batches):
                log.info("base classifier: step %d, loss %.4f", len(losses), np.mean(losses[-LOG_EVERY_STEPS:]))
    save_classifier(model, tokenizer, output_dir, {**(about or {}), "truncated": {"pairs": truncated}})
    return np.asarray(losses, dtype=np.float64)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers (dropout) inside the block; the state before it comes back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only: biases and layer-norm weights are vectors."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    # One pass over memory: 10 ms instead of 60 for 22 million parameters on two CPU cores.
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def _split(order: Ints, size: int) -> list[Ints]:
    return [order[start : start + size] for start in range(0, len(order), size)]
