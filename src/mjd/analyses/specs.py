"""The analyses that are tables made from other artifacts: what rules must know of each, without importing it.

To add one: a module with a class derived from `mjd.analyses.base.Analysis`, an entry in `ANALYSES`, and, if it draws a
figure, a caption in workflow/report. `workflow/rules/analyses.smk` makes a rule of every entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mjd import systems
from mjd.config.schema import Config
from mjd.paths import Paths
from mjd.systems import VARIANT_FIELDS, encode

Inputs = Mapping[str, str | list[str]]
Params = Mapping[str, Any]


@dataclass(frozen=True)
class AnalysisSpec:
    """An analysis as rules see it.

    Attributes:
        table: name of its table, of its figure, and of the figure's caption (workflow/report/{table}.rst).
        rule: name of its rule, its log and its benchmark.
        implementation: `module:class` of its `Analysis`, imported in its job.
        message: what its rule prints.
        inputs: its input files by name.
        params: what decides its numbers beside its inputs, the labels and the data set's name.
        is_wanted: whether target `all` makes it.
        needs_encoders: whether it has no rule in a configuration without encoders.
        figure: the report's category of its figure; None: it draws none.
        threads, mem_mb, runtime: resources of its job; minutes.
    """

    table: str
    rule: str
    implementation: str
    message: str
    inputs: Callable[[Config, Paths], Inputs]
    params: Callable[[Config], Params]
    is_wanted: Callable[[Config], bool] = lambda config: True
    needs_encoders: bool = False
    figure: str | None = None
    threads: int = 1
    mem_mb: int = 2500
    runtime: int = 20

    def outputs(self, paths: Paths) -> dict[str, str]:
        """Its table for machines and for people, and its figure, by name."""
        tables = {"parquet": paths.table(self.table), "csv": paths.table(self.table, "csv")}
        figures = {suffix: paths.figure(self.table, suffix) for suffix in ("svg", "png") if self.figure}
        return tables | figures


def analyses_of(config: Config) -> list[AnalysisSpec]:
    """The analyses that have a rule in a configuration."""
    return [spec for spec in ANALYSES if config.encoders or not spec.needs_encoders]


# -- what several of them share ------------------------------------------------------------------------------------


def _has_hjds(config: Config) -> bool:
    """Whether training items have HJDs to compare with."""
    return config.task.train_hjd != "none"


def _resampling(config: Config) -> Params:
    return {"statistics": config.statistics.model_dump(), "seed": config.seed}


def _of_classifiers(config: Config) -> Params:
    return {
        "systems": encode(systems.classifier_systems(config), "title", "reference"),
        "encoders": [(name, entry.title) for name, entry in config.encoders.items()],
        "confidence": config.statistics.confidence,
    }


def _predictions(config: Config, paths: Paths) -> list[str]:
    return [paths.predictions(encoder) for encoder in config.encoders]


# -- distributions -------------------------------------------------------------------------------------------------


def _comparison_inputs(config: Config, paths: Paths) -> Inputs:
    compared = systems.compared_systems(config)
    return {"data_items": paths.data("items"), "distributions": [paths.distribution_of(s) for s in compared]}


def _comparison_params(config: Config) -> Params:
    return {"systems": encode(systems.compared_systems(config)), **_resampling(config)}


def _finding_inputs(config: Config, paths: Paths) -> Inputs:
    main = systems.main_mjd_systems(config)
    return {"data_items": paths.data("items"), "distributions": [paths.distribution_of(s) for s in main]}


def _finding_params(config: Config) -> Params:
    return {
        "systems": encode(systems.main_mjd_systems(config), "title", "scorer", "generator", "source"),
        "label_guided": systems.label_guided_source(config),
        **_resampling(config),
    }


# -- classifiers ---------------------------------------------------------------------------------------------------


def _finetuning_inputs(config: Config, paths: Paths) -> Inputs:
    return {
        "data_items": paths.data("items"),
        "predictions": _predictions(config, paths),
        "base": [paths.checkpoint(encoder, "mnli-ft-lm", config.seed) for encoder in config.encoders],
        "history": [paths.training_history(encoder) for encoder in config.encoders],
    }


def _ood_inputs(config: Config, paths: Paths) -> Inputs:
    return {"ood": paths.data("ood"), "predictions": _predictions(config, paths)}


# -- scores --------------------------------------------------------------------------------------------------------


def _all_orders(config: Config, paths: Paths) -> list[str]:
    return [paths.all_orders_of(system) for system in systems.all_orders_systems(config)]


def _bias_inputs(config: Config, paths: Paths) -> Inputs:
    scores = [paths.scores_of(system) for system in systems.scored_variants(config)]
    return {"scores": scores, "all_orders": _all_orders(config, paths)}


def _bias_params(config: Config) -> Params:
    return {
        "systems": encode(systems.scored_variants(config), "title", *VARIANT_FIELDS),
        "all_orders": encode(systems.all_orders_systems(config), "title", *VARIANT_FIELDS),
        **_resampling(config),
    }


def _convergence_inputs(config: Config, paths: Paths) -> Inputs:
    return {"data_items": paths.data("items"), "scores": _all_orders(config, paths)}


def _convergence_params(config: Config) -> Params:
    return {
        "systems": encode(systems.all_orders_systems(config), "scorer", "source", "mode"),
        "titles": {name: llm.title for name, llm in config.llms.items()},
        "temperature": config.analyses.temperature,
        **_resampling(config),
    }


def _first_token_inputs(config: Config, paths: Paths) -> Inputs:
    return {
        "answers": [paths.sampled_answers(llm) for llm in systems.first_token_systems(config)],
        "scores": [paths.scores_of(system) for system in systems.main_mjd_systems(config)],
    }


def _first_token_params(config: Config) -> Params:
    return {
        "systems": encode(systems.main_mjd_systems(config), "title", *VARIANT_FIELDS),
        "confidence": config.statistics.confidence,
        "low_mass": config.analyses.label_mass_warning,
    }


# -- the analyses --------------------------------------------------------------------------------------------------

ANALYSES = [
    AnalysisSpec(
        table="distribution_comparison",
        rule="distribution_comparison",
        implementation="mjd.analyses.distribution_comparison:DistributionComparison",
        message="Distribution comparison",
        inputs=_comparison_inputs,
        params=_comparison_params,
        is_wanted=_has_hjds,
        threads=2,
    ),
    AnalysisSpec(
        table="finding",
        rule="finding_table",
        implementation="mjd.reproduction.finding:Finding",
        message="Finding table",
        inputs=_finding_inputs,
        params=_finding_params,
        is_wanted=_has_hjds,
        threads=2,
    ),
    AnalysisSpec(
        table="finetuning",
        rule="finetuning_table",
        implementation="mjd.classifiers.tables:FineTuningTable",
        message="Fine-tuning table",
        inputs=_finetuning_inputs,
        params=_of_classifiers,
        needs_encoders=True,
        mem_mb=1500,
        runtime=10,
    ),
    AnalysisSpec(
        table="ood",
        rule="ood_table",
        implementation="mjd.classifiers.tables:OodTable",
        message="OOD table",
        inputs=_ood_inputs,
        params=_of_classifiers,
        needs_encoders=True,
        mem_mb=1500,
        runtime=10,
    ),
    AnalysisSpec(
        table="bias",
        rule="bias",
        implementation="mjd.analyses.bias:Bias",
        message="What the scores depend on beside the item",
        inputs=_bias_inputs,
        params=_bias_params,
    ),
    AnalysisSpec(
        table="convergence",
        rule="convergence",
        implementation="mjd.analyses.convergence:Convergence",
        message="How many explanation orders are enough",
        inputs=_convergence_inputs,
        params=_convergence_params,
        is_wanted=lambda config: bool(systems.all_orders_systems(config)),
        figure="Trust in the scores",
    ),
    AnalysisSpec(
        table="first_token",
        rule="first_token",
        implementation="mjd.analyses.first_token_agreement:FirstTokenAgreement",
        message="How far first-token scores can be trusted",
        inputs=_first_token_inputs,
        params=_first_token_params,
        mem_mb=1500,
        runtime=10,
    ),
]
