"""Strict settings: frozen pydantic models whose errors name the key, its nearest valid spelling and the cure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from mjd.errors import ConfigError

SLUG = r"[a-z0-9][a-z0-9_.]*(-[a-z0-9_.]+)*"


class Settings(BaseModel):
    """Base of every configuration and registry entry: unknown keys are errors, values do not change.

    Values are not bent into another type: true is no number, a number is no truth value, and numbers are finite. Text
    that spells a number, true, false or null is read as that where the key holds no text, because Snakemake hands the
    inner values of `--config key={...}` over as text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_it_is(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _plain_types(cls.model_fields[str(info.field_name)].annotation)
        if value == "null" and type(None) in kinds and isinstance(value, str):
            return None
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError(f"{str(value).lower()} is no number (YAML reads yes, no, on and off as true and false)")
        if isinstance(value, int | float) and not isinstance(value, bool) and kinds - {type(None)} == {bool}:
            raise ValueError(f"{value} is neither true nor false")
        return value


T = TypeVar("T", bound=Settings)


def _plain_types(annotation: Any) -> set[type]:
    """The types that a key's value itself may have: of a union its members, of a list or mapping none."""
    if isinstance(annotation, type):
        return {annotation}
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return {found for part in get_args(annotation) for found in _plain_types(part)}
    return set()


def check(model: type[T], values: Mapping[str, Any] | None, where: str) -> T:
    """Validate `values` against `model`; raises `ConfigError` with every problem, one a line."""
    try:
        return model.model_validate(values if values is not None else {})
    except ValidationError as error:
        problems = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems) + ".", "See config/README.md for every key.") from None


def _explain(model: type[Settings], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = sorted(_valid_keys(model, path[:-1]))
        near = difflib.get_close_matches(path[-1], valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
        return f"unknown key {key!r} ({hint})"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        value = problem["input"]
        cure = "YAML reads yes, no, on and off as true and false" if isinstance(value, bool) else f'"{value}"'
        return f"key {key!r}: {value} is no text, quote it ({cure})"
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        given = "null" if problem["input"] is None else repr(problem["input"])
        return f"key {key!r} is {given}, not a mapping: give its keys, or leave it out" if key else "it is no mapping"
    message = problem["msg"].removeprefix("Value error, ")
    return f"key {key!r}: {message}" if key else message


def settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in get_args(annotation) for found in settings_in(part)]


def _valid_keys(model: type[Settings], path: list[str]) -> set[str]:
    """Keys that are valid at `path` below `model`; list indices and free mapping keys are stepped over."""
    here: list[type[Settings]] = [model]
    for part in path:
        nested = [
            found for m in here if part in m.model_fields for found in settings_in(m.model_fields[part].annotation)
        ]
        here = nested or here
    return {name for m in here for name in m.model_fields}


def check_fits_paths(names: Iterable[str]) -> None:
    """Raise `ValueError`, for validators, unless every name can be a part of paths and of wildcards."""
    for name in names:
        if not re.fullmatch(SLUG, name):
            raise ValueError(
                f"name {name!r} must be lower-case letters, digits, dots, underscores, hyphens: it becomes a path"
            )


def check_distinct(values: str | Sequence[str]) -> None:
    """Raise `ValueError`, for validators, unless a list has values, each of them once; a single value is right."""
    if isinstance(values, str):
        return
    if not values:
        raise ValueError("names nothing: give at least one")
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"names {twice[0]!r} more than once")


def check_known(value: str, known: Iterable[str], key: str) -> None:
    """Raise `ValueError`, for validators, unless `value` is one of `known`; it names the nearest."""
    names = list(known)
    if value in names:
        return
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    raise ValueError(f"{key} names {value!r}, which does not exist ({hint})")
