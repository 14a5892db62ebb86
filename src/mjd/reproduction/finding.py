"""The paper's finding as a check: label-guided model explanations do what human ones do, label-free and none do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from mjd.analyses.base import Analysis, AnalysisJob
from mjd.config.analyses import Statistics
from mjd.distributions import Floats
from mjd.evaluation import statistics as stats
from mjd.evaluation.comparison import Bootstrapped, bootstrap, is_independent, null_quantile, stacked
from mjd.labels import LabelSet
from mjd.systems import System

# Whether more of a metric is better (+1) or less (-1).
BETTER = {"kl": -1, "dcor": 1}
# Alike: the difference is within this share of what human explanations gain over none, either way.
MARGIN = 0.5
# Why a claim about distance correlations is undecided.
NOISE = "both D.Corr are at most their 95 % quantile under independence"
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
MARGIN_ENDS = ("above_margin_low", "above_margin_high", "below_margin_low", "below_margin_high")


def schema() -> pa.Schema:
    """Columns of finding.parquet: one row a scorer, generator, claim and metric.

    `gain` is the first system's advantage over the second (positive is better, whatever the metric), with its paired
    bootstrap interval; `verdict` is holds, does not hold or undecided. Claims of likeness have a `margin`, half of what
    human explanations gain over none, which is itself uncertain: `above_margin_low` and `above_margin_high` are the
    interval of gain - margin, `below_margin_low` and `below_margin_high` that of gain + margin. `note` says why a claim
    about distance correlations that are no higher than independence gives is undecided, whatever its interval.
    """
    texts = [pa.field(name, pa.string()) for name in ("scorer", "generator", "claim", "metric", "verdict", "note")]
    numbers = [pa.field(name, pa.float64()) for name in ("gain", "gain_low", "gain_high", "margin", *MARGIN_ENDS)]
    return pa.schema([*texts, *numbers, pa.field("n", pa.int64()), pa.field("data_set", pa.string())])


@dataclass(frozen=True)
class Case:
    """The four systems of one scorer and generator that the finding compares."""

    none: System
    human: System
    label_free: System
    label_guided: System

    @property
    def generator(self) -> str:
        return str(self.label_guided.generator)


def cases(systems: Sequence[System], label_guided: str) -> list[Case]:
    """Every scorer and generator among the main MJD systems that has all four sources.

    Args:
        systems: MJD systems, one a scorer, generator and source.
        label_guided: the source guided by the labels of the human explanations, e.g. `varierr-lg`.
    """
    found = []
    for guided in systems:
        if guided.source != label_guided:
            continue
        of_scorer = [s for s in systems if s.scorer == guided.scorer]
        parts = (
            [s for s in of_scorer if s.source == "none"],
            [s for s in of_scorer if s.source == "human"],
            [s for s in of_scorer if s.source == "lf" and s.generator == guided.generator],
        )
        if all(parts):
            none, human, label_free = (part[0] for part in parts)
            found.append(Case(none, human, label_free, guided))
    return found


def verdict_better(low: float, high: float) -> str:
    """Whether a gain with this interval is above 0."""
    if low > 0:
        return HOLDS
    return FAILS if high < 0 else OPEN


def verdict_alike(margin: float, above: tuple[float, float], below: tuple[float, float]) -> str:
    """Whether a difference lies within the margin, from the intervals of difference - margin and difference + margin.

    A margin of 0 or less decides nothing: there is no gain to be alike in.
    """
    if margin <= 0 or np.isnan([*above, *below]).any():
        return OPEN
    if above[1] < 0 < below[0]:
        return HOLDS
    return FAILS if above[0] > 0 or below[1] < 0 else OPEN


def finding_table(
    items: pd.DataFrame,
    checked: Sequence[Case],
    distributions: Mapping[str, pd.DataFrame],
    labels: LabelSet,
    settings: Statistics,
    seed: int,
    data_set: str,
    drops: bool = False,
) -> pd.DataFrame:
    """The table of `schema`; the last rows of a case (claim `finding`) sum it up.

    The finding holds where all claims hold for KL and distance correlation, does not where one does not.

    Args:
        items: training items with `hjd_*`.
        distributions: system slug -> frame uid, p_*.
        drops: use the items that all MJDs have (`comparison.stacked`).
    """
    systems = list({s.slug: s for c in checked for s in (c.none, c.human, c.label_free, c.label_guided)}.values())
    if not systems:
        return pd.DataFrame(columns=schema().names)
    human, models = stacked(items, systems, distributions, labels, drops)
    found = bootstrap(human, models, stats.resample_counts(len(human), settings.resamples, seed))
    place = {system.slug: index for index, system in enumerate(systems)}
    noise = is_independent(found.estimate["dcor"], null_quantile(human, models, seed))
    independent = {system.slug for system, is_noise in zip(systems, noise, strict=True) if is_noise}
    rows = [row for case in checked for row in _case_rows(case, found, place, independent, settings.confidence)]
    return pd.DataFrame(rows, columns=schema().names).assign(n=len(human), data_set=data_set)


def _case_rows(
    case: Case, found: Bootstrapped, place: Mapping[str, int], independent: Set[str], confidence: float
) -> list[dict[str, float | str]]:
    who = {"scorer": str(case.human.scorer), "generator": case.generator}
    rows: list[dict[str, float | str]] = []
    for metric, sign in BETTER.items():

        def gain(better: System, than: System, metric: str = metric, sign: int = sign) -> tuple[float, Floats]:
            a, b = place[better.slug], place[than.slug]
            estimate, samples = found.estimate[metric], found.samples[metric]
            return float(sign * (estimate[a] - estimate[b])), sign * (samples[:, a] - samples[:, b])

        helps, helps_samples = gain(case.human, case.none)
        margin, margins = MARGIN * helps, MARGIN * helps_samples
        for claim, better, than in (
            ("human explanations help", case.human, case.none),
            ("label-guided model explanations help", case.label_guided, case.none),
            ("label-guided model explanations are like human ones", case.label_guided, case.human),
            ("label-free model explanations are behind human ones", case.human, case.label_free),
        ):
            estimate, samples = gain(better, than)
            low, high = _ends(samples, confidence)
            row: dict[str, float | str] = {
                **who,
                "claim": claim,
                "metric": metric,
                "gain": estimate,
                "gain_low": low,
                "gain_high": high,
            }
            compared = [(better, than)]
            if claim.endswith("like human ones"):
                above, below = (_ends(samples + shift, confidence) for shift in (-margins, margins))
                row |= {"margin": margin} | dict(zip(MARGIN_ENDS, (*above, *below), strict=True))
                row["verdict"] = verdict_alike(margin, above, below)
                compared.append((case.human, case.none))  # whose difference is the margin
            else:
                row["verdict"] = verdict_better(low, high)
            if metric == "dcor" and any({a.slug, b.slug} <= independent for a, b in compared):
                row |= {"verdict": OPEN, "note": NOISE}
            rows.append(row)
    verdicts = [row["verdict"] for row in rows]
    whole = HOLDS if set(verdicts) == {HOLDS} else FAILS if FAILS in verdicts else OPEN
    rows.append({**who, "claim": "finding", "metric": "kl and dcor", "verdict": whole})
    return rows


def _ends(samples: Floats, confidence: float) -> tuple[float, float]:
    low, high = stats.interval(samples, confidence)
    return float(low), float(high)


def lines(table: pd.DataFrame) -> list[str]:
    """The table as sentences for a log."""
    found = []
    for row in table.to_dict("records"):
        who = f"{row['scorer']} reading {row['generator']}"
        if row["claim"] == "finding":
            found.append(f"{who}: the paper's finding {row['verdict']} (n = {row['n']})")
        else:
            within = f", margin {row['margin']:.4f}" if pd.notna(row["margin"]) else ""
            interval = f"{row['gain']:+.4f} [{row['gain_low']:+.4f}, {row['gain_high']:+.4f}]{within}"
            note = f" ({row['note']})" if pd.notna(row.get("note")) else ""
            found.append(f"{who}: {row['claim']}, {row['metric']}: {interval}: {row['verdict']}{note}")
    return found


class Finding(Analysis):
    """The paper's finding, from the `distributions` of the main MJD systems."""

    def schema(self, labels: LabelSet) -> pa.Schema:
        return schema()

    def run(self, job: AnalysisJob) -> pd.DataFrame:
        return finding_table(
            job.train_items(),
            cases(job.systems(), job.params["label_guided"]),
            job.distributions(),
            job.labels,
            job.statistics,
            job.params["seed"],
            job.data_set,
            job.drops,
        )
