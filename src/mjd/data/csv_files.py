"""The user's CSV files, read strictly: a row is one line, every row has every field, and no character is dropped.

Spreadsheets and pandas read a file with a forgotten quote without complaint: everything up to the next quote becomes
one cell, and the rows in it are gone. Here a quoted text that runs over a line break is refused, whatever its reason,
and so is every other sign that a file follows another dialect than RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import NoReturn

from mjd.data.checks import TableName, at_row, near
from mjd.errors import DataError

# Longest cell in characters; Python's own limit (131,072) is shorter than some documents.
LONGEST_CELL = 2**31 - 1

# How much of a cell or line errors show.
SHOWN = 40

QUOTING = 'Put texts with commas in quotes ("well, no"), and end no row with a comma.'
UNQUOTED = 'Put the whole text in quotes, and write each quote inside it twice ("he said ""no""").'
# First bytes of files that are no text.
_MAGIC = {
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "In Excel, save the sheet as CSV UTF-8."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "In Excel, save the sheet as CSV UTF-8."),
    b"\x1f\x8b": ("compressed with gzip", "Decompress it: gunzip."),
    b"PAR1": ("a Parquet file", "Let its name end in .parquet."),
}
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

# A field of a line that the csv module has accepted: quoted, or up to the next comma.
_FIELD = re.compile(r'(?:^|,)("(?:[^"]|"")*"|[^,\r\n]*)')
# What only an unquoted field of another dialect has; a quoted one may have it too.
_SUSPECT = re.compile(rb'(?:^|,)[^\S\r\n]+"|\\"', re.MULTILINE)


def read_csv(path: Path, used: Collection[str]) -> tuple[dict[str, Sequence[str]], TableName]:
    """Read a comma-separated file with a header line: its columns as they stand, by trimmed name.

    Blank lines are skipped, and columns without a name are left out.

    Args:
        path: the file, in UTF-8, with or without a byte order mark; lines end in LF, CRLF or CR.
        used: columns that will be asked for, by which a header is told from a row.

    Returns:
        The columns, and the file's name with the line of each row.

    Raises:
        DataError: the file is missing or not UTF-8, has another separator or no header, names a column twice, has a
            row with more or fewer fields than its header, a cell with a line break, or a quote out of place.
    """
    data = _bytes(path)
    _check_first_line(next((line for line in _lines(data) if line.strip()), ""), path, used)
    with _long_cells():
        header, rows, lines = _table(data, path)
    where = TableName(path, lines)
    _check_unquoted_fields(data, where, header)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    return {name: columns[place] for name, place in _names(header, path).items()}, where


def _table(data: bytes, path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and their lines; every row has as many fields as the header."""
    records = _records(data, path)
    _, header = next(records, (0, [""]))
    rows: list[list[str]] = []
    lines: list[int] = []
    for line, fields in records:
        lines.append(line)
        rows.append(fields)
        if len(fields) != len(header):
            _refuse_fields(fields, header, data, TableName(path, lines))
    return header, rows, lines


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Lift the csv module's limit of a cell's length, which holds for the whole process."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


# -- bytes and lines ------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    """The file's bytes, if they can be UTF-8 text."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Correct the path in the configuration.") from None
    except OSError as error:
        raise DataError(f"{path} is not a readable CSV file ({error.strerror}).", "Give a file.") from None
    for mark, (kind, cure) in _MAGIC.items():
        if data.startswith(mark):
            raise DataError(f"{path} is not a readable CSV file: it is {kind}.", cure)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        encoding = _unmarked_encoding(data)
    if encoding is not None:
        raise _wrong_encoding(path, encoding, f"its text is {encoding}, not UTF-8")
    if (place := data.find(b"\0")) >= 0:
        problem = f"{path} is not a readable CSV file: line {_line_of(data, place)} holds a NUL byte."
        raise DataError(problem, "Delete the byte, or export the table again.")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error) from None
    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError(f"{path} is not a readable CSV file: it is empty.", "Give a table with a header line.")
    return data


def _unmarked_encoding(data: bytes) -> str | None:
    """UTF-16 without a byte order mark: every other byte of Latin text is 0 then."""
    start = data[:1000]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        half, other = start[first::2], start[1 - first :: 2]
        if half.count(0) > 0.7 * len(half) and other.count(0) < 0.1 * len(other):
            return name
    return None


def _wrong_encoding(path: Path, encoding: str, problem: str) -> DataError:
    return DataError(
        f"{path} is not a readable CSV file: {problem}.",
        f"Save it as UTF-8 (in Excel: CSV UTF-8), or convert it: iconv -f {encoding} -t UTF-8 {quote(str(path))}",
    )


def _not_utf8(path: Path, data: bytes, error: UnicodeDecodeError) -> DataError:
    """The cure of text in another encoding; of UTF-8 with a damaged place, converting would damage the rest."""
    line = _line_of(data, error.start)
    named = f"line {line} has the byte 0x{data[error.start]:02X}, which is not UTF-8"
    elsewhere = (data[: error.start] + data[error.end :]).decode("utf-8-sig", errors="ignore")
    is_cut = error.reason == "unexpected end of data"
    if is_cut or not elsewhere.isascii():
        why = "the file ends inside a character" if is_cut else "though other characters of the file are"
        problem = f"{path} is not a readable CSV file: {named} ({why})."
        return DataError(
            problem, "Export it again, as UTF-8." if is_cut else f"Correct line {line}, or export it again."
        )
    read = re.split(rb"[\r\n]", data[max(0, error.start - SHOWN // 2) : error.end + SHOWN // 2])
    shown = next(part for part in read if data[error.start : error.end] in part).decode("cp1252", errors="replace")
    return _wrong_encoding(path, "WINDOWS-1252", f"{named}; as Windows-1252 it is {shown!r}")


def _line_of(data: bytes, place: int) -> int:
    """The line of a byte, from 1."""
    before = data[:place]
    return 1 + before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n")


def _lines(data: bytes) -> Iterator[str]:
    """Lines with their ends, as text; a line ends in LF, CRLF or CR."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")


def _records(data: bytes, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header and every row, with their lines; blank lines are left out."""
    reader = csv.reader(_lines(data), strict=True)
    header: list[str] = []
    read = 0  # the header and rows: the number of the row that follows
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            _refuse_quoting(data, path, start, reader.line_num, read, str(error))
        if fields is None:
            return
        if reader.line_num > start:
            _refuse_line_break(fields, header, path, start, reader.line_num, read)
        if _is_blank(fields, header):
            continue
        header = header or fields
        read += 1
        yield start, fields


def _is_blank(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a line is empty or white space; in a table of one column, white space is a cell."""
    return not fields or (len(header) != 1 and len(fields) == 1 and fields[0] != "" and not fields[0].strip())


# -- the header -----------------------------------------------------------------------------------------------------


def _check_first_line(line: str, path: Path, used: Collection[str]) -> None:
    """Refuse files of another separator, with a comment or Excel's `sep=` on top, or without a header."""
    if found := re.fullmatch(r'"?sep=(.)"?\s*', line):
        cure = "Delete the line" + ("." if found[1] == "," else ", and save the table with commas between the cells.")
        raise DataError(f"{path}, line 1 is {line.strip()!r}, which only Excel reads.", cure)
    names = [name.strip().strip('"').strip() for name in line.split(",")]
    known = any(name in used for name in names)
    for sign, what in _DELIMITERS.items():
        others = [name.strip().strip('"').strip() for name in line.split(sign)]
        if not known and len(others) > 1 and (len(names) == 1 or any(name in used for name in others)):
            raise DataError(
                f"{path} has {what}, not commas, between its cells (line 1: {_shown(line)}).",
                f"Save it with commas, and decimals with a point (0.5, not 0,5): {converted(path, sign)}",
            )
    if not known and names[0].startswith("#"):
        problem = f"{path}, line 1 is a comment ({_shown(line)}), where the names of the columns should be."
        raise DataError(problem, "Delete the lines above the names of the columns.")
    if not known and line.lstrip().startswith(("{", "[")):
        raise DataError(
            f"{path} is JSON, not CSV (line 1: {_shown(line)}).", converted_json(path, line.lstrip()[0] == "{", used)
        )
    if not known and line.lstrip().startswith("<"):
        raise DataError(f"{path} is HTML or XML, not CSV (line 1: {_shown(line)}).", "Download or export it again.")
    if not known and used:
        hint = next((text for column in used if (text := near(column, names))), "")
        raise DataError(
            f"{path}, line 1 names none of the columns {', '.join(used)} ({_shown(line)}){hint}.",
            "Name the columns so; if the file has no header, put one on top.",
        )


def _names(header: Sequence[str], path: Path) -> dict[str, int]:
    """Place of each named column."""
    places: dict[str, int] = {}
    for place, name in enumerate(name.strip() for name in header):
        if name in places:
            raise DataError(
                f"{path} names the column {name!r} twice, as columns {places[name] + 1} and {place + 1}.",
                "Give each column a name of its own, or delete one of the two.",
            )
        if name:
            places[name] = place
    return places


# -- rows that are refused ------------------------------------------------------------------------------------------


def _refuse_line_break(
    fields: Sequence[str], header: Sequence[str], path: Path, start: int, end: int, row: int
) -> NoReturn:
    column = next(place for place, field in enumerate(fields) if re.search(r"[\r\n]", field))
    text = fields[column]
    what = "the header"
    if header:
        name = header[column].strip() if column < len(header) else ""
        what = f"row {row}, column {name or column + 1!r}"
    raise DataError(
        f"{path}, {what}: a quoted text runs from line {start} to line {end} ({_shown(text)}).",
        "If its quote was never closed, close it: the rows in it would be lost. If the text does have line breaks, "
        "replace them by spaces, or save the table as Parquet.",
    )


def _refuse_quoting(data: bytes, path: Path, start: int, end: int, read: int, reason: str) -> NoReturn:
    text = "".join(line for number, line in enumerate(_lines(data), 1) if start <= number <= end)
    row = f"row {read} (line {start})" if read else f"the header (line {start})"
    if end > start:
        never = " and never closed" if "unexpected end" in reason else ""
        raise DataError(
            f"{path}, {row}: a quote is opened in line {start}{never}, and a text runs on to line {end} "
            f"({_shown(_from_last_quoted(text))}).",
            f"Close the quote: the rows in it would be lost. {UNQUOTED}",
        )
    if '\\"' in text:
        raise DataError(
            f"{path}, {row}: quotes are escaped with a backslash ({_shown(text)}), which CSV does not know.",
            'Write each quote inside a quoted text twice ("he said ""no"""), without backslashes.',
        )
    if "unexpected end" in reason:
        raise DataError(f"{path}, {row}: a quote is opened and never closed ({_shown(text)}).", "Close it.")
    raise DataError(f"{path}, {row}: a text goes on after its closing quote ({_shown(text)}).", UNQUOTED)


def _from_last_quoted(text: str) -> str:
    """The quoted text that runs over the end of the first line, of the lines of one record."""
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    fields = _FIELD.finditer(first)
    opened = next((found.start(1) for found in fields if found[1].startswith('"') and not found[1].endswith('"')), 0)
    return text[opened:]


def _refuse_fields(fields: Sequence[str], header: Sequence[str], data: bytes, where: TableName) -> NoReturn:
    row = len(where.lines) - 1
    text = next(line for number, line in enumerate(_lines(data), 1) if number == where.lines[row])
    problem = (
        f"{where}, {at_row(where, row)} has {len(fields)} field{'s' * (len(fields) != 1)}, but the header names "
        f"{len(header)} columns."
    )
    if re.search(r"(^|,)\s*'.*'\s*(,|$)", text):
        cure = f"Put texts in double quotes, not in apostrophes. {QUOTING}"
    elif re.search(r'\\[,"]', text):
        cure = 'Put texts with commas in quotes and write each quote inside twice ("he said ""no"""), no backslashes.'
    elif len(fields) > len(header):
        cure = QUOTING
    else:
        cure = "Fill in the missing cells, or separate empty cells by commas; a row is one line."
    raise DataError(problem, cure)


def _check_unquoted_fields(data: bytes, where: TableName, header: Sequence[str]) -> None:
    """Refuse quotes that would become part of a text: after a space, or escaped with a backslash."""
    if not _SUSPECT.search(data):
        return
    rows = {line: row for row, line in enumerate(where.lines)}
    for number, line in enumerate(_lines(data), 1):
        if number not in rows:
            continue
        for place, found in enumerate(_FIELD.finditer(line)):
            field = found[1]
            if field.startswith('"'):
                continue
            spaced, escaped = field.lstrip().startswith('"'), '\\"' in field
            if spaced or escaped:
                why = "a space stands before its quote" if spaced else "quotes are escaped with a backslash"
                named = f"row {rows[number] + 1} (line {number}), column {header[place].strip()!r}"
                raise DataError(
                    f"{where}, {named}: {why} ({_shown(field)}).",
                    "Delete the space." if spaced and not escaped and field.rstrip().endswith('"') else UNQUOTED,
                )


# -- what to write instead ------------------------------------------------------------------------------------------


def _shown(text: str) -> str:
    """The start of a text, for messages."""
    text = text.rstrip("\r\n")
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def converted(path: Path, sign: str) -> str:
    """How to put commas between the cells: strictly, so that a forgotten quote is found and not carried over."""
    copy = f"csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter={sign!r}, strict=True))"
    return f'python -c "import csv, sys; {copy}" < {quote(str(path))} > {quote(str(path.with_suffix(".commas.csv")))}'


def converted_json(path: Path, lines: bool, used: Collection[str] = ()) -> str:
    """How to turn a file of JSON or JSON lines into Parquet; no text becomes a number or a date.

    A mapping of uids to rows (the LeWiDi tasks' format), told by the columns `used`, becomes a row for each uid.
    """
    read = f"pandas.read_json(sys.argv[1], lines={lines}, dtype=False, convert_dates=False)"
    if not lines and _is_by_uid(path, used):
        rows = "json.load(open(sys.argv[1], encoding='utf-8')).items()"
        read = f"pandas.DataFrame([{{'uid': uid, **row}} for uid, row in {rows}])"
    files = f"{quote(str(path))} {quote(str(path.with_suffix('.parquet')))}"
    return f'Save it as Parquet: python -c "import json, sys, pandas; {read}.to_parquet(sys.argv[2])" {files}'


def _is_by_uid(path: Path, used: Collection[str]) -> bool:
    """Whether a JSON file maps uids to rows."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    rows = list(content.values()) if isinstance(content, dict) else []
    return bool(rows) and all(isinstance(row, dict) for row in rows) and any(name in rows[0] for name in used)
