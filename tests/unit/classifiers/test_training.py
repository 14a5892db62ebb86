"""Training: the loss, batches, steps and the base classifier."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from mjd.classifiers import training
from mjd.classifiers.model import encode, load_encoder
from mjd.classifiers.training import bucketed_batches, soft_cross_entropy, train_base, train_steps
from mjd.config.classifiers import BaseClassifier
from mjd.errors import DataError, ModelError
from mjd.evaluation.metrics import entropy, majority
from mjd.labels import LabelSet
from tests.unit.classifiers.trained import CPU, FIELDS, saved_predictions

# -- loss --------------------------------------------------------------------------------------------------------


def test_soft_cross_entropy_by_hand() -> None:
    # softmax(ln 1, ln 3) = (0.25, 0.75), softmax(0, 0) = (0.5, 0.5).
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    targets = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = ((-0.5 * math.log(0.25) - 0.5 * math.log(0.75)) + math.log(2)) / 2
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(expected)


def test_soft_cross_entropy_of_one_hot_targets_is_ordinary_cross_entropy() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    gold = torch.tensor([0, 2, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(logits, gold).item()
    assert soft_cross_entropy(logits, torch.eye(3)[gold]).item() == pytest.approx(expected)


def test_soft_cross_entropy_of_a_perfect_prediction_is_the_entropy() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]])
    assert soft_cross_entropy(p.log(), p).item() == pytest.approx(entropy(p.numpy())[0])


# -- batches -----------------------------------------------------------------------------------------------------

LENGTHS = np.array([5, 40, 7, 33, 12, 28, 9, 21] * 10, dtype=np.int64)


def positions(batches: list[np.ndarray]) -> list[int]:
    return sorted(int(index) for batch in batches for index in batch)


def padded_tokens(batches: list[np.ndarray]) -> int:
    return sum(len(batch) * int(LENGTHS[batch].max()) for batch in batches)


def test_bucketed_batches_hold_every_item_once_an_epoch() -> None:
    batches = bucketed_batches(LENGTHS, 4, 2, seed=1)
    assert positions(batches[:20]) == positions(batches[20:]) == list(range(80))


def test_last_batch_of_an_epoch_may_be_short() -> None:
    assert sorted(len(batch) for batch in bucketed_batches(LENGTHS[:10], 4, 1, seed=1)) == [2, 4, 4]


def test_epochs_differ_in_order() -> None:
    first, second = bucketed_batches(LENGTHS[:10], 10, 2, seed=1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    epochs = bucketed_batches(LENGTHS, 4, 2, seed=1)
    assert [batch.tolist() for batch in epochs[:20]] != [batch.tolist() for batch in epochs[20:]]


def test_batches_depend_on_the_seed_alone() -> None:
    runs = [[b.tolist() for b in bucketed_batches(LENGTHS, 4, 1, seed)] for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_bucketed_batches_pad_less() -> None:
    listed = list(np.arange(80).reshape(-1, 4))
    assert padded_tokens(bucketed_batches(LENGTHS, 4, 1, 1)) < 0.75 * padded_tokens(listed)


def test_bucketed_batches_do_not_run_from_long_to_short() -> None:
    longest = [int(LENGTHS[batch].max()) for batch in bucketed_batches(LENGTHS, 4, 1, seed=1)]
    assert longest != sorted(longest, reverse=True)


# -- training steps ----------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(tiny_bert: Path, nli_labels: LabelSet) -> PreTrainedModel:
    return load_encoder(tiny_bert, nli_labels, pretrained_head=False, seed=1, device=CPU)[0]


@pytest.fixture
def steps(classifier: PreTrainedModel, tiny_bert: Path, toy_pairs: pd.DataFrame) -> Callable[..., Iterator[float]]:
    """Four steps of all toy pairs on `classifier`, towards certain entailment."""
    encoded = encode(AutoTokenizer.from_pretrained(tiny_bert), toy_pairs, FIELDS, 64)
    batches = bucketed_batches(np.ones(24, dtype=np.int64), 24, 4, seed=1)
    return functools.partial(train_steps, classifier, encoded, np.eye(3)[[0] * 24], batches)


@pytest.mark.parametrize(("warmup_share", "same"), [(0.5, True), (0.0, False)])
def test_warm_up_starts_from_a_learning_rate_of_0(
    classifier: PreTrainedModel, steps: Callable[..., Iterator[float]], warmup_share: float, same: bool
) -> None:
    before = classifier.classifier.weight.detach().clone()
    next(steps(learning_rate=1e-2, warmup_share=warmup_share))
    assert torch.equal(before, classifier.classifier.weight) == same


def test_learning_rate_rises_then_falls_to_0(
    classifier: PreTrainedModel, steps: Callable[..., Iterator[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = training._optimizer(classifier, 1e-2)
    monkeypatch.setattr(training, "_optimizer", lambda *_: optimizer)
    # After each step the rate is that of the next one.
    rates = [optimizer.param_groups[0]["lr"] for _ in steps(learning_rate=1e-2, warmup_share=0.5)]
    assert rates == pytest.approx([0.005, 0.01, 0.005, 0.0])


def test_biases_and_layer_norms_do_not_decay(classifier: PreTrainedModel) -> None:
    decay = {
        id(parameter): group["weight_decay"]
        for group in training._optimizer(classifier, 1e-2).param_groups
        for parameter in group["params"]
    }
    free = {name for name, parameter in classifier.named_parameters() if decay[id(parameter)] == 0}
    assert free == {name for name, _ in classifier.named_parameters() if name.endswith("bias") or "LayerNorm" in name}


def test_gradients_are_clipped(classifier: PreTrainedModel, steps: Callable[..., Iterator[float]]) -> None:
    next(steps(learning_rate=1e-2))
    norm = torch.cat([parameter.grad.flatten() for parameter in classifier.parameters()]).norm().item()
    assert norm == pytest.approx(1.0, abs=1e-4)


def test_training_uses_dropout(classifier: PreTrainedModel, steps: Callable[..., Iterator[float]]) -> None:
    classifier.eval()
    next(steps(learning_rate=1e-2))
    assert classifier.training


# -- base classifier ---------------------------------------------------------------------------------------------


@pytest.fixture
def fit_base(nli_labels: LabelSet, tmp_path: Path) -> Callable[..., np.ndarray]:
    """Train a base classifier into `tmp_path/name`; returns the losses."""

    def fit(encoder: Path, pairs: pd.DataFrame, name: str = "base", **settings: float) -> np.ndarray:
        return train_base(
            encoder,
            pairs,
            tmp_path / name,
            labels=nli_labels,
            text_fields=FIELDS,
            max_length=64,
            device=CPU,
            settings=BaseClassifier.model_validate({"epochs": 30, "learning_rate": 5e-3, "batch_size": 8} | settings),
            seed=1,
        )

    return fit


@pytest.mark.slow
def test_base_loss_falls(tiny_encoder: Path, toy_pairs: pd.DataFrame, fit_base: Callable[..., np.ndarray]) -> None:
    losses = fit_base(tiny_encoder, toy_pairs)
    assert losses[-3:].mean() < 0.5 * losses[:3].mean()


@pytest.mark.slow
def test_base_classifier_learns_each_label_at_its_position(
    tiny_bert: Path, toy_pairs: pd.DataFrame, nli_labels: LabelSet, fit_base: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    fit_base(tiny_bert, toy_pairs)
    predicted = majority(saved_predictions(tmp_path / "base", toy_pairs, nli_labels))
    assert [nli_labels.keys[index] for index in predicted] == toy_pairs["label"].tolist()


@pytest.mark.slow
def test_base_training_is_deterministic(
    tiny_encoder: Path, toy_pairs: pd.DataFrame, fit_base: Callable[..., np.ndarray]
) -> None:
    first, second = (fit_base(tiny_encoder, toy_pairs, epochs=2) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_unknown_pair_label_is_refused(
    tiny_bert: Path, toy_pairs: pd.DataFrame, fit_base: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(DataError, match="Label 'x'"):
        fit_base(tiny_bert, toy_pairs.assign(label="x"))


def test_training_without_pairs_is_refused(
    tiny_bert: Path, toy_pairs: pd.DataFrame, fit_base: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(DataError, match="no labelled pairs"):
        fit_base(tiny_bert, toy_pairs[:0])


def test_diverging_training_is_stopped(
    tiny_bert: Path, toy_pairs: pd.DataFrame, fit_base: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(ModelError, match=r"training loss is (nan|inf) at step"):
        fit_base(tiny_bert, toy_pairs, learning_rate=1e38)


def test_stopped_training_leaves_no_checkpoint(
    tiny_bert: Path, toy_pairs: pd.DataFrame, fit_base: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(ModelError):
        fit_base(tiny_bert, toy_pairs, learning_rate=1e38)
    assert not (tmp_path / "base").exists()


def test_base_classifier_truncated_pairs_are_counted_named_and_kept(
    tiny_bert: Path,
    toy_pairs: pd.DataFrame,
    nli_labels: LabelSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = toy_pairs.assign(premise=["rain fell " * 60, "rain fell " * 60, *toy_pairs["premise"].iloc[2:]])
    train_base(
        tiny_bert,
        pairs,
        tmp_path / "base",
        labels=nli_labels,
        text_fields=FIELDS,
        max_length=64,
        device=CPU,
        settings=BaseClassifier(epochs=1),
        seed=1,
        about={"seed": 1},
    )
    uids = pairs["uid"].tolist()[:2]
    assert (
        f"labelled pairs: 2 of 24 texts (8.3 %) are longer than max_length 64 and lose their end: {', '.join(uids)}."
        in (caplog.text)
    )
    kept = json.loads((tmp_path / "base/mjd.json").read_text())
    assert kept == {"seed": 1, "truncated": {"pairs": {"n": 24, "n_truncated": 2, "first_uids": uids}}}
