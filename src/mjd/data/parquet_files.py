"""The user's Parquet files: columns of texts, numbers, truth values and dates as text; others only if nobody asks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyarrow.types as kinds
from pyarrow.fs import LocalFileSystem

from mjd.data.checks import TableName
from mjd.errors import DataError

# Where pandas keeps row numbers that have no name.
_ROW_NUMBERS = "__index_level_"


def read_parquet(path: Path, used: Collection[str]) -> tuple[dict[str, Sequence[str]], TableName]:
    """Read a Parquet file, or a directory of parts, as columns of text by trimmed name; a missing cell is "".

    Whole floats are written without a point (3.0 as 3), others with the fewest digits that their type tells apart
    (a float32 of 0.3 as 0.3). Lists, structs, binary data and the like are not read; they are empty columns if unused.

    Args:
        path: the file or directory.
        used: columns that will be asked for.

    Raises:
        DataError: the file is missing or damaged, names a column twice, or a used column is of a type that is no text.
    """
    try:
        _check_names_once(path)
        partitioning = "hive" if path.is_dir() else None
        data = ds.dataset(path, filesystem=LocalFileSystem(), format="parquet", partitioning=partitioning)
        names = _names(data.schema, path, used)
        table = data.to_table(
            columns={name: ds.field(name) for name in names if _is_plain(data.schema.field(name).type)}
        )
        texts = {name: _texts(table.column(name)) for name in table.column_names}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Correct the path in the configuration.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = f"{path} is not a readable Parquet file ({error})."
        raise DataError(problem, "Write it again as Parquet, or as CSV.") from error
    empty = [""] * table.num_rows
    return {name.strip(): texts.get(name, empty) for name in names}, TableName(path)


def _names(schema: pa.Schema, path: Path, used: Collection[str]) -> list[str]:
    """Columns to read, as the file spells them; those that are used have a type that can be text."""
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


def _check_names_once(path: Path) -> None:
    """Refuse a file that names a column twice, which no data frame can hold; white space around names is left out."""
    names = [] if path.is_dir() else [name.strip() for name in pq.read_schema(path).names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} names the column {twice!r} twice.", "Give each column a name of its own.")


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
