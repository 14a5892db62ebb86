"""Looking after a response store: what it holds, whether it is whole, a copy as a table, and removal."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mjd.errors import ConfigError, DataError
from mjd.io import atomic_path
from mjd.llm.store.replies import Store, record_key, record_kind

_ROWS_AT_A_TIME = 10_000
# Replies that `prune --dry-run` shows.
_SHOWN = 100


@dataclass(frozen=True)
class Filter:
    """Which replies: text in the model's identity, engine, stored before a time (seconds since 1970).

    For single ones: the beginning of their key, text in a message of their request, `Score` or `Generate`.
    """

    model: str | None = None
    engine: str | None = None
    before: float | None = None
    key: str | None = None
    text: str | None = None
    kind: str | None = None

    def fits(self, key: str, record: dict[str, Any], created: float) -> bool:
        """True when a stored request meets every condition given."""
        info = record["engine"]
        return (
            (self.model is None or self.model in info["model"])
            and (self.engine is None or self.engine == info["engine"])
            and (self.before is None or created < self.before)
            and (self.key is None or key.startswith(self.key.lower()))
            and (self.kind is None or self.kind == record_kind(record))
            and (self.text is None or any(self.text in message["content"] for message in record.get("messages", [])))
        )


def stats(store: Store) -> str:
    """Replies by engine, version, model and kind; spending by model."""
    counts: Counter[tuple[str, ...]] = Counter()
    for _, record, _, _ in store.rows():
        info = record["engine"]
        counts[info["engine"], info["engine_version"], info["model"], record_kind(record)] += 1
    lines = [f"{store.path}: {sum(counts.values())} replies, {store.path.stat().st_size / 1e6:.1f} MB"]
    for (engine, version, model, kind), n in sorted(counts.items()):
        what = "scores" if kind == "Score" else "answers"
        lines.append(f"{n:>9} {what:<7} {engine} {version}  {model}")
    spending = "SELECT model, requests, prompt_tokens, completion_tokens, usd, estimated FROM spending ORDER BY model"
    for model, requests, prompt, completion, usd, estimated in store.db.execute(spending):
        said = f" ({estimated} estimated: without usage)" if estimated else ""
        lines.append(f"{usd:>9.4f} USD for {requests} requests{said}, {prompt} tokens in, {completion} out  {model}")
    return "\n".join(lines)


def verify(store: Store) -> str:
    """Check the file's pages, and that every row's key is the hash of its request.

    Raises:
        DataError: naming the first damaged page or row.
    """
    found = store.db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise store.unusable(sqlite3.DatabaseError(found))
    n = 0
    for key, record, reply, _ in store.rows():
        if record_key(record) != key or not isinstance(reply, dict):
            raise DataError(
                f"{store.path}: the reply with key {key} belongs to another request than the one stored with it.",
                "The file was changed by something else than mjd: restore it from a backup.",
            )
        n += 1
    return f"{store.path}: {n} replies, all whole"


def export(store: Store, path: Path) -> str:
    """Write every reply to a Parquet file: key, engine, engine_version, model, kind, request, reply, created."""
    names = ["key", "engine", "engine_version", "model", "kind", "request", "reply"]
    schema = pa.schema([*((name, pa.string()) for name in names), ("created", pa.timestamp("ms", tz="UTC"))])
    n, part = 0, []
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for key, record, reply, created in store.rows():
            info = record["engine"]
            request = json.dumps({name: value for name, value in record.items() if name != "engine"})
            about = [info["engine"], info["engine_version"], info["model"], record_kind(record)]
            part.append([key, *about, request, json.dumps(reply), int(created * 1000)])
            if len(part) == _ROWS_AT_A_TIME:
                writer.write_table(_table(part, schema))
                n, part = n + len(part), []
        writer.write_table(_table(part, schema))
    return f"{path}: {n + len(part)} replies"


def _table(rows: Iterable[list[Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def prune(store: Store, which: Filter, dry_run: bool) -> str:
    """Remove the replies that `which` fits; spending stays on record.

    Raises:
        ConfigError: no condition is given, or an empty text, which every reply would fit.
    """
    empty = [name for name, value in vars(which).items() if value == ""]
    if empty:
        raise ConfigError(
            f"prune got an empty --{empty[0]}, which every reply fits; nothing was removed.",
            "Give it a text: a variable of the shell may be unset.",
        )
    if which == Filter():
        raise ConfigError(
            "prune needs a condition.",
            "Give --model, --engine, --before, --key, --text or --kind, or delete the file itself.",
        )
    keys: list[str] = []
    shown: list[str] = []
    for key, record, reply, created in store.rows():
        if which.fits(key, record, created):
            keys.append(key)
            if dry_run and len(shown) < _SHOWN:
                shown.append(_line(key, record, reply))
    if not dry_run:
        store.delete(keys)
        store.db.execute("VACUUM")
    shown += [f"... and {len(keys) - len(shown)} more"] * (dry_run and len(keys) > len(shown))
    verb = "would be removed" if dry_run else "removed"
    return "\n".join([*shown, f"{store.path}: {len(keys)} replies {verb}"])


def _line(key: str, record: dict[str, Any], reply: dict[str, Any]) -> str:
    """One reply on a line: the beginning of its key, what it is of, the end of its prompt, what it says."""
    what = "score" if record_kind(record) == "Score" else "answer"
    prompt = " ".join(str(record["messages"][-1]["content"]).split())[-60:] if record.get("messages") else ""
    said = str(reply.get("scores", reply.get("text")))[:60]
    return f"{key[:12]} {what:<6} {record['engine']['model']}  ...{prompt!r} -> {said!r}"
