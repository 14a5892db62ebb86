"""The response store: what an LLM answered once is never asked again.

One append-only SQLite file (WAL mode), keyed by the SHA-256 of the whole request (`mjd.llm.base.request_key`), outside
the declared outputs of any rule. Errors are never stored.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mjd.errors import DataError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL, created REAL NOT NULL
) WITHOUT ROWID
"""
_LOOK_UP = 500


class Store:
    """Replies on disk; safe for concurrent writers. Use as a context manager.

    Raises:
        DataError: the file exists but is not a readable store; it is left as it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Stored replies of those keys that have one."""
        wanted = list(keys)
        found: dict[str, Any] = {}
        try:
            for start in range(0, len(wanted), _LOOK_UP):
                part = wanted[start : start + _LOOK_UP]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part)
                found.update((key, json.loads(reply)) for key, reply in rows)
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error
        return found

    def put(self, replies: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Append (key, request, reply) triples in one transaction; a key already stored keeps its reply."""
        now = time.time()
        rows = [(key, json.dumps(request), json.dumps(reply), now) for key, request, reply in replies]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM replies").fetchone()[0])

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"The response store {self.path} cannot be used ({error}).",
            "Nothing was changed in it: restore it from a backup, or move it away to start a new one.",
        )
