"""First-token scores of every prompt of every item, in chunks on disk that survive a kill."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mjd.config import Prompts
from mjd.errors import DataError
from mjd.io import atomic_path
from mjd.labels import LabelSet
from mjd.llm.base import Engine, Score, Scored, request_key
from mjd.logs import Progress
from mjd.prompts import Explanation, ScorePrompt, score_prompts

# Prompts handed to the engine at a time: enough to sort and pack well, few enough to hold in memory.
PROMPTS_PER_CALL = 2048
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


class ScoreChunks:
    """Scores on disk by request key: Parquet files in one directory, each written atomically."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, tuple[list[float], float]] = {}
        self._fresh: list[tuple[str, list[float], float]] = []
        self._written = time.monotonic()
        for path in self._paths():
            table = pq.read_table(path).to_pydict()
            for key, scores, mass in zip(table["key"], table["scores"], table["mass"], strict=True):
                self._known[key] = (scores, mass)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> tuple[list[float], float]:
        return self._known[key]

    def add(self, key: str, scored: Scored) -> None:
        """Keep a fresh score; it is on disk after at most `SECONDS_PER_CHUNK` of further additions."""
        self._known[key] = (list(scored.scores), scored.mass)
        self._fresh.append((key, list(scored.scores), scored.mass))
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
            self._write([(key, scores, mass) for key, (scores, mass) in self._known.items()])
            for path in old:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("chunk-*.parquet"))

    def _write(self, rows: list[tuple[str, list[float], float]]) -> None:
        keys, scores, masses = zip(*rows, strict=True)
        table = pa.table({"key": keys, "scores": scores, "mass": masses})
        with atomic_path(self.directory / f"chunk-{uuid.uuid4().hex}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")


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
    shown = _by_item(explanations)
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


def _by_item(explanations: pd.DataFrame | None) -> Mapping[str, list[Explanation]]:
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
    chunks: ScoreChunks,
    what: str = "scoring",
) -> pd.DataFrame:
    """Score every prompt of every item: uid, explanation_order, option_order, score_*, label_mass.

    Prompts already in `chunks` are not scored again. `score_*` is in label order, whatever the option order was.
    """
    prompts = list(item_prompts(items, explanations, settings))
    with Progress(what, sum(len(of_item) for _, of_item in prompts), "prompts") as progress:
        rows = [row for group in _groups(prompts) for row in _score_group(engine, group, settings, chunks, progress)]
        chunks.flush()
    chunks.compact()
    columns = ["uid", "explanation_order", "option_order", *settings.labels.columns("score"), "label_mass"]
    return pd.DataFrame(rows, columns=columns)


def _groups(prompts: list[tuple[str, list[ScorePrompt]]]) -> Iterator[list[tuple[str, ScorePrompt]]]:
    """Whole items together, at most `PROMPTS_PER_CALL` prompts a group where items allow it."""
    group: list[tuple[str, ScorePrompt]] = []
    for uid, of_item in prompts:
        if group and len(group) + len(of_item) > PROMPTS_PER_CALL:
            yield group
            group = []
        group += [(uid, prompt) for prompt in of_item]
    if group:
        yield group


def _score_group(
    engine: Engine,
    group: list[tuple[str, ScorePrompt]],
    settings: PromptSettings,
    chunks: ScoreChunks,
    progress: Progress,
) -> Iterator[tuple[Any, ...]]:
    requests = [Score(prompt.messages, settings.labels.letters) for _, prompt in group]
    keys = [request_key(engine.info, request) for request in requests]
    missing = [i for i, key in enumerate(keys) if key not in chunks]
    progress.cached(len(group) - len(missing))
    for i, scored in engine.score([requests[i] for i in missing]):
        chunks.add(keys[missing[i]], scored)
        progress.done()
    for key, (uid, prompt) in zip(keys, group, strict=True):
        scores, mass = chunks[key]
        by_label = dict(zip(prompt.option_order, scores, strict=True))
        yield (
            uid,
            ",".join(map(str, prompt.explanation_order)),
            ",".join(prompt.option_order),
            *(by_label[label] for label in settings.labels.keys),
            mass,
        )
