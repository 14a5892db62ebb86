"""The configuration: typed, strict, and the only module the Snakefile imports.

`load_config` checks a plain mapping (what Snakemake read from YAML) and returns a `Config`, which also knows the
artifact paths and the list of systems, so that rules and tables cannot disagree about them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator, model_validator

from mjd import registry
from mjd.config.data import Data as Data
from mjd.config.data import ItemsData as ItemsData
from mjd.config.data import LabelCounts as LabelCounts
from mjd.config.data import LabelEntry as LabelEntry
from mjd.config.data import OodData as OodData
from mjd.config.data import PairsData as PairsData
from mjd.config.data import Task as Task
from mjd.config.llms import Llm as Llm
from mjd.config.llms import OpenAi as OpenAi
from mjd.config.llms import Prices as Prices
from mjd.config.llms import Rates as Rates
from mjd.config.llms import Resources as Resources
from mjd.config.llms import Vllm as Vllm
from mjd.config.prompts import Prompts as Prompts
from mjd.config.prompts import check_templates as check_templates
from mjd.errors import ConfigError
from mjd.labels import LabelSet
from mjd.llm.specs import ENGINES
from mjd.orders import cure, too_many
from mjd.registry import ModelEntry
from mjd.settings import Settings, check, check_distinct, check_fits_paths, check_known
from mjd.yaml_files import read_yaml

# Prompts that are read from public files when they are needed.
UPSTREAM_PROMPTS = ("mjd-estimator",)

# NumPy's and PyTorch's seeds have 32 bits, and fine-tuning runs count on from the configured one.
LARGEST_SEED = 2**31 - 1

# Sources that need no label set; label sets add `<name>-lg`.
BASE_SOURCES = ("none", "human", "lf")


class Encoder(Settings):
    """A BERT- or RoBERTa-like classifier."""

    title: str = Field(description="Name in tables, e.g. BERT.")
    model: str = Field(description="Model id: an entry of `models` or of resources/registry/models.yaml.")
    max_length: int = Field(128, ge=8, description="Longest input in tokens; longer pairs are truncated.")
    parallel_runs: int | None = Field(
        None,
        ge=1,
        description="Fine-tuning runs at a time, each a process; null: one a thread on a CPU, one at a time on a GPU.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: the best device present.")
    resources: Resources = Field(
        Resources(), description="What its jobs ask for; parallel runs add half of `mem_mb` for each beyond the first."
    )

    def deciding(self) -> dict[str, Any]:
        """What decides this encoder's numbers beside its model, for rule params: a change here trains it again."""
        return self.model_dump(include={"max_length", "device"})

    @property
    def finetuning_mem_mb(self) -> int:
        """Memory of fine-tuning in MB: `mem_mb`, and half of it for each parallel run beyond the first."""
        runs = self.parallel_runs or (1 if self.resources.gpu else self.resources.threads)
        return self.resources.mem_mb * (1 + runs) // 2


class Sampling(Settings):
    """How explanations are generated."""

    max_new_tokens: int = Field(256, ge=1, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling.")


class Explanations(Settings):
    """Where model explanations come from and how they are selected."""

    generator: str | list[str] = Field(
        "self",
        description="An LLM of the config, `published/llama3`, `published/gpt4o`, `self` (the scorer), or a list.",
    )
    sources: list[str] = Field(
        ["none", "human", "lf"],
        min_length=1,
        description="none, human, lf, and `<name>-lg` for each of task.label_counts.",
    )
    selections: list[Literal["first", "longest"]] = Field(["first"], min_length=1, description="Which candidates.")
    sampling: Sampling = Field(Sampling(), description="How explanations are generated.")

    @field_validator("generator", "sources", "selections")
    @classmethod
    def _distinct(cls, names: str | list[str]) -> str | list[str]:
        check_distinct(names)
        return names

    @property
    def generators(self) -> list[str]:
        return [self.generator] if isinstance(self.generator, str) else list(self.generator)


class Softmax(Settings):
    """p = softmax(score / temperature)."""

    kind: Literal["softmax"] = Field("softmax", description="softmax of scores over the labels.")
    temperature: float = Field(20.0, gt=0, description="Temperature tau; the paper uses 20.")


class Norm(Settings):
    """p = score / sum of scores; refused when a score is negative."""

    kind: Literal["norm"] = Field(description="score divided by the sum of scores.")


class FittedSoftmax(Settings):
    """Softmax whose temperature is fitted to HJDs by cross-validation, never on the items it is used for."""

    kind: Literal["softmax-cv"] = Field(description="softmax with a temperature fitted on the other folds' HJDs.")
    folds: int = Field(5, ge=2, description="Folds of items.")


Transform = Softmax | Norm | FittedSoftmax
_TRANSFORMS: dict[str, type[Transform]] = {"softmax": Softmax, "norm": Norm, "softmax-cv": FittedSoftmax}


def _by_kind(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A mapping is checked as what its `kind` says only, so that its errors name its keys."""
    if not isinstance(value, Mapping):
        return validate(value)
    kind = str(value.get("kind", "softmax"))
    check_known(kind, _TRANSFORMS, "kind")
    return _TRANSFORMS[kind].model_validate(value)


class Scoring(Settings):
    """Which prompts are scored and how scores become distributions."""

    scorer: str | list[str] = Field(description="An LLM of the config, or a list of them.")
    modes: list[Literal["implicit", "explicit"]] = Field(["explicit"], min_length=1, description="Prompt modes.")
    orders: Literal["all", "cyclic"] | int = Field(
        "all",
        description="Explanation orders: all, cyclic (each explanation once in each place), or a seeded number. "
        "All option orders are always scored.",
    )
    most_prompts_per_item: int = Field(
        20_000,
        ge=2,
        le=10**9,
        description="Most prompts of one item (orders of its explanations times orders of its options): more are "
        "refused before any LLM works.",
    )
    transforms: dict[str, Annotated[Transform, WrapValidator(_by_kind)]] = Field(
        {"softmax": Softmax()},
        min_length=1,
        description="Transforms by name: kind softmax (temperature), norm, or softmax-cv (folds).",
    )

    @field_validator("scorer", "modes")
    @classmethod
    def _distinct(cls, names: str | list[str]) -> str | list[str]:
        check_distinct(names)
        return names

    @field_validator("orders", mode="before")
    @classmethod
    def _no_bool(cls, orders: Any) -> Any:
        if isinstance(orders, bool | float):
            raise ValueError("must be all, cyclic or a number of at least 1")
        return orders

    @field_validator("orders")
    @classmethod
    def _positive(cls, orders: int | str) -> int | str:
        if isinstance(orders, int) and orders < 1:
            raise ValueError("must be all, cyclic or a number of at least 1")
        return orders

    @field_validator("transforms")
    @classmethod
    def _names_fit_paths(cls, transforms: dict[str, Transform]) -> dict[str, Transform]:
        check_fits_paths(transforms)
        return transforms

    @property
    def scorers(self) -> list[str]:
        return [self.scorer] if isinstance(self.scorer, str) else list(self.scorer)


class MainSystems(Settings):
    """The variant of each MJD that goes into the fine-tuning and OOD tables."""

    selection: Literal["first", "longest"] = Field("first", description="Selection of model explanations.")
    mode: Literal["implicit", "explicit"] = Field("explicit", description="Prompt mode.")
    transform: str = Field("softmax", description="A name of scoring.transforms.")


class BaseClassifier(Settings):
    """Training of the base classifier (the paper's MNLI-FT-LM)."""

    title: str = Field("Base classifier", description="Row title in tables.")
    epochs: int = Field(3, ge=1, description="Passes over the pairs.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(32, ge=1, description="Pairs a step.")
    warmup_share: float = Field(0.0, ge=0, lt=1, description="Share of steps with rising learning rate.")


class FineTuning(Settings):
    """Soft-label fine-tuning of the base classifier."""

    epochs: int = Field(5, ge=1, description="Passes over the training items.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(4, ge=1, description="Items a step.")
    evaluate_every: int = Field(20, ge=1, description="Steps between evaluations on dev; the best step is kept.")
    seeds: int = Field(3, ge=1, description="Runs a system, with seeds seed, seed + 1, ...")


class Analyses(Settings):
    """How far scores can be trusted, and how many orders are enough."""

    convergence_items: int = Field(
        24, ge=0, description="Items scored in all orders for the convergence and bias tables; 0 leaves them out."
    )
    convergence_source: str | None = Field(
        None, description="The source whose explanations are shown there; null: the first that shows any."
    )
    temperature: float = Field(1.0, gt=0, description="Softmax temperature of the convergence table.")
    generated_prompts: int = Field(
        30, ge=0, description="Prompts a variant that are answered in full, to compare with the first token."
    )
    generated_tokens: int = Field(16, ge=1, description="Longest such answer in tokens.")
    label_mass_warning: float = Field(
        0.5, ge=0, le=1, description="Warn of scorers whose letters hold less probability than this on average."
    )


class Statistics(Settings):
    """Uncertainty."""

    resamples: int = Field(10_000, ge=100, description="Bootstrap resamples of items.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Coverage of intervals.")


@dataclass(frozen=True)
class System:
    """A row of the tables: something that assigns a distribution to each training item, or a base classifier.

    `slug` is its name in paths and machine-readable tables; `path` its distribution, None for base classifiers;
    `reference` the slug of "+ human-ex" of the same scorer, mode and transform, which it is tested against.
    """

    slug: str
    title: str
    kind: Literal["zero-shot", "base", "distribution", "mjd"]
    path: str | None = None
    scorer: str | None = None
    generator: str | None = None
    source: str | None = None
    selection: str | None = None
    mode: str | None = None
    transform: str | None = None
    reference: str | None = None


class Config(Settings):
    """The whole configuration."""

    extends: str | None = Field(
        None, description="Configuration file that this one is laid over, section by section; it may extend another."
    )
    results_dir: str = Field("results", description="Where artifacts go.")
    downloads_dir: str = Field("results/downloads", description="Where raw files and model weights go.")
    mirror: str | None = Field(
        None,
        description="Directory tried before the network: <owner>/<repo>/<commit>/<path>; also MJD_MIRROR.",
    )
    limit: int | None = Field(None, ge=1, description="Use the first N items of each split and OOD round.")
    seed: int = Field(1, ge=0, le=LARGEST_SEED, description="Seed of every random choice.")
    budget_usd: float | None = Field(
        None,
        ge=0,
        description="Most that paid LLMs may cost, everything in results_dir's store together; null: no limit.",
    )
    unanswered: Literal["stop", "drop"] = Field(
        "stop",
        description="What becomes of prompts without a usable reply (content filters, refusals). stop: the job ends "
        "with their list, everything else kept. drop: tables are made without them (n_prompts, n).",
    )
    task: Task = Field(description="Labels and text fields.")
    data: Data = Field(description="The data set.")
    models: dict[str, ModelEntry] = Field({}, description="Models beside those of the registry.")
    llms: dict[str, Llm] = Field(min_length=1, description="Language models by name.")
    encoders: dict[str, Encoder] = Field(
        description="Encoders by name; {}: MJDs and their tables only, without data.pairs and data.ood."
    )
    prompts: Prompts | Literal["mjd-estimator"] = Field(
        description="Prompt templates, or mjd-estimator: the paper's, read from its public files when they are needed."
    )
    explanations: Explanations = Field(Explanations(), description="Model explanations.")
    scoring: Scoring = Field(description="Scoring.")
    main_systems: MainSystems = Field(MainSystems(), description="Variants that are fine-tuned on.")
    base_classifier: BaseClassifier = Field(BaseClassifier(), description="Base-classifier training.")
    finetuning: FineTuning = Field(FineTuning(), description="Soft-label fine-tuning.")
    analyses: Analyses = Field(Analyses(), description="Orders, biases, first tokens.")
    statistics: Statistics = Field(Statistics(), description="Intervals.")

    # -- consistency between sections -------------------------------------------------------------------------

    @field_validator("results_dir", "downloads_dir")
    @classmethod
    def _fits_rules(cls, path: str) -> str:
        """No slash at the end; no braces, which are Snakemake's wildcards."""
        if not path.strip() or set("{}") & set(path):
            raise ValueError(f"{path!r} is no directory that rules can name: give a path without braces")
        return Path(path).as_posix()

    @field_validator("llms", "encoders")
    @classmethod
    def _names_fit_paths(cls, entries: dict[str, Any]) -> dict[str, Any]:
        check_fits_paths(entries)
        return entries

    @model_validator(mode="after")
    def _encoders_have_data(self) -> Self:
        for name in ("pairs", "ood") if self.encoders else ():
            if getattr(self.data, name) is None:
                raise ValueError(f"encoders need data.{name}, which is missing (encoders: {{}} makes MJDs only)")
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        known_models = {**registry.models(), **self.models}
        for section, entries in (("llms", self.llms), ("encoders", self.encoders)):
            for name, entry in entries.items():
                check_known(entry.model, known_models, f"{section}.{name}.model")
                self._engine_fits(f"{section}.{name}", entry, known_models[entry.model])
        for scorer in self.scoring.scorers:
            check_known(scorer, self.llms, "scoring.scorer")
        published = [f"published/{name}" for name in registry.published()]
        for generator in self.explanations.generators:
            check_known(generator, ["self", *self.llms, *published], "explanations.generator")
            if generator in published and self.data.items.loader != "mjd-estimator":
                raise ValueError(f"explanations.generator {generator!r} fits data.items.loader mjd-estimator only")
        for source in self.explanations.sources:
            check_known(
                source, [*BASE_SOURCES, *(f"{name}-lg" for name in self.task.label_counts)], "explanations.sources"
            )
        if self.analyses.convergence_source is not None:
            shown = [source for source in self.explanations.sources if source != "none"]
            check_known(self.analyses.convergence_source, shown, "analyses.convergence_source")
        check_known(self.main_systems.transform, self.scoring.transforms, "main_systems.transform")
        if isinstance(self.scoring.transforms[self.main_systems.transform], FittedSoftmax):
            raise ValueError("main_systems.transform is fitted to HJDs, which soft labels must do without")
        for key, wanted in (("selection", self.explanations.selections), ("mode", self.scoring.modes)):
            value = getattr(self.main_systems, key)
            if value not in wanted:
                raise ValueError(f"main_systems.{key} is {value!r}, which is not computed (only {', '.join(wanted)})")
        return self

    def _engine_fits(self, key: str, entry: Llm | Encoder, model: ModelEntry) -> None:
        """Raise `ValueError` when a model cannot be run as the entry says, or could cost more than the budget."""
        runs = entry.spec.runs if isinstance(entry, Llm) else "weights"
        if model.api and runs == "weights":
            for_apis = ", ".join(name for name, spec in ENGINES.items() if spec.runs != "weights")
            raise ValueError(
                f"{key}.model {entry.model!r} is behind an API: it needs an engine for APIs ({for_apis}, or your own)"
            )
        if isinstance(entry, Llm) and not model.api and runs == "api":
            raise ValueError(
                f"{key}.model {entry.model!r} is no API model: it does not fit engine {entry.engine} "
                "(models.<name>.api)"
            )
        if model.api and self.budget_usd is not None and isinstance(entry, Llm) and entry.prices is None:
            raise ValueError(f"budget_usd needs {key}.prices, or the job could not tell what it spends")

    @model_validator(mode="after")
    def _orders_end(self) -> Self:
        """What is known without the items: prompts without explanations, and with one for each label."""
        n_labels, most, orders = len(self.task.labels), self.scoring.most_prompts_per_item, self.scoring.orders
        for source, n in (("none", 0), ("lf", n_labels)):
            if source in self.explanations.sources and (problem := too_many(n, n_labels, orders, most)):
                raise ValueError(f"source {source}: {problem}. {cure(n, n_labels, orders, most)}".removesuffix("."))
        return self

    @model_validator(mode="after")
    def _norm_has_logits(self) -> Self:
        how = self.scoring.transforms.get(self.main_systems.transform)
        for scorer in self.scoring.scorers:
            if isinstance(how, Norm) and self.llms[scorer].score_kind == "logprob":
                raise ValueError(
                    f"main_systems.transform {self.main_systems.transform!r} is of kind norm, but {scorer} gives "
                    "log-probabilities, never positive: use a softmax transform, or vllm.scores: logit"
                )
        return self

    @model_validator(mode="after")
    def _table_columns_differ(self) -> Self:
        """The CSV tables join names of encoders, rounds and metrics by underscores, in lower case."""
        rounds = self.data.ood.rounds if self.data.ood else []
        seen: dict[str, str] = {f"n_{name}".casefold(): f"number of {name} items" for name in rounds}
        for encoder in self.encoders:
            parts = [(f"{encoder}_{name}{end}", name) for name in rounds for end in ("", "_sd")]
            parts += [(f"{encoder}_n_truncated_{name}", name) for name in rounds]
            parts += [(f"{encoder}_kl", "kl"), (f"{encoder}_reference_kl", "reference_kl")]
            for column, name in parts:
                what = f"encoder {encoder}, {name}"
                if seen.setdefault(column.casefold(), what) != what:
                    raise ValueError(
                        f"the column {column!r} of tables would belong to {seen[column.casefold()]} and to {what}: "
                        "rename the encoder or the round"
                    )
        return self

    @field_validator("prompts", mode="wrap")
    @classmethod
    def _templates_or_a_name(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """A mapping is checked as templates only, so that its errors name its keys; a word as a name only."""
        if isinstance(value, str):
            check_known(value, UPSTREAM_PROMPTS, "prompts")
            return value
        return Prompts.model_validate(value) if isinstance(value, Mapping) else validate(value)

    @model_validator(mode="after")
    def _templates_fit(self) -> Self:
        if isinstance(self.prompts, Prompts):
            check_templates(self.prompts, self.task.text_fields, self.task.label_set)
        elif len(self.task.text_fields) != 2:
            raise ValueError(f"prompts {self.prompts} show two texts, but task.text_fields names one")
        return self

    # -- what the Snakefile and the tables need ---------------------------------------------------------------

    @cached_property
    def labels(self) -> LabelSet:
        return self.task.label_set

    @property
    def label_entries(self) -> list[dict[str, str]]:
        """The labels as plain mappings, for rule params."""
        return [label.model_dump() for label in self.task.labels]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the fine-tuning runs."""
        return [self.seed + run for run in range(self.finetuning.seeds)]

    def model_entry(self, model: str) -> ModelEntry:
        """The entry of a model id: the config's `models` before the registry's."""
        return self.models.get(model) or registry.models()[model]

    def llm_settings(self, name: str) -> Llm:
        """An LLM's entry with the template variables of its model added; the entry's own come first."""
        entry = self.llms[name]
        of_model = self.model_entry(entry.model).chat_template_kwargs
        return entry.model_copy(update={"chat_template_kwargs": {**of_model, **entry.chat_template_kwargs}})

    @property
    def used_models(self) -> list[str]:
        """Ids of the models whose weights the run needs: scorers, generators and encoders, none behind an API."""
        llms = [*self.scoring.scorers, *(self.generators if self.model_sources else [])]
        entries: list[Llm | Encoder] = [
            *(self.llms[name] for name in llms if name in self.llms),
            *self.encoders.values(),
        ]
        return list(dict.fromkeys(entry.model for entry in entries if not self.model_entry(entry.model).api))

    @property
    def generators(self) -> list[str]:
        """Generators in use, `self` resolved to the scorers; published sets keep their `published/` prefix."""
        found: list[str] = []
        for generator in self.explanations.generators:
            found += self.scoring.scorers if generator == "self" else [generator]
        return list(dict.fromkeys(found))

    def generators_of(self, scorer: str) -> list[str]:
        """Generators whose explanations `scorer` reads."""
        named = [scorer if g == "self" else g for g in self.explanations.generators]
        return list(dict.fromkeys(named))

    @property
    def model_sources(self) -> list[str]:
        """Sources made of model explanations (lf and the label-guided ones)."""
        return [source for source in self.explanations.sources if source not in ("none", "human")]

    def generator_title(self, generator: str) -> str:
        prefix = "published/"
        return (
            registry.published()[generator.removeprefix(prefix)].title
            if generator.startswith(prefix)
            else self.llms[generator].title
        )

    def source_title(self, source: str) -> str:
        """A source as the poster writes it: LF, VariErr LG, MNLI LG."""
        if source == "lf":
            return "LF"
        title = self.task.label_counts[source.removesuffix("-lg")].title
        return f"{title.removesuffix('.').removesuffix(' dist')} LG"

    def distribution_systems(self) -> list[System]:
        """HJD and label-count distributions, in table order."""
        rows = [("hjd", self.task.hjd_title)]
        rows += [(name, entry.title) for name, entry in self.task.label_counts.items()]
        return [
            System(name, title, "distribution", f"{self.results_dir}/distributions/{name}.parquet")
            for name, title in rows
        ]

    def compared_systems(self) -> list[System]:
        """Rows of the distribution comparison: human label distributions, uniform, every MJD variant."""
        uniform = System("uniform", "Uniform", "distribution", f"{self.results_dir}/distributions/uniform.parquet")
        return [*self.distribution_systems(), uniform, *self.mjd_systems()]

    def mjd_systems(self) -> list[System]:
        """Every MJD variant of the config, in table order.

        `norm` variants of scorers whose scores are log-probabilities, never positive, have no meaning and are absent.
        """
        return [
            self.mjd_system(scorer, generator, source, selection, mode, transform)
            for scorer in self.scoring.scorers
            for transform, how in self.scoring.transforms.items()
            if not isinstance(how, Norm) or self.llms[scorer].score_kind == "logit"
            for generator, source, selection, mode in self._variants(scorer)
        ]

    def main_mjd_systems(self) -> list[System]:
        """The MJD variants that are fine-tuned on, in table order."""
        main = self.main_systems
        return [
            system
            for system in self.mjd_systems()
            if system.transform == main.transform
            and system.selection in (main.selection, "all")
            and system.mode in (main.mode, "plain")
        ]

    def scored_variants(self) -> list[System]:
        """One system for each scores table, whatever its transform, in table order."""
        found: dict[str, System] = {}
        for system in self.mjd_systems():
            found.setdefault(self.scores_path(system), system)
        return list(found.values())

    def scores_path(self, system: System, base: str = "scores") -> str:
        """The scores table of an MJD system: `{base}/{llm}/{source}-{selection}-{mode}.parquet`."""
        variant = str(system.path).removesuffix(f"-{system.transform}.parquet")
        return variant.replace(f"{self.results_dir}/mjd/", f"{self.results_dir}/{base}/", 1) + ".parquet"

    def all_orders_systems(self) -> list[System]:
        """One system a scorer: what is scored in all orders, for the convergence and bias tables."""
        shown = [source for source in self.explanations.sources if source != "none"]
        source = self.analyses.convergence_source or next(iter(shown), None)
        if not self.analyses.convergence_items or source is None:
            return []
        found: dict[str | None, System] = {}
        for system in self.main_mjd_systems():
            if system.source == source:
                found.setdefault(system.scorer, system)
        return list(found.values())

    def first_token_systems(self) -> dict[str, list[System]]:
        """Per scorer the MJD systems whose prompts are also answered in full; empty where that is switched off."""
        scorers = self.scoring.scorers if self.analyses.generated_prompts else []
        return {scorer: [s for s in self.main_mjd_systems() if s.scorer == scorer] for scorer in scorers}

    def explanations_path(self, system: System) -> str | None:
        """The explanations that an MJD system's prompts show; None where they show none."""
        if system.source == "none":
            return None
        if system.source == "human":
            return f"{self.results_dir}/data/human_explanations.parquet"
        directory = f"{self.results_dir}/explanations/{generator_slug(str(system.generator))}/selected"
        return f"{directory}/{system.source}-{system.selection}.parquet"

    def label_guided_source(self) -> str | None:
        """The source guided by the labels of the human explanations (the paper's VariErr LG)."""
        found = [f"{name}-lg" for name, e in self.task.label_counts.items() if e.guided_by == "explanations"]
        return next((source for source in found if source in self.explanations.sources), None)

    def trained_systems(self) -> list[System]:
        """Systems with soft labels to fine-tune on, in table order."""
        human = [s for s in self.distribution_systems() if s.slug != "hjd" or self.task.train_hjd == "all"]
        return human + self.main_mjd_systems()

    def classifier_systems(self) -> list[System]:
        """Rows of the fine-tuning and OOD tables, in the poster's order."""
        return [
            System("zero-shot-lm", "Zero-shot-LM", "zero-shot"),
            System("mnli-ft-lm", self.base_classifier.title, "base"),
            *self.trained_systems(),
        ]

    def mjd_system(self, scorer: str, generator: str, source: str, selection: str, mode: str, transform: str) -> System:
        """The system of one MJD variant, with its slug, title and path."""
        variant = f"{source_slug(source, generator, scorer)}-{selection}-{mode}"
        title = f"{self.llms[scorer].title} MJD"
        if source == "human":
            title += " + human-ex"
        elif source != "none":
            by = "model" if generator == scorer else self.generator_title(generator)
            title += f" + {self.source_title(source)} {by}-ex"
        return System(
            slug=f"{scorer}-{variant}-{transform}",
            title=title,
            kind="mjd",
            path=f"{self.results_dir}/mjd/{scorer}/{variant}-{transform}.parquet",
            scorer=scorer,
            generator=None if source in ("none", "human") else generator,
            source=source,
            selection=selection,
            mode=mode,
            transform=transform,
            reference=self._reference(scorer, source, mode, transform),
        )

    def _reference(self, scorer: str, source: str, mode: str, transform: str) -> str | None:
        """Slug of the scorer's "+ human-ex" that a variant is tested against; none where it is not computed."""
        if source == "human" or "human" not in self.explanations.sources:
            return None
        shown = self.main_systems.mode if mode == "plain" else mode
        return f"{scorer}-human-all-{shown}-{transform}"

    def _variants(self, scorer: str) -> Iterator[tuple[str, str, str, str]]:
        for source in self.explanations.sources:
            if source == "none":
                yield scorer, source, "all", "plain"
            elif source == "human":
                yield from ((scorer, source, "all", mode) for mode in self.scoring.modes)
        for generator in self.generators_of(scorer):
            for source in self.model_sources:
                for selection in self.explanations.selections:
                    yield from ((generator, source, selection, mode) for mode in self.scoring.modes)


# Registry sources that each loader reads.
_LOADER_SOURCES = {
    "tables": (),
    "mjd-estimator": ("mjd-estimator-items", "mjd-estimator-splits", "chaosnli-mnli"),
    "esnli": ("esnli",),
    "multinli": ("multinli",),
    "anli-dev": ("anli-dev",),
    "anli-test": ("anli",),
}


def source_ids(loader: str) -> tuple[str, ...]:
    """Ids of the registry sources that a loader reads."""
    return _LOADER_SOURCES[loader]


def generator_slug(generator: str) -> str:
    """A generator's directory name below explanations/: `published/llama3` becomes `published-llama3`."""
    return generator.replace("/", "-")


def source_slug(source: str, generator: str, scorer: str) -> str:
    """A source in paths: `@generator` is added when another model than the scorer wrote the explanations."""
    return source if generator == scorer or source in ("none", "human") else f"{source}@{generator_slug(generator)}"


def mirror_directory(configured: str | None) -> Path | None:
    """The mirror: environment variable MJD_MIRROR, else the config's `mirror`, else none."""
    chosen = os.environ.get("MJD_MIRROR") or configured
    return Path(chosen).expanduser() if chosen else None


def transform_of(values: Mapping[str, Any]) -> Transform:
    """A transform from plain values; raises `ConfigError`."""
    return check(_TRANSFORMS.get(values.get("kind", ""), Softmax), values, "transform")


def load_config(values: Mapping[str, Any], where: str = "configuration") -> Config:
    """Check a plain mapping and return the typed configuration.

    The mapping is laid over the file its `extends` names, section by section; that file may extend another.

    Raises:
        ConfigError: a key is unknown or missing, a value is not allowed, or files extend one another in a circle.
    """
    return check(Config, _with_extended(values, where), where)


def resolve(files: Sequence[Mapping[str, Any]], command_line: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration as a plain mapping without `extends`: files in order, then what `--config` gave.

    Snakemake's own merging takes an empty mapping for nothing to add; here `{}` empties and null removes, as in files.

    Raises:
        ConfigError: a file that is extended cannot be read, or files extend one another in a circle.
    """
    whole: dict[str, Any] = {}
    for values in files:
        whole = _overlaid(whole, values)
    if "extends" in command_line:
        whole["extends"] = command_line["extends"]
    whole = _overlaid(_with_extended(whole, "configuration"), command_line)
    whole.pop("extends", None)
    return whole


def _with_extended(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A mapping laid over the files that it extends, the lowest first: what a file empties stays empty above it."""
    layers, base, seen = [dict(values)], values.get("extends"), [where]
    while base:
        if not isinstance(base, str):
            raise ConfigError(f"{seen[-1]}: key 'extends' is {base!r}, not the path of a file.", "Name one file.")
        seen.append(base)
        if base in seen[:-1]:
            raise ConfigError(f"Configuration files extend one another: {' -> '.join(seen)}.", "Break the circle.")
        layers.append(_read_layer(base))
        base = layers[-1].get("extends")
    return functools.reduce(_overlaid, reversed(layers))


def read_config(path: str | Path) -> Config:
    """Read and check one YAML configuration file; raises `ConfigError`."""
    return load_config(_read_layer(path), str(path))


def _read_layer(path: str | Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no keys.", "Give a YAML file of keys and values.")
    return values


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: mappings are merged key by key, everything else is replaced.

    An empty mapping empties the one below it, null removes it (as text, too: `--config` gives inner values so).
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if not isinstance(below, Mapping):
            merged[key] = value
        elif value is None or value == "null":
            del merged[key]
        else:
            merged[key] = _overlaid(below, value) if isinstance(value, Mapping) and value else value
    return merged
