"""The public NLI corpora: ChaosNLI with the paper's 341 items, e-SNLI, MultiNLI, ANLI. Sources: see the registry."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from mjd.errors import DataError
from mjd.labels import LabelSet

ITEMS_FILE = "MJD-generator/NLI_explanations.json"
SPLIT_FILE = "MJD-fine-tuning/data/chaos_dev_test/{split}.json"
CHAOSNLI_FILE = "data/chaosNLI_v1.0/chaosNLI_mnli_m.jsonl"
ESNLI_FILE = "dataset/eSNLI/{field}.{split}"
ANLI_DEV_FILE = "anlizinganli/anli_annot_v0.2/ANLI_analysis_{round}_dev.csv"
ANLI_ROUNDS = ("R1", "R2", "R3")

# Labels of the NLI corpora: one-letter code -> name. Lists of counts in the MJD-Estimator files have this order.
NLI_LABELS = {"e": "entailment", "n": "neutral", "c": "contradiction"}
MJD_ESTIMATOR_COUNTS = ("varierr", "mnli")
NO_GOLD_LABEL = "-"

TextKey = tuple[str, ...]

_log = logging.getLogger(__name__)


def nli_keys(labels: LabelSet, loader: str) -> dict[str, str]:
    """Code and name of each NLI label -> its key in `labels`.

    Raises:
        DataError: `labels` are not entailment, neutral and contradiction.
    """
    keys = {}
    try:
        for code, name in NLI_LABELS.items():
            keys[code] = keys[name] = labels.normalise(name)
    except DataError:
        keys.clear()
    if len(set(keys.values())) != len(labels):
        raise DataError(
            f"The loader {loader} has the labels {', '.join(NLI_LABELS.values())}, but task.labels names "
            f"{', '.join(labels.names)}.",
            "Name the labels so, or use the loader tables with your own file.",
        )
    return keys


def two_texts(text_fields: Sequence[str], loader: str) -> tuple[str, str]:
    """The names for premise and hypothesis; raises `DataError` unless the task has two text fields."""
    if len(text_fields) != 2:
        raise DataError(
            f"The loader {loader} has two texts, but task.text_fields names {len(text_fields)}.",
            "Name two text fields, or use the loader tables with your own file.",
        )
    return text_fields[0], text_fields[1]


def source_directory(directories: Mapping[str, Path], source: str) -> Path:
    """Where a source was downloaded to; raises `DataError` when it was not."""
    if source not in directories:
        raise DataError(f"The source {source} was not downloaded.", "Run the rule that downloads it.")
    return Path(directories[source])


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON Lines file; raises `DataError` naming the line that is not JSON."""
    try:
        with path.open(encoding="utf-8") as lines:
            return list(_parse_lines(lines, str(path)))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Run the rule that downloads it.") from None


def _parse_lines(lines: Iterable[str | bytes], where: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}, line {number} is not JSON ({error}).", "Download the file again.") from error


def text_key(*texts: str) -> TextKey:
    """What two records of one item agree on: its texts, white space aside (the public files differ in it)."""
    return tuple(" ".join(text.split()) for text in texts)


def index_by_text(records: Iterable[dict[str, Any]], where: str) -> dict[TextKey, dict[str, Any]]:
    """Records by premise and hypothesis; raises `DataError` when two share both."""
    found: dict[TextKey, dict[str, Any]] = {}
    for number, record in enumerate(records, 1):
        key = text_key(record["premise"], record["hypothesis"])
        if key in found:
            raise DataError(f"{where}, row {number}: the texts occur twice.", "Remove one of the two rows.")
        found[key] = record
    return found


# -- items ----------------------------------------------------------------------------------------------------------


def mjd_estimator(
    directories: Mapping[str, Path], labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The paper's 341 train items and ChaosNLI's 629 dev and 629 test items, and 4 human explanations a train item.

    Texts, label counts and explanations come from MJD-Estimator, uids and HJDs (100 annotators) from ChaosNLI,
    joined by text, one to one. Train items keep the order of NLI_explanations.json: published answers are numbered
    by it. Dev and test items have no label counts.

    Raises:
        DataError: a label set is not VariErr or MNLI, or the files do not fit together.
    """
    loader = "mjd-estimator"
    keys, texts = nli_keys(labels, loader), two_texts(text_fields, loader)
    for name in label_sets:
        if name not in MJD_ESTIMATOR_COUNTS:
            raise DataError(
                f"The loader {loader} has the label counts {', '.join(MJD_ESTIMATOR_COUNTS)}, not {name!r}.",
                "Correct task.label_counts.",
            )
    items_path = source_directory(directories, "mjd-estimator-items") / ITEMS_FILE
    paths = {"train": items_path}
    for split in ("dev", "test"):
        paths[split] = source_directory(directories, "mjd-estimator-splits") / SPLIT_FILE.format(split=split)
    chaos_path = source_directory(directories, "chaosnli-mnli") / CHAOSNLI_FILE
    chaos = {key: (r["uid"], _hjd(r, keys)) for key, r in _chaosnli(chaos_path).items()}
    items, explanations = [], []
    for split, path in paths.items():
        for key, record in index_by_text(read_json_lines(path), str(path)).items():
            if key not in chaos:
                problem = f"{path}: an item is not in {chaos_path} (or in two files): {' / '.join(key)!r}."
                raise DataError(problem, "Download both sources again, at the commits of the registry.")
            uid, hjd = chaos.pop(key)  # an item is in one split only
            item = {"uid": uid, texts[0]: record["premise"].strip(), texts[1]: record["hypothesis"].strip(), **hjd}
            items.append(item | _counts(record, keys, label_sets) | {"split": split})
            explanations += _explanations(uid, record, keys)
    return pd.DataFrame(items), pd.DataFrame(explanations)


def _chaosnli(path: Path) -> dict[TextKey, dict[str, Any]]:
    records = [record["example"] | record for record in read_json_lines(path)]
    return index_by_text(records, str(path))


def _hjd(record: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, float]:
    """Shares and number of votes from `label_counter` (code -> annotators).

    `label_count` holds the same numbers as a bare list, whose order is not stated.
    """
    counts = {code: record["label_counter"].get(code, 0) for code in NLI_LABELS}
    total = sum(counts.values())
    return {f"hjd_{keys[code]}": count / total for code, count in counts.items()} | {"n_votes": total}


def _counts(record: Mapping[str, Any], keys: Mapping[str, str], label_sets: Sequence[str]) -> dict[str, int]:
    """Label counts of a record of NLI_explanations.json, in e, n, c order there; none for dev and test records."""
    if "comments" not in record:
        return {}
    found = {"varierr": record["varierr labels"], "mnli": record["mnli labels"][1]}
    return {
        f"{name}_{keys[code]}": count
        for name in label_sets
        for code, count in zip(NLI_LABELS, found[name], strict=True)
    }


def _explanations(uid: str, record: Mapping[str, Any], keys: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"uid": uid, "position": position, "label": keys[code], "text": text.strip(), "annotator": None}
        for position, (text, code) in enumerate(record.get("comments", []))
    ]


# -- pairs ----------------------------------------------------------------------------------------------------------


def esnli(directory: Path, labels: LabelSet, text_fields: Sequence[str]) -> pd.DataFrame:
    """e-SNLI dev, then test pairs; uids `esnli-dev-00001`, ... number the lines."""
    keys, texts = nli_keys(labels, "esnli"), two_texts(text_fields, "esnli")
    return pd.concat([_esnli_split(directory, split, keys, texts) for split in ("dev", "test")], ignore_index=True)


def _esnli_split(directory: Path, split: str, keys: Mapping[str, str], texts: tuple[str, str]) -> pd.DataFrame:
    names = {"s1": texts[0], "s2": texts[1], "labels": "label"}
    lines = {
        name: (directory / ESNLI_FILE.format(field=field, split=split))
        .read_text(encoding="utf-8")
        .rstrip("\n")
        .split("\n")
        for field, name in names.items()
    }
    lengths = {name: len(found) for name, found in lines.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{directory}: e-SNLI {split} files differ in length ({lengths}).", "Download them again.")
    uids = [f"esnli-{split}-{number:05d}" for number in range(1, len(lines["label"]) + 1)]
    return _usable(pd.DataFrame({"uid": uids} | lines), keys, texts, f"e-SNLI {split}")


def multinli(archive: Path, labels: LabelSet, text_fields: Sequence[str], limit: int | None = None) -> pd.DataFrame:
    """MultiNLI training pairs with a gold label; uids `multinli-000001`, ... number the lines. `limit` ends early."""
    keys, texts = nli_keys(labels, "multinli"), two_texts(text_fields, "multinli")
    records = (
        (f"multinli-{number:06d}", record["sentence1"], record["sentence2"], record["gold_label"])
        for number, record in enumerate(_zipped_json_lines(archive, "multinli_1.0_train.jsonl"), 1)
        if record["gold_label"] != NO_GOLD_LABEL and record["sentence1"].strip() and record["sentence2"].strip()
    )
    return _usable(pd.DataFrame(islice(records, limit), columns=["uid", *texts, "label"]), keys, texts, "MultiNLI")


def _usable(table: pd.DataFrame, keys: Mapping[str, str], texts: Sequence[str], where: str) -> pd.DataFrame:
    """Texts trimmed, labels as keys; rows with an empty text or without a gold label dropped."""
    for column in (*texts, "label"):
        table[column] = table[column].str.strip()
    keep = table["label"] != NO_GOLD_LABEL
    for column in texts:
        keep &= table[column] != ""
    if not keep.all():
        _log.info("%s: %d of %d rows dropped (no gold label or no text).", where, (~keep).sum(), len(keep))
    table = table[keep].reset_index(drop=True)
    table["label"] = table["label"].map(lambda value: keys.get(value, value))
    return table


# -- ANLI -----------------------------------------------------------------------------------------------------------


def anli_dev(directory: Path, labels: LabelSet, text_fields: Sequence[str], rounds: Sequence[str]) -> pd.DataFrame:
    """ANLI dev sets, as published with the annotations of Williams et al. (2022)."""
    keys, texts = nli_keys(labels, "anli-dev"), two_texts(text_fields, "anli-dev")
    tables = []
    for name in _anli_rounds(rounds):
        path = directory / ANLI_DEV_FILE.format(round=name.lower())
        columns = {"uid": "uid", "context": texts[0], "statement": texts[1], "gold_label": "label"}
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=list(columns)).rename(columns=columns)
        tables.append(_usable(table.assign(round=name), keys, texts, str(path)))
    return pd.concat(tables, ignore_index=True)


def anli_test(archive: Path, labels: LabelSet, text_fields: Sequence[str], rounds: Sequence[str]) -> pd.DataFrame:
    """ANLI test sets, from the official archive."""
    keys, texts = nli_keys(labels, "anli-test"), two_texts(text_fields, "anli-test")
    tables = []
    for name in _anli_rounds(rounds):
        rows = [
            (record["uid"], record["context"], record["hypothesis"], record["label"])
            for record in _zipped_json_lines(archive, f"{name}/test.jsonl")
        ]
        table = pd.DataFrame(rows, columns=["uid", *texts, "label"]).assign(round=name)
        tables.append(_usable(table, keys, texts, f"{archive} {name}"))
    return pd.concat(tables, ignore_index=True)


def _anli_rounds(rounds: Sequence[str]) -> Sequence[str]:
    for name in rounds:
        if name not in ANLI_ROUNDS:
            problem = f"data.ood.rounds names {name!r}, but ANLI has {', '.join(ANLI_ROUNDS)}."
            raise DataError(problem, "Correct data.ood.rounds.")
    return rounds


def _zipped_json_lines(archive: Path, ending: str) -> Iterator[dict[str, Any]]:
    """Records of the archive's one member whose path ends in `ending`, read as they are wanted."""
    try:
        with zipfile.ZipFile(archive) as files:
            members = [
                name for name in files.namelist() if f"/{name}".endswith(f"/{ending}") and "__MACOSX" not in name
            ]
            if len(members) != 1:
                problem = f"{archive} has {len(members)} files that end in {ending}, expected one."
                raise DataError(problem, "Download the archive again.")
            with files.open(members[0]) as lines:
                yield from _parse_lines(lines, f"{archive}, {members[0]}")
    except FileNotFoundError:
        raise DataError(f"{archive} does not exist.", "Run the rule that downloads it.") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is not a ZIP archive.", "Download it again.") from error
