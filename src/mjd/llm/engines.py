"""Engines by name. To add one: a module with a class derived from `mjd.llm.base.Engine`, and a line in `ENGINES`.

Light on purpose: the configuration reads the names, and a module is imported when its engine is used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mjd.llm.base import Engine, Workplace

if TYPE_CHECKING:
    from mjd.config import Llm

# name -> module:class
ENGINES = {
    "transformers": "mjd.llm.transformers_engine:TransformersEngine",
    "vllm": "mjd.llm.vllm_engine:VllmEngine",
    "openai": "mjd.llm.openai_engine:OpenAiEngine",
}


def build_engine(settings: Llm, directory: str | Path, identity: str, workplace: Workplace | None = None) -> Engine:
    """Build the engine that the LLM's configuration names.

    Args:
        settings: the LLM's configuration entry.
        directory: its model directory ("" for an API model).
        identity: model and revision, for request keys and provenance.
        workplace: threads and ledger of the job.
    """
    module, name = ENGINES[settings.engine].split(":")
    factory = getattr(importlib.import_module(module), name)
    engine: Engine = factory(directory, settings, identity, workplace or Workplace())
    return engine
