"""The paper's finding on made-up distributions where it holds, and where it does not."""

import numpy as np
import pandas as pd
import pytest

from mjd.config.analyses import Statistics
from mjd.config.files import read_config
from mjd.io import to_table
from mjd.reproduction.finding import NOISE, cases, finding_table, lines, schema, verdict_alike, verdict_better
from mjd.systems import System
from tests.unit.evaluation.test_comparison import noise

LABELS = read_config("config/config.yaml").labels
SETTINGS = Statistics(resamples=500)


def systems() -> list[System]:
    made = [("none", None), ("human", None), ("lf", "gen"), ("varierr-lg", "gen"), ("varierr-lg", "other")]
    return [
        System(f"{source}-{generator}", source, "mjd", scorer="llm", generator=generator, source=source)
        for source, generator in made
    ]


def table(blend: dict[str, float]) -> pd.DataFrame:
    """Systems that mix the HJDs with noise: `blend` is the share of the HJD by source."""
    random = np.random.default_rng(1)
    human = random.dirichlet([1, 1, 1], size=200)
    uids = [f"i{k}" for k in range(200)]
    items = pd.DataFrame(human, columns=LABELS.columns("hjd")).assign(uid=uids)
    frames = {}
    for system in systems():
        share = blend[str(system.source)]
        p = share * human + (1 - share) * random.dirichlet([1, 1, 1], size=200)
        frames[system.slug] = pd.DataFrame(p, columns=LABELS.columns("p")).assign(uid=uids)
    return finding_table(items, cases(systems(), "varierr-lg"), frames, LABELS, SETTINGS, 1, "made up")


def test_only_generators_with_every_source_are_checked() -> None:
    assert [case.generator for case in cases(systems(), "varierr-lg")] == ["gen"]


def test_finding_holds_where_it_was_made() -> None:
    found = table({"none": 0.1, "human": 0.9, "lf": 0.3, "varierr-lg": 0.9})
    assert set(found["verdict"]) == {"holds"}
    assert to_table(found, schema()).num_rows == 9
    assert lines(found)[-1] == "llm reading gen: the paper's finding holds (n = 200)"


def test_finding_fails_where_label_free_explanations_are_better() -> None:
    found = table({"none": 0.1, "human": 0.5, "lf": 0.9, "varierr-lg": 0.5}).set_index(["claim", "metric"])
    claim = "label-free model explanations are behind human ones"
    assert found.loc[(claim, "kl"), "verdict"] == "does not hold"
    assert found.loc[("finding", "kl and dcor"), "verdict"] == "does not hold"


def test_gains_are_positive_for_the_better_system_in_every_metric() -> None:
    found = table({"none": 0.1, "human": 0.9, "lf": 0.3, "varierr-lg": 0.9})
    helps = found[found["claim"] == "human explanations help"]
    assert (helps["gain_low"] > 0).all()
    assert set(helps["metric"]) == {"kl", "dcor"}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "holds"), (-0.1, 0.1, "undecided"), (-0.2, -0.1, "does not hold")]
)
def test_verdict_better_follows_from_its_interval(low: float, high: float, verdict: str) -> None:
    assert verdict_better(low, high) == verdict


@pytest.mark.parametrize(
    ("margin", "above", "below", "verdict"),
    [
        (0.2, (-0.3, -0.1), (0.1, 0.3), "holds"),
        (0.2, (-0.3, 0.1), (0.1, 0.3), "undecided"),
        (0.2, (0.1, 0.2), (0.5, 0.6), "does not hold"),
        (0.2, (-0.6, -0.5), (-0.2, -0.1), "does not hold"),
        (-0.2, (-0.3, -0.1), (0.1, 0.3), "undecided"),
        (0.2, (np.nan, np.nan), (0.1, 0.3), "undecided"),
    ],
)
def test_verdict_alike_follows_from_margin_and_intervals(
    margin: float, above: tuple[float, float], below: tuple[float, float], verdict: str
) -> None:
    assert verdict_alike(margin, above, below) == verdict


def test_uncertain_margin_widens_the_intervals_of_likeness() -> None:
    found = table({"none": 0.1, "human": 0.9, "lf": 0.3, "varierr-lg": 0.9}).set_index(["claim", "metric"])
    likeness = found.loc[("label-guided model explanations are like human ones", "kl")]
    above, below = likeness["gain"] - likeness["margin"], likeness["gain"] + likeness["margin"]
    assert likeness["above_margin_low"] < above < likeness["above_margin_high"]
    assert likeness["below_margin_low"] < below < likeness["below_margin_high"]
    of_gain = likeness["gain_high"] - likeness["gain_low"]
    assert likeness["above_margin_high"] - likeness["above_margin_low"] > of_gain


def test_configuration_with_nothing_to_check_gives_an_empty_table() -> None:
    items = pd.DataFrame(columns=["uid", *LABELS.columns("hjd")])
    assert to_table(finding_table(items, [], {}, LABELS, SETTINGS, 1, "made up"), schema()).num_rows == 0


def test_claims_about_dcor_at_the_level_of_independence_are_undecided() -> None:
    items, frames = noise()
    shown = {"none": "human", "human": "other", "lf": "human", "varierr-lg": "other"}
    given = {system.slug: frames[shown[str(system.source)]] for system in systems()}
    found = finding_table(items, cases(systems(), "varierr-lg"), given, LABELS, Statistics(resamples=400), 1, "made up")
    of_dcor = found[found["metric"] == "dcor"]
    helps = of_dcor[of_dcor["claim"] == "human explanations help"].iloc[0]
    assert helps["gain_low"] > 0  # the interval alone would have it hold
    assert set(of_dcor["verdict"]) == {"undecided"}
    assert set(of_dcor["note"]) == {NOISE}
    assert found.loc[found["metric"] == "kl", "note"].isna().all()
    assert sum(line.endswith(f"undecided ({NOISE})") for line in lines(found)) == 4
    assert to_table(found, schema()).num_rows == 9
