"""First-token scores of every prompt of every item, kept on disk as they come: a kill loses next to nothing."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mjd.config.prompts import Prompts
from mjd.errors import DataError, ModelError
from mjd.io import atomic_path, read_table
from mjd.labels import LabelSet
from mjd.llm import reasoning
from mjd.llm.base import Engine, Generate, Generated, Score, Scored, Unanswered, reply_fields, request_key
from mjd.llm.logprobs import is_usable_score
from mjd.llm.store.replies import Store, request_record
from mjd.llm.unanswered import UnansweredPrompts
from mjd.llm.usage import Tally
from mjd.logs import Progress
from mjd.orders import n_explanation_orders
from mjd.prompts.templates import Explanation, ScorePrompt, first_score_prompt, score_prompts

log = logging.getLogger(__name__)

# Fresh scores are written out at least this often; a kill loses no more than this and the pass in progress.
SECONDS_PER_CHUNK = 10.0
# Scores after which a scorer that reasons before it answers is refused.
FIRST_SCORES = 4
# Tokens of an answer that tell whether it begins reasoning, where the first token leaves that open.
TOKENS_READ_ON = 8


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
    top_token: str | None = None


def known_score(scored: Scored) -> Known:
    """What is kept of an engine's response."""
    return Known(list(scored.scores), scored.mass, scored.bound, scored.top_token)


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
            nothing = [None] * len(table["key"])  # chunks of earlier versions lack columns
            more = (table.get(name, nothing) for name in ("bound", "top_token"))
            for key, *known in zip(table["key"], table["scores"], table["mass"], *more, strict=True):
                self._known[key] = Known(*known)

    def look_up(self, keys: Sequence[str]) -> dict[str, Known]:
        return {key: self._known[key] for key in keys if key in self._known and _is_finite(self._known[key].scores)}

    def add(self, key: str, engine: Engine, request: Score, scored: Scored) -> None:
        """Keep a fresh score; it is on disk after at most `SECONDS_PER_CHUNK` of further additions."""
        self._known[key] = known_score(scored)
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


class StoredScores:
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

    def add(self, key: str, engine: Engine, request: Score, scored: Scored) -> None:
        self._store.put([(key, request_record(engine.info, request), reply_fields(scored))])

    def flush(self) -> None:
        """Nothing to do: every score is in the store already."""

    def compact(self) -> None:
        """Nothing to do."""


def item_prompts(
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    settings: PromptSettings,
    where: str = "explanations",
    drops: bool = False,
) -> Iterator[tuple[str, list[ScorePrompt]]]:
    """The prompts of each item, items in order.

    Args:
        items: uid and text fields.
        explanations: uid, position, label, text; None when no explanations are shown.
        drops: leave out items without an explanation that the source would show.

    Raises:
        DataError: an item has no explanation although the source shows some.
    """
    for uid, texts, shown in _texts_of_items(items, explanations, settings, where, drops):
        yield (
            uid,
            score_prompts(
                settings.prompts, texts, shown, settings.labels, settings.mode, settings.orders, settings.seed
            ),
        )


def first_prompts(
    items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings
) -> Iterator[ScorePrompt]:
    """The first prompt of each item, as `item_prompts` gives it; the others (719 more for 6 labels) are not made."""
    for _, texts, shown in _texts_of_items(items, explanations, settings, "explanations", drops=False):
        yield first_score_prompt(settings.prompts, texts, shown, settings.labels, settings.mode)


def _texts_of_items(
    items: pd.DataFrame, explanations: pd.DataFrame | None, settings: PromptSettings, where: str, drops: bool
) -> Iterator[tuple[str, dict[str, str], list[Explanation]]]:
    """Uid, texts and explanations of each item; arguments and errors as for `item_prompts`."""
    shown = explanations_by_item(explanations)
    if explanations is not None and drops:
        items = items[items["uid"].isin(shown)]
    elif explanations is not None:
        for uid in items["uid"]:
            if uid not in shown:
                raise DataError(
                    f"{where}: item {uid} has no explanation, but this source shows them.",
                    "Add one, or remove the item or the source from the configuration.",
                )
    for item in items.to_dict("records"):
        uid = str(item["uid"])
        texts = {field: str(item[field]) for field in settings.text_fields}
        yield uid, texts, shown.get(uid, [])


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
    unanswered: UnansweredPrompts | None = None,
) -> pd.DataFrame:
    """Score every prompt of every item (schema `scores`).

    Prompts already in `cache` are not scored again. All are checked before the first is scored, and a scorer that turns
    out to reason before it answers is refused after its first scores. `score_*` is in label order, whatever the option
    order was.

    Args:
        unanswered: collects prompts that got no usable reply; all others are scored before these end the job
            (`unanswered: stop`) or are left out (`drop`).

    Raises:
        ModelError: prompts got no usable reply, and the policy is not to drop them; or the scorer reasons first.
    """
    unanswered = UnansweredPrompts() if unanswered is None else unanswered

    def prompts() -> Iterator[tuple[str, list[ScorePrompt]]]:
        return item_prompts(items, explanations, settings, drops=unanswered.drops)

    # Made twice, and never all held at once: the corpus may be large.
    letters = settings.labels.letters
    engine.check((Score(prompt.messages, letters), f"item {uid}") for uid, of_item in prompts() for prompt in of_item)
    shown = explanations_by_item(explanations)
    kept = [uid for uid in items["uid"].astype(str) if explanations is None or uid in shown]
    left_out = sorted(set(items["uid"].astype(str)) - set(kept))
    unanswered.leave_out("items_without_explanations", left_out, f"items of {what} have no explanation")
    total = n_prompts(items[items["uid"].astype(str).isin(kept)], explanations, settings)
    rows: list[tuple[Any, ...]] = []
    with Progress(what, total, "prompts") as progress:
        progress.note = engine.note
        try:
            for group in _groups(prompts(), engine.prompts_per_call):
                rows += _score_group(engine, group, settings, cache, tally, progress, unanswered)
        finally:
            cache.flush()
    cache.compact()
    unanswered.settle(what, total)
    missing = sorted(set(kept) - {row[0] for row in rows})
    unanswered.leave_out("items_without_scores", missing, f"items of {what} have no score at all")
    columns = ["uid", "explanation_order", "option_order", *settings.labels.columns("score"), "score_bound"]
    return pd.DataFrame(rows, columns=[*columns, "label_mass", "top_token"])


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


def warn_of_low_mass(scores: pd.DataFrame, threshold: float, what: str) -> None:
    """Log a warning when the letters hold less probability than `threshold` on average, with what holds it."""
    mass = scores["label_mass"].mean()
    if mass < threshold:
        log.warning(
            "%s: the letters hold a probability of %.3g on average (below %g for %.0f %% of the prompts); the most "
            "probable first tokens are %s. Scores that leave out most of what the scorer would answer may say little: "
            "see tables/first_token and analyses.label_mass_warning.",
            what,
            mass,
            threshold,
            100 * (scores["label_mass"] < threshold).mean(),
            top_tokens(scores) or "not known",
        )


def top_tokens(scores: pd.DataFrame, n: int = 5) -> str:
    """The most frequent ones among the most probable first tokens, with their shares: `'The' 62 %, ' A' 11 %`."""
    known = scores["top_token"].dropna() if "top_token" in scores else pd.Series(dtype=str)
    shares = known.value_counts(normalize=True).sort_index().sort_values(ascending=False, kind="stable")
    return ", ".join(f"{token!r} {100 * share:.0f} %" for token, share in shares.head(n).items())


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
    unanswered: UnansweredPrompts,
) -> Iterator[tuple[Any, ...]]:
    """Rows of the scores table; prompts that get no usable reply have none, and are noted in `unanswered`."""
    requests = [Score(prompt.messages, settings.labels.letters) for _, prompt in group]
    keys = [request_key(engine.info, request) for request in requests]
    known = cache.look_up(keys)
    # Equal explanations in another order make equal prompts: each is asked for once.
    missing = list({key: i for i, key in enumerate(keys) if key not in known}.values())
    progress.cached(len(group) - len(missing))
    tally.cached += len(group) - len(missing)
    without: dict[str, Unanswered] = {}
    if missing:
        tally.start()
        try:
            for position, scored in engine.score([requests[i] for i in missing]):
                i = missing[position]
                if isinstance(scored, Scored) and not _is_finite(scored.scores):  # such as float16 logits that overflow
                    scored = Unanswered(f"its scores are no finite numbers: {list(scored.scores)}")
                if isinstance(scored, Unanswered):
                    without[keys[i]] = scored
                    progress.failed()
                    continue
                known[keys[i]] = known_score(scored)
                cache.add(keys[i], engine, requests[i], scored)
                tally.add(scored.usage)
                progress.done()
                if progress.n_done == FIRST_SCORES and not engine.is_paid:  # replies under way cost money
                    check_answers_at_once(engine, [known[key] for key in keys if key in known])
        finally:  # whatever ends the job, its log names them
            for key, (uid, prompt) in zip(keys, group, strict=True):
                if key in without:
                    unanswered.add(_named(uid, prompt), without[key])
    answered = [(known[key], request) for key, request in zip(keys, requests, strict=True) if key in known]
    check_answers_at_once(
        engine, [one for one, _ in answered], [] if engine.is_paid else [request for _, request in answered]
    )
    for key, (uid, prompt) in zip(keys, group, strict=True):
        if key in without:
            continue
        by_label = dict(zip(prompt.option_order, known[key].scores, strict=True))
        yield (
            uid,
            ",".join(map(str, prompt.explanation_order)),
            ",".join(prompt.option_order),
            *(by_label[label] for label in settings.labels.keys),
            known[key].bound,
            known[key].mass,
            known[key].top_token,
        )


def _is_finite(scores: Sequence[float | None]) -> bool:
    return all(score is None or math.isfinite(score) for score in scores)


def _named(uid: str, prompt: ScorePrompt) -> str:
    """A prompt in a message: its item and orders."""
    shown = f"explanations {','.join(map(str, prompt.explanation_order))}, " if prompt.explanation_order else ""
    return f"item {uid} ({shown}options {','.join(prompt.option_order)})"
