"""Running Snakemake as a user would, with results of its own and the checkout's downloads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = Path(__file__).parent / "plugins"  # executors for PYTHONPATH
Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str, config: dict[str, Any] | None = None) -> list[str]:
    """A Snakemake command line; `config` becomes --config key=value pairs."""
    pairs = [f"{key}={json.dumps(value)}" for key, value in (config or {}).items()]
    return [sys.executable, "-m", "snakemake", *arguments, *(["--config", *pairs] if pairs else [])]


def run_snakemake(*arguments: str, config: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, config=config), cwd=ROOT, capture_output=True, text=True, check=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder start Snakemake."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def snakemake() -> Run:
    return run_snakemake


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configuration of a tiny random LLM in SmolLM2's place: for tests of the workflow, whatever its model answers."""
    from tests.unit.llm.tiny_llms import save_tiny_llm  # imports torch

    folder = tmp_path_factory.mktemp("tiny-llm")
    return {
        "downloads_dir": str(folder / "downloads"),
        "models": {"tiny": {"local": str(save_tiny_llm(folder / "tiny"))}},
        "llms": {"smollm2": {"model": "tiny", "device": "cpu"}},
    }


@pytest.fixture(scope="session")
def tiny_models(tiny_llm: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configuration of the tiny LLM, and of a tiny encoder in MiniLM's place."""
    from tests.unit.tiny_encoders import save_tiny_bert  # imports torch

    encoder = save_tiny_bert(tmp_path_factory.mktemp("tiny-encoder"))
    return {
        **tiny_llm,
        "models": {**tiny_llm["models"], "tiny-encoder": {"local": str(encoder)}},
        "encoders": {"minilm": {"model": "tiny-encoder", "max_length": 64}},
    }
