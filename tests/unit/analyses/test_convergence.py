"""Errors of MJDs of some orders, on made-up scores."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mjd.analyses.convergence import ONE_PROMPT, arrange, convergence_rows, convergence_table, schema
from mjd.config.analyses import Statistics
from mjd.config.files import read_config
from mjd.errors import DataError
from mjd.io import to_table
from mjd.systems import System

LABELS = read_config("config/config.yaml").labels
COLUMNS = LABELS.columns("score")
SETTINGS = Statistics(resamples=100)
ORDERS = [",".join(map(str, order)) for order in itertools.permutations(range(3))]


def scores(noise: float, n: int = 6) -> pd.DataFrame:
    """Scores of 3 explanations in all orders: the item's own, and noise for each explanation order."""
    random = np.random.default_rng(1)
    rows = []
    for item, explanation in itertools.product(range(n), ORDERS):
        value = [item, 0.0, 1.0] + noise * random.normal(size=3)
        for option in LABELS.option_orders():
            rows.append({"uid": f"i{item}", "explanation_order": explanation, "option_order": ",".join(option)})
            rows[-1] |= dict(zip(COLUMNS, value, strict=True))
    return pd.DataFrame(rows)


ITEMS = pd.DataFrame({"uid": [f"i{k}" for k in range(6)], "hjd_e": 0.5, "hjd_n": 0.3, "hjd_c": 0.2})


def rows(noise: float) -> pd.DataFrame:
    found = convergence_rows(arrange(scores(noise), ITEMS, LABELS, 1.0), SETTINGS, seed=1)
    return found.set_index("orders")


def test_no_noise_no_error() -> None:
    np.testing.assert_allclose(rows(0.0)["tvd_to_all"], 0, atol=1e-12)


def test_error_falls_with_orders_and_ends_at_zero() -> None:
    found = rows(1.0)
    errors = found.loc[[ONE_PROMPT, "2", "3", "4", "all"], "tvd_to_all"].to_numpy()
    assert (np.diff(errors) < 0).all()
    assert found.loc["all", ["tvd_to_all", "error_removed"]].tolist() == pytest.approx([0, 1])
    assert found.loc[ONE_PROMPT, "error_removed"] == 0


def test_prompts_count_option_orders() -> None:
    found = rows(1.0)["n_prompts"]
    assert found.to_dict() == {ONE_PROMPT: 1, "1": 6, "2": 12, "3": 18, "4": 24, "cyclic": 18, "all": 36}


def test_one_order_is_the_listed_one_for_every_item() -> None:
    table = scores(1.0)
    found = convergence_rows(arrange(table, ITEMS, LABELS, 1.0), SETTINGS, seed=1).set_index("orders")
    p = table[COLUMNS].apply(np.exp).pipe(lambda e: e.div(e.sum(axis=1), axis=0)).assign(uid=table["uid"])
    difference = p[table["explanation_order"] == "0,1,2"].groupby("uid").mean() - p.groupby("uid").mean()
    assert found.loc["1", "tvd_to_all"] == pytest.approx(difference.abs().sum(axis=1).mean() / 2)
    assert found["n_draws"].to_dict() == {ONE_PROMPT: 100, "1": 1, "2": 100, "3": 100, "4": 100, "cyclic": 1, "all": 1}


def test_cyclic_takes_the_rotations() -> None:
    table = scores(1.0)
    found = convergence_rows(arrange(table, ITEMS, LABELS, 1.0), SETTINGS, seed=1).set_index("orders")
    rotations = table["explanation_order"].isin(["0,1,2", "1,2,0", "2,0,1"])
    p = table[COLUMNS].apply(np.exp).pipe(lambda e: e.div(e.sum(axis=1), axis=0)).assign(uid=table["uid"])
    difference = p[rotations].groupby("uid").mean() - p.groupby("uid").mean()
    assert found.loc["cyclic", "tvd_to_all"] == pytest.approx(difference.abs().sum(axis=1).mean() / 2)


def test_table_fits_its_schema() -> None:
    system = System("s", "System", "mjd", scorer="llm", source="human", mode="explicit")
    table = convergence_table([system], [scores(1.0)], ITEMS, LABELS, 1.0, SETTINGS, 1, "made up")
    assert to_table(table, schema()).num_rows == 7


def test_one_explanation_cannot_converge() -> None:
    with pytest.raises(DataError, match="at least two explanations"):
        arrange(scores(1.0).query("explanation_order == '0,1,2'"), ITEMS, LABELS, 1.0)
