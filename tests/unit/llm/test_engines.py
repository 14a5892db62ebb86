"""Building the engine that a configuration names."""

from __future__ import annotations

import pytest

from mjd.config.llms import Llm
from mjd.llm.base import EngineResources
from mjd.llm.engines import build_engine
from mjd.llm.fake import FakeEngine
from mjd.llm.specs import ENGINES, EngineSpec


class OwnEngine(FakeEngine):
    """An engine that says nothing of money, which its entry does."""

    def __init__(self, directory: str, settings: Llm, identity: str, resources: EngineResources) -> None:
        super().__init__()


@pytest.mark.parametrize("is_paid", [True, False])
def test_replies_are_paid_for_where_the_entry_of_an_engine_says_so(
    is_paid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "mine", EngineSpec(f"{__name__}:OwnEngine", "logit", is_paid=is_paid))
    assert build_engine(Llm(title="x", model="x", engine="mine"), "", "m").is_paid == is_paid
