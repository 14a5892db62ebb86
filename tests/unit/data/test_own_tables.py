"""The user's own CSV and Parquet files: read exactly, or refused with row, line, column and cure."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mjd import schemas
from mjd.classifiers.model import encode
from mjd.config.data import ItemsData, PairsData, Task
from mjd.config.explanations import Sampling
from mjd.config.files import read_config
from mjd.data.loaders import load_items, load_pairs
from mjd.errors import DataError
from mjd.estimators.item_prompts import PromptSettings, item_prompts
from mjd.explanations.generation import explain_requests
from mjd.io import read_parquet, write_parquet
from mjd.settings import check

LABELS = [{"key": "e", "name": "entailment"}, {"key": "n", "name": "neutral"}, {"key": "c", "name": "contradiction"}]
TASK = check(
    Task,
    {"labels": LABELS, "text_fields": ["premise", "hypothesis"], "label_counts": {}, "train_hjd": "some"},
    "task",
)
HEADER = "uid,premise,hypothesis,label\n"
COLUMNS = ["uid", "premise", "hypothesis", "label"]
ITEMS_HEADER = "uid,premise,hypothesis,hjd_e,hjd_n,hjd_c,split\n"


def pairs_of(content: str | bytes, directory: Path, name: str = "pairs.csv") -> list[list[str]]:
    """Rows that a CSV file's content is read as."""
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    table = load_pairs(PairsData(loader="tables", path=str(path)), TASK, {})
    return [list(row) for row in table[COLUMNS].itertuples(index=False)]


def items_of(content: str, directory: Path, explanations: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = directory / "items.csv"
    path.write_text(content, encoding="utf-8")
    explained = None
    if explanations is not None:
        explained = str(directory / "explanations.csv")
        Path(explained).write_text(explanations, encoding="utf-8")
    return load_items(ItemsData(loader="tables", items=str(path), human_explanations=explained), TASK, {})


def pairs_of_parquet(table: pa.Table, directory: Path, name: str = "pairs.parquet") -> list[list[str]]:
    pq.write_table(table, directory / name)
    found = load_pairs(PairsData(loader="tables", path=str(directory / name)), TASK, {})
    return [list(row) for row in found[COLUMNS].itertuples(index=False)]


def arrow(**columns: Any) -> pa.Table:
    """Two pairs, with `columns` instead of or beside the usual ones."""
    usual = {"uid": ["a", "b"], "premise": ["x", "y"], "hypothesis": ["u", "v"], "label": ["e", "n"]}
    return pa.table({**usual, **columns})


# -- rows that would be lost -----------------------------------------------------------------------------------------

LOST = [
    (  # the quote is closed by the next quoted text
        HEADER + 'a,"Never again,0.4,e\nb,y,z,n\nc,"Always",x,e\nd,u,v,n\n',
        r"pairs\.csv, row 1 \(line 2\): a quote is opened in line 2, and a text runs on to line 4 .*Close the quote",
    ),
    (  # it is closed by a quote that stands where a quote may stand
        HEADER + 'a,"Never again,x,e\nb,Always",z,n\nc,u,v,n\n',
        r"row 1, column 'premise': a quoted text runs from line 2 to line 3 \('Never again.*close it.*as Parquet",
    ),
    (
        HEADER + 'a,x,y,e\nb,"Never again,x,e\nc,u,v,n\n',
        r"row 2 \(line 3\): a quote is opened in line 3 and never closed",
    ),
    (HEADER + 'a,x,y,e\nb,"Never again,x,e', r"row 2 \(line 3\): a quote is opened and never closed"),
    (HEADER + 'a,"two\nlines",x,e\n', r"row 1, column 'premise': a quoted text runs from line 2 to line 3"),
    (HEADER + 'a,"two\r\nlines",x,e\r\n', r"row 1, column 'premise': a quoted text runs from line 2 to line 3"),
    (HEADER + 'a,"two\rlines",x,e\n', r"row 1, column 'premise': a quoted text runs from line 2 to line 3"),
    ('uid,"pre\nmise",hypothesis,label\na,x,y,e\n', r"the header: a quoted text runs from line 1 to line 2"),
    (HEADER + "a,x,y,e\nb,x\n", r"row 2 has 2 fields, but the header names 4 columns\. Fill in the missing cells"),
    (HEADER + "a,x,y,e\n\nb,x,y\n", r"row 2 \(line 4\) has 3 fields, but the header names 4 columns"),
    (HEADER + "a,x,y,e,\n", r"row 1 has 5 fields, but the header names 4 columns\. .*end no row with a comma"),
    (HEADER + 'a,"he said \\"no\\"",x,e\n', r"row 1 \(line 2\): quotes are escaped with a backslash .*twice"),
    (HEADER + 'a,he said \\"no\\",x,e\n', r"row 1 \(line 2\), column 'premise': quotes are escaped with a backslash"),
    (HEADER + "a,well\\, no,x,e\n", r"row 1 has 5 fields.*no backslashes"),
    (HEADER + 'a,"no"body,x,e\n', r"row 1 \(line 2\): a text goes on after its closing quote .*twice"),
    (HEADER + 'a, "Well",x,e\n', r"row 1 \(line 2\), column 'premise': a space stands before its quote .*Delete the"),
    (HEADER + "a,b\0,x,e\n", r"line 2 holds a NUL byte"),
]


@pytest.mark.parametrize(("content", "message"), LOST)
def test_csv_that_would_lose_rows_or_characters_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        pairs_of(content, tmp_path)
    assert str(tmp_path / "pairs.csv") in caught.value.problem
    assert caught.value.cure


OTHER_FORMATS: list[tuple[str, str | bytes, str]] = [
    (
        "p.csv",
        "uid;premise;hypothesis;label\na;x, y;z;e\n",
        r"has semicolons, not commas, .*delimiter=';', strict=True",
    ),
    ("p.csv", "uid\tpremise\thypothesis\tlabel\na\tx\ty\te\n", r"has tabs, not commas"),
    ("p.csv", "uid|premise|hypothesis|label\na|x|y|e\n", r"has vertical bars, not commas"),
    ("p.csv", "sep=;\nuid;premise;hypothesis;label\n", r"line 1 is 'sep=;', which only Excel reads\. Delete the line"),
    ("p.csv", f"# exported today\n{HEADER}a,x,y,e\n", r"line 1 is a comment \('# exported today'\)"),
    ("p.csv", "p1,It rains.,It is wet.,e\np2,x,y,n\n", r"line 1 names none of the columns uid, .*put one on top"),
    ("p.csv", "p1,x,y,e\np2,x,z,n\n", r"line 1 names none of the columns uid, .*put one on top"),
    ("p.csv", "UID,Premise,Hypothesis,Label\na,x,y,e\n", r"names none of the columns .* differs from it in case only"),
    ("p.csv", "uid,premise,hypothesis,label,premise\na,x,y,e,z\n", r"'premise' twice, as columns 2 and 5"),
    ("p.csv", "uid,premise,hypothesis,label,premise \na,x,y,e,z\n", r"'premise' twice, as columns 2 and 5"),
    ("p.csv", (HEADER + "a,x,y,e\n").encode("utf-16"), r"its text is UTF-16, not UTF-8.*iconv -f UTF-16 -t UTF-8"),
    ("p.csv", (HEADER + "a,x,y,e\n").encode("utf-16-be"), r"its text is UTF-16BE"),
    (
        "p.csv",
        (HEADER + "a,café,y,e\n").encode("cp1252"),
        r"line 2 has the byte 0xE9, .*Windows-1252 it is 'a,café,y,e'",
    ),
    (  # Windows-1252 would turn the Ü that is right into two characters
        "p.csv",
        (HEADER + "a,Übung,y,e\n").encode() + "b,café,y,e\n".encode("cp1252"),
        r"line 3 has the byte 0xE9, which is not UTF-8 \(though other .* are\)\. Correct line 3, or export it again\.",
    ),
    ("p.csv", (HEADER + "a,x,y,e\nb,é").encode()[:-1], r"line 3 has .*ends inside a character\)\. Export it again"),
    ("p.csv", HEADER + "a,'well, no','it''s',e\n", r"row 1 has 5 fields.*in double quotes, not in apostrophes"),
    ("p.csv", '{"uid": "a", "premise": "x"}\n', r"is JSON, not CSV.*read_json"),
    ("p.csv", "<!DOCTYPE html>\n", r"is HTML or XML"),
    ("p.csv", b"PK\x03\x04more", r"a ZIP archive or an Excel workbook\. In Excel, save"),
    ("p.csv", b"\x1f\x8bmore", r"compressed with gzip\. Decompress"),
    ("p.csv", b"PAR1more", r"a Parquet file\. Let its name end in \.parquet"),
    ("p.csv", "\ufeff\n\n", r"it is empty"),
    ("p.tsv", "", r"neither CSV nor Parquet .*Put commas between the cells: .*delimiter='\\t'"),
    ("p.csv.gz", "", r"neither CSV nor Parquet .*Decompress it"),
    ("p.xlsx", "", r"neither CSV nor Parquet .*Save the sheet as CSV UTF-8"),
    ("p.jsonl", "", r"neither CSV nor Parquet .*read_json\(.*lines=True, dtype=False"),
    ("p.parquet", HEADER, r"is not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), OTHER_FORMATS)
def test_file_of_another_format_is_named_with_its_cure(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        pairs_of(content, tmp_path, name)
    assert str(tmp_path / name) in caught.value.problem


JSON_PAIR = '{"uid": "007", "premise": "x, y", "hypothesis": "say \\"no\\"", "label": "e"}'


@pytest.mark.parametrize(
    ("name", "content", "made"),
    [
        ("my pairs.csv", 'uid;premise;hypothesis;label\n007;x, y;"say ""no""";e\n', "my pairs.commas.csv"),
        ("pairs.tsv", 'uid\tpremise\thypothesis\tlabel\n007\tx, y\tsay "no"\te\n', "pairs.commas.csv"),
        (
            "pairs.jsonl",
            '{"uid": "007", "premise": "x, y", "hypothesis": "say \\"no\\"", "label": "e"}\n',
            "pairs.parquet",
        ),
        (
            "pairs.json",
            '[{"uid": "007", "premise": "x, y", "hypothesis": "say \\"no\\"", "label": "e"}]',
            "pairs.parquet",
        ),
        ('it\'s "$HOME".jsonl', JSON_PAIR + "\n", 'it\'s "$HOME".parquet'),
        (  # as the LeWiDi tasks bring their data
            "lewidi.json",
            '{"007": {"premise": "x, y", "hypothesis": "say \\"no\\"", "label": "e", "soft_label": {"0": 0.4}}}',
            "lewidi.parquet",
        ),
        ("pairs.csv", (HEADER + '007,"x, y","say ""no""",e\n').encode("utf-16"), None),
    ],
)
def test_command_of_the_cure_makes_a_table_that_loads(
    tmp_path: Path, name: str, content: str | bytes, made: str | None
) -> None:
    with pytest.raises(DataError) as caught:
        pairs_of(content, tmp_path, name)
    command = re.search(r"(python -c .*|iconv .*)", caught.value.cure)
    assert command
    run = command[1].replace("python -c", f"{sys.executable} -c")
    done = subprocess.run(run, shell=True, capture_output=True, check=True)
    target = tmp_path / (made or "converted.csv")
    if made is None:
        target.write_bytes(done.stdout)
    found = load_pairs(PairsData(loader="tables", path=str(target)), TASK, {})
    assert found[COLUMNS].to_numpy().tolist() == [["007", "x, y", 'say "no"', "e"]]


def test_directory_named_as_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").mkdir()
    with pytest.raises(DataError, match=r"pairs\.csv is not a readable CSV file"):
        load_pairs(PairsData(loader="tables", path=str(tmp_path / "pairs.csv")), TASK, {})


ROW = ["a", "x", "y", "e"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + HEADER + "a,x,y,e\n",
        HEADER.replace("\n", "\r\n") + "a,x,y,e\r\n",
        HEADER.replace("\n", "\r") + "a,x,y,e",
        "\n" + HEADER + "\na,x,y,e\n\n  \n",
        " uid , premise,hypothesis,label \na ,x, y,e\n",
        '"uid","premise","hypothesis","label"\n"a","x","y","e"\n',
        ",uid,premise,hypothesis,label,,\n0,a,x,y,e,,\n",
    ],
    ids=["byte order mark", "CRLF", "CR", "blank lines", "white space", "all quoted", "unnamed columns"],
)
def test_harmless_differences_between_csv_files_are_read(tmp_path: Path, content: str) -> None:
    assert pairs_of(content, tmp_path) == [ROW]


@pytest.mark.parametrize("name", ["pairs.CSV", "pairs.Csv"])
def test_suffix_in_another_case_is_read(tmp_path: Path, name: str) -> None:
    assert pairs_of(HEADER + "a,x,y,e\n", tmp_path, name) == [ROW]
    assert pairs_of_parquet(arrow(), tmp_path, "pairs.PARQUET")[0] == ["a", "x", "u", "e"]


def test_quotes_and_backslashes_that_are_text_are_kept(tmp_path: Path) -> None:
    rows = [["a", '5" screen', 'She said "no"', "e"], ["b", 'G\\"odel', "C:\\x", "n"]]
    content = io.StringIO()
    csv.writer(content).writerows([COLUMNS, *rows])
    assert pairs_of(content.getvalue().replace('"5"" screen"', '5" screen'), tmp_path) == rows


def test_cell_longer_than_pythons_limit_is_read(tmp_path: Path) -> None:
    text = "word " * 40_000 + "end"
    assert pairs_of(f'{HEADER}a,"{text}",y,e\n', tmp_path) == [["a", text, "y", "e"]]
    assert csv.field_size_limit() == 131_072


def test_error_in_a_cell_names_row_and_line_after_blank_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2 \(line 5\), column 'label': 'x' is not one of e, n, c"):
        pairs_of(HEADER + "a,x,y,e\n\n\nb,x,y,x\n", tmp_path)


@pytest.mark.slow
def test_large_csv_file_is_read_in_seconds(tmp_path: Path) -> None:
    text = 'A man, in a "hat", walks his dog along the river'
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *((f"p{row}", text, "He walks.", "e") for row in range(100_000))])
    start = time.process_time()
    assert len(load_pairs(PairsData(loader="tables", path=str(tmp_path / "pairs.csv")), TASK, {})) == 100_000
    assert time.process_time() - start < 10


def test_characters_that_an_earlier_program_lost_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert pairs_of(HEADER + "a,x,y,e\nb,caf\ufffd,y,n\n", tmp_path)[1][1] == "caf\ufffd"
    assert "pairs.csv, row 2, column 'premise': 1 texts have the character U+FFFD" in caplog.text


def test_what_stands_in_place_of_texts_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert pairs_of(HEADER + "a,x,'y',e\nb,#NAME?,'z',n\nc,\\N,'',n\n", tmp_path)[1] == ["b", "#NAME?", "'z'", "n"]
    assert (
        "row 2, column 'premise': 2 texts are an error of a spreadsheet or a database's null ('#NAME?')" in caplog.text
    )
    assert (
        """row 1, column 'hypothesis': 3 texts stand in apostrophes, which are part of the texts ("'y'")"""
        in caplog.text
    )


def test_texts_of_which_some_stand_in_apostrophes_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs_of(HEADER + "a,'x',y,e\nb,'tis late,z,n\n", tmp_path)
    assert not caplog.text


# -- properties: exactly the table, or an error ----------------------------------------------------------------------

# Characters that matter to readers, among any others; texts that look like missing values or numbers.
special = st.text(alphabet=st.sampled_from(list("ab\",;\\' \t\n\r\u00a0\u2028\x0b\u0301é½|#")), max_size=8)
words = st.sampled_from(["nan", "None", "NA", "null", "NaN", "<NA>", "inf", "-", "1e5", "007", "True", "#", "sep=;"])
anything = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
texts = st.one_of(special, words, anything)
tables_of_texts = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)

Writer = Callable[[list[list[str]], Path], None]


def _by_csv(**how: Any) -> Writer:
    def write(rows: list[list[str]], path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, **how).writerows([COLUMNS, *rows])

    return write


def _by_pandas(rows: list[list[str]], path: Path) -> None:
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)


def _by_arrow(rows: list[list[str]], path: Path) -> None:
    columns = list(zip(*rows, strict=True))
    pyarrow.csv.write_csv(pa.table(dict(zip(COLUMNS, map(list, columns), strict=True))), path)


WRITERS: dict[str, Writer] = {
    "csv.writer": _by_csv(),
    "csv.writer, LF": _by_csv(lineterminator="\n"),
    "csv.writer, all quoted": _by_csv(quoting=csv.QUOTE_ALL),
    "pandas": _by_pandas,
    "pyarrow": _by_arrow,
}


def _rows_read(path: Path) -> list[list[str]] | None:
    """What a file of pairs is read as; None if it is refused."""
    try:
        table = load_pairs(PairsData(loader="tables", path=str(path)), TASK, {})
    except DataError:
        return None
    return [list(row) for row in table[COLUMNS].itertuples(index=False)]


def _numbered(table: list[tuple[str, str]]) -> list[list[str]]:
    return [[f"u{row}", *cells, "e"] for row, cells in enumerate(table)]


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@given(table=tables_of_texts)
@example(table=[("nan", "None"), ("NA", "null"), ("NaN", "<NA>"), ("inf", "N/A")])
@example(table=[("a\rb", "c"), ("d", "e")])
@settings(max_examples=50)
def test_table_of_any_texts_is_read_exactly_or_refused(writer: Writer, table: list[tuple[str, str]]) -> None:
    rows = _numbered(table)
    with tempfile.TemporaryDirectory() as directory:
        writer(rows, Path(directory) / "pairs.csv")
        found = _rows_read(Path(directory) / "pairs.csv")
    expected = [[cell.strip() for cell in row] for row in rows]
    if all(cell.strip() and not set(cell) & set("\r\n") for row in rows for cell in row):
        assert found == expected
    else:
        assert found is None or found == expected


@given(table=tables_of_texts)
@example(table=[('"', '"'), ('a"', ',"')])
@settings(max_examples=100)
def test_table_with_backslash_escapes_is_read_exactly_or_refused(table: list[tuple[str, str]]) -> None:
    rows = [[cell.replace("\\", "/") for cell in row] for row in _numbered(table)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        with tempfile.TemporaryDirectory() as directory:
            _by_csv(quoting=quoting, doublequote=False, escapechar="\\")(rows, Path(directory) / "pairs.csv")
            found = _rows_read(Path(directory) / "pairs.csv")
        assert found is None or found == [[cell.strip() for cell in row] for row in rows]


@given(table=tables_of_texts, place=st.integers(0, 10_000), add=st.booleans(), all_quoted=st.booleans())
@example(table=[("x, y", "b"), ("c", "d"), ('z"', "k")], place=1, add=False, all_quoted=False)
@settings(max_examples=100)
def test_table_with_one_quote_more_or_less_never_has_fewer_rows(
    table: list[tuple[str, str]], place: int, add: bool, all_quoted: bool
) -> None:
    rows = [[cell.replace("\r", " ").replace("\n", " ") or "x" for cell in row] for row in _numbered(table)]
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL).writerows([COLUMNS, *rows])
    text = written.getvalue()
    quotes = [index for index, char in enumerate(text) if char == '"']
    index = place % len(text) if add or not quotes else quotes[place % len(quotes)]
    broken = text[:index] + '"' + text[index:] if add or not quotes else text[:index] + text[index + 1 :]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pairs.csv"
        path.write_text(broken, encoding="utf-8", newline="")
        found = _rows_read(path)
    assert found is None or len(found) == len(rows)


@given(table=tables_of_texts)
@settings(max_examples=50)
def test_parquet_table_of_any_texts_is_read_exactly_or_refused(table: list[tuple[str, str]]) -> None:
    rows = _numbered(table)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pairs.parquet"
        pd.DataFrame(rows, columns=COLUMNS).to_parquet(path)
        found = _rows_read(path)
    empty = any(not cell.strip() for row in rows for cell in row)
    assert found == (None if empty else [[cell.strip() for cell in row] for row in rows])


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ['"0,5"', "50%", "½", "1_000", "0x1", "True", "1e-400", "1d0", "nan", "NULL", "１", "1 000"]
)
def test_number_in_another_notation_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"items\.csv, row 1, column 'hjd_e': .* is (not|too small for) a number"):
        items_of(f"{ITEMS_HEADER}a,x,y,{cell},0.5,0,train\n", tmp_path)


def test_numbers_in_usual_notations_are_read(tmp_path: Path) -> None:
    items, _ = items_of(f"{ITEMS_HEADER}a,x,y, 0.5 ,5e-1,+0.,train\nb,u,v,.25,0.75,-0,train\n", tmp_path)
    assert items[["hjd_e", "hjd_n", "hjd_c"]].to_numpy().tolist() == [[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]


# -- Parquet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"], None]),
        pa.array([{"a": 1}, None]),
        pa.array([[1.0, 2.0], []], pa.list_(pa.float32())),
        pa.array([b"\xff", None]),
        pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    ],
    ids=["list", "struct", "embedding", "binary", "map"],
)
def test_parquet_column_of_another_type_is_refused_only_if_used(
    tmp_path: Path, column: pa.Array, caplog: pytest.LogCaptureFixture
) -> None:
    rows = pairs_of_parquet(arrow(extra=column), tmp_path)
    assert rows == [["a", "x", "u", "e"], ["b", "y", "v", "n"]]
    assert "column(s) extra are not used" in caplog.text
    with pytest.raises(DataError, match=r"pairs\.parquet, column 'premise' holds values of type .*e\.g\. with pandas"):
        pairs_of_parquet(arrow(premise=column), tmp_path)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["nan", "None"]), ["nan", "None"]),
        (pa.array(["NA", "null"]).dictionary_encode(), ["NA", "null"]),
        (pa.array(["<NA>", "inf"], pa.large_string()), ["<NA>", "inf"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([9007199254740993, 2]), ["9007199254740993", "2"]),
        (pa.array([2**63, 2], pa.uint64()), ["9223372036854775808", "2"]),
        (pa.array([0.3, 3.0], pa.float32()), ["0.3", "3"]),
        (pa.array(np.array([0.62, 2], dtype=np.float16)), ["0.62", "2"]),
        (pa.array([True, False]), ["True", "False"]),
        (pa.array([decimal.Decimal("0.30"), decimal.Decimal("100.00")]), ["0.3", "100"]),
        (pa.array([datetime.datetime(2024, 1, 2, 3), datetime.datetime(2024, 1, 2)]),
         ["2024-01-02 03:00:00", "2024-01-02 00:00:00"]),
        (pa.array([datetime.date(2024, 1, 2), datetime.date(2024, 1, 3)]), ["2024-01-02", "2024-01-03"]),
    ],
)  # fmt: skip
def test_parquet_column_of_plain_values_is_read_as_text(tmp_path: Path, column: pa.Array, expected: list[str]) -> None:
    assert [row[1] for row in pairs_of_parquet(arrow(premise=column), tmp_path)] == expected
    assert [row[0] for row in pairs_of_parquet(arrow(uid=column), tmp_path)] == expected


@pytest.mark.parametrize(
    "column",
    [pa.array(["x", None]), pa.array([1, None]), pa.array([1.0, None]), pa.array([1.0, float("nan")]), pa.nulls(2)],
)
def test_missing_parquet_cell_is_empty_and_never_a_text(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(DataError, match=r"row \d, column 'premise': the cell is empty"):
        pairs_of_parquet(arrow(premise=column), tmp_path)


def test_large_whole_number_keeps_its_digits_beside_a_missing_one(tmp_path: Path) -> None:
    explained = pa.table({"uid": [9007199254740993, 9007199254740993], "label": ["e", "n"], "text": ["r", "s"],
                          "annotator": [9007199254740993, None]})  # fmt: skip
    pq.write_table(explained, tmp_path / "explanations.parquet")
    (tmp_path / "items.csv").write_text("uid,premise,hypothesis,split\n9007199254740993,x,y,train\n", encoding="utf-8")
    data = ItemsData(
        loader="tables",
        items=str(tmp_path / "items.csv"),
        human_explanations=str(tmp_path / "explanations.parquet"),
    )
    _, explanations = load_items(data, TASK, {})
    assert explanations["annotator"].tolist() == ["9007199254740993", None]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_shares_in_a_narrow_float_sum_to_one(tmp_path: Path, kind: type[np.floating[Any]]) -> None:
    shares = {
        name: np.array([value], dtype=kind) for name, value in (("hjd_e", 0.62), ("hjd_n", 0.33), ("hjd_c", 0.05))
    }
    table = pa.table({"uid": ["a"], "premise": ["x"], "hypothesis": ["y"], "split": ["train"], **shares})
    pq.write_table(table, tmp_path / "items.parquet")
    items, _ = load_items(ItemsData(loader="tables", items=str(tmp_path / "items.parquet")), TASK, {})
    assert items[["hjd_e", "hjd_n", "hjd_c"]].to_numpy().tolist() == [[0.62, 0.33, 0.05]]


def test_pandas_index_of_a_parquet_file_is_a_column(tmp_path: Path) -> None:
    frame = arrow().to_pandas().set_index("uid")
    frame.to_parquet(tmp_path / "pairs.parquet")
    found = load_pairs(PairsData(loader="tables", path=str(tmp_path / "pairs.parquet")), TASK, {})
    assert found["uid"].tolist() == ["a", "b"]


def test_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"])] * 5, names=[*COLUMNS, " premise"])
    with pytest.raises(DataError, match=r"pairs\.parquet names the column 'premise' twice"):
        pairs_of_parquet(table, tmp_path)


def test_parquet_directory_of_parts_is_read_with_its_partitions(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"uid": ["a", "b"], "premise": ["x", "y"], "hypothesis": ["u", "v"], "split": ["train", "dev"]}
    )
    shares = {"hjd_e": [0.5, 0.5], "hjd_n": [0.25, 0.25], "hjd_c": [0.25, 0.25]}
    pq.write_to_dataset(
        pa.Table.from_pandas(frame.assign(**shares)), tmp_path / "items.parquet", partition_cols=["split"]
    )
    items, _ = load_items(ItemsData(loader="tables", items=str(tmp_path / "items.parquet")), TASK, {})
    assert sorted(zip(items["uid"], items["split"], strict=True)) == [("a", "train"), ("b", "dev")]


@pytest.mark.parametrize(("directory", "uid"), [("uid=007", "007"), ("uid=a%2Fb", "a/b"), ("uid=1e5", "1e5")])
def test_partition_value_that_looks_like_a_number_stays_as_it_is(tmp_path: Path, directory: str, uid: str) -> None:
    (tmp_path / "pairs.parquet" / directory).mkdir(parents=True)
    table = arrow().slice(0, 1).drop_columns("uid")
    pq.write_table(table, tmp_path / "pairs.parquet" / directory / "0.parquet")
    found = load_pairs(PairsData(loader="tables", path=str(tmp_path / "pairs.parquet")), TASK, {})
    assert found["uid"].tolist() == [uid]


def parts_of(directory: Path, *tables: pa.Table) -> str:
    (directory / "parts").mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, directory / "parts" / f"{number}.parquet")
    (directory / "parts").rename(directory / "parts.parquet")
    return str(directory / "parts.parquet")


def test_parts_of_other_types_keep_every_digit(tmp_path: Path) -> None:
    large = 2**62 + 1
    path = parts_of(tmp_path, arrow(uid=[large, 7]), arrow(uid=["008", "9"]), arrow(uid=[1.5, 10.0]))
    found = load_pairs(PairsData(loader="tables", path=path), TASK, {})
    assert found["uid"].tolist() == [str(large), "7", "008", "9", "1.5", "10"]


def test_column_that_the_first_part_lacks_is_refused_and_not_dropped(tmp_path: Path) -> None:
    """pyarrow.dataset takes the columns of the first part for those of all, and the positions are gone."""
    explanations = {"uid": ["a", "a"], "label": ["e", "n"], "text": ["x", "y"]}
    path = parts_of(tmp_path, pa.table(explanations), pa.table({**explanations, "position": [1, 0]}))
    items = tmp_path / "items.csv"
    items.write_text(ITEMS_HEADER + "a,x,y,,,,train\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"0\.parquet lacks the column 'position', which .*1\.parquet has"):
        load_items(ItemsData(loader="tables", items=str(items), human_explanations=path), TASK, {})


def test_directory_without_parts_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"parts\.parquet is a directory without Parquet files"):
        load_pairs(PairsData(loader="tables", path=parts_of(tmp_path)), TASK, {})


def test_parquet_texts_that_are_not_utf8_name_their_column(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(DataError, match=r"pairs\.parquet, column 'premise' cannot be read as text"):
        pairs_of_parquet(arrow(premise=broken), tmp_path)


# -- texts that look like missing values -----------------------------------------------------------------------------

MISSING_LOOKS = ["nan", "None", "NA", "null", "NaN", "<NA>", "inf", "N/A", "-", "0"]


@pytest.mark.parametrize("text", MISSING_LOOKS)
def test_text_that_looks_missing_stays_a_text_up_to_the_prompts(tmp_path: Path, text: str) -> None:
    loaded, explained = items_of(
        f"uid,premise,hypothesis,split\n{text},{text},{text},train\n",
        tmp_path,
        f"uid,label,text,annotator\n{text},e,{text},{text}\n",
    )
    write_parquet(loaded, tmp_path / "i.parquet", schemas.items(TASK.label_set, TASK.text_fields, []))
    write_parquet(explained, tmp_path / "h.parquet", schemas.human_explanations())
    items, explanations = read_parquet(tmp_path / "i.parquet"), read_parquet(tmp_path / "h.parquet")
    assert items[["uid", "premise", "hypothesis"]].to_numpy().tolist() == [[text] * 3]
    assert explanations[["uid", "text", "annotator"]].to_numpy().tolist() == [[text] * 3]
    prompts = read_config("config/config.yaml").prompts
    assert not isinstance(prompts, str)
    how = PromptSettings(prompts, TASK.label_set, tuple(TASK.text_fields), "explicit", "all", 1)
    [(uid, scored)] = item_prompts(items, explanations, how)
    assert uid == text
    assert prompts.score.split("{premise}")[0] + text in scored[0].messages[-1].content
    [(uid, _, asked), *_] = explain_requests(items, TASK.label_set, TASK.text_fields, prompts, Sampling(), 1)
    assert uid == text
    assert text in asked.messages[-1].content

    class Recorder:
        model_max_length, pad_token_id, pad_token_type_id = 64, 0, 0

        def __call__(self, *columns: list[str], **_: Any) -> dict[str, list[list[int]]]:
            assert columns == ([text], [text])
            return {"input_ids": [[1]]}

    assert len(encode(Recorder(), items, TASK.text_fields, 8)) == 1  # type: ignore[arg-type]


def test_label_named_nan_is_a_label(tmp_path: Path) -> None:
    labels = [{"key": "nan", "name": "none"}, {"key": "NA", "name": "null"}]
    task = check(Task, {"labels": labels, "text_fields": ["premise", "hypothesis"], "label_counts": {}}, "task")
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER + "a,x,y,nan\nb,x,z,null\n", encoding="utf-8")
    assert load_pairs(PairsData(loader="tables", path=str(path)), task, {})["label"].tolist() == ["nan", "NA"]


# -- keys that almost fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "used", "difference"),
    [
        ("007", "7", "the spelling of the number"),
        ("7", "7.0", "the spelling of the number"),
        ("caf\u00e9", "cafe\u0301", "Unicode normal form"),
        ("a b", "a\u00a0b", "white space or invisible characters"),
        ("a", "a\u200b", "white space or invisible characters"),
        ("a", "A", "case"),
    ],
)
def test_uid_that_almost_fits_names_the_near_match(tmp_path: Path, uid: str, used: str, difference: str) -> None:
    with pytest.raises(DataError, match=rf"explanations\.csv, row 1, column 'uid': .*in {difference} only") as caught:
        items_of(f"uid,premise,hypothesis,split\n{uid},x,y,train\n", tmp_path, f"uid,label,text\n{used},e,z\n")
    assert ascii(uid) in caught.value.problem
    assert ascii(used) in caught.value.problem


def test_numeric_uid_of_parquet_and_csv_join(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": [1.0, 1.0], "label": ["e", "n"], "text": ["r", "s"]}), tmp_path / "h.parquet")
    (tmp_path / "items.csv").write_text("uid,premise,hypothesis,split\n1,x,y,train\n", encoding="utf-8")
    data = ItemsData(loader="tables", items=str(tmp_path / "items.csv"), human_explanations=str(tmp_path / "h.parquet"))
    assert load_items(data, TASK, {})[1]["uid"].tolist() == ["1", "1"]


def test_split_in_another_case_names_the_near_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'Train' is not one of train, dev, test; 'train' is there, .*in case only"):
        items_of("uid,premise,hypothesis,split\na,x,y,Train\n", tmp_path)


def test_column_with_an_invisible_character_names_the_near_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'premise' is missing .*'premise\\u200b' is there"):
        items_of("uid,premise\u200b,hypothesis,split\na,x,y,train\n", tmp_path)
