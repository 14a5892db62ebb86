"""Prediction of all systems, and the fine-tuning and OOD tables against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mjd import io, schemas
from mjd.classifiers import model as classifier
from mjd.classifiers.evaluation import finetuning_table, ood_table, predict_systems, summarise_seeds
from mjd.classifiers.model import encode, load_encoder, predict, save_classifier
from mjd.errors import DataError, ModelError
from mjd.evaluation.metrics import entropy
from mjd.labels import LabelSet

CPU = torch.device("cpu")
FIELDS = ["premise", "hypothesis"]
HJD = ["hjd_e", "hjd_n", "hjd_c"]
P = ["p_e", "p_n", "p_c"]

# Two dev items; argmax of the HJD: a entailment, b neutral (tie with contradiction).
ITEMS = pd.DataFrame([("a", 0.5, 0.25, 0.25, "dev"), ("b", 0.0, 0.5, 0.5, "dev")], columns=["uid", *HJD, "split"])
# Predicted: a entailment, b contradiction.
PREDICTIONS = pd.DataFrame(
    [("hjd", 1, "dev", "a", 0.5, 0.3, 0.2), ("hjd", 1, "dev", "b", 0.25, 0.25, 0.5)],
    columns=["system", "seed", "split", "uid", *P],
).assign(truncated=[False, True])
KL_A = 0.25 * math.log(0.25 / 0.3) + 0.25 * math.log(0.25 / 0.2)
KL_B = 0.5 * math.log(0.5 / 0.25)


# -- fine-tuning table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("kl", (KL_A + KL_B) / 2),
        ("reference_kl", (KL_A + KL_B) / 6),
        (
            "ce_loss",
            -(0.5 * math.log(0.5) + 0.25 * math.log(0.3) + 0.25 * math.log(0.2) + 0.5 * math.log(0.125)) / 2,
        ),
        # Neutral and contradiction tie: either is right.
        ("weighted_f1", 1),
        ("macro_f1", 1),
        # Neutral alone is gold: entailment 1, neutral 0 (missed), contradiction 0 (false alarm).
        ("reference_weighted_f1", 1 / 2),
        ("reference_macro_f1", 1 / 3),
        ("n", 2),
        ("share_ties", 1 / 2),
        ("n_truncated", 1),
    ],
)
def test_finetuning_scores_by_hand(column: str, expected: float, nli_labels: LabelSet) -> None:
    assert finetuning_table(PREDICTIONS, ITEMS, nli_labels)[column].item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
def test_reference_kl_is_torch_kl_div_with_reduction_mean(nli_labels: LabelSet) -> None:
    p, hjd = (torch.tensor(frame.to_numpy(np.float64)) for frame in (PREDICTIONS[P], ITEMS[HJD]))
    expected = torch.nn.functional.kl_div(p.log(), hjd, reduction="mean").item()
    assert finetuning_table(PREDICTIONS, ITEMS, nli_labels)["reference_kl"].item() == pytest.approx(expected, abs=1e-8)


def test_ce_loss_is_entropy_plus_kl(nli_labels: LabelSet) -> None:
    row = finetuning_table(PREDICTIONS, ITEMS, nli_labels).iloc[0]
    assert row["ce_loss"] == pytest.approx(entropy(ITEMS[HJD]).mean() + row["kl"], abs=1e-8)


def test_prediction_of_zero_costs_a_finite_kl(nli_labels: LabelSet) -> None:
    certain = PREDICTIONS.assign(p_e=1.0, p_n=0.0, p_c=0.0)
    assert np.isfinite(finetuning_table(certain, ITEMS, nli_labels)["kl"].item())


def test_predictions_are_joined_on_uid(nli_labels: LabelSet) -> None:
    found = finetuning_table(PREDICTIONS[::-1], ITEMS, nli_labels)
    pd.testing.assert_frame_equal(found, finetuning_table(PREDICTIONS, ITEMS, nli_labels))


def test_split_without_items_has_no_rows(nli_labels: LabelSet) -> None:
    assert finetuning_table(PREDICTIONS, ITEMS, nli_labels)["split"].tolist() == ["dev"]


def test_every_run_and_split_has_a_row(nli_labels: LabelSet) -> None:
    items = pd.concat([ITEMS, ITEMS.assign(split="test", uid=["c", "d"])])
    one_seed = pd.concat([PREDICTIONS, PREDICTIONS.assign(split="test", uid=["c", "d"])])
    table = finetuning_table(pd.concat([one_seed, one_seed.assign(seed=2)]), items, nli_labels)
    assert table[["split", "seed"]].to_numpy().tolist() == [["dev", 1], ["dev", 2], ["test", 1], ["test", 2]]


def test_missing_prediction_names_item_system_and_split(nli_labels: LabelSet) -> None:
    with pytest.raises(DataError, match=r"hjd \(seed 1\) on dev: item b has no distribution"):
        finetuning_table(PREDICTIONS[:1], ITEMS, nli_labels)


def test_run_without_predictions_on_a_split_is_refused(nli_labels: LabelSet) -> None:
    items = pd.concat([ITEMS, ITEMS.assign(split="test", uid=["c", "d"])])
    with pytest.raises(DataError, match=r"hjd \(seed 1\) on test: item c"):
        finetuning_table(PREDICTIONS, items, nli_labels)


def test_prediction_of_an_unknown_item_is_refused(nli_labels: LabelSet) -> None:
    stranger = PREDICTIONS.assign(uid=["a", "x"])
    with pytest.raises(DataError, match="item x is not in dev"):
        finetuning_table(stranger, ITEMS, nli_labels)


def test_item_predicted_twice_is_refused(nli_labels: LabelSet) -> None:
    with pytest.raises(DataError, match="item a appears twice"):
        finetuning_table(pd.concat([PREDICTIONS, PREDICTIONS[:1]]), ITEMS, nli_labels)


def test_item_without_hjd_is_refused(nli_labels: LabelSet) -> None:
    with pytest.raises(DataError, match="HJD of the dev items: item b"):
        finetuning_table(PREDICTIONS, ITEMS.assign(hjd_n=[0.25, math.nan]), nli_labels)


# -- OOD table ---------------------------------------------------------------------------------------------------

OOD = pd.DataFrame(
    [("r1", "R1", "e"), ("r2", "R1", "n"), ("r3", "R1", "c"), ("r4", "R2", "e")], columns=["uid", "round", "label"]
)


def ood_predictions(keys: str) -> pd.DataFrame:
    """Predictions of one run whose majority labels on `OOD` are `keys`."""
    p = [[0.8 if key == label else 0.1 for label in "enc"] for key in keys]
    return pd.DataFrame(p, columns=P).assign(
        system="hjd", seed=1, split=OOD["round"], uid=OOD["uid"], truncated=[True, False, True, False]
    )


@pytest.mark.parametrize(
    ("column", "expected"),
    # R1 predicted e, e, c: F1 2/3 (precision 1/2, recall 1), 0, 1.
    [("accuracy", 2 / 3), ("macro_f1", 5 / 9), ("weighted_f1", 5 / 9), ("n", 3), ("n_truncated", 2)],
)
def test_ood_scores_by_hand(column: str, expected: float, nli_labels: LabelSet) -> None:
    assert ood_table(ood_predictions("eece"), OOD, nli_labels)[column].iloc[0] == pytest.approx(expected)


def test_one_label_predicted_always_scores_a_sixth(nli_labels: LabelSet) -> None:
    assert ood_table(ood_predictions("nnnn"), OOD, nli_labels)["weighted_f1"].iloc[0] == pytest.approx(1 / 6)


def test_weighted_f1_weighs_labels_by_gold_items(nli_labels: LabelSet) -> None:
    # R2 has one entailment item, found: weighted-F1 1, macro-F1 1/3.
    row = ood_table(ood_predictions("eece"), OOD, nli_labels).iloc[1]
    assert [row["weighted_f1"], row["macro_f1"]] == pytest.approx([1.0, 1 / 3])


def test_rounds_keep_their_order(nli_labels: LabelSet) -> None:
    table = ood_table(ood_predictions("eece")[::-1], OOD, nli_labels)
    assert table["round"].tolist() == ["R1", "R2"]


def test_missing_ood_prediction_is_refused(nli_labels: LabelSet) -> None:
    with pytest.raises(DataError, match="on R1: item r2 has no distribution"):
        ood_table(ood_predictions("eece").drop(1), OOD, nli_labels)


def test_unknown_gold_label_is_refused(nli_labels: LabelSet) -> None:
    with pytest.raises(DataError, match="Label 'x'"):
        ood_table(ood_predictions("eece"), OOD.assign(label="x"), nli_labels)


# -- summary over seeds ------------------------------------------------------------------------------------------

SEEDED = pd.DataFrame(
    [("hjd", "dev", 1, 0.2, 5), ("hjd", "dev", 2, 0.4, 5), ("base", "dev", 1, 0.7, 5)],
    columns=["system", "split", "seed", "kl", "n"],
)


def test_summary_has_the_mean_over_seeds() -> None:
    assert summarise_seeds(SEEDED, ["system", "split"], ["kl"])["kl"].tolist() == pytest.approx([0.3, 0.7])


def test_summary_has_the_sample_standard_deviation() -> None:
    assert summarise_seeds(SEEDED, ["system"], ["kl"])["kl_sd"].iloc[0] == pytest.approx(math.sqrt(0.02))


def test_standard_deviation_of_one_seed_is_undefined() -> None:
    assert math.isnan(summarise_seeds(SEEDED, ["system"], ["kl"])["kl_sd"].iloc[1])


def test_summary_counts_seeds() -> None:
    assert summarise_seeds(SEEDED, ["system"], ["kl"])["n_seeds"].tolist() == [2, 1]


def test_summary_keeps_the_order_of_systems() -> None:
    assert summarise_seeds(SEEDED, ["system"], ["kl"])["system"].tolist() == ["hjd", "base"]


def test_summary_has_its_columns() -> None:
    found = summarise_seeds(SEEDED, ["system", "split", "n"], ["kl"]).columns.tolist()
    assert found == ["system", "split", "n", "kl", "kl_sd", "n_seeds"]


# -- prediction --------------------------------------------------------------------------------------------------

Predict = Callable[..., pd.DataFrame]


@pytest.fixture
def checkpoint(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> Path:
    loaded = load_encoder(tiny_bert, nli_labels, pretrained_head=False, seed=5, device=CPU)
    save_classifier(*loaded, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def predict_all(
    tiny_bert: Path, checkpoint: Path, toy_items: pd.DataFrame, toy_ood: pd.DataFrame, nli_labels: LabelSet
) -> Predict:
    """Predict with a zero-shot head of seeds 1 and 2 and the checkpoint as base and as fine-tuned `hjd`."""

    def run(
        items: pd.DataFrame = toy_items, ood: pd.DataFrame = toy_ood, labels: LabelSet = nli_labels
    ) -> pd.DataFrame:
        return predict_systems(
            {("mnli-ft-lm", 1): checkpoint, ("hjd", 1): checkpoint},
            (tiny_bert, [1, 2]),
            items,
            ood,
            labels=labels,
            text_fields=FIELDS,
            max_length=64,
            device=CPU,
        )

    return run


def test_predictions_have_their_schema(predict_all: Predict, nli_labels: LabelSet) -> None:
    assert io.to_table(predict_all(), schemas.predictions(nli_labels)).num_rows == 4 * (12 + 12 + 9 + 9)


def test_systems_come_zero_shot_first(predict_all: Predict) -> None:
    found = predict_all()[["system", "seed"]].drop_duplicates().to_numpy().tolist()
    assert found == [["zero-shot-lm", 1], ["zero-shot-lm", 2], ["mnli-ft-lm", 1], ["hjd", 1]]


def test_dev_test_and_rounds_are_predicted_but_not_train(predict_all: Predict) -> None:
    assert predict_all()["split"].unique().tolist() == ["dev", "test", "R1", "R2"]


def test_predictions_are_those_of_the_checkpoint(
    predict_all: Predict, checkpoint: Path, toy_items: pd.DataFrame, nli_labels: LabelSet
) -> None:
    model, tokenizer = load_encoder(checkpoint, nli_labels, pretrained_head=True, seed=0, device=CPU)
    expected = predict(model, encode(tokenizer, toy_items[toy_items["split"] == "test"], FIELDS, 64))
    found = predict_all().query("system == 'hjd' and split == 'test'")[P].to_numpy()
    assert np.abs(found - expected).max() < 1e-6


def test_zero_shot_heads_differ_between_seeds(predict_all: Predict) -> None:
    found = predict_all().query("system == 'zero-shot-lm' and split == 'dev'")
    first, second = (found.loc[found["seed"] == seed, "p_e"].tolist() for seed in (1, 2))
    assert first != second


def test_texts_are_tokenised_once(predict_all: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(tokenizer: object, frame: pd.DataFrame, *rest: object) -> object:
        calls.append(len(frame))
        return encode(tokenizer, frame, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(classifier, "encode", counted)
    predict_all()
    assert calls == [42]


def test_checkpoint_in_another_label_order_is_refused(predict_all: Predict, nli_labels: LabelSet) -> None:
    with pytest.raises(ModelError, match="label order differs"):
        predict_all(labels=LabelSet(nli_labels.labels[::-1]))


def test_items_listed_twice_are_refused(predict_all: Predict, toy_items: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="Item dev-12 appears twice in dev"):
        predict_all(items=pd.concat([toy_items, toy_items[12:13]]))


def test_round_named_like_a_split_is_refused(predict_all: Predict, toy_ood: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="round is named 'test'"):
        predict_all(ood=toy_ood.replace({"round": {"R1": "test"}}))


# -- ties ----------------------------------------------------------------------------------------------------------


def few_annotators(n_items: int, n_votes: int) -> pd.DataFrame:
    """Dev items whose HJDs are the votes of a few annotators."""
    votes = np.random.default_rng(3).multinomial(n_votes, [0.45, 0.35, 0.2], size=n_items)
    return pd.DataFrame(votes / n_votes, columns=HJD).assign(uid=[f"i{k}" for k in range(n_items)], split="dev")


def perfect(items: pd.DataFrame) -> pd.DataFrame:
    """Predictions that are the HJDs."""
    p = items[["uid", *HJD]].rename(columns=dict(zip(HJD, P, strict=True)))
    return p.assign(system="hjd", seed=1, split="dev", truncated=False)


@pytest.mark.parametrize("keys", ["enc", "nce", "cen"])
def test_finetuning_table_perfect_classifier_has_f1_one_in_any_label_order(keys: str, nli_labels: LabelSet) -> None:
    items, labels = few_annotators(60, 4), LabelSet(tuple(nli_labels[key] for key in keys))
    row = finetuning_table(perfect(items), items, labels).iloc[0]
    assert (row["macro_f1"], row["weighted_f1"]) == (1.0, 1.0)
    highest = items[HJD].max(axis=1)
    assert row["share_ties"] == pytest.approx((items[HJD].eq(highest, axis=0).sum(axis=1) > 1).mean())
    assert row["share_ties"] > 0.1


@pytest.mark.parametrize("keys", ["enc", "cne"])
def test_finetuning_table_any_tied_label_is_right_and_the_reference_takes_the_first(
    keys: str, nli_labels: LabelSet
) -> None:
    """A classifier that answers every tie with the last of its labels in the order e, n, c."""
    items, labels = few_annotators(60, 4), LabelSet(tuple(nli_labels[key] for key in keys))
    last = items[HJD].to_numpy()[:, ::-1].argmax(axis=1)
    p = np.full((60, 3), 0.1)
    p[np.arange(60), 2 - last] = 0.8
    row = finetuning_table(perfect(items).assign(**dict(zip(P, p.T, strict=True))), items, labels).iloc[0]
    assert row["macro_f1"] == 1.0
    assert (row["reference_macro_f1"] < 0.9) == (keys == "enc")


def test_ood_table_equal_predictions_score_chance_in_any_label_order(nli_labels: LabelSet) -> None:
    flat = ood_predictions("eece").assign(**dict.fromkeys(P, 1 / 3))
    tables = [ood_table(flat, OOD, LabelSet(labels)) for labels in (nli_labels.labels, nli_labels.labels[::-1])]
    assert tables[0]["accuracy"].tolist() == pytest.approx([1 / 3, 1 / 3])
    pd.testing.assert_frame_equal(*tables)


def test_hjds_with_rounded_ties_are_warned_of(nli_labels: LabelSet, caplog: pytest.LogCaptureFixture) -> None:
    items = few_annotators(2, 2).assign(hjd_e=[0.333, 1], hjd_n=[0.333, 0], hjd_c=[0.334, 0])
    finetuning_table(perfect(items), items, nli_labels)
    assert "dev: the two highest shares of 1 of 2 HJDs differ by 0.001 or less" in caplog.text
    assert "(i0)" in caplog.text


# -- truncation ----------------------------------------------------------------------------------------------------


def test_predict_systems_truncated_texts_are_counted_and_named(
    predict_all: Predict,
    toy_items: pd.DataFrame,
    toy_ood: pd.DataFrame,
    nli_labels: LabelSet,
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = "the council met " * 40
    items = toy_items.assign(premise=toy_items["premise"].where(toy_items["uid"] != "dev-14", long))
    ood = toy_ood.assign(premise=[long, *toy_ood["premise"].iloc[1:]])
    predictions = predict_all(items=items, ood=ood)
    assert predictions.attrs["truncated"]["dev"] == {"n": 12, "n_truncated": 1, "first_uids": ["dev-14"]}
    assert predictions.attrs["truncated"]["test"]["n_truncated"] == 0
    assert "dev: 1 of 12 texts (8.3 %) are longer than max_length 64 and lose their end: dev-14." in caplog.text
    assert f"R1: 1 of 9 texts (11.1 %) are longer than max_length 64 and lose their end: {ood['uid'][0]}" in caplog.text
    assert caplog.text.count("lose their end") == 2
    tuned = finetuning_table(predictions, items, nli_labels).groupby("split")["n_truncated"].unique()
    assert tuned.map(list).to_dict() == {"dev": [1], "test": [0]}
    rounds = ood_table(predictions, ood, nli_labels).groupby("round")["n_truncated"].unique()
    assert rounds.map(list).to_dict() == {"R1": [1], "R2": [0]}


def test_tables_of_older_predictions_leave_truncation_open(nli_labels: LabelSet) -> None:
    table = finetuning_table(PREDICTIONS.drop(columns="truncated"), ITEMS, nli_labels)
    assert table["n_truncated"].isna().all()
    assert len(summarise_seeds(table, ["system", "split", "n", "n_truncated"], ["kl"])) == 1
