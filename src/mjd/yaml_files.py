"""YAML and JSON files, read strictly: a key that stands twice in one mapping is refused, where both keep the last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mjd.errors import ConfigError

_CURE = "Give a readable YAML file; paths, `extends` too, are relative to the directory Snakemake runs in (-d)."


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML or JSON file; None of an empty one.

    Raises:
        ConfigError: the file cannot be read, is neither, or has a key twice in one mapping.
    """
    text = _text(path)
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _mapping(pairs, path))
    except ValueError:
        pass  # as Snakemake does: what is not JSON is YAML
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _check_keys(node, path, set())
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45 as a date
        raise ConfigError(f"{path} cannot be read in {Path.cwd()}: {error}.", _CURE) from None


def check_keys_once(paths: Sequence[str | Path]) -> None:
    """Raise `ConfigError` if one of the files has a key twice in one mapping: of the two, Snakemake keeps the last."""
    for path in paths:
        read_yaml(path)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read in {Path.cwd()}: {error}.", _CURE) from None


def _mapping(pairs: list[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _twice(key, path, "")
        found[key] = value
    return found


def _check_keys(node: yaml.Node | None, path: str | Path, seen: set[int]) -> None:
    """Every mapping of a document, before `<<` merges others into it: what it merges, it may override."""
    if id(node) in seen:  # an anchor's other uses, or one that holds itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _check_keys(entry, path, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, spelt = key.start_mark.line + 1, (key.tag, key.value)
                if spelt in lines:
                    raise _twice(key.value, path, f", in lines {lines[spelt]} and {line}")
                lines[spelt] = line
            _check_keys(value, path, seen)


def _twice(key: str, path: str | Path, where: str) -> ConfigError:
    return ConfigError(
        f"{path} has the key {key!r} twice in one mapping{where}: only the last would count.",
        "Join the two, or delete one.",
    )
