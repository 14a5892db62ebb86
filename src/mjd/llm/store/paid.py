"""Replies of paid engines: each is in the response store at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mjd.llm.base import EngineInfo, Generated, Request, Scored, reply_fields, reply_from
from mjd.llm.cache import ReplyCache
from mjd.llm.logprobs import is_usable_score
from mjd.llm.store.replies import Store, request_record

log = logging.getLogger(__name__)


class PaidReplies(ReplyCache[Any]):
    """Scores and answers that were paid for, in the response store.

    Earlier versions stored replies that nothing can be read from: these are removed when they are looked up.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def look_up(self, keys: Sequence[str]) -> dict[str, Generated | Scored]:
        found = self._store.get(keys)
        usable = {key: reply_from(reply) for key, reply in found.items() if _is_usable(reply)}
        if useless := found.keys() - usable.keys():
            log.warning(
                "%d stored replies of an earlier version are empty or no numbers of a model: asked again", len(useless)
            )
            self._store.delete(useless)
        return usable

    def add(self, key: str, info: EngineInfo, request: Request, reply: Generated | Scored) -> None:
        self._store.put([(key, request_record(info, request), reply_fields(reply))])


def _is_usable(reply: dict[str, Any]) -> bool:
    return is_usable_score(reply) if "scores" in reply else bool(str(reply["text"]).strip())
