"""One vLLM server for all tests of this folder, and engines that talk to it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mjd.config.llms import Llm, Prices
from mjd.llm.base import Engine, Score, Scored, Unanswered, Workplace
from mjd.llm.openai.engine import OpenAiEngine
from mjd.llm.store.ledger import Ledger
from mjd.llm.store.replies import Store
from mjd.llm.transformers.engine import TransformersEngine
from tests.openai.servers import KEY_VARIABLE, MODEL, VllmServer
from tests.workflow.conftest import snakemake as snakemake

IDENTITY = f"api:{MODEL}"


@pytest.fixture(scope="session")
def key() -> Iterator[str]:
    """An API key that only the environment and the server know."""
    value = f"sk-{secrets.token_hex(24)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, value)
        yield value


@pytest.fixture(scope="session")
def server(vllm_python: str, smollm2: Path, key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A running vLLM server."""
    found = VllmServer(vllm_python, smollm2, tmp_path_factory.mktemp("server") / "server.log", key)
    found.start()
    found.wait()
    yield found
    found.kill()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite") as found:
        yield found


EngineAt = Callable[..., OpenAiEngine]


@pytest.fixture
def engine_at(store: Store, key: str) -> EngineAt:
    """Builds an engine for an endpoint; keyword arguments are settings of `openai`."""

    def build(url: str, prices: Prices | None = None, budget: float | None = None, **settings: Any) -> OpenAiEngine:
        values = {"base_url": url, "api_key_env": KEY_VARIABLE, "max_wait": 1, "concurrency": 8, **settings}
        llm = Llm(title="SmolLM2", model="served", engine="openai", openai=values)
        return OpenAiEngine("", llm, IDENTITY, Workplace(ledger=Ledger(store, IDENTITY, prices, budget)))

    return build


@pytest.fixture(scope="session")
def expected(smollm2: Path, local: Llm, identity: str, score_requests: list[Score]) -> list[Scored | Unanswered]:
    """Scores of the Transformers engine: logits."""
    return scored(TransformersEngine(smollm2, local, identity), score_requests)


def scored(engine: Engine, requests: list[Score]) -> list[Scored | Unanswered]:
    """Scores in the order of the requests."""
    found = dict(engine.score(requests))
    return [found[i] for i in range(len(requests))]
