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
Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str, config: dict[str, Any] | None = None) -> list[str]:
    """A Snakemake command line; `config` becomes --config key=value pairs."""
    pairs = [f"{key}={json.dumps(value)}" for key, value in (config or {}).items()]
    return [sys.executable, "-m", "snakemake", *arguments, *(["--config", *pairs] if pairs else [])]


def run_snakemake(*arguments: str, config: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, config=config), cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def snakemake() -> Run:
    return run_snakemake
