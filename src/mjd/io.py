"""Reading and writing artifacts: atomic writes, schemas enforced, provenance in the Parquet metadata."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mjd import __version__
from mjd.errors import DataError

PROVENANCE_KEY = b"mjd"

Provenance = Mapping[str, Any]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds, remove it otherwise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout this package runs from, `-dirty` when tracked files differ; None outside a checkout.

    An installed package may lie inside a repository, in an environment there, that is not its own: files of its own are
    tracked.
    """
    git, file = ["git", "-C", str(Path(__file__).parent)], Path(__file__).name
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file], capture_output=True, timeout=10, check=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty"]
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a configuration as canonical JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def provenance(config: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Provenance of an artifact: package version, git commit, config hash, and whatever the job adds.

    Jobs add `model`, `revision`, `seed`, `engine`, `engine_version` where they apply.
    """
    base: dict[str, Any] = {"package": "mjd", "version": __version__, "git_commit": git_commit()}
    if config is not None:
        base["config_hash"] = config_hash(config)
    return base | more


def to_table(data: pa.Table | pd.DataFrame, schema: pa.Schema, name: str = "table") -> pa.Table:
    """Cast to exactly `schema` (column order included); raises `DataError` naming a missing or null column."""
    table = data if isinstance(data, pa.Table) else pa.Table.from_pandas(data, preserve_index=False)
    lacking = [column for column in schema.names if column not in table.column_names]
    if lacking:
        raise DataError(
            f"{name}: column {lacking[0]!r} is missing (has: {', '.join(table.column_names)}).",
            f"Add the missing column(s): {', '.join(lacking)}.",
        )
    table = table.select(schema.names).cast(schema)
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            row = table.column(field.name).to_pylist().index(None)
            raise DataError(f"{name}: row {row + 1}, column {field.name!r} is empty.", "Fill the cell in.")
    return table


def write_parquet(
    data: pa.Table | pd.DataFrame, path: str | Path, schema: pa.Schema, provenance: Provenance | None = None
) -> None:
    """Write a Parquet file atomically, cast to `schema`, with `provenance` as JSON under the metadata key `mjd`."""
    table = to_table(data, schema, str(path))
    metadata = {PROVENANCE_KEY: json.dumps(dict(provenance or {}), sort_keys=True, default=str).encode()}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a Parquet artifact as a data frame; raises `DataError` when it is missing or damaged."""
    frame: pd.DataFrame = read_table(path).to_pandas()
    return frame


def read_table(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet artifact, or some columns, as an Arrow table; raises `DataError` when it is missing or damaged."""
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Run the rule that makes it.") from None
    except (pa.ArrowInvalid, OSError) as error:
        # Of some damage Arrow says OSError, without a number; the system's errors have one.
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path} cannot be read ({error}).", "Make it readable for you, then run again.") from error
        said = str(error).splitlines()[0]
        raise DataError(f"{path} is not a readable Parquet file ({said}).", "Delete it and run again.") from error


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance written by `write_parquet`; empty when the file carries none."""
    metadata = pq.read_schema(path).metadata or {}
    found: dict[str, Any] = json.loads(metadata.get(PROVENANCE_KEY, b"{}"))
    return found


def write_csv(data: pd.DataFrame, path: str | Path, digits: int = 4) -> None:
    """Write a table for people: atomic, floats rounded to `digits`, empty cells for missing values."""
    with atomic_path(path) as temporary:
        data.to_csv(temporary, index=False, float_format=f"%.{digits}f")


def write_text(text: str, path: str | Path) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
