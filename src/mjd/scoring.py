"""First-token scores of every prompt of every item, kept on disk as they come: a kill loses next to nothing."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mjd.config import Prompts
from mjd.errors import DataError
from mjd.io import atomic_path, read_table
from mjd.labels import LabelSet
from mjd.llm.base import Engine, Score, Scored, request_key
from mjd.llm.store import Store, request_record
from mjd.llm.tally import Tally
from mjd.logs import Progress
from mjd.orders import n_explanation_orders
from mjd.prompts import Explanation, ScorePrompt, score_prompts

# Fresh scores are written out at least this often; a kill loses no more than this and the pass in progress.
SECONDS_PER_CHUNK = 10.0


@dataclass(frozen=True)
class PromptSettings:
    """Everything that decides which prompts an item gets."""

    prompts: Prompts
    labels: LabelSet
    text_fields: tuple[str, ...]
    mode: Literal["implicit", "explicit", "plain"]
    orders: Literal["all", "cyclic"] | int
    seed: int


class Known(NamedTuple):
    """A finished score: as in `mjd.llm.base.Scored`."""

    scores: list[float | None]
    mass: float | None
    bound: float | None


class ScoreCache(Protocol):
    """Finished scores by request key."""

    def look_up(self, keys: Sequence[str]) -> dict[str, Known]:
        """The scores of those keys that have one."""

    def add(self, key: str, engine: Engine, request: Score, scored: Scored) -> None:
        """Keep a fresh score."""

    def flush(self) -> None:
        """Put everything on disk; `compact` may follow."""

    def compact(self) -> None:
        """Tidy up at the end of a job."""


class ScoreChunks:
    """Scores of local engines: Parquet files in one directory, each written atomically."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Known] = {}
        self._fresh: list[str] = []
        self._written = time.monotonic()
        for path in self._paths():
            table = read_table(path).to_pydict()
            bounds = table.get("bound", [None] * len(table["key"]))
            for key, *known in zip(table["key"], table["scores"], table["mass"], bounds, strict=True):
                self._known[key] = Known(*known)

    def look_up(self, keys: Sequence[str]) -> dict[str, Known]:
        return {key: self._known[key] for key in keys if key in self._known}

    def add(self, key: str, engine: Engine, request: Score, scored: Scored) -> None:
        """Keep a fresh score; it is on disk after at most `SECONDS_PER_CHUNK` of further additions."""
        self._known[key] = Known(list(scored.scores), scored.mass, scored.bound)
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
        scores, masses, bounds = zip(*(self._known[key] for key in keys), strict=True)
        columns = {
            "key": pa.array(keys, pa.string()),
            "scores": pa.array(scores, pa.list_(pa.float64())),
            "mass": pa.array(masses, pa.float64()),
            "bound": pa.array(bounds, pa.float64()),
        }
        with atomic_path(self.directory / f"chunk-{uuid.uuid4().hex}.parquet") as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")


class StoredScores:
    """Scores of paid engines: each goes to the response store at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def look_up(self, keys: Sequence[str]) -> dict[str, Known]:
        found = self._store.get(keys)
        return {key: Known(reply["scores"], reply["mass"], reply.get("bound")) for key, reply in found.items()}

    def add(self, key: str, engine: Engine, request: Score, scored: Scored) -> None:
        self._store.put([(key, request_record(engine.info, request), asdict(scored))])

    def flush(self) -> None:
        """Nothing to do: every score is in the store already."""

    def compact(self) -> None:
        """Nothing to do."""


def item_prompts(
    items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings, where: str = "explanations"
) -> Iterator[tuple[str, list[ScorePrompt]]]:
    """The prompts of each item, items in order.

    Args:
        items: uid and text fields.
        explanations: uid, position, label, text; None when no explanations are shown.

    Raises:
        DataError: an item has no explanation although the source shows some.
    """
    shown = explanations_by_item(explanations)
    if explanations is not None:
        for uid in items["uid"]:
            if uid not in shown:
                raise DataError(
                    f"{where}: item {uid} has no explanation, but this source shows them.",
                    "Add one, or remove the item or the source from the configuration.",
                )
    for item in items.to_dict("records"):
        uid = str(item["uid"])
        texts = {field: str(item[field]) for field in settings.text_fields}
        yield (
            uid,
            score_prompts(
                settings.prompts,
                texts,
                shown.get(uid, []),
                settings.labels,
                settings.mode,
                settings.orders,
                settings.seed,
            ),
        )


def explanations_by_item(explanations: pd.DataFrame | None) -> Mapping[str, list[Explanation]]:
    """Explanations of each item in their listed order; empty for None."""
    if explanations is None:
        return {}
    ordered = explanations.sort_values(["uid", "position"], kind="stable")
    found: dict[str, list[Explanation]] = {}
    for uid, label, text in zip(ordered["uid"], ordered["label"], ordered["text"], strict=True):
        found.setdefault(uid, []).append(Explanation(label, text))
    return found


def score_items(
    engine: Engine,
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    settings: PromptSettings,
    cache: ScoreCache,
    tally: Tally,
    what: str = "scoring",
) -> pd.DataFrame:
    """Score every prompt of every item: uid, explanation_order, option_order, score_*, score_bound, label_mass.

    Prompts already in `cache` are not scored again. `score_*` is in label order, whatever the option order was.
    """
    prompts = item_prompts(items, explanations, settings)
    rows: list[tuple[Any, ...]] = []
    with Progress(what, n_prompts(items, explanations, settings), "prompts") as progress:
        progress.note = engine.note
        try:
            for group in _groups(prompts, engine.prompts_per_call):
                rows += _score_group(engine, group, settings, cache, tally, progress)
        finally:
            cache.flush()
    cache.compact()
    columns = ["uid", "explanation_order", "option_order", *settings.labels.columns("score"), "score_bound"]
    return pd.DataFrame(rows, columns=[*columns, "label_mass"])


def n_prompts(items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings) -> int:
    """How many prompts `item_prompts` gives, without making them."""
    shown = explanations_by_item(explanations if settings.mode != "plain" else None)
    numbers = (n_explanation_orders(len(shown.get(str(uid), ())), settings.orders) for uid in items["uid"])
    return sum(numbers) * math.factorial(len(settings.labels))


def _groups(
    prompts: Iterable[tuple[str, list[ScorePrompt]]], size: int | None
) -> Iterator[list[tuple[str, ScorePrompt]]]:
    """Whole items together, at most `size` prompts a group where items allow it; None is one group."""
    group: list[tuple[str, ScorePrompt]] = []
    for uid, of_item in prompts:
        if group and size and len(group) + len(of_item) > size:
            yield group
            group = []
        group += [(uid, prompt) for prompt in of_item]
    if group:
        yield group


def _score_group(
    engine: Engine,
    group: list[tuple[str, ScorePrompt]],
    settings: PromptSettings,
    cache: ScoreCache,
    tally: Tally,
    progress: Progress,
) -> Iterator[tuple[Any, ...]]:
    requests = [Score(prompt.messages, settings.labels.letters) for _, prompt in group]
    keys = [request_key(engine.info, request) for request in requests]
    known = cache.look_up(keys)
    # Equal explanations in another order make equal prompts: each is asked for once.
    missing = list({key: i for i, key in enumerate(keys) if key not in known}.values())
    progress.cached(len(group) - len(missing))
    tally.cached += len(group) - len(missing)
    if missing:
        tally.start()
        for position, scored in engine.score([requests[i] for i in missing]):
            i = missing[position]
            known[keys[i]] = Known(list(scored.scores), scored.mass, scored.bound)
            cache.add(keys[i], engine, requests[i], scored)
            tally.add(scored.usage)
            progress.done()
    for key, (uid, prompt) in zip(keys, group, strict=True):
        by_label = dict(zip(prompt.option_order, known[key].scores, strict=True))
        yield (
            uid,
            ",".join(map(str, prompt.explanation_order)),
            ",".join(prompt.option_order),
            *(by_label[label] for label in settings.labels.keys),
            known[key].bound,
            known[key].mass,
        )
