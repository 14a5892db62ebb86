"""The systems of a configuration: whatever assigns a distribution to items; their names, titles and order in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from mjd import registry
from mjd.config.data import label_counts_of
from mjd.config.schema import Config

# How a configuration names a published set among its generators.
PUBLISHED = "published/"

# Fields of a system that tell which scores its MJDs are made from: columns of tables, and what jobs with an LLM read.
VARIANT_FIELDS = ("scorer", "generator", "source", "selection", "mode")


@dataclass(frozen=True)
class System:
    """A row of the tables: something that assigns a distribution to each training item, or a base classifier.

    Attributes:
        slug: its name in paths and machine-readable tables.
        title: its name for people.
        generator: the LLM or published set that wrote its explanations; None where people did, or none are shown.
        reference: slug of "+ human-ex" of the same scorer, mode and estimator, which it is tested against.
    """

    slug: str
    title: str = ""
    kind: Literal["zero-shot", "base", "distribution", "mjd"] = "mjd"
    scorer: str | None = None
    generator: str | None = None
    source: str | None = None
    selection: str | None = None
    mode: Literal["implicit", "explicit", "plain"] | None = None
    estimator: str | None = None
    reference: str | None = None

    @property
    def variant(self) -> str:
        """What its scorer reads, as paths spell it: `{source}-{selection}-{mode}`."""
        source = source_slug(str(self.source), self.generator, self.scorer)
        return f"{source}-{self.selection}-{self.mode}"


def encode(systems: Iterable[System], *names: str) -> list[dict[str, Any]]:
    """Systems as plain mappings, for rule params; `decode` reads them.

    Args:
        names: the fields that a job reads beside `slug`; none given: all. A change of another field runs no job again.
    """
    kept = {"slug", *names} if names else {field.name for field in fields(System)}
    return [{name: value for name, value in asdict(system).items() if name in kept} for system in systems]


def decode(entries: Iterable[Mapping[str, Any]]) -> list[System]:
    """The systems that `encode` wrote; fields that it left out have their defaults."""
    return [System(**entry) for entry in entries]


# -- sources -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replacement:
    """The source of human explanations of which `n` an item are replaced: `human-{generator}-k{n}-s{seed}`.

    `generator` is the slug of whoever wrote the replacements, or `noise`: explanations of other items.
    """

    generator: str
    n: int
    seed: int

    @property
    def slug(self) -> str:
        return f"human-{self.generator}-k{self.n}-s{self.seed}"

    @classmethod
    def parse(cls, source: str) -> Replacement | None:
        """The replacement that a source names; None for other sources."""
        found = re.fullmatch(r"human-(.+)-k(0|[1-9][0-9]*)-s(0|[1-9][0-9]*)", source)
        return cls(found[1], int(found[2]), int(found[3])) if found else None


def generator_slug(generator: str) -> str:
    """A generator's directory name below explanations/: `published/llama3` becomes `published-llama3`."""
    return generator.replace("/", "-")


def longest_counts_line_breaks(generator: str) -> bool:
    """Whether the selection `longest` counts line breaks, as the authors of some published sets did.

    Args:
        generator: as the configuration names it, or its slug.
    """
    published = {generator_slug(f"{PUBLISHED}{name}"): entry for name, entry in registry.published().items()}
    found = published.get(generator_slug(generator))
    return found is not None and found.longest_counts_line_breaks


def source_slug(source: str, generator: str | None, scorer: str | None) -> str:
    """A source in paths: `@generator` is added when another model than the scorer wrote the explanations."""
    return source if generator in (None, scorer) else f"{source}@{generator_slug(str(generator))}"


def split_source(slug: str) -> tuple[str, str | None]:
    """Source and generator slug that `source_slug` joined; None is the scorer itself, or no model."""
    source, _, generator = slug.partition("@")
    return source, generator or None


# -- titles --------------------------------------------------------------------------------------------------------


def generator_title(config: Config, generator: str) -> str:
    """Name of an LLM or published set for people."""
    if generator.startswith(PUBLISHED):
        return registry.published()[generator.removeprefix(PUBLISHED)].title
    return config.llms[generator].title


def source_title(config: Config, source: str) -> str:
    """A source of model explanations as the paper writes it: LF, VariErr LG, MNLI LG."""
    if source == "lf":
        return "LF"
    title = config.task.label_counts[label_counts_of(source)].title
    return f"{title.removesuffix('.').removesuffix(' dist')} LG"


def _mjd_title(config: Config, scorer: str, source: str, generator: str | None) -> str:
    title = f"{config.llms[scorer].title} MJD"
    if source == "human":
        return f"{title} + human-ex"
    if generator is None:
        return title
    by = "model" if generator == scorer else generator_title(config, generator)
    return f"{title} + {source_title(config, source)} {by}-ex"


# -- lists of systems ----------------------------------------------------------------------------------------------


def distribution_systems(config: Config) -> list[System]:
    """HJD and label-count distributions, in table order."""
    rows = [("hjd", config.task.hjd_title)]
    rows += [(name, entry.title) for name, entry in config.task.label_counts.items()]
    return [System(name, title, "distribution") for name, title in rows]


def compared_systems(config: Config) -> list[System]:
    """Rows of the distribution comparison: human label distributions, uniform, every MJD variant."""
    return [*distribution_systems(config), System("uniform", "Uniform", "distribution"), *mjd_systems(config)]


def mjd_systems(config: Config) -> list[System]:
    """Every MJD variant of the configuration, in table order.

    Estimators that need logits are absent for scorers that give log-probabilities.
    """
    return [
        _mjd_system(config, scorer, generator, source, selection, mode, estimator)
        for scorer in config.scoring.scorers
        for estimator, entry in config.scoring.estimators.items()
        if not entry.needs_logits or config.llms[scorer].score_kind == "logit"
        for generator, source, selection, mode in _variants(config, scorer)
    ]


def main_mjd_systems(config: Config) -> list[System]:
    """The MJD variants that are fine-tuned on, in table order."""
    main = config.main_systems
    return [
        system
        for system in mjd_systems(config)
        if system.estimator == main.estimator
        and system.selection in (main.selection, "all")
        and system.mode in (main.mode, "plain")
    ]


def scored_variants(config: Config) -> list[System]:
    """One system for each scores table, whatever its estimator's transform, in table order."""
    return _first_of_each(mjd_systems(config), "scorer", "variant")


def all_orders_systems(config: Config) -> list[System]:
    """One system a scorer: what is scored in all orders, for the convergence and bias tables."""
    shown = [source for source in config.explanations.sources if source != "none"]
    source = config.analyses.convergence_source or next(iter(shown), None)
    if not config.analyses.convergence_items or source is None:
        return []
    return _first_of_each([s for s in main_mjd_systems(config) if s.source == source], "scorer")


def first_token_systems(config: Config) -> dict[str, list[System]]:
    """Per scorer the MJD systems whose prompts are also answered in full; empty where that is switched off."""
    scorers = config.scoring.scorers if config.analyses.generated_prompts else []
    return {scorer: [s for s in main_mjd_systems(config) if s.scorer == scorer] for scorer in scorers}


def trained_systems(config: Config) -> list[System]:
    """Systems with soft labels to fine-tune on, in table order."""
    human = [s for s in distribution_systems(config) if s.slug != "hjd" or config.task.train_hjd == "all"]
    return human + main_mjd_systems(config)


def classifier_systems(config: Config) -> list[System]:
    """Rows of the fine-tuning and OOD tables, in the paper's order."""
    return [
        System("zero-shot-lm", "Zero-shot-LM", "zero-shot"),
        System("mnli-ft-lm", config.base_classifier.title, "base"),
        *trained_systems(config),
    ]


def label_guided_source(config: Config) -> str | None:
    """The source guided by the labels of the human explanations (the paper's VariErr LG)."""
    found = [source for source, guide in config.task.guided_by.items() if guide == "explanations"]
    return next((source for source in found if source in config.explanations.sources), None)


Mode = Literal["implicit", "explicit", "plain"]


def _mjd_system(
    config: Config, scorer: str, generator: str | None, source: str, selection: str, mode: Mode, estimator: str
) -> System:
    variant = f"{source_slug(source, generator, scorer)}-{selection}-{mode}"
    return System(
        slug=f"{scorer}-{variant}-{estimator}",
        title=_mjd_title(config, scorer, source, generator),
        scorer=scorer,
        generator=generator,
        source=source,
        selection=selection,
        mode=mode,
        estimator=estimator,
        reference=_reference(config, scorer, source, mode, estimator),
    )


def _reference(config: Config, scorer: str, source: str, mode: Mode, estimator: str) -> str | None:
    """Slug of the scorer's "+ human-ex" that a variant is tested against; None where it is not computed."""
    if source == "human" or "human" not in config.explanations.sources:
        return None
    shown = config.main_systems.mode if mode == "plain" else mode
    return f"{scorer}-human-all-{shown}-{estimator}"


def _variants(config: Config, scorer: str) -> Iterator[tuple[str | None, str, str, Mode]]:
    """(generator, source, selection, mode) of everything that a scorer reads."""
    for source in config.explanations.sources:
        if source == "none":
            yield None, source, "all", "plain"
        elif source == "human":
            yield from ((None, source, "all", mode) for mode in config.scoring.modes)
    for generator in config.generators_of(scorer):
        for source in config.model_sources:
            for selection in config.explanations.selections:
                yield from ((generator, source, selection, mode) for mode in config.scoring.modes)


def _first_of_each(systems: Sequence[System], *names: str) -> list[System]:
    found: dict[tuple[Any, ...], System] = {}
    for system in systems:
        found.setdefault(tuple(getattr(system, name) for name in names), system)
    return list(found.values())
