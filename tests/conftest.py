"""What the engine tests share: SmolLM2 by the project's own rule, requests of the sample, an interpreter with vLLM."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from mjd.config.files import read_config
from mjd.config.llms import Llm
from mjd.config.schema import Config
from mjd.data.items import train_items
from mjd.data.loaders import load_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.llm.base import GenerateRequest, ScoreRequest
from mjd.runtime.threads import thread_environment
from tests.workflow.conftest import ROOT, run_snakemake

os.environ.update(thread_environment(os.environ))  # as for jobs: no module above imports PyTorch

# A busy machine is no reason to fail: what takes long is limited by pytest.
hypothesis.settings.register_profile("mjd", deadline=None, max_examples=50)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=10)  # for `make test-fast`
hypothesis.settings.load_profile("mjd")

MODEL = "smollm2-135m-instruct"
N_ITEMS = 4


@pytest.fixture(scope="session")
def sample() -> Config:
    """The embedded default configuration."""
    return read_config(ROOT / "config" / "config.yaml")


@pytest.fixture(scope="session")
def smollm2(sample: Config) -> Path:
    """SmolLM2's model directory, fetched and converted by the rule `download_model` when it is not up to date.

    Processes of pytest-xdist do so one after another: Snakemake refuses a second run that makes the same files.
    """
    directory = ROOT / sample.downloads_dir / "models" / MODEL
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.parent.parent / "tests.lock"):
        done = run_snakemake("--cores", "all", f"{sample.downloads_dir}/models/{MODEL}")
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="session")
def identity(sample: Config) -> str:
    """SmolLM2's model and revision."""
    return sample.model_entry(MODEL).origin


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter that has vLLM."""
    python = Path(os.environ.get("MJD_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")
    assert python.exists(), f"{python} does not exist: run `make vllm`"
    return str(python)


@pytest.fixture(scope="session")
def score_requests(sample: Config) -> list[ScoreRequest]:
    """Every prompt of the first items with their human explanations in listed order, and without explanations."""
    items, explanations = load_items(sample.data.items, sample.task, {}, limit=N_ITEMS)
    fields = tuple(sample.task.text_fields)
    shown = PromptSettings(sample.prompts, sample.labels, fields, "explicit", 1, 1)
    plain = PromptSettings(sample.prompts, sample.labels, fields, "plain", 1, 1)
    both = [
        *item_prompts(train_items(items), explanations, shown),
        *item_prompts(train_items(items), None, plain),
    ]
    return [ScoreRequest(prompt.messages, sample.labels.letters) for _, prompts in both for prompt in prompts]


@pytest.fixture(scope="session")
def generate_requests(score_requests: list[ScoreRequest]) -> list[GenerateRequest]:
    """Two short greedy answers."""
    return [GenerateRequest(request.messages, max_new_tokens=12) for request in score_requests[:12:6]]


@pytest.fixture(scope="session")
def local(smollm2: Path, identity: str) -> Llm:
    """SmolLM2 on this machine."""
    return Llm(title="SmolLM2", model=MODEL, device="cpu")
