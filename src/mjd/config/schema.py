"""The whole configuration: its sections, and what must fit between them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from mjd import registry
from mjd.config.analyses import Analyses, Statistics
from mjd.config.classifiers import BaseClassifier, Encoder, FineTuning
from mjd.config.data import Data, Task
from mjd.config.explanations import BASE_SOURCES, Explanations
from mjd.config.llms import Llm
from mjd.config.prompts import Prompts, check_templates
from mjd.config.scoring import MainSystems, Scoring
from mjd.labels import LabelSet
from mjd.llm.specs import ENGINES
from mjd.orders import cure, too_many
from mjd.registry import ModelEntry
from mjd.settings import Settings, check_fits_paths, check_known

# Prompts that are read from public files when they are needed.
UPSTREAM_PROMPTS = ("mjd-estimator",)

# NumPy's and PyTorch's seeds have 32 bits, and fine-tuning runs count on from the configured one.
LARGEST_SEED = 2**31 - 1


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

    @field_validator("llms")
    @classmethod
    def _no_published_sets(cls, llms: dict[str, Llm]) -> dict[str, Llm]:
        """`published/llama3` is `published-llama3` in paths: an LLM's answers would be taken for the published ones."""
        for name in llms:
            if name.startswith("published-"):
                raise ValueError(f"name {name!r} begins as published sets do in paths: choose another")
        return llms

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
            check_known(source, [*BASE_SOURCES, *self.task.guided_by], "explanations.sources")
        if self.analyses.convergence_source is not None:
            shown = [source for source in self.explanations.sources if source != "none"]
            check_known(self.analyses.convergence_source, shown, "analyses.convergence_source")
        check_known(self.main_systems.estimator, self.scoring.estimators, "main_systems.estimator")
        if self.scoring.estimators[self.main_systems.estimator].needs_hjds:
            raise ValueError("main_systems.estimator is fitted to HJDs, which soft labels must do without")
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
        main = self.main_systems.estimator
        for scorer in self.scoring.scorers:
            if self.scoring.estimators[main].needs_logits and self.llms[scorer].score_kind == "logprob":
                raise ValueError(
                    f"main_systems.estimator {main!r} has the transform norm, but {scorer} gives log-probabilities, "
                    "never positive: use a softmax transform, or vllm.scores: logit"
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
        """The labels as plain mappings, for params of rules that write no prompts."""
        return [label.model_dump(exclude={"meaning"}) for label in self.task.labels]

    @property
    def prompted_labels(self) -> list[dict[str, str]]:
        """The labels with their meanings, which prompts show."""
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
