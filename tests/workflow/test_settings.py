"""One configuration a run: written down when it starts, read by every job, whatever becomes of the YAML files."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mjd.config.files import load_config, read_config, resolved
from mjd.io import config_hash, read_parquet, read_provenance
from mjd.paths import Paths
from tests.workflow.conftest import PLUGINS, ROOT, Run, command


class Edited:
    """A configuration that extends one with `limit: 2`, and the same with another limit, to lay over it."""

    def __init__(self, folder: Path) -> None:
        self.results, self.own = folder / "results", folder / "own.yaml"
        self.extended, self.later = folder / "extended.yaml", folder / "later.yaml"
        self.extended.write_text("extends: config/config.yaml\nlimit: 2\n", encoding="utf-8")
        self.later.write_text("extends: config/config.yaml\nlimit: 3\nseed: 7\n", encoding="utf-8")
        self.own.write_text(
            yaml.safe_dump({"extends": str(self.extended), "results_dir": str(self.results)}), encoding="utf-8"
        )

    @property
    def arguments(self) -> list[str]:
        """A run of two jobs."""
        return [str(self.results / "distributions" / "hjd.parquet"), "--configfile", str(self.own)]

    def check_that_jobs_used_what_the_run_began_with(self) -> None:
        assert yaml.safe_load(self.extended.read_text(encoding="utf-8"))["limit"] == 3
        paths = Paths(str(self.results), "")
        began = yaml.safe_load(Path(paths.resolved_config).read_text(encoding="utf-8"))
        assert (began["limit"], began["seed"]) == (2, 1)
        items = read_parquet(paths.data("items"))
        assert items.groupby("split").size().max() == 2
        for path in (paths.data("items"), paths.distribution("hjd")):
            assert read_provenance(path)["config_hash"] == config_hash(began)
        assert Path(paths.config_of_runs(config_hash(began))).is_file()


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    return Edited(tmp_path)


def test_edited_file_while_a_cluster_runs_jobs_changes_nothing(
    snakemake: Run, edited: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{PLUGINS}{os.pathsep}{ROOT / 'src'}")
    cluster = ["--executor", "spawn", "--jobs", "1", "--seconds-between-status-checks", "0"]
    # Each job's command edits the extended file before its Snakemake reads anything.
    edit = ["--precommand", f"cp {edited.later} {edited.extended}"]
    done = snakemake(*edited.arguments, *cluster, *edit)
    assert done.returncode == 0, done.stdout + done.stderr
    edited.check_that_jobs_used_what_the_run_began_with()


def test_edited_file_while_local_jobs_run_changes_nothing(edited: Edited) -> None:
    run = subprocess.Popen(command(*edited.arguments, "--cores", "1"), cwd=ROOT, stderr=subprocess.DEVNULL)
    while run.poll() is None and not (edited.results / "config.resolved.yaml").exists():
        time.sleep(0.02)
    edited.extended.write_text(edited.later.read_text(encoding="utf-8"), encoding="utf-8")
    assert run.wait() == 0
    edited.check_that_jobs_used_what_the_run_began_with()


def test_edited_file_of_a_run_ends_its_jobs_on_a_cluster(
    snakemake: Run, edited: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{PLUGINS}{os.pathsep}{ROOT / 'src'}")
    cluster = ["--executor", "spawn", "--jobs", "1", "--seconds-between-status-checks", "0"]
    done = snakemake(
        *edited.arguments, *cluster, "--precommand", f"sed -i 's/^seed: 1$/seed: 2/' {edited.results}/configs/*.yaml"
    )
    assert done.returncode != 0
    assert "does not hold the settings that the run began with" in done.stdout + done.stderr
    assert not Path(Paths(str(edited.results), "").data("items")).exists()


def test_two_options_with_settings_are_refused_before_anything_runs(snakemake: Run, tmp_path: Path) -> None:
    done = snakemake("-n", "data", "--config", "limit=4", config={"results_dir": str(tmp_path)})
    assert done.returncode != 0
    assert "--config and --config: Snakemake would use the last of them only" in done.stdout + done.stderr


def test_command_line_settings_reach_jobs_of_a_cluster(
    snakemake: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{PLUGINS}{os.pathsep}{ROOT / 'src'}")
    results = tmp_path / "results"
    config: dict[str, Any] = {"results_dir": str(results), "limit": 2, "encoders": {}}
    target = str(results / "data" / "items.parquet")
    cluster = ["--executor", "spawn", "--jobs", "1", "--seconds-between-status-checks", "0"]
    done = snakemake(target, *cluster, config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_parquet(target).groupby("split").size().max() == 2
    kept = read_config(results / "config.resolved.yaml")
    assert kept.encoders == {}
    assert read_provenance(target)["config_hash"] == config_hash(resolved(kept))


@pytest.mark.parametrize("arguments", [["-n"], ["--summary"], ["--rulegraph"], ["--dag"], ["--lint"], ["--unlock"]])
def test_command_that_runs_no_job_writes_no_configuration(snakemake: Run, tmp_path: Path, arguments: list[str]) -> None:
    results = tmp_path / "results"
    done = snakemake("mjds", *arguments, config={"results_dir": str(results)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (results / "config.resolved.yaml").exists()
    assert not (results / "configs").exists()


def test_touch_leaves_the_configuration_of_the_run_that_made_the_files(snakemake: Run, tmp_path: Path) -> None:
    target, config = str(tmp_path / "data" / "items.parquet"), {"results_dir": str(tmp_path), "limit": 2}
    assert snakemake("--cores", "1", target, config=config).returncode == 0
    done = snakemake("--touch", "--cores", "1", target, config=config | {"limit": 3})
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "config.resolved.yaml").limit == 2


def test_dry_run_of_a_read_only_results_dir_plans_its_jobs(snakemake: Run, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        done = snakemake("-n", "mjds", config={"results_dir": str(tmp_path)})
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert done.returncode == 0, done.stderr


def test_results_dir_that_cannot_be_written_ends_the_run_with_the_cure(snakemake: Run, tmp_path: Path) -> None:
    (tmp_path / "configs").write_text("a file where a directory should be", encoding="utf-8")
    target = str(tmp_path / "data" / "items.parquet")
    done = snakemake("--cores", "1", target, config={"results_dir": str(tmp_path)})
    assert done.returncode != 0
    assert "cannot be written" in done.stderr
    assert "choose another results_dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_later_run_with_other_settings_keeps_the_file_of_the_earlier_one(snakemake: Run, tmp_path: Path) -> None:
    target = str(tmp_path / "data" / "items.parquet")
    for limit in (2, 3):
        done = snakemake("--cores", "1", target, config={"results_dir": str(tmp_path), "limit": limit})
        assert done.returncode == 0, done.stderr
    kept = [load_config(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in (tmp_path / "configs").iterdir()]
    assert sorted(config.limit or 0 for config in kept) == [2, 3]
    assert read_config(tmp_path / "config.resolved.yaml").limit == 3
