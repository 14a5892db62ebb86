"""Labels: order, letters, spelling."""

import pytest

from mjd.errors import DataError
from mjd.labels import LabelSet, check_labels, label_set

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


# -- names that are other labels' keys -------------------------------------------------------------------------------

SHIFTED = label_set([{"key": str(k), "name": str(k + 1)} for k in range(3)])
SCALE = label_set([{"key": str(k), "name": f"agreement {k}"} for k in range(-3, 2)])


@pytest.mark.parametrize("key", ["0", "1", "2"])
def test_normalise_value_that_is_a_key_and_another_labels_name_returns_the_key(key: str) -> None:
    assert SHIFTED.normalise(key) == key


def test_normalise_name_that_is_no_key_returns_its_label() -> None:
    assert SHIFTED.normalise("3") == "2"


@pytest.mark.parametrize(("written", "key"), [("-3", "-3"), ("-3.0", "-3"), (" 1 ", "1"), ("Agreement  -2", "-2")])
def test_normalise_values_of_a_scale_return_its_keys(written: str, key: str) -> None:
    assert SCALE.normalise(written) == key


@pytest.mark.parametrize("written", ["-3.5", "3.0", "+1", "-03"])
def test_normalise_other_numbers_are_refused(written: str) -> None:
    with pytest.raises(DataError, match="is not one of -3, -2, -1, 0, 1"):
        SCALE.normalise(written)


def test_normalise_unicode_minus_is_named() -> None:
    with pytest.raises(DataError, match=r"holds a minus sign, U\+2212; write a hyphen-minus"):
        SCALE.normalise("\u22123")


def labels_of(*pairs: tuple[str, str]) -> LabelSet:
    return label_set({"key": key, "name": name} for key, name in pairs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("0", "1"), ("1", "2")], "key '1' of label '2' is also the name of the label with key '0'"),
        ([("NO", "never"), ("x", "no")], "key 'NO' of label 'never' is also the name"),
        ([("3", "three"), ("x", "3.0")], "key '3' of label 'three' is also the name"),
        ([("-3", "low"), ("x", "\u22123")], "key '-3' of label 'low' is also the name"),
        ([("a", "yes"), ("A", "no")], "label keys must differ in more than case.*'a' and 'A'"),
        ([("a", "yes"), ("b", "Yes")], "label names must differ in more than case.*'yes' and 'Yes'"),
        ([("a", "not sure"), ("b", "not  sure ")], "label names must differ in more than case, white space"),
        ([("a", "caf\u00e9"), ("b", "cafe\u0301")], "label names must differ"),
        ([("1", "one"), ("01", "other")], r"label keys must differ in more than .*zeros in front.*'1' and '01'"),
        ([("0", "none"), ("-0", "other")], "label keys must differ .*'0' and '-0'"),
        ([("a", "yes"), ("b", "y\u200bes")], "label names must differ in more than .*invisible characters"),
        ([("a", "yes\nB. no"), ("b", "no")], r"label name 'yes\\nB\. no' has a line break"),
        ([("a", " "), ("b", "x")], "a label name is empty"),
        ([("bound", "bound"), ("b", "x")], "label key 'bound' is taken: score_bound is a column of mjd"),
    ],
)
def test_check_labels_ambiguous_labels_are_refused(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels_of(*pairs))


def test_check_labels_two_columns_of_one_name_are_refused() -> None:
    labels = labels_of(("b", "one"), ("a_b", "two"))
    check_labels(labels, ["varierr"])
    with pytest.raises(ValueError, match="the column 'hjd_a_b' would belong to 'hjd' and to 'hjd_a'"):
        check_labels(labels, ["hjd_a"])


def test_check_labels_a_label_may_be_named_like_its_own_key() -> None:
    check_labels(labels_of(("yes", "Yes"), ("no", "no")))
