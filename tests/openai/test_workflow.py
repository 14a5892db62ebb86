"""The workflow with an API scorer: the local run's numbers, no key in any file, and a server that is killed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mjd.io import read_parquet, read_provenance
from mjd.llm.store.replies import Store
from tests.openai.servers import KEY_VARIABLE, MODEL, VllmServer
from tests.workflow.conftest import ROOT, Run, command

NAMES = ["scores/smollm2/lf-first-explicit.parquet", "mjd/smollm2/lf-first-explicit-softmax-t1.parquet"]
N_ITEMS = 2


def api_config(server: VllmServer, folder: Path, **more: Any) -> dict[str, Any]:
    """The sample with SmolLM2 behind the server."""
    openai = {"base_url": server.url, "api_key_env": KEY_VARIABLE, "concurrency": 8, "max_wait": 2}
    prices = {"input": 2.5, "output": 10}
    llm = {"engine": "openai", "model": "served", "openai": openai, "prices": prices}
    models = {"served": {"api": MODEL}}
    return {"results_dir": str(folder), "limit": N_ITEMS, "llms": {"smollm2": llm}, "models": models, **more}


@pytest.fixture(scope="module")
def api_run(snakemake: Run, server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Explanations generated and MJDs scored through the API; the results and the time before the run."""
    folder, started = tmp_path_factory.mktemp("api"), time.time()
    targets = [f"{folder}/{name}" for name in NAMES]
    done = snakemake("--cores", "all", *targets, config=api_config(server, folder, budget_usd=1))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, started


def test_mjds_equal_the_local_runs(api_run: tuple[Path, float], snakemake: Run, tmp_path: Path) -> None:
    done = snakemake(
        "--cores", "all", *(f"{tmp_path}/{name}" for name in NAMES),
        config={"results_dir": str(tmp_path), "limit": N_ITEMS},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found, wanted = (read_parquet(folder / NAMES[1]) for folder in (api_run[0], tmp_path))
    answers = [
        read_parquet(f / "explanations/smollm2/answers.parquet")["text"].tolist() for f in (api_run[0], tmp_path)
    ]
    assert answers[0] == answers[1]
    np.testing.assert_allclose(found[["p_e", "p_n", "p_c"]], wanted[["p_e", "p_n", "p_c"]], atol=1e-3)


def test_provenance_says_what_was_spent(api_run: tuple[Path, float]) -> None:
    about = read_provenance(api_run[0] / NAMES[0])
    assert (about["engine"], about["score"], about["billed_requests"]) == ("openai", "logprob", N_ITEMS * 6)
    usage = about["usage"]
    price = usage["prompt_tokens"] * 2.5e-6 + usage["completion_tokens"] * 10e-6
    assert about["billed_usd"] == pytest.approx(price, abs=1e-6)
    log = (api_run[0] / "logs/score/smollm2/lf-first-explicit.log").read_text()
    assert f"{about['billed_usd']:.4f} USD spent" in log


def test_the_key_is_in_no_file_that_the_run_wrote(api_run: tuple[Path, float], key: str) -> None:
    folder, started = api_run
    roots = [folder, ROOT / ".snakemake", ROOT / "results"]
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and path.stat().st_mtime >= started]
    assert len([path for path in files if folder in path.parents]) > 10
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_forced_rules_ask_nothing_again(api_run: tuple[Path, float], snakemake: Run, server: VllmServer) -> None:
    folder, before = api_run[0], server.answered()
    targets = [f"{folder}/{name}" for name in NAMES]
    done = snakemake("--cores", "all", "--forceall", *targets, config=api_config(server, folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.answered() == before


def test_a_run_survives_its_server_being_killed(server: VllmServer, tmp_path: Path) -> None:
    """Every request is answered once: the store and the server's own log agree."""
    before = server.answered()
    n_prompts = 6 * 24 * 2
    config = api_config(server, tmp_path, scoring={"orders": "all"})
    target = f"{tmp_path}/scores/smollm2/human-all-explicit.parquet"
    log = tmp_path / "snakemake.log"
    with open(log, "w", encoding="utf-8") as handle:
        run = subprocess.Popen(command("--cores", "all", target, config=config), cwd=ROOT, stdout=handle, stderr=handle)
    deadline = time.monotonic() + 240
    while server.answered() - before < n_prompts // 4:
        assert run.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "too few requests were answered"
        time.sleep(0.05)
    server.kill()
    at_kill = server.answered() - before
    assert at_kill < n_prompts
    server.start()
    server.wait()
    assert run.wait(timeout=240) == 0, log.read_text()
    with Store(tmp_path / "store/answers.sqlite", create=False) as store:
        assert len(store) == n_prompts
    assert server.answered() - before == n_prompts
    scores = read_parquet(target)
    assert len(scores) == n_prompts
    assert "trying again" in (tmp_path / "logs/score/smollm2/human-all-explicit.log").read_text()
