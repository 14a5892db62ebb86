"""Building the engine that an LLM's configuration names; its module is imported when it is used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mjd.llm.base import Engine, EngineResources
from mjd.llm.specs import ENGINES

if TYPE_CHECKING:
    from mjd.config.llms import Llm


def build_engine(
    settings: Llm, directory: str | Path, identity: str, resources: EngineResources | None = None
) -> Engine:
    """Build the engine that the LLM's configuration names.

    Args:
        settings: the LLM's configuration entry.
        directory: its model directory ("" for an API model).
        identity: model and revision, for request keys and provenance.
        resources: threads and ledger of the job.
    """
    factory: Any = engine_class(settings.engine)
    engine: Engine = factory(directory, settings, identity, resources or EngineResources())
    engine.is_paid = settings.spec.is_paid  # its entry has the say, by which jobs and plans go
    return engine


def engine_class(name: str) -> type[Engine]:
    """The class of an engine; its module is imported."""
    module, _, class_name = ENGINES[name].factory.partition(":")
    found: type[Engine] = getattr(importlib.import_module(module), class_name)
    return found
