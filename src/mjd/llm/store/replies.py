"""The response store: what an LLM answered once is never asked again.

One append-only SQLite file (WAL mode), keyed by the SHA-256 of the whole request (`mjd.llm.base.request_key`), outside
the declared outputs of any rule. It keeps every generated answer, and every score that was paid for. Errors are never
stored. Beside the replies it keeps what was spent (`mjd.llm.store.ledger`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from mjd.errors import DataError
from mjd.llm.base import KIND_GENERATE, KIND_SCORE, EngineInfo, Generate, Score, request_fields, stored_key
from mjd.runtime.locks import LOCAL_DISK, check_locks, in_turn, unwritable

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    model TEXT PRIMARY KEY, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, usd REAL NOT NULL, estimated INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reserved (
    id TEXT PRIMARY KEY, usd REAL NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, server_id TEXT, keys TEXT NOT NULL, created REAL NOT NULL,
    requests TEXT
) WITHOUT ROWID;
"""
# Columns that stores of earlier versions lack.
_LATER_COLUMNS = {
    "spending": ("estimated", "INTEGER NOT NULL DEFAULT 0"),
    "batches": ("requests", "TEXT"),
}
# A reply to keep: key, request (`request_record`), response.
StoredReply = tuple[str, Mapping[str, Any], Mapping[str, Any]]
_LOOK_UP = 500
# What file systems without hard links answer.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
# What to do about errors of a store that is not damaged.
_NO_LOCAL_DISK = f"Its file system lacks the locks or the shared memory that SQLite needs. {LOCAL_DISK}"
_CURES = {
    sqlite3.SQLITE_PROTOCOL: _NO_LOCAL_DISK,
    sqlite3.SQLITE_NOLFS: _NO_LOCAL_DISK,
    sqlite3.SQLITE_CANTOPEN: "Make the file and its directory readable and writable for you, then run again.",
    sqlite3.SQLITE_PERM: "Make the file and its directory readable and writable for you, then run again.",
    sqlite3.SQLITE_NOMEM: "Free memory, then run again.",
    sqlite3.SQLITE_LOCKED: "Another process has it locked: let that end, then run again.",
    sqlite3.SQLITE_BUSY: "Another process has it locked: let that end (a backup, a database shell), then run again.",
    sqlite3.SQLITE_FULL: "Free space on its disk, then run again.",
    sqlite3.SQLITE_IOERR: "Check its disk, or put results_dir on a local one, then run again.",
    sqlite3.SQLITE_READONLY: "Make it writable, then run again.",
}
# Codes in full that mean the file system, and those (without their details) that mean damage.
_NO_SHARED_MEMORY = frozenset(
    {
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_UNLOCK,
        sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
        sqlite3.SQLITE_IOERR_SHMLOCK,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)
_DAMAGE = frozenset({0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_MAGIC = b"SQLite format 3\x00"


class Store:
    """Replies on disk; safe for concurrent writers on one machine. Use as a context manager.

    A committed reply survives a kill. The file must not lie on a network file system that several machines write to:
    SQLite's write-ahead log needs shared memory.

    Args:
        path: the file; made when first used, unless `create` is False.

    Raises:
        DataError: on first use, the file is truncated, corrupt or no store; it is left as it is.
    """

    def __init__(self, path: str | Path, create: bool = True) -> None:
        self.path = Path(path)
        self._create = create

    @cached_property
    def db(self) -> sqlite3.Connection:
        """The open database; opened when first used, so that jobs without need of it leave the file alone."""
        if not self._create and not self.path.exists():
            raise DataError(f"There is no response store at {self.path}.", "Give the path of a store.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_locks(self.path.parent, "the response store")
            if not self.path.exists():
                _create(self.path)
            _check_length(self.path)
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                _check(db)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(_TABLES)
                _add_later_columns(db)
            except sqlite3.DatabaseError:
                db.close()
                raise
        except (sqlite3.DatabaseError, OSError) as error:
            raise self.unusable(error) from error
        return db

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "db" in self.__dict__:
            self.db.close()

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Stored replies of those keys that have one."""
        wanted = list(keys)
        found: dict[str, Any] = {}
        try:
            for start in range(0, len(wanted), _LOOK_UP):
                part = wanted[start : start + _LOOK_UP]
                marks = ",".join("?" * len(part))
                rows = self.db.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", part)
                found.update((key, json.loads(reply)) for key, reply in rows)
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise self.unusable(error) from error
        return found

    def put(self, replies: Iterable[StoredReply]) -> None:
        """Append (key, request, reply) triples in one transaction; a key already stored keeps its reply."""
        with self.transaction() as db:
            self.insert(db, replies)

    def insert(self, db: sqlite3.Connection, replies: Iterable[StoredReply]) -> None:
        """`put` as a part of a transaction under way."""
        now = time.time()
        rows = [(key, json.dumps(request), json.dumps(reply), now) for key, request, reply in replies]
        db.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", rows)

    def rows(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], float]]:
        """Every (key, request, reply, time stored in seconds since 1970), by key.

        Raises:
            DataError: a row cannot be read.
        """
        try:
            for key, request, reply, created in self.db.execute("SELECT * FROM replies ORDER BY key"):
                yield key, json.loads(request), json.loads(reply), created
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise self.unusable(error) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Remove replies: those that `mjd store prune` names, and those that nothing can be read from."""
        with self.transaction() as db:
            db.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])

    def __len__(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM replies").fetchone()[0])

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What the block writes is stored whole, or not at all.

        Raises:
            DataError: the store cannot be written.
        """
        db = self.db
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # on a full disk SQLite has rolled it back itself
                    db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise self.unusable(error) from error

    def check_writable(self) -> None:
        """Raise `DataError` where replies could not be kept, before any is paid for."""
        with self.transaction():
            pass

    def unusable(self, error: Exception) -> DataError:
        """The error of a store that cannot be used: for the time being, or because it is damaged."""
        if isinstance(error, OSError):
            return unwritable(self.path, error)
        code = getattr(error, "sqlite_errorcode", 0)
        cure = _CURES.get(code & 0xFF)  # the rest of a code is a detail
        if code in _NO_SHARED_MEMORY:
            cure = _NO_LOCAL_DISK
        elif cure is None and code & 0xFF not in _DAMAGE:
            cure = "Run again; if it fails again, check its disk and directory."
        return DataError(
            f"The response store {self.path} cannot be used ({error}).",
            f"What it holds is kept. {cure}"
            if cure
            else "Nothing was changed in it: restore it from a backup, or move it away to start a new one.",
        )


@contextlib.contextmanager
def one_at_a_time(store: Path, model: str) -> Iterator[None]:
    """Let only one job at a time ask a paid model: its limits per minute hold, and no two jobs pay for one prompt.

    The lock ends with the process, however it ends.
    """
    name = hashlib.sha256(model.encode()).hexdigest()[:16]
    with in_turn(store.with_name(f"{name}.lock"), f"asking {model}, which costs money,"):
        yield


def request_record(info: EngineInfo, request: Generate | Score) -> dict[str, Any]:
    """A request as the store keeps it; with its kind it gives the key again."""
    return {"engine": info.record(request), **request_fields(request)}


def record_key(record: Mapping[str, Any]) -> str:
    """The key of a stored request; differs from the row's own key only when the row is damaged."""
    request = {name: value for name, value in record.items() if name != "engine"}
    return stored_key(record["engine"], record_kind(record), request)


def record_kind(record: Mapping[str, Any]) -> str:
    """`Score` or `Generate`."""
    return KIND_SCORE if "letters" in record else KIND_GENERATE


def _create(path: Path) -> None:
    """Make an empty store; it appears complete, and one that another process made meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        db = sqlite3.connect(name, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_TABLES)
        db.close()
        os.chmod(name, 0o644)
        try:
            os.link(name, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not path.exists():
                os.rename(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _add_later_columns(db: sqlite3.Connection) -> None:
    """Bring the tables of an earlier version's store up to date; another job may do so at the same time."""
    for table, (column, kind) in _LATER_COLUMNS.items():
        if column not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
            try:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):
                    raise


def _check(db: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` when a page is damaged or the file is another database."""
    db.execute("PRAGMA query_only = ON")
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    db.execute("PRAGMA query_only = OFF")
    if found != "ok":
        raise sqlite3.DatabaseError(found.splitlines()[-1])
    if "replies" not in tables:
        raise sqlite3.DatabaseError("it has no table of replies")


def _check_length(path: Path) -> None:
    """Raise `sqlite3.DatabaseError` for a file that is no SQLite database, or shorter than its header says.

    Pages that are still in the write-ahead log alone may lie beyond the file's end, but the header counts those only
    once they are written back.
    """
    with open(path, "rb") as handle:
        header = handle.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise sqlite3.DatabaseError("file is not a database")
    (page_size,) = struct.unpack(">H", header[16:18])
    changed, pages = struct.unpack(">II", header[24:32])
    (valid_for,) = struct.unpack(">I", header[92:96])
    expected = pages * (65536 if page_size == 1 else page_size)
    if changed == valid_for and path.stat().st_size < expected:
        raise sqlite3.DatabaseError(f"it is truncated: {path.stat().st_size} of {expected} bytes")
