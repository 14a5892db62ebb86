"""YAML files are read strictly: a key that stands twice is refused, where YAML keeps the last."""

from pathlib import Path

import pytest

from mjd import registry
from mjd.config.files import read_config
from mjd.errors import ConfigError
from mjd.yaml_files import check_keys_once, read_yaml


def written(directory: Path, text: str | bytes, name: str = "own.yaml") -> Path:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit: 3\nseed: 1\nlimit: 4\n", r"own\.yaml has the key 'limit' twice in one mapping, in lines 1 and 3"),
        ("scoring: {orders: all, orders: cyclic}\n", r"the key 'orders' twice in one mapping, in lines 1 and 1"),
        ("task:\n  labels:\n  - key: a\n    key: b\n", r"the key 'key' twice in one mapping, in lines 3 and 4"),
        ("llms: {a: {engine: x}}\nllms: {b: {engine: y}}\n", r"the key 'llms' twice"),
        ("'limit': 3\nlimit: 4\n", r"the key 'limit' twice"),
        ('{"limit": 3, "limit": 4}', r"the key 'limit' twice in one mapping: only the last would count"),
        ('{\n\t"scoring": {"orders": 3, "orders": 4}}', r"the key 'orders' twice"),
    ],
)
def test_key_that_stands_twice_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        check_keys_once([path])
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_key_of_an_extended_file_or_a_registry_that_stands_twice_is_refused(tmp_path: Path) -> None:
    base = written(tmp_path, "extends: config/config.yaml\nseed: 1\nseed: 2\n")
    above = written(tmp_path, f"extends: {base}\n", "above.yaml")
    with pytest.raises(ConfigError, match=r"own\.yaml has the key 'seed' twice"):
        read_config(above)
    written(tmp_path, "mine: {local: a}\nmine: {local: b}\n", "models.yaml")
    with pytest.raises(ConfigError, match=r"models\.yaml has the key 'mine' twice"):
        registry.models(tmp_path)


def test_keys_of_two_mappings_and_merged_anchors_are_read(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nover: {<<: *base, b: 3}\nagain: {<<: *base, a: 4}\nwhole: *base\n"
    assert read_yaml(written(tmp_path, text)) == {
        "base": {"a": 1, "b": 2},
        "over": {"a": 1, "b": 3},
        "again": {"a": 4, "b": 2},
        "whole": {"a": 1, "b": 2},
    }
    assert read_yaml(written(tmp_path, "a: 1\n1: x\n'1': y\n")) == {"a": 1, 1: "x", "1": "y"}
    assert read_yaml(written(tmp_path, "a: &a [*a]\n"))["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: Café\n".encode("latin-1"), r"own\.yaml is not UTF-8 .* Save it as UTF-8"),
        ("title: 2024-13-45\n", r"own\.yaml cannot be read in .*month must be in 1\.\.12"),
        ("a:\n\tb: 1\n", r"(?s)own\.yaml cannot be read in .*line 2"),
        ("", r"own\.yaml holds no keys"),
        ("- a\n", r"own\.yaml holds no keys"),
        ("extends: [config/config.yaml]\n", r"key 'extends' is \['config/config\.yaml'\], not the path of a file"),
        ("extends: true\n", r"key 'extends' is True, not the path of a file"),
    ],
)
def test_file_that_is_no_configuration_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(written(tmp_path, text))
