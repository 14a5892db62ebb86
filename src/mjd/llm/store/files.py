"""Replies of local engines: Parquet files of one job, in a directory of its own.

Several processes may work in one directory, each with an object of its own: a file is written whole or not at all, and
`compact` removes only files whose content it has.
"""

from __future__ import annotations

import math
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic

import pyarrow as pa
import pyarrow.parquet as pq

from mjd.errors import DataError
from mjd.io import atomic_path, read_table
from mjd.llm.base import EngineInfo, Generated, Request, Scored, Usage
from mjd.llm.cache import ReplyCache, ReplyT
from mjd.llm.specs import ScoreKind
from mjd.llm.store.replies import replies_of_earlier_version

# Fresh replies are written out at least this often; a kill loses no more than this and the pass in progress.
SECONDS_PER_FILE = 10.0
_PATTERN = "chunk-*.parquet"


class ReplyFiles(ReplyCache[ReplyT], Generic[ReplyT]):
    """Replies of one job, all held in memory; fresh ones are on disk after at most `SECONDS_PER_FILE`."""

    schema: pa.Schema

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, ReplyT] = {}
        self._fresh: list[str] = []
        self._own: list[Path] = []
        self._written = time.monotonic()
        for path, table in _tables(self.directory):
            self._own.append(path)
            names = [name for name in self.schema.names if name in table.column_names]
            for row in table.select(names).to_pylist():
                self._known[row["key"]] = self.reply(row)

    @abstractmethod
    def reply(self, row: dict[str, Any]) -> ReplyT:
        """The reply of a row; files of earlier versions lack columns."""

    @abstractmethod
    def row(self, reply: ReplyT) -> dict[str, Any]:
        """The row of a reply, without its key."""

    def is_usable(self, reply: ReplyT) -> bool:
        """False for a reply of an earlier version that has to be asked for again."""
        return True

    def look_up(self, keys: Sequence[str]) -> dict[str, ReplyT]:
        found = {key: self._known[key] for key in keys if key in self._known}
        return {key: reply for key, reply in found.items() if self.is_usable(reply)}

    def add(self, key: str, info: EngineInfo, request: Request, reply: ReplyT) -> None:
        self._known[key] = reply
        self._fresh.append(key)
        if time.monotonic() - self._written > SECONDS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write fresh replies as one further file."""
        if self._fresh:
            self._own.append(self._write(self._fresh))
        self._fresh, self._written = [], time.monotonic()

    def compact(self) -> None:
        """Merge the files that this object has read or written into one; files of other processes stay."""
        self.flush()
        if len(self._own) > 1:
            merged = self._write(list(self._known))
            for path in self._own:
                path.unlink(missing_ok=True)  # another process may have merged it as well
            self._own = [merged]

    def _write(self, keys: Iterable[str]) -> Path:
        rows = [{"key": key, **self.row(self._known[key])} for key in keys]
        path = self.directory / f"chunk-{uuid.uuid4().hex}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, self.schema), temporary, compression="zstd")
        return path


class LocalScores(ReplyFiles[Scored]):
    """Scores of a local engine."""

    schema = pa.schema(
        [
            ("key", pa.string()),
            ("scores", pa.list_(pa.float64())),
            ("mass", pa.float64()),
            ("bound", pa.float64()),
            ("top_token", pa.string()),
        ]
    )

    def __init__(self, directory: str | Path, kind: ScoreKind) -> None:
        self.kind = kind
        super().__init__(directory)

    def reply(self, row: dict[str, Any]) -> Scored:
        return Scored(tuple(row["scores"]), self.kind, row["mass"], Usage(0), row.get("bound"), row.get("top_token"))

    def row(self, reply: Scored) -> dict[str, Any]:
        return {name: getattr(reply, name) for name in ("scores", "mass", "bound", "top_token")}

    def is_usable(self, reply: Scored) -> bool:
        return all(score is None or math.isfinite(score) for score in reply.scores)


class LocalAnswers(ReplyFiles[Generated]):
    """Generated answers of a local engine.

    Args:
        directory: of the job's files.
        earlier: the response store, in which earlier versions kept these answers; it is only read.
    """

    schema = pa.schema(
        [
            ("key", pa.string()),
            ("text", pa.string()),
            ("finish_reason", pa.string()),
            ("prompt_tokens", pa.int64()),
            ("completion_tokens", pa.int64()),
        ]
    )

    def __init__(self, directory: str | Path, earlier: str | Path | None = None) -> None:
        super().__init__(directory)
        self._earlier = earlier

    def look_up(self, keys: Sequence[str]) -> dict[str, Generated]:
        found = super().look_up(keys)
        missing = [key for key in keys if key not in found]
        old = replies_of_earlier_version(self._earlier, missing) if self._earlier and missing else {}
        return found | {key: reply for key, reply in old.items() if isinstance(reply, Generated)}

    def reply(self, row: dict[str, Any]) -> Generated:
        return Generated(row["text"], row["finish_reason"], Usage(row["prompt_tokens"], row["completion_tokens"]))

    def row(self, reply: Generated) -> dict[str, Any]:
        usage = {name: getattr(reply.usage, name) for name in ("prompt_tokens", "completion_tokens")}
        return {"text": reply.text, "finish_reason": reply.finish_reason, **usage}


def n_replies(directory: str | Path) -> int:
    """How many replies the files of a job hold; 0 without a directory."""
    keys: set[str] = set()
    for _, table in _tables(Path(directory), columns=["key"]):
        keys.update(table["key"].to_pylist())
    return len(keys)


def _tables(directory: Path, columns: list[str] | None = None) -> list[tuple[Path, pa.Table]]:
    """Every file of a directory; read anew if another process merges them meanwhile.

    Raises:
        DataError: a file is damaged.
    """
    while True:
        paths = sorted(directory.glob(_PATTERN))
        try:
            return [(path, read_table(path, columns)) for path in paths]
        except DataError:
            if all(path.exists() for path in paths):
                raise
