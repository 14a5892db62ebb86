"""Which prompts are scored, how an LLM's answers become distributions, and which MJDs classifiers learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator, model_validator

from mjd.settings import Settings, check, check_distinct, check_fits_paths, check_known


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
_KEYS = {key for transform in _TRANSFORMS.values() for key in transform.model_fields}


def _by_kind(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A mapping is checked as what its `kind` says only, so that its errors name its keys."""
    if isinstance(value, str) and value in _TRANSFORMS:
        raise ValueError(f"{value} is a kind, not a mapping: write {{kind: {value}}}")
    if not isinstance(value, Mapping):
        return validate(value)
    kind = str(value.get("kind", "softmax"))
    check_known(kind, _TRANSFORMS, "kind")
    if others := sorted(_KEYS & value.keys() - _TRANSFORMS[kind].model_fields.keys()):
        raise ValueError(
            f"kind {kind} has no {others[0]}: delete it, or choose another name for the estimator if it is inherited"
        )
    return _TRANSFORMS[kind].model_validate(value)


def _of_transform(transform: Any) -> dict[str, Any]:
    """An entry of the former `scoring.transforms` as one of `scoring.estimators`."""
    return {"kind": "first_token", "transform": transform}


def _one_line(values: Mapping[str, Any]) -> str:
    """A mapping as YAML in one line, for errors that say what to write."""
    return yaml.safe_dump(dict(values), default_flow_style=True, sort_keys=False, width=10_000).strip()


class FirstToken(Settings):
    """MJDs from the scores of the option letters at the first answer position.

    Entries that differ in their transform only share one scores table.
    """

    kind: Literal["first_token"] = Field("first_token", description="Scores of the letters as the first answer token.")
    transform: Annotated[Transform, WrapValidator(_by_kind)] = Field(
        Softmax(), description="From scores to distributions: kind softmax (temperature), norm, or softmax-cv (folds)."
    )

    @model_validator(mode="before")
    @classmethod
    def _not_a_transform(cls, values: Any) -> Any:
        """Entries of the former `scoring.transforms` were transforms."""
        if isinstance(values, Mapping) and str(values.get("kind")) in _TRANSFORMS:
            own = {key: value for key, value in values.items() if key != "transform"}  # of an inherited entry
            spelling = _one_line(_of_transform(own))
            raise ValueError(f"{values['kind']} is a kind of transform: write {spelling}")
        return values

    @property
    def needs_logits(self) -> bool:
        """Whether log-probabilities, which are never positive, have no meaning here."""
        return isinstance(self.transform, Norm)

    @property
    def needs_hjds(self) -> bool:
        """Whether something is fitted to the training items' HJDs."""
        return isinstance(self.transform, FittedSoftmax)


# The entry of an estimator; a further kind joins as a member of this union, told apart by `kind`.
EstimatorEntry = FirstToken


class Scoring(Settings):
    """Which prompts are scored and how an LLM's answers become distributions."""

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
    estimators: dict[str, EstimatorEntry] = Field(
        {"softmax": FirstToken()},
        min_length=1,
        description="Estimators by name, which is a part of paths: how MJDs are read out of a scorer.",
    )

    @model_validator(mode="before")
    @classmethod
    def _not_transforms(cls, values: Any) -> Any:
        """Scoring had a key `transforms` when first tokens were the only estimator."""
        if isinstance(values, Mapping) and "transforms" in values:
            given = values["transforms"]
            entries = given.items() if isinstance(given, Mapping) else ()
            now = {name: None if how in (None, "null") else _of_transform(how) for name, how in entries}
            cure = f"replace it by estimators: {_one_line(now)}" if now else "delete it, and name estimators"
            raise ValueError(f"'transforms' has become 'estimators': {cure}")
        return values

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

    @field_validator("estimators")
    @classmethod
    def _names_fit_paths(cls, estimators: dict[str, EstimatorEntry]) -> dict[str, EstimatorEntry]:
        check_fits_paths(estimators)
        return estimators

    @property
    def scorers(self) -> list[str]:
        return [self.scorer] if isinstance(self.scorer, str) else list(self.scorer)


class MainSystems(Settings):
    """The variant of each MJD that goes into the fine-tuning and OOD tables."""

    selection: Literal["first", "longest"] = Field("first", description="Selection of model explanations.")
    mode: Literal["implicit", "explicit"] = Field("explicit", description="Prompt mode.")
    estimator: str = Field("softmax", description="A name of scoring.estimators.")

    @model_validator(mode="before")
    @classmethod
    def _not_transform(cls, values: Any) -> Any:
        """The key's name when first tokens were the only estimator."""
        if isinstance(values, Mapping) and "transform" in values:
            now = _one_line({"estimator": values["transform"]}).strip("{}")
            raise ValueError(f"'transform' has become 'estimator': replace it by {now}")
        return values


def transform_of(values: Mapping[str, Any]) -> Transform:
    """A transform from plain values; raises `ConfigError`."""
    return check(_TRANSFORMS.get(values.get("kind", ""), Softmax), values, "transform")
