"""Variance shares of made-up scores whose causes are known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mjd.analyses.bias import SHARES, bias_table, design, place_probabilities, schema, variance_shares
from mjd.config.analyses import Statistics
from mjd.config.files import read_config
from mjd.errors import DataError
from mjd.io import to_table
from mjd.systems import System

LABELS = read_config("config/config.yaml").labels
COLUMNS = LABELS.columns("score")
OPTIONS = [",".join(order) for order in LABELS.option_orders()]
EXPLANATIONS = ["0,1", "1,0"]


def scores(effect: str, n: int = 5) -> pd.DataFrame:
    """Scores that depend on one cause alone (`item`, `option`, `item_option`, `explanation`, `both`)."""
    random = np.random.default_rng(1)
    draws: dict[object, np.ndarray] = {}
    rows = []
    for item, explanation, option in itertools.product(range(n), EXPLANATIONS, OPTIONS):
        causes = {
            "item": item,
            "option": option,
            "item_option": (item, option),
            "explanation": (item, explanation),
            "both": (item, explanation, option),
        }
        value = draws.setdefault(causes[effect], random.normal(size=3))
        rows.append({"uid": f"i{item}", "explanation_order": explanation, "option_order": option})
        rows[-1] |= dict(zip(COLUMNS, value, strict=True))
    return pd.DataFrame(rows)


def shares(table: pd.DataFrame) -> dict[str, float]:
    found = design(table, LABELS)
    _, share = variance_shares(found, np.ones((1, len(found.prompts))))
    return dict(zip(SHARES, share[0], strict=True))


def test_a_cause_gets_all_the_variance() -> None:
    assert shares(scores("item"))["item"] == pytest.approx(1)
    assert shares(scores("option"))["option_order"] == pytest.approx(1)


def test_explanation_order_varies_within_items() -> None:
    found = shares(scores("explanation"))
    assert found["item"] + found["explanation_order"] == pytest.approx(1)
    assert found["explanation_order"] > 0.2


def test_shares_sum_to_one_and_total_is_the_variance() -> None:
    table = scores("both")
    assert sum(shares(table).values()) == pytest.approx(1)
    values = table[COLUMNS].to_numpy()
    centred = values - values.mean(axis=1, keepdims=True)
    found = design(table, LABELS)
    total, _ = variance_shares(found, np.ones((1, len(found.prompts))))
    assert total[0] == pytest.approx(np.square(centred - centred.mean(axis=0)).sum(axis=1).mean())


def test_a_resample_equals_the_table_of_the_resample() -> None:
    table = scores("both")
    counts = np.array([[2.0, 0, 1, 1, 1]])
    repeated = pd.concat([table[table["uid"] != "i1"], table[table["uid"] == "i0"].assign(uid="again")])
    _, share = variance_shares(design(table, LABELS), counts)
    np.testing.assert_allclose(share[0], list(shares(repeated).values()))


def test_place_probabilities_follow_the_option_order() -> None:
    rows = [dict(zip(COLUMNS, [0.0] * 3, strict=True)) | {"option_order": order} for order in OPTIONS]
    for row in rows:
        row[f"score_{row['option_order'].split(',')[0]}"] = np.log(2)  # the first option is twice as likely
    np.testing.assert_allclose(place_probabilities(pd.DataFrame(rows), LABELS), [0.5, 0.25, 0.25])


def test_table_fits_its_schema_and_leaves_out_what_was_not_varied() -> None:
    one_order = scores("item_option").query("explanation_order == '0,1'")
    system = System("s", "System", "mjd", scorer="llm", source="human", mode="explicit")
    table = bias_table([system, system], [one_order, scores("both")], LABELS, Statistics(resamples=100), 1, "made up")
    assert to_table(table, schema(3)).num_rows == 2
    assert table["explanation_order"].isna().tolist() == [True, False]
    assert (table["item_low"] <= table["item"]).all()


def test_orders_that_are_not_crossed_are_an_error() -> None:
    with pytest.raises(DataError, match="item i0: explanation and option orders are not fully crossed"):
        design(scores("item").iloc[1:], LABELS)
