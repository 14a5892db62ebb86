"""Prefix trees on real prompts and a real model: the scores of one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from mjd.config.data import source_ids
from mjd.config.llms import Llm
from mjd.config.schema import Config
from mjd.data.loaders import load_items
from mjd.data.models import fetch_model
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.llm.base import ScoreRequest
from mjd.llm.transformers.engine import TransformersEngine
from tests.real.conftest import ROOT, SourceDirectory

pytestmark = pytest.mark.real

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def model_directory(public_config: Config) -> Path:
    """The converted model, downloaded where a run has not done so."""
    downloads = ROOT / public_config.downloads_dir
    directory = downloads / "models" / MODEL
    if not directory.exists():
        fetch_model(public_config.model_entry(MODEL), directory, downloads / "blobs")
    return directory


@pytest.fixture(scope="module")
def requests(source: SourceDirectory, public_config: Config) -> list[ScoreRequest]:
    """Two items with all option orders of two explanation orders."""
    config = public_config
    loader = config.data.items.loader
    items, human = load_items(config.data.items, config.task, {name: source(name) for name in source_ids(loader)})
    settings = PromptSettings(config.prompts, config.labels, tuple(config.task.text_fields), "explicit", 2, 1)
    chosen: pd.DataFrame = items[items["split"] == "train"].head(2)
    prompts = [one for _, of_item in item_prompts(chosen, human, settings) for one in of_item]
    return [ScoreRequest(one.messages, config.labels.letters) for one in prompts]


def test_scores_equal_one_prompt_at_a_time(
    model_directory: Path, requests: list[ScoreRequest], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Llm(title="SmolLM2", model=MODEL, device="cpu", tokens_per_pass=700)
    engine = TransformersEngine(model_directory, settings, MODEL)
    found = {i: scored.scores for i, scored in engine.score(requests)}
    assert "instead of" not in caplog.text
    model = AutoModelForCausalLM.from_pretrained(model_directory, attn_implementation="eager").eval()
    for i, request in enumerate(requests):
        prompt = engine.tokens.render(request.messages)
        (ids,) = engine.tokens.encode([prompt])
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        spelled = engine.tokens.letter_spellings(request.letters, prompt)
        expected = torch.stack([logits[ids].logsumexp(0) for ids in spelled])
        np.testing.assert_allclose(found[i], expected, atol=1e-4)
