"""Configuration files laid over one another."""

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mjd.config.analyses import Analyses
from mjd.config.files import (
    check_options_once,
    check_unchanged,
    load_config,
    read_config,
    resolve,
    resolved,
    write_resolved,
)
from mjd.errors import ConfigError
from mjd.io import config_hash
from mjd.paths import Paths


def values(name: str = "config.yaml") -> dict:
    with open(f"config/{name}", encoding="utf-8") as handle:
        return yaml.safe_load(handle)


def test_missing_extended_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"config/nli2\.yaml cannot be read"):
        load_config({**values(), "extends": "config/nli2.yaml"})


def test_the_error_of_a_missing_file_names_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = values()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"config/nli\.yaml cannot be read in {tmp_path}.* Snakemake runs in \(-d\)"):
        load_config(config)


def test_a_file_may_extend_one_that_extends_another() -> None:
    config, public = (read_config(f"config/{name}.yaml") for name in ("public-all-orders", "public"))
    assert (config.scoring.orders, public.scoring.orders) == ("all", "cyclic")
    assert config.scoring.modes == public.scoring.modes
    assert config.labels == public.labels


def test_files_that_extend_one_another_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"extends: {second}\n")
    second.write_text(f"extends: {first}\n")
    with pytest.raises(ConfigError, match=r"extend one another: .*first.yaml -> .*second.yaml -> .*first.yaml"):
        read_config(first)


def own(tmp_path: Path, name: str, **keys: object) -> str:
    path = tmp_path / name
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return str(path)


def test_empty_encoders_over_a_file_with_encoders_leave_none() -> None:
    assert read_config("config/public.yaml").encoders
    assert load_config({"extends": "config/public.yaml", "encoders": {}}).encoders == {}


def test_what_a_file_empties_stays_empty_in_a_file_above_it(tmp_path: Path) -> None:
    middle = own(tmp_path, "middle.yaml", extends="config/public.yaml", encoders={})
    encoder = {"title": "BERT", "model": "bert-base-uncased"}
    assert list(load_config({"extends": middle, "encoders": {"bert": encoder}}).encoders) == ["bert"]
    removed = own(tmp_path, "removed.yaml", extends="config/public.yaml", analyses=None)
    above = load_config({"extends": removed, "analyses": {"convergence_items": 7}})
    assert above.analyses.model_dump() == {**Analyses().model_dump(), "convergence_items": 7}


def test_command_line_empties_and_removes_as_a_file_does(tmp_path: Path) -> None:
    file = {"extends": "config/config.yaml", "results_dir": "mine"}
    assert resolve([file], {"encoders": {}}).encoders == {}
    assert resolve([file], {"encoders": {"minilm": "null"}}).encoders == {}
    whole = resolve([file, {"seed": 2}], {"limit": 3})
    assert (whole.results_dir, whole.seed, whole.limit) == ("mine", 2, 3)
    assert load_config({**resolved(whole), "extends": "config/config.yaml"}) == load_config(
        file | {"seed": 2, "limit": 3}
    )
    other = own(tmp_path, "other.yaml", extends="config/config.yaml", seed=5)
    assert resolve([file], {"extends": other}).seed == 5


@pytest.mark.parametrize("name", ["config", "public", "public-all-orders", "paper"])
def test_resolved_configuration_read_back_is_the_same(tmp_path: Path, name: str) -> None:
    config, path = read_config(f"config/{name}.yaml"), tmp_path / "config.resolved.yaml"
    write_resolved(config, [str(path)])
    read = read_config(path)
    assert resolved(read) == resolved(config)
    assert "extends" not in resolved(config)
    assert not list(tmp_path.glob(".*"))


def leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all settings that hold no others."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    found = [leaf for key, value in inner for leaf in leaves(value, (*path, key))]
    yield from found or [path]


def test_config_hash_changes_with_every_setting() -> None:
    whole = resolved(read_config("config/paper.yaml"))
    before = config_hash(whole)
    paths = list(leaves(whole))
    assert len(paths) > 100
    for path in paths:
        changed = copy.deepcopy(whole)
        holder = functools.reduce(lambda values, key: values[key], path[:-1], changed)
        holder[path[-1]] = "another value"
        assert config_hash(changed) != before, path


def test_config_hash_is_of_what_settings_are_not_of_how_they_are_written(tmp_path: Path) -> None:
    text = Path("config/config.yaml").read_text(encoding="utf-8")
    path = tmp_path / "own.yaml"
    values_reversed = dict(reversed(list(yaml.safe_load(text).items())))
    path.write_text("# a comment\n" + yaml.safe_dump(values_reversed, sort_keys=False), encoding="utf-8")
    spelt_out = load_config({**values(), "unanswered": "stop", "statistics": {"confidence": 0.95}})
    own_hash = config_hash(resolved(read_config("config/config.yaml")))
    assert config_hash(resolved(read_config(path))) == own_hash
    assert config_hash(resolved(spelt_out)) == own_hash
    assert config_hash(resolved(load_config({**values(), "unanswered": "drop"}))) != own_hash


def test_api_key_in_the_place_of_its_variable_is_refused_and_not_shown() -> None:
    llm = {"title": "Hosted", "model": "gpt-4o", "engine": "openai", "openai": {"api_key_env": "sk-abc-123"}}
    with pytest.raises(ConfigError, match="must be the name of an environment variable") as caught:
        load_config({**values(), "llms": {"smollm2": llm}})
    assert "sk-abc" not in str(caught.value)


def test_file_of_a_run_that_was_edited_is_refused_by_its_jobs(tmp_path: Path) -> None:
    config = read_config("config/config.yaml")
    kept = Paths(str(tmp_path), "").config_of_runs(config_hash(resolved(config)))
    write_resolved(config, [kept])
    check_unchanged(read_config(kept), kept)
    text = Path(kept).read_text(encoding="utf-8")
    Path(kept).write_text(text.replace("seed: 1", "seed: 2", 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"does not hold the settings that the run began with.*Start the run again"):
        check_unchanged(read_config(kept), kept)


def test_file_with_a_name_of_its_own_is_no_file_of_a_run() -> None:
    check_unchanged(read_config("config/config.yaml"), "config/config.yaml")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--config limit=4 --cores 1 --config seed=2", "--config and --config"),
        ("-C limit=4 --config seed=2", "-C and --config"),
        ("--configfile=a.yaml --configfiles b.yaml", "--configfile=a.yaml and --configfiles"),
    ],
)
def test_option_with_settings_given_twice_is_refused(arguments: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}: Snakemake would use the last of them only"):
        check_options_once(arguments.split())


def test_option_with_settings_given_once_is_right() -> None:
    check_options_once(["mjds", "--configfile", "a.yaml", "b.yaml", "--config", "limit=4", "seed=2"])
