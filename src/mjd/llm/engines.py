"""Engines by name. To add one: a module with a class like `TransformersEngine`, and a line in `ENGINES`."""

from __future__ import annotations

import importlib
from pathlib import Path

from mjd.config import Llm
from mjd.errors import ModelError
from mjd.llm.base import Engine

# name -> module:class. Modules are imported when used: each may need packages that others do without.
ENGINES = {"transformers": "mjd.llm.transformers_engine:TransformersEngine"}


def build_engine(settings: Llm, directory: str | Path, identity: str) -> Engine:
    """Start the engine that the LLM's configuration names.

    Args:
        settings: the LLM's configuration entry.
        directory: its model directory.
        identity: model and revision, for request keys and provenance.

    Raises:
        ModelError: this version of mjd has no such engine.
    """
    if settings.engine not in ENGINES:
        raise ModelError(
            f"This version of mjd cannot run engine {settings.engine!r} (it runs: {', '.join(ENGINES)}).",
            "Set engine: transformers for this LLM.",
        )
    module, name = ENGINES[settings.engine].split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(directory, settings, identity)
    return engine
