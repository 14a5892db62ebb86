"""Configuration files laid over one another."""

from pathlib import Path

import pytest
import yaml

from mjd.config.analyses import Analyses
from mjd.config.files import load_config, read_config, resolve
from mjd.errors import ConfigError


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
    assert resolve([file], {"encoders": {}})["encoders"] == {}
    assert resolve([file], {"encoders": {"minilm": "null"}})["encoders"] == {}
    whole = resolve([file, {"seed": 2}], {"limit": 3})
    assert (whole["results_dir"], whole["seed"], whole["limit"]) == ("mine", 2, 3)
    assert "extends" not in whole
    assert load_config(whole | {"extends": "config/config.yaml"}) == load_config(file | {"seed": 2, "limit": 3})
    other = own(tmp_path, "other.yaml", extends="config/config.yaml", seed=5)
    assert resolve([file], {"extends": other})["seed"] == 5
