"""The user's Parquet files: columns of texts, numbers, truth values and dates as text; others only if nobody asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from mjd.data.checks import TableName
from mjd.errors import DataError

# Where pandas keeps row numbers that have no name.
_ROW_NUMBERS = "__index_level_"
# What Hive and Spark name the directory of rows without a value.
_MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def read_parquet(path: Path, used: Collection[str]) -> tuple[dict[str, Sequence[str]], TableName]:
    """Read a Parquet file, or a directory of parts, as columns of text by trimmed name; a missing cell is "".

    Whole floats are written without a point (3.0 as 3), others with the fewest digits that their type tells apart
    (a float32 of 0.3 as 0.3). Lists, structs, binary data and the like are not read; they are empty columns if unused.

    Args:
        path: the file or directory.
        used: columns that will be asked for.

    Raises:
        DataError: the file is missing or damaged, names a column twice, parts differ in a used column, or a used
            column is of a type that is no text.
    """
    parts = _parts(path) if path.is_dir() else [path]
    tables = [_read_part(part, path, used) for part in parts]
    _check_parts_fit(parts, tables, used)
    names = list(dict.fromkeys(name for table in tables for name in table))
    columns: dict[str, Sequence[str]] = {}
    for name in names:
        columns[name] = [cell for table in tables for cell in (table[name] if name in table else [""] * _n_rows(table))]
    return columns, TableName(path)


def _parts(directory: Path) -> list[Path]:
    """Files of a table in parts, as Spark and pandas write them; those that start with . or _ are none."""
    files = (file for file in directory.rglob("*") if file.is_file())
    hidden = (".", "_")
    parts = sorted(file for file in files if not any(n.startswith(hidden) for n in file.relative_to(directory).parts))
    if not parts:
        raise DataError(f"{directory} is a directory without Parquet files.", "Correct the path in the configuration.")
    return parts


def _read_part(file: Path, root: Path, used: Collection[str]) -> dict[str, list[str]]:
    """Columns of one file as text, with those that its directories name (`split=train/`)."""
    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            names = _names(schema, file, used)
            plain = [name for name in names if _is_plain(schema.field(name).type)]
            table = opened.read(columns=plain)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist.", "Correct the path in the configuration.") from None
    except (pa.ArrowException, OSError) as error:
        problem = f"{file} is not a readable Parquet file ({error})."
        raise DataError(problem, "Write it again as Parquet, or as CSV.") from error
    texts = {}
    for name in names:
        try:
            texts[name.strip()] = _texts(table.column(name)) if name in plain else [""] * table.num_rows
        except (pa.ArrowException, UnicodeDecodeError) as error:
            problem = f"{file}, column {name!r} cannot be read as text ({error})."
            raise DataError(problem, "Write it again as UTF-8 text, or delete the column.") from error
    of_directories = [part.partition("=") for part in file.relative_to(root).parent.parts if "=" in part]
    return texts | {name: [_partition(value)] * table.num_rows for name, _, value in of_directories}


def _partition(value: str) -> str:
    """A value in a directory's name, as it stands there (`uid=007` is 007); Hive's word for a missing one is empty."""
    return "" if value == _MISSING_PARTITION else unquote(value)


def _n_rows(table: Mapping[str, Sequence[str]]) -> int:
    return max((len(cells) for cells in table.values()), default=0)


def _check_parts_fit(parts: Sequence[Path], tables: Sequence[Mapping[str, Any]], used: Collection[str]) -> None:
    """Refuse parts of which one lacks a column that is used and that another has."""
    for name in used:
        lacking = next((part for part, table in zip(parts, tables, strict=True) if name not in table), None)
        if lacking is not None and any(name in table for table in tables):
            having = next(part for part, table in zip(parts, tables, strict=True) if name in table)
            raise DataError(
                f"{lacking} lacks the column {name!r}, which {having} has.",
                "Write all parts of a table with the same columns.",
            )


def _names(schema: pa.Schema, path: Path, used: Collection[str]) -> list[str]:
    """Columns to read, as the file spells them, each once; those that are used have a type that can be text."""
    stripped = [name.strip() for name in schema.names]
    if twice := next((name for name in stripped if name and stripped.count(name) > 1), None):
        raise DataError(f"{path} names the column {twice!r} twice.", "Give each column a name of its own.")
    names: list[str] = []
    for field in schema:
        name = field.name.strip()
        if not name or name.startswith(_ROW_NUMBERS):
            continue
        if name in used and not _is_plain(field.type):
            raise DataError(
                f"{path}, column {name!r} holds {_described(field.type)}, not text or numbers.", _cure(name, field.type)
            )
        names.append(field.name)
    return names


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values of a type have one obvious spelling as text."""
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        kinds.is_string(kind)
        or kinds.is_large_string(kind)
        or kinds.is_string_view(kind)
        or kinds.is_integer(kind)
        or kinds.is_floating(kind)
        or kinds.is_decimal(kind)
        or kinds.is_boolean(kind)
        or kinds.is_date(kind)
        or kinds.is_timestamp(kind)
        or kinds.is_time(kind)
        or kinds.is_null(kind)
    )


def _texts(column: pa.ChunkedArray) -> list[str]:
    kind = column.type
    if kinds.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if kinds.is_floating(kind):
        missing = column.is_null().to_pylist()
        values = column.to_numpy()  # a missing value is NaN, of the column's own width
        return ["" if gone or np.isnan(v) else _float(v) for gone, v in zip(missing, values, strict=True)]
    return ["" if value is None else _text(value) for value in column.to_pylist()]


def _float(value: np.floating[Any]) -> str:
    return str(np.format_float_positional(value, trim="-"))


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def _described(kind: pa.DataType) -> str:
    values = f"{kind.value_type} values" if kinds.is_dictionary(kind) else "values"
    return f"{values} of type {kind}"


def _cure(name: str, kind: pa.DataType) -> str:
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return f"Make one text of each list, e.g. with pandas: table[{name!r}] = table[{name!r}].str.join(' ')."
    if kinds.is_struct(kind) or kinds.is_map(kind):
        return f"Take one field of it, e.g. with pandas: table[{name!r}] = table[{name!r}].str['text']."
    if kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind):
        return f"Decode it, e.g. with pandas: table[{name!r}] = table[{name!r}].str.decode('utf-8')."
    return "Write the column as text."
