"""Frames of distributions."""

import numpy as np
import pandas as pd
import pytest

from mjd.config.files import read_config
from mjd.distributions import aligned, from_counts, uniform
from mjd.errors import DataError

LABELS = read_config("config/config.yaml").labels


def test_from_counts_normalises_and_leaves_out_items_without() -> None:
    items = pd.DataFrame({"uid": ["a", "b"], "mnli_e": [1, None], "mnli_n": [1, None], "mnli_c": [2, None]})
    found = from_counts(items, "mnli", LABELS)
    assert found.to_numpy().tolist() == [["a", 0.25, 0.25, 0.5]]


def test_uniform() -> None:
    np.testing.assert_allclose(uniform(pd.DataFrame({"uid": ["a"]}), LABELS)[["p_e", "p_n", "p_c"]], 1 / 3)


def test_aligned_follows_the_uids() -> None:
    frame = pd.DataFrame({"uid": ["a", "b"], "p_e": [1.0, 0], "p_n": [0, 1.0], "p_c": [0.0, 0]})
    np.testing.assert_array_equal(aligned(pd.Series(["b", "a"]), frame, LABELS, "x"), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("uids", "message"), [(["a", "a"], "item a appears twice"), (["b", "c"], "item a has no distribution")]
)
def test_aligned_joins_one_to_one(uids: list[str], message: str) -> None:
    frame = pd.DataFrame({"uid": uids, "p_e": [1.0, 1], "p_n": [0.0, 0], "p_c": [0.0, 0]})
    with pytest.raises(DataError, match=message):
        aligned(pd.Series(["a"]), frame, LABELS, "x")


def test_aligned_refuses_what_is_no_distribution() -> None:
    frame = pd.DataFrame({"uid": ["a"], "p_e": [0.9], "p_n": [0.0], "p_c": [0.0]})
    with pytest.raises(DataError, match="item a is not a distribution"):
        aligned(pd.Series(["a"]), frame, LABELS, "x")
