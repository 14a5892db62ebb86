"""First-token scores of every prompt of every item, kept on disk as they come: a kill loses next to nothing."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mjd import schemas
from mjd.errors import ModelError
from mjd.estimators.base import AnswerCache, Estimator, ItemRequest, ask_items
from mjd.estimators.item_prompts import PromptSettings, item_prompts, n_prompts

# For the script of rule score: a change of it would score everything once more.
from mjd.estimators.label_mass import warn_of_low_mass as warn_of_low_mass
from mjd.io import atomic_path, read_table
from mjd.llm import reasoning
from mjd.llm.base import Engine, Generate, Generated, Score, Scored, Unanswered, reply_fields
from mjd.llm.logprobs import is_usable_score
from mjd.llm.store.replies import Store, request_record
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import Tally
from mjd.prompts.templates import ScorePrompt

log = logging.getLogger(__name__)

# Fresh scores are written out at least this often; a kill loses no more than this and the pass in progress.
SECONDS_PER_CHUNK = 10.0
# Tokens of an answer that tell whether it begins reasoning, where the first token leaves that open.
TOKENS_READ_ON = 8


class Known(NamedTuple):
    """A finished score: as in `mjd.llm.base.Scored`."""

    scores: list[float | None]
    mass: float | None
    bound: float | None
    top_token: str | None = None


def known_score(scored: Scored) -> Known:
    """What is kept of an engine's response."""
    return Known(list(scored.scores), scored.mass, scored.bound, scored.top_token)


class ScoreChunks(AnswerCache[Score, Scored, Known]):
    """Scores of local engines: Parquet files in one directory, each written atomically."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Known] = {}
        self._fresh: list[str] = []
        self._written = time.monotonic()
        for path in self._paths():
            table = read_table(path).to_pydict()
            nothing = [None] * len(table["key"])  # chunks of earlier versions lack columns
            more = (table.get(name, nothing) for name in ("bound", "top_token"))
            for key, *known in zip(table["key"], table["scores"], table["mass"], *more, strict=True):
                self._known[key] = Known(*known)

    def look_up(self, keys: Sequence[str]) -> dict[str, Known]:
        return {key: self._known[key] for key in keys if key in self._known and _is_finite(self._known[key].scores)}

    def add(self, key: str, engine: Engine, request: Score, reply: Scored) -> None:
        """Keep a fresh score; it is on disk after at most `SECONDS_PER_CHUNK` of further additions."""
        self._known[key] = known_score(reply)
        self._fresh.append(key)
        if time.monotonic() - self._written > SECONDS_PER_CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write fresh scores as one further chunk."""
        if self._fresh:
            self._write(self._fresh)
        self._fresh, self._written = [], time.monotonic()

    def compact(self) -> None:
        """Merge all chunks into one file."""
        old = self._paths()
        if len(old) > 1:
            self._write(list(self._known))
            for path in old:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("chunk-*.parquet"))

    def _write(self, keys: Sequence[str]) -> None:
        scores, masses, bounds, top_tokens = zip(*(self._known[key] for key in keys), strict=True)
        columns = {
            "key": pa.array(keys, pa.string()),
            "scores": pa.array(scores, pa.list_(pa.float64())),
            "mass": pa.array(masses, pa.float64()),
            "bound": pa.array(bounds, pa.float64()),
            "top_token": pa.array(top_tokens, pa.string()),
        }
        with atomic_path(self.directory / f"chunk-{uuid.uuid4().hex}.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")


class StoredScores(AnswerCache[Score, Scored, Known]):
    """Scores of paid engines: each goes to the response store at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def look_up(self, keys: Sequence[str]) -> dict[str, Known]:
        found = self._store.get(keys)
        broken = [key for key, reply in found.items() if not is_usable_score(reply)]
        if broken:
            log.warning("%d stored scores of an earlier version are no numbers of a model: asked again", len(broken))
            self._store.delete(broken)
            found = {key: reply for key, reply in found.items() if key not in set(broken)}
        more = ("bound", "top_token")  # replies of earlier versions lack them
        return {key: Known(r["scores"], r["mass"], *(r.get(name) for name in more)) for key, r in found.items()}

    def add(self, key: str, engine: Engine, request: Score, reply: Scored) -> None:
        self._store.put([(key, request_record(engine.info, request), reply_fields(reply))])

    def flush(self) -> None:
        """Nothing to do: every score is in the store already."""

    def compact(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class FirstTokenScores(Estimator[Score, Scored, Known]):
    """Scores of the option letters at the first answer position, for every order of explanations and options."""

    settings: PromptSettings

    answer_name = "score"

    def schema(self) -> pa.Schema:
        return schemas.scores(self.settings.labels)

    def requests(
        self, items: pd.DataFrame, explanations: pd.DataFrame | None, drops: bool = False
    ) -> Iterator[list[ItemRequest[Score]]]:
        letters = self.settings.labels.letters
        for uid, prompts in item_prompts(items, explanations, self.settings, drops=drops):
            yield [ItemRequest(uid, prompt, Score(prompt.messages, letters)) for prompt in prompts]

    def n_requests(self, items: pd.DataFrame, explanations: pd.DataFrame | None) -> int:
        return n_prompts(items, explanations, self.settings)

    def ask(self, engine: Engine, requests: Sequence[Score]) -> Iterator[tuple[int, Scored | Unanswered]]:
        return engine.score(requests)

    def read(self, reply: Scored) -> Known | Unanswered:
        if not _is_finite(reply.scores):  # such as float16 logits that overflow
            return Unanswered(f"its scores are no finite numbers: {list(reply.scores)}")
        return known_score(reply)

    def values(self, prompt: ScorePrompt, answer: Known) -> tuple[float | str | None, ...]:
        by_label = dict(zip(prompt.option_order, answer.scores, strict=True))
        scores = (by_label[label] for label in self.settings.labels.keys)
        return (*scores, answer.bound, answer.mass, answer.top_token)

    def check(self, engine: Engine, answers: Sequence[Known], requests: Sequence[Score] = ()) -> None:
        check_answers_at_once(engine, answers, requests)


def score_items(
    engine: Engine,
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    settings: PromptSettings,
    cache: AnswerCache[Score, Scored, Known],
    tally: Tally,
    what: str = "scoring",
    unanswered: UnansweredPrompts | None = None,
) -> pd.DataFrame:
    """Score every prompt of every item (schema `scores`), as `mjd.estimators.base.ask_items` does.

    A scorer that turns out to reason before it answers is refused after its first scores. `score_*` is in label order,
    whatever the option order was.

    Raises:
        ModelError: prompts got no usable reply, and the policy is not to drop them; or the scorer reasons first.
    """
    unanswered = UnansweredPrompts() if unanswered is None else unanswered
    return ask_items(engine, FirstTokenScores(settings), items, explanations, cache, tally, what, unanswered)


def check_answers_at_once(engine: Engine, scored: Sequence[Known], requests: Sequence[Score] = ()) -> None:
    """Refuse a scorer whose first tokens begin reasoning: its scores are of letters that it never writes there.

    Args:
        engine: the scorer.
        scored: the first scores of a job.
        requests: theirs, if the engine is at no other work: it may be asked to write the beginning of an answer.

    Raises:
        ModelError: it reasons before it answers.
    """

    def beginning(i: int) -> str:
        try:
            answers = list(engine.generate([Generate(requests[i].messages, TOKENS_READ_ON)]))
        except ModelError:  # the context ends there
            return ""
        return next((answer.text for _, answer in answers if isinstance(answer, Generated)), "")

    found = reasoning.reasons_first(((one.top_token, one.mass) for one in scored), beginning if requests else None)
    if found:
        raise ModelError(
            f"{engine.info.model} reasons before it answers: its answers begin with {found!r}, and the letters have "
            f"next to no probability ({len(scored)} prompts).",
            "Turn reasoning off (llms.*.chat_template_kwargs, such as enable_thinking: false), or choose a scorer that "
            "answers at once.",
        )


def _is_finite(scores: Sequence[float | None]) -> bool:
    return all(score is None or math.isfinite(score) for score in scores)
