"""The sample's workflow against a real server whose replies are replaced: nothing lost, nothing paid twice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mjd.io import read_parquet, read_provenance
from mjd.llm.store.replies import Store
from tests.openai.injecting_proxy import InjectingProxy
from tests.openai.servers import VllmServer
from tests.openai.test_workflow import N_ITEMS, api_config
from tests.workflow.conftest import Run

PLAN = ("eos", None, "infinite", None, "empty", None, "refusal", None, "no_usage", None, "content_filter", None)
SCORES = "scores/smollm2/human-all-explicit.parquet"
INPUT, OUTPUT = 2.5, 10.0
PAID_TRIES = 3  # the default of openai.paid_tries
N_PROMPTS = 6 * 24 * N_ITEMS


@pytest.fixture
def proxy(server: VllmServer) -> Iterator[InjectingProxy]:
    found = InjectingProxy(server.url, PLAN)
    yield found
    found.shutdown()
    found.server_close()


def config(proxy: InjectingProxy, server: VllmServer, folder: Path, **more: Any) -> dict[str, Any]:
    """The sample behind the proxy, all orders of the human explanations."""
    values = api_config(server, folder, scoring={"orders": "all"}, budget_usd=5, **more)
    values["llms"]["smollm2"]["openai"] |= {"base_url": proxy.url}
    return values


def spending(folder: Path) -> tuple[float, int, int]:
    """USD, requests and estimated requests of the store; the table of `mjd store stats` is printed."""
    path = folder / "store/answers.sqlite"
    subprocess.run([sys.executable, "-m", "mjd.cli", "store", "stats", str(path)], check=True)
    with Store(path, create=False) as store:
        found: tuple[float, int, int] = store.db.execute("SELECT usd, requests, estimated FROM spending").fetchone()
        return found


def test_injected_replies_lose_nothing_and_the_rerun_pays_for_missing_ones_alone(
    proxy: InjectingProxy, server: VllmServer, snakemake: Run, tmp_path: Path
) -> None:
    target = f"{tmp_path}/{SCORES}"
    done = snakemake("--cores", "all", target, config=config(proxy, server, tmp_path))
    assert done.returncode != 0
    assert f"{proxy.unusable()} of {N_PROMPTS} prompts got no usable reply" in done.stderr
    usd, requests, estimated = spending(tmp_path)
    assert (requests, estimated) == (len(proxy.owed) + len(proxy.untold), len(proxy.untold))
    owed = proxy.owed_usd(INPUT, OUTPUT)
    print(f"{owed:.6f} USD owed by the proxy's count, {usd:.6f} USD booked")
    assert abs(usd - owed) < 0.01  # to the cent: estimates differ a little
    # What every request but the given-up ones was sent: once.
    assert set(proxy.tries.values()) == {1, PAID_TRIES}
    with Store(tmp_path / "store/answers.sqlite", create=False) as store:
        assert len(store) == N_PROMPTS - proxy.unusable()

    proxy.healed, before = True, proxy.tries.copy()
    done = snakemake("--cores", "all", target, config=config(proxy, server, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    again = proxy.tries - before
    assert set(again.values()) == {1}
    assert len(again) == proxy.unusable()
    assert len(read_parquet(target)) == N_PROMPTS
    after, requests, estimated = spending(tmp_path)
    assert requests == len(proxy.owed) + len(proxy.untold)
    assert after - usd == pytest.approx(proxy.owed_usd(INPUT, OUTPUT) - owed, abs=1e-9)
    print(f"{proxy.owed_usd(INPUT, OUTPUT):.6f} USD owed by the proxy's count, {after:.6f} USD booked")


def test_drop_makes_tables_without_the_unanswered_prompts(
    proxy: InjectingProxy, server: VllmServer, snakemake: Run, tmp_path: Path
) -> None:
    mjd = f"{tmp_path}/mjd/smollm2/human-all-explicit-softmax-t1.parquet"
    done = snakemake("--cores", "all", mjd, config=config(proxy, server, tmp_path, unanswered="drop"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_parquet(mjd)["n_prompts"].sum() == N_PROMPTS - proxy.unusable()
    assert read_provenance(f"{tmp_path}/{SCORES}")["unanswered_prompts"] == proxy.unusable()
    # Finished work stands when the policy changes.
    done = snakemake("-n", "--cores", "all", mjd, config=config(proxy, server, tmp_path, unanswered="stop"))
    assert "Nothing to be done" in done.stdout + done.stderr
