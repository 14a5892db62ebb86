"""Configuration files: read, laid over one another, checked, and written as what they come to."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mjd.config.schema import Config
from mjd.errors import ConfigError
from mjd.settings import check
from mjd.yaml_files import read_yaml

_RESOLVED_HEAD = (
    "# Every setting of a run, defaults included, as its jobs read them. Written when the run started: changes here\n"
    "# change nothing; edit your own configuration file.\n"
)


def load_config(values: Mapping[str, Any], where: str = "configuration") -> Config:
    """Check a plain mapping and return the typed configuration.

    The mapping is laid over the file its `extends` names, section by section; that file may extend another.

    Raises:
        ConfigError: a key is unknown or missing, a value is not allowed, or files extend one another in a circle.
    """
    return check(Config, _with_extended(values, where), where)


def resolve(files: Sequence[Mapping[str, Any]], command_line: Mapping[str, Any]) -> Config:
    """The whole configuration: files in order over what they extend, then what `--config` gave.

    Snakemake's own merging takes an empty mapping for nothing to add; here `{}` empties and null removes, as in files.

    Raises:
        ConfigError: a file that is extended cannot be read, files extend one another in a circle, or see `load_config`.
    """
    whole: dict[str, Any] = {}
    for values in files:
        whole = _overlaid(whole, values)
    if "extends" in command_line:
        whole["extends"] = command_line["extends"]
    whole = _overlaid(_with_extended(whole, "configuration"), command_line)
    whole.pop("extends", None)
    return check(Config, whole, "configuration")


def resolved(config: Config) -> dict[str, Any]:
    """Every setting as JSON has it, defaults too, in the order of the schema; `load_config` reads it back as it was."""
    return config.model_dump(mode="json", exclude={"extends"})


def write_resolved(config: Config, paths: Iterable[str]) -> None:
    """Write every setting as YAML to each of `paths`, atomically; raises `OSError` where one cannot be written."""
    from mjd.io import write_text  # imports pandas, which a dry run does without

    text = _RESOLVED_HEAD + yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True, width=120)
    for path in paths:
        write_text(text, path)


def check_unchanged(config: Config, file: str | Path) -> None:
    """Check that a file of `Paths.config_of_runs`, named by the hash of its settings, gave a job those settings.

    Raises:
        ConfigError: the file was edited, or is read by another version of mjd, while the run works. Files with other
            names are right: they are the user's (`--no-hooks`).
    """
    from mjd.io import config_hash  # imports pandas, which a dry run does without

    name = Path(file).stem
    if re.fullmatch("[0-9a-f]{64}", name) and config_hash(resolved(config)) != name:
        raise ConfigError(
            f"{file} does not hold the settings that the run began with: it was edited, or mjd was updated.",
            "Start the run again; it writes the file anew.",
        )


def check_options_once(arguments: Sequence[str]) -> None:
    """Check that no option with settings stands twice on Snakemake's command line: only its last place would count.

    Raises:
        ConfigError: one does; the error tells how to join the two.
    """
    for names, cure in (
        (("--config", "-C"), "Give all settings after one --config: --config limit=4 seed=2"),
        (("--configfile", "--configfiles"), "Give all files after one --configfile, the lowest first."),
    ):
        given = [part for part in arguments if part.partition("=")[0] in names]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: Snakemake would use the last of them only.", cure)


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
