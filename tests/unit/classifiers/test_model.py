"""Loading, tokenising, batching, predicting and saving, on tiny BERT, RoBERTa and DeBERTa models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mjd.backends.devices import resolve_device, set_threads
from mjd.classifiers.model import (
    EncodedTexts,
    check_label_order,
    collate,
    encode,
    length_sorted_batches,
    load_encoder,
    predict,
    save_classifier,
    warn_of_truncation,
)
from mjd.errors import DataError, ModelError
from mjd.labels import LabelSet, label_set

CPU = torch.device("cpu")
FIELDS = ["premise", "hypothesis"]
PAIR = pd.DataFrame({"premise": ["rain fell"], "hypothesis": ["it is never so"]})

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def fresh(directory: Path, labels: LabelSet, seed: int = 1) -> Loaded:
    return load_encoder(directory, labels, pretrained_head=False, seed=seed, device=CPU)


def trained(directory: Path, labels: LabelSet) -> Loaded:
    return load_encoder(directory, labels, pretrained_head=True, seed=1, device=CPU)


def tokens(directory: Path, frame: pd.DataFrame, fields: list[str]) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = encode(tokenizer, frame, fields, 64).input_ids[0]
    return list(tokenizer.convert_ids_to_tokens(ids.tolist()))


def head_of(model: PreTrainedModel) -> torch.Tensor:
    key = max(key for key in model.state_dict() if key.startswith("classifier") and key.endswith("weight"))
    weight: torch.Tensor = model.state_dict()[key]
    return weight


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_roberta"])
def test_separators_that_a_text_spells_are_text(
    name: str, nli_labels: LabelSet, request: pytest.FixtureRequest
) -> None:
    _, tokenizer = fresh(request.getfixturevalue(name), nli_labels)
    spelled = f"rain {tokenizer.sep_token} {tokenizer.cls_token} {tokenizer.mask_token} fell"
    found = encode(tokenizer, pd.concat([PAIR, PAIR.assign(premise=spelled)]), FIELDS, 64).input_ids
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain, injected = ([i for i in ids.tolist() if i in special] for ids in found)
    assert injected == plain


# -- loading -----------------------------------------------------------------------------------------------------


def test_fresh_head_carries_the_label_names_in_label_order(tiny_encoder: Path, nli_labels: LabelSet) -> None:
    model, _ = fresh(tiny_encoder, nli_labels)
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_fresh_head_has_an_output_a_label(tiny_encoder: Path) -> None:
    five = label_set({"key": key, "name": f"label {key}"} for key in "abcde")
    model, tokenizer = fresh(tiny_encoder, five)
    assert predict(model, encode(tokenizer, PAIR, FIELDS, 64)).shape == (1, 5)


def test_fresh_head_depends_on_the_seed_alone(tiny_encoder: Path, nli_labels: LabelSet) -> None:
    torch.manual_seed(99)
    first = head_of(fresh(tiny_encoder, nli_labels)[0])
    torch.manual_seed(7)
    assert torch.equal(first, head_of(fresh(tiny_encoder, nli_labels)[0]))


def test_fresh_heads_of_different_seeds_differ(tiny_encoder: Path, nli_labels: LabelSet) -> None:
    heads = [head_of(fresh(tiny_encoder, nli_labels, seed)[0]) for seed in (1, 2)]
    assert not torch.equal(*heads)


def test_fresh_head_replaces_a_trained_one(tiny_encoder: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    save_classifier(*fresh(tiny_encoder, nli_labels, seed=5), tmp_path / "trained")
    from_trained = head_of(fresh(tmp_path / "trained", nli_labels, seed=1)[0])
    assert torch.equal(from_trained, head_of(fresh(tiny_encoder, nli_labels, seed=1)[0]))


def test_fresh_head_replaces_one_of_another_size(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    two = label_set([{"key": "y", "name": "yes"}, {"key": "n", "name": "no"}])
    save_classifier(*fresh(tiny_bert, two), tmp_path / "two")
    assert head_of(fresh(tmp_path / "two", nli_labels)[0]).shape[0] == 3


def test_fresh_head_keeps_the_encoder_weights(tiny_encoder: Path, nli_labels: LabelSet) -> None:
    models = [fresh(tiny_encoder, nli_labels, seed)[0] for seed in (1, 2)]
    embeddings = [model.get_input_embeddings().weight for model in models]
    assert torch.equal(*embeddings)


def test_loading_leaves_the_global_random_state_alone(tiny_bert: Path, nli_labels: LabelSet) -> None:
    before = torch.get_rng_state()
    fresh(tiny_bert, nli_labels)
    assert torch.equal(before, torch.get_rng_state())


def test_loading_a_fresh_head_is_quiet(
    tiny_bert: Path, nli_labels: LabelSet, capfd: pytest.CaptureFixture[str]
) -> None:
    fresh(tiny_bert, nli_labels)
    assert capfd.readouterr().err == ""


def test_loaded_models_are_in_evaluation_mode(tiny_bert: Path, nli_labels: LabelSet) -> None:
    assert not fresh(tiny_bert, nli_labels)[0].training


def test_missing_directory_is_named(nli_labels: LabelSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere is not a directory"):
        fresh(tmp_path / "nowhere", nli_labels)


def test_directory_without_a_model_is_refused(nli_labels: LabelSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        fresh(tmp_path, nli_labels)


# -- label order -------------------------------------------------------------------------------------------------


def test_checkpoint_in_another_label_order_is_refused(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    other = LabelSet(nli_labels.labels[::-1])
    save_classifier(*fresh(tiny_bert, other), tmp_path / "reversed")
    with pytest.raises(ModelError, match=r"label order differs.*contradiction, neutral, entailment"):
        trained(tmp_path / "reversed", nli_labels)


def test_encoder_without_label_names_is_refused_as_trained(tiny_bert: Path, nli_labels: LabelSet) -> None:
    with pytest.raises(ModelError, match="other labels: its id2label is LABEL_0"):
        trained(tiny_bert, nli_labels)


def test_label_order_ignores_case(nli_labels: LabelSet) -> None:
    check_label_order({0: "ENTAILMENT", 1: "Neutral", 2: "contradiction"}, nli_labels, "model")


def test_label_order_is_read_by_position_not_by_listing(nli_labels: LabelSet) -> None:
    check_label_order({2: "contradiction", 0: "entailment", 1: "neutral"}, nli_labels, "model")


def test_too_few_labels_are_refused(nli_labels: LabelSet) -> None:
    with pytest.raises(ModelError, match="model is a checkpoint with other labels"):
        check_label_order({0: "entailment", 1: "neutral"}, nli_labels, "model")


def test_checkpoint_without_head_weights_is_refused(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    model, tokenizer = fresh(tiny_bert, nli_labels)
    save_classifier(model, tokenizer, tmp_path / "headless")
    shutil.copy(tiny_bert / "model.safetensors", tmp_path / "headless" / "model.safetensors")
    with pytest.raises(ModelError, match="lacks weights of the classifier: classifier"):
        trained(tmp_path / "headless", nli_labels)


def test_damaged_weights_are_refused(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", 1000)
    with pytest.raises(ModelError, match="cannot be loaded as a sequence classifier"):
        fresh(tmp_path / "cut", nli_labels)


# -- tokenising --------------------------------------------------------------------------------------------------


def test_bert_pairs_have_cls_and_two_seps(tiny_bert: Path) -> None:
    found = tokens(tiny_bert, PAIR, FIELDS)
    assert found == ["[CLS]", "rain", "fell", "[SEP]", "it", "is", "never", "so", "[SEP]"]


def test_roberta_pairs_have_a_double_separator(tiny_roberta: Path) -> None:
    found = tokens(tiny_roberta, PAIR, FIELDS)
    assert [token for token in found if token in ("<s>", "</s>")] == ["<s>", "</s>", "</s>", "</s>"]


def test_single_texts_have_one_separator(tiny_bert: Path) -> None:
    assert tokens(tiny_bert, PAIR, ["premise"]) == ["[CLS]", "rain", "fell", "[SEP]"]


def test_bert_gets_token_types(tiny_bert: Path) -> None:
    encoded = encode(AutoTokenizer.from_pretrained(tiny_bert), PAIR, FIELDS, 64)
    assert [row.tolist() for row in encoded.token_type_ids or []] == [[0, 0, 0, 0, 1, 1, 1, 1, 1]]


def test_roberta_gets_no_token_types(tiny_roberta: Path) -> None:
    assert encode(AutoTokenizer.from_pretrained(tiny_roberta), PAIR, FIELDS, 64).token_type_ids is None


def test_long_pairs_lose_tokens_of_the_longer_text(tiny_bert: Path, toy_pairs: pd.DataFrame) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    long = toy_pairs[toy_pairs["premise"].str.startswith("an old man")].head(1)
    ids = encode(tokenizer, long, FIELDS, 16).input_ids[0].tolist()
    assert tokenizer.decode(ids).endswith(f" [SEP] {long['hypothesis'].iloc[0]} [SEP]")


def test_no_item_is_longer_than_max_length(tiny_encoder: Path, toy_pairs: pd.DataFrame) -> None:
    assert encode(AutoTokenizer.from_pretrained(tiny_encoder), toy_pairs, FIELDS, 12).lengths.max() == 12


def test_padding_stored_in_the_tokenizer_is_not_applied(tiny_bert: Path, toy_pairs: pd.DataFrame) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode(tokenizer, PAIR, FIELDS, 64).lengths.tolist() == [9]


def test_missing_text_column_is_named(tiny_bert: Path) -> None:
    with pytest.raises(DataError, match="'claim' is missing"):
        encode(AutoTokenizer.from_pretrained(tiny_bert), PAIR, ["claim"], 64)


def test_max_length_beyond_the_model_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match="at most 64 tokens"):
        encode(AutoTokenizer.from_pretrained(tiny_bert), PAIR, FIELDS, 65)


def test_tokenizer_without_padding_token_is_refused(tiny_bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no padding token"):
        encode(tokenizer, PAIR, FIELDS, 64)


def test_empty_tables_can_be_encoded(tiny_bert: Path) -> None:
    assert len(encode(AutoTokenizer.from_pretrained(tiny_bert), PAIR[:0], FIELDS, 64)) == 0


# -- batching ----------------------------------------------------------------------------------------------------

RAGGED = EncodedTexts(
    input_ids=[np.array([5, 6, 7]), np.array([8]), np.array([9, 9])],
    token_type_ids=[np.array([0, 0, 1]), np.array([1]), np.array([1, 1])],
    lengths=np.array([3, 1, 2]),
    pad_id=4,
    pad_type_id=0,
)


def test_collate_pads_on_the_right_with_the_pad_token() -> None:
    assert collate(RAGGED, [1, 2], CPU)["input_ids"].tolist() == [[8, 4], [9, 9]]


def test_collate_masks_padding() -> None:
    assert collate(RAGGED, [1, 0], CPU)["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_collate_pads_token_types() -> None:
    assert collate(RAGGED, [0, 1], CPU)["token_type_ids"].tolist() == [[0, 0, 1], [1, 0, 0]]


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 400))
def test_length_sorted_batches_hold_every_item_once(lengths: list[int], budget: int) -> None:
    batches = length_sorted_batches(np.array(lengths, dtype=np.int64), budget)
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 400))
def test_length_sorted_batches_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    assert all(
        len(batch) == 1 or len(batch) * array[batch].max() <= budget for batch in length_sorted_batches(array, budget)
    )


# -- predicting --------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(tiny_encoder: Path, nli_labels: LabelSet) -> Loaded:
    return fresh(tiny_encoder, nli_labels)


def test_predictions_sum_to_one(loaded: Loaded, toy_pairs: pd.DataFrame) -> None:
    p = predict(loaded[0], encode(loaded[1], toy_pairs, FIELDS, 64))
    assert np.allclose(p.sum(axis=1), 1, atol=1e-12)


def test_predictions_do_not_depend_on_the_batch(loaded: Loaded, toy_pairs: pd.DataFrame) -> None:
    encoded = encode(loaded[1], toy_pairs, FIELDS, 64)
    alone, together = predict(loaded[0], encoded, tokens_per_batch=1), predict(loaded[0], encoded)
    assert np.abs(alone - together).max() < 1e-6


def test_predictions_are_in_item_order(loaded: Loaded, toy_pairs: pd.DataFrame) -> None:
    model, tokenizer = loaded
    forward, backward = (encode(tokenizer, frame, FIELDS, 64) for frame in (toy_pairs, toy_pairs[::-1]))
    assert np.abs(predict(model, forward) - predict(model, backward)[::-1]).max() < 1e-6


def test_prediction_restores_training_mode(loaded: Loaded) -> None:
    model, tokenizer = loaded
    model.train()
    predict(model, encode(tokenizer, PAIR, FIELDS, 64))
    assert model.training


def test_prediction_uses_no_dropout(loaded: Loaded) -> None:
    model, tokenizer = loaded
    model.train()
    encoded = encode(tokenizer, PAIR, FIELDS, 64)
    assert np.array_equal(predict(model, encoded), predict(model, encoded))


# -- saving ------------------------------------------------------------------------------------------------------


def test_saved_classifier_predicts_the_same(
    loaded: Loaded, nli_labels: LabelSet, toy_pairs: pd.DataFrame, tmp_path: Path
) -> None:
    save_classifier(*loaded, tmp_path / "saved")
    model, tokenizer = trained(tmp_path / "saved", nli_labels)
    first = predict(loaded[0], encode(loaded[1], toy_pairs, FIELDS, 64))
    assert np.array_equal(first, predict(model, encode(tokenizer, toy_pairs, FIELDS, 64)))


def test_saving_replaces_an_old_checkpoint(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    target = tmp_path / "saved"
    target.mkdir()
    (target / "stale").touch()
    save_classifier(*fresh(tiny_bert, nli_labels), target)
    assert not (target / "stale").exists()


def test_saved_files_are_readable_by_others(tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path) -> None:
    save_classifier(*fresh(tiny_bert, nli_labels), tmp_path / "saved")
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "saved").iterdir()} == {"0o644"}


def test_failed_save_leaves_nothing(
    tiny_bert: Path, nli_labels: LabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = fresh(tiny_bert, nli_labels)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_classifier(model, tokenizer, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


# -- devices -----------------------------------------------------------------------------------------------------


def test_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == CPU


def test_auto_finds_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU


def test_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="'cuda' is not available here"):
        resolve_device("cuda")


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    set_threads(1)
    found = torch.get_num_threads()
    set_threads(before)
    assert found == 1


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        set_threads(0)


# -- truncation ----------------------------------------------------------------------------------------------------


def test_encode_long_texts_are_known_to_be_truncated(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    frame = pd.DataFrame({"premise": ["rain fell", "the council met " * 30], "hypothesis": "it is so"})
    found = encode(tokenizer, frame, FIELDS, 24)
    assert found.truncated.tolist() == [False, True]
    assert found.lengths[1] == 24


def test_encode_a_text_of_exactly_max_length_is_not_truncated(tiny_bert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    frame = pd.DataFrame({"premise": ["the council met"]})
    length = int(encode(tokenizer, frame, ["premise"], 64).lengths[0])
    assert not encode(tokenizer, frame, ["premise"], length).truncated.any()
    assert encode(tokenizer, frame, ["premise"], length - 1).truncated.all()


def test_encode_truncated_ids_are_those_of_the_tokenizer(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    frame = pd.DataFrame({"premise": ["rain fell", "the council met " * 30], "hypothesis": ["it is so " * 9, "never"]})
    texts = [frame[field].tolist() for field in FIELDS]
    expected = tokenizer(*texts, truncation="longest_first", max_length=20)
    found = encode(tokenizer, frame, FIELDS, 20)
    assert [ids.tolist() for ids in found.input_ids] == expected["input_ids"]
    if found.token_type_ids is not None:
        assert [ids.tolist() for ids in found.token_type_ids] == expected["token_type_ids"]


def test_label_order_ignores_white_space(nli_labels: LabelSet) -> None:
    check_label_order({0: "entailment ", 1: " neutral", 2: "contradiction"}, nli_labels, "x")


def test_truncation_of_many_texts_names_the_first_and_counts_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    uids = pd.Series([f"u{k}" for k in range(8)])
    found = warn_of_truncation(np.array([True] * 7 + [False]), uids, "R1", 64)
    assert found == {"n": 8, "n_truncated": 7, "first_uids": ["u0", "u1", "u2", "u3", "u4"]}
    assert "R1: 7 of 8 texts (87.5 %) are longer than max_length 64" in caplog.text
    assert "u0, u1, u2, u3, u4 and 2 more. Raise the encoder's max_length." in caplog.text
