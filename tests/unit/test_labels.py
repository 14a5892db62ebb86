"""Labels: order, letters, spelling."""

import pytest

from mjd.errors import DataError
from mjd.labels import label_set

NLI = label_set([{"key": k, "name": n} for k, n in (("e", "entailment"), ("n", "neutral"), ("c", "contradiction"))])


def test_columns_follow_the_label_order() -> None:
    assert NLI.columns("p") == ["p_e", "p_n", "p_c"]


def test_option_orders_are_all_permutations_label_order_first() -> None:
    orders = NLI.option_orders()
    assert orders[0] == ("e", "n", "c")
    assert len(set(orders)) == 6


def test_letters() -> None:
    assert NLI.letters == ("A", "B", "C")


@pytest.mark.parametrize("spelling", ["n", "neutral", "Neutral", " NEUTRAL "])
def test_normalise_accepts_keys_and_names(spelling: str) -> None:
    assert NLI.normalise(spelling) == "n"


def test_normalise_refuses_other_words() -> None:
    with pytest.raises(DataError, match="Label 'maybe' is not one of e, n, c"):
        NLI.normalise("maybe")
