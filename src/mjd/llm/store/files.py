"""Replies of local engines: Parquet files of one job, in a directory of its own.

Several processes may work in one directory, each with an object of its own: a file is written whole or not at all, and
`compact` removes only files whose content it has.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from mjd.runtime.locks import unwritable

log = logging.getLogger(__name__)

# Fresh replies are on disk after this time; a kill loses no more than this and the pass in progress.
SECONDS_PER_FILE = 10.0
_PATTERN = "chunk-*.parquet"


class ReplyFiles(ReplyCache[ReplyT], Generic[ReplyT]):
    """Replies of one job, all held in memory; fresh ones are on disk after at most `SECONDS_PER_FILE`.

    Raises:
        DataError: a file is damaged or holds something else, or the directory cannot be written.
    """

    schema: pa.Schema
    # Columns that files of the first version lack.
    later_columns: tuple[str, ...] = ()

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        _check_writable(self.directory)
        self._known: dict[str, ReplyT] = {}
        self._fresh: list[str] = []
        self._own: list[Path] = []
        self._written = time.monotonic()
        # Passes of an engine may be minutes apart: what the last one gave is written in the meantime.
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()
        for path, table in _tables(self.directory):
            self._own.append(path)
            columns = self._columns(path, table)
            self._known.update(zip(columns["key"], self.replies(columns), strict=True))

    @abstractmethod
    def replies(self, columns: Mapping[str, list[Any]]) -> Iterator[ReplyT]:
        """The replies in the columns of a file."""

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
        with self._lock:
            self._known[key] = reply
            self._fresh.append(key)
            if time.monotonic() - self._written > SECONDS_PER_FILE:
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(SECONDS_PER_FILE, self._flush_meanwhile)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write fresh replies as one further file."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            if self._fresh:
                self._own.append(self._write(self._fresh))
            self._fresh, self._written = [], time.monotonic()

    def _flush_meanwhile(self) -> None:
        try:
            self.flush()
        except DataError as error:  # the job's next reply, or its end, raises it
            log.warning("%s", error)

    def compact(self) -> None:
        """Merge the files that this object has read or written into one; files of other processes stay."""
        self.flush()
        if len(self._own) > 1:
            merged = self._write(list(self._known))
            for path in self._own:
                path.unlink(missing_ok=True)  # another process may have merged it as well
            self._own = [merged]

    def _columns(self, path: Path, table: pa.Table) -> dict[str, list[Any]]:
        """The values of a file's columns; later ones that it lacks are null."""
        lacking = set(self.schema.names) - set(table.column_names)
        if wrong := sorted(lacking - set(self.later_columns)):
            raise DataError(
                f"{path} lacks column {wrong[0]!r}: it holds no replies of this kind.", "Move it away, then run again."
            )
        return {name: [None] * len(table) if name in lacking else table[name].to_pylist() for name in self.schema.names}

    def _write(self, keys: Iterable[str]) -> Path:
        rows = [{"key": key, **self.row(self._known[key])} for key in keys]
        path = self.directory / f"chunk-{uuid.uuid4().hex}.parquet"
        try:
            with atomic_path(path) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, self.schema), temporary, compression="zstd")
        except OSError as error:
            raise unwritable(path, error) from error
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
    later_columns = ("bound", "top_token")

    def __init__(self, directory: str | Path, kind: ScoreKind) -> None:
        self.kind = kind
        super().__init__(directory)

    def replies(self, columns: Mapping[str, list[Any]]) -> Iterator[Scored]:
        usage = Usage(0)
        names = ("scores", "mass", "bound", "top_token")
        for scores, mass, bound, top_token in zip(*(columns[name] for name in names), strict=True):
            yield Scored(tuple(scores), self.kind, mass, usage, bound, top_token)

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

    def replies(self, columns: Mapping[str, list[Any]]) -> Iterator[Generated]:
        names = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
        for text, finish_reason, *tokens in zip(*(columns[name] for name in names), strict=True):
            yield Generated(text, finish_reason, Usage(*tokens))

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
            if paths == sorted(directory.glob(_PATTERN)):
                raise


def _check_writable(directory: Path) -> None:
    """Make a directory; raise `DataError` where its files could not be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(directory, error) from error
