"""Every configuration plans its jobs, with light imports and clear errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, Run

CONFIGS = ["config", "public", "public-all-orders", "paper"]


def test_target_mjds_trains_nothing(snakemake: Run) -> None:
    done = snakemake("-n", "mjds", config={"results_dir": "results/not-there"})
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    assert "results/not-there/mjd/smollm2/varierr-lg-first-explicit-softmax-t1.parquet" in planned
    assert "softmax-cv.parquet" in planned
    assert not re.search("train_base|finetune|load_pairs|load_ood|all-minilm", planned)
    done = snakemake("-n", "mjds", config={"results_dir": "results/not-there", "task": {"train_hjd": "none"}})
    assert done.returncode == 0, done.stderr
    assert "softmax-cv.parquet" not in done.stdout + done.stderr


def test_prompts_of_public_files_are_planned_before_any_llm_runs(snakemake: Run) -> None:
    config = {"results_dir": "results/not-there", "prompts": "mjd-estimator"}
    target = "results/not-there/scores/smollm2/lf-first-explicit.parquet"
    done = snakemake("-n", target, "--configfile", "config/public.yaml", config=config)
    assert done.returncode == 0, done.stderr
    assert "upstream_prompts" in done.stdout + done.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_dry_run_plans_the_ood_table_without_heavy_packages(name: str) -> None:
    program = (
        "import sys\n"
        "for heavy in ('torch', 'transformers', 'pandas', 'pyarrow', 'sklearn'): sys.modules[heavy] = None\n"
        "from snakemake.cli import main\n"
        f"main(['-n', 'all', '--configfile', 'config/{name}.yaml', '--config', 'results_dir=results/not-there'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ood_table" in done.stdout + done.stderr


def test_rule_graph_shows_the_rules(snakemake: Run) -> None:
    done = snakemake("all", "--rulegraph", config={"results_dir": "results/not-there"})
    assert done.returncode == 0, done.stderr
    assert "train_base" in done.stdout


def test_unknown_config_key_is_named_before_anything_runs(snakemake: Run) -> None:
    done = snakemake("-n", config={"limitt": 3})
    assert done.returncode != 0
    assert "unknown key 'limitt' (did you mean 'limit'?)" in done.stdout + done.stderr


def test_key_that_stands_twice_in_a_configuration_ends_the_run(snakemake: Run, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("extends: config/config.yaml\nlimit: 3\nlimit: 30\n", encoding="utf-8")
    done = snakemake("-n", "all", "--configfile", str(path))
    assert done.returncode != 0
    assert "own.yaml has the key 'limit' twice in one mapping, in lines 2 and 3" in done.stdout + done.stderr


def test_mistake_in_a_table_ends_the_run_before_any_model_is_fetched(snakemake: Run, tmp_path: Path) -> None:
    pairs, results = tmp_path / "pairs.csv", tmp_path / "results"
    pairs.write_text("uid,premise,hypothesis,label\np1,It rains.,It is wet.,entailmnt\n", encoding="utf-8")
    config = {"results_dir": str(results), "downloads_dir": str(tmp_path), "data": {"pairs": {"path": str(pairs)}}}
    done = snakemake("--cores", "1", "all", config=config)
    assert done.returncode != 0
    assert "pairs.csv, row 1, column 'label': 'entailmnt' is not one of e, n, c" in done.stderr
    assert not (tmp_path / "models").exists()


def test_missing_api_key_ends_the_run_before_anything_is_trained(
    snakemake: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = {"results_dir": str(tmp_path), "llms": {"smollm2": {"engine": "openai", "model": "gpt-4o"}}}
    done = snakemake("--cores", "1", "all", config=config)
    assert done.returncode != 0
    assert "the environment variable OPENAI_API_KEY is empty" in done.stderr
    assert not (tmp_path / "logs" / "train_base").exists()


def test_configuration_without_encoders_makes_mjds_and_their_tables(snakemake: Run, tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "config/public.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values | {"encoders": {}, "results_dir": str(tmp_path)}), encoding="utf-8")
    done = snakemake("-n", "all", "--configfile", str(path))
    assert done.returncode == 0, done.stderr
    assert "distribution_comparison" in done.stdout + done.stderr
    assert not re.search("finetun|train_base|load_pairs|load_ood", done.stdout + done.stderr)


def test_encoders_emptied_on_the_command_line_are_not_trained(snakemake: Run) -> None:
    done = snakemake("-n", "all", config={"results_dir": "results/not-there", "encoders": {}})
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    assert "distribution_comparison" in planned
    assert not re.search("finetun|train_base|load_pairs|load_ood|ood_table", planned)


def test_configuration_without_encoders_pairs_and_rounds_plans_its_jobs(snakemake: Run, tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    data = {name: part for name, part in values["data"].items() if name not in ("pairs", "ood")}
    path = tmp_path / "config.yaml"
    own = {"data": data, "encoders": {}, "results_dir": str(tmp_path), "downloads_dir": str(tmp_path / "downloads")}
    path.write_text(yaml.safe_dump(values | own), encoding="utf-8")
    done = snakemake("-n", "all", "mjds", "data", "models", "plan", "--configfile", str(path))
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    for rule in ("all", "mjds", "data", "models", "plan", "load_items", "download_model"):
        assert re.search(rf"^{rule} +\d+$", planned, re.MULTILINE), rule
    assert not re.search("finetun|train_base|load_pairs|load_ood", done.stdout + done.stderr)


def test_twelve_explanations_in_all_orders_end_the_run_before_any_model_is_fetched(
    snakemake: Run, tmp_path: Path
) -> None:
    texts = tmp_path / "explanations.csv"
    items = (ROOT / "resources/sample/synthetic_items.csv").read_text(encoding="utf-8").splitlines()
    uids = [line.split(",")[0] for line in items if line.startswith("synthetic-train")]
    rows = [f"{uid},{n},e,Reason {n}.,a1" for uid in uids for n in range(12)]
    texts.write_text("\n".join(["uid,position,label,text,annotator", *rows, ""]), encoding="utf-8")
    config = {
        "results_dir": str(tmp_path),
        "downloads_dir": str(tmp_path),
        "data": {"items": {"human_explanations": str(texts)}},
        "scoring": {"orders": "all"},
    }
    done = snakemake("--cores", "1", "mjds", config=config)
    assert done.returncode != 0
    assert "2,874,009,600 prompts an item" in done.stderr
    assert "Set scoring.orders: cyclic (72 prompts an item)" in done.stderr
    assert not (tmp_path / "models").exists()


def test_download_without_network_or_mirror_names_the_cure(
    snakemake: Run, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("MJD_MIRROR", raising=False)
    folder = str(tmp_path_factory.mktemp("downloads"))
    config = {"downloads_dir": folder, "results_dir": f"{folder}/results"}
    target = f"{folder}/sources/anli-dev"
    done = snakemake("--cores", "1", target, "--configfile", "config/public.yaml", config=config)
    assert done.returncode != 0
    assert "MJD_MIRROR" in done.stdout + done.stderr


def test_data_without_hjds_of_training_items_plans_the_tables_that_need_none(snakemake: Run) -> None:
    config = {"results_dir": "results/not-there", "task": {"train_hjd": "none"}}
    done = snakemake("-n", "all", config=config)
    assert done.returncode == 0, done.stderr
    assert "ood_table" in done.stdout + done.stderr
    assert "distribution_comparison" not in done.stdout + done.stderr


def test_commands_of_the_readme_plan_their_jobs(snakemake: Run) -> None:
    """As they are typed: Snakemake takes a target after --configfile for a file."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line.partition("#")[0].split() for line in lines if line.startswith(".venv/bin/snakemake ")]
    assert len(commands) >= 4
    for command in commands:
        done = snakemake("-n", *command[1:], config={})
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def test_analysis_with_an_entry_alone_has_a_rule_and_is_made_by_all() -> None:
    program = (
        "from mjd.analyses import specs\n"
        "from mjd.analyses.specs import AnalysisSpec\n"
        "specs.ANALYSES.append(AnalysisSpec('mine', 'mine_table', 'mine:Mine', 'My own table',\n"
        "    lambda config, paths: {'data_items': paths.data('items')}, lambda config: {'seed': config.seed}))\n"
        "from snakemake.cli import main\n"
        "main(['-n', 'all', '--config', 'results_dir=results/not-there'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    planned = done.stdout + done.stderr
    assert done.returncode == 0, planned
    assert "My own table" in planned
    assert "results/not-there/tables/mine.parquet" in planned


def test_replaced_set_put_in_place_by_hand_is_scored_without_a_rule_that_makes_it(
    snakemake: Run, tmp_path: Path
) -> None:
    replaced = tmp_path / "explanations/replaced/human-noise-k2-s1.parquet"
    target = tmp_path / "scores/smollm2/human-noise-k2-s1-all-explicit.parquet"
    mjd = tmp_path / "mjd/smollm2/human-noise-k2-s1-all-explicit-softmax-t1.parquet"
    config = {"results_dir": str(tmp_path)}
    missing = snakemake("-n", str(target), config=config)
    assert missing.returncode != 0
    assert str(replaced) in missing.stdout + missing.stderr
    replaced.parent.mkdir(parents=True)
    replaced.touch()
    done = snakemake("-n", str(target), str(mjd), config=config)
    planned = done.stdout + done.stderr
    assert done.returncode == 0, planned
    assert "smollm2 scores human-noise-k2-s1 (all, explicit)" in planned
    assert "MJD of smollm2: human-noise-k2-s1 (softmax-t1)" in planned
    # No other model than the scorer is needed, and nothing is generated.
    assert not re.search("generate_explanations|select", planned)


def test_local_model_runs_again_when_its_content_changes_and_not_when_its_times_do(
    snakemake: Run, tmp_path: Path
) -> None:
    model, downloads = tmp_path / "model", tmp_path / "downloads"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text("{}", encoding="utf-8")
    config = {"downloads_dir": str(downloads), "results_dir": str(tmp_path), "models": {"own": {"local": str(model)}}}
    target = f"{downloads}/models/own"

    def planned() -> str:
        done = snakemake("-n", target, config=config)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "download_model" in planned()
    done = snakemake("--cores", "1", target, config=config)
    assert done.returncode == 0, done.stderr
    assert f"local:{model} is local@" in done.stderr
    assert "Nothing to be done" in planned()
    for file in model.iterdir():
        file.touch()
    assert "Nothing to be done" in planned()
    weights = model / "model.safetensors"
    before = weights.stat()
    weights.write_text("[]", encoding="utf-8")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert re.search("download_model(.|\n)*Params have changed", planned())


def test_unreadable_local_model_is_named(snakemake: Run, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").symlink_to("/proc/self/mem")  # even root cannot read its first page
    config = {"downloads_dir": str(tmp_path / "downloads"), "models": {"own": {"local": str(model)}}}
    done = snakemake("-n", f"{tmp_path}/downloads/models/own", config=config)
    assert done.returncode != 0
    assert f"{model}/model.safetensors, of a local model, cannot be read" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
