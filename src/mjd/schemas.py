"""One pyarrow schema per artifact. Column groups (`hjd_*`, `p_*`, `score_*`) follow the label order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from mjd.labels import LabelSet


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _group(labels: LabelSet, prefix: str, kind: pa.DataType, nullable: bool = False) -> list[pa.Field]:
    return [pa.field(column, kind, nullable=nullable) for column in labels.columns(prefix)]


def items(labels: LabelSet, text_fields: Sequence[str], label_sets: Sequence[str]) -> pa.Schema:
    """Items: text, HJD as shares (`hjd_*`, null where unknown), its votes, label counts per label set, split.

    `n_votes` is the number of human votes behind the HJD, null where there is no HJD or the number is not known (no
    name `hjd_*` would do: each is a label's share, `hjd_n` that of neutral).
    Counts (`varierr_*`, `mnli_*`, ...) are the number of annotators who chose the label, null where an item was
    not annotated. `split` is train, dev or test.
    """
    fields = [_required("uid", pa.string())]
    fields += [_required(field, pa.string()) for field in text_fields]
    fields += [*_group(labels, "hjd", pa.float64(), nullable=True), pa.field("n_votes", pa.int64())]
    for name in label_sets:
        fields += _group(labels, name, pa.int64(), nullable=True)
    return pa.schema([*fields, _required("split", pa.string())])


def explanations(annotator: bool = False) -> pa.Schema:
    """Explanations in the order shown: `position` counts from 0 within an item; `label` is a label key."""
    fields = [
        _required("uid", pa.string()),
        _required("position", pa.int64()),
        _required("label", pa.string()),
        _required("text", pa.string()),
    ]
    return pa.schema([*fields, pa.field("annotator", pa.string())] if annotator else fields)


def human_explanations() -> pa.Schema:
    """Human explanations; `annotator` is null where the source does not name one."""
    return explanations(annotator=True)


def answers() -> pa.Schema:
    """Raw answers of a generator: `finish_reason` is stop or length (cut off), null for published answers."""
    return pa.schema(
        [
            _required("uid", pa.string()),
            _required("label", pa.string()),
            _required("text", pa.string()),
            pa.field("finish_reason", pa.string()),
        ]
    )


def candidates() -> pa.Schema:
    """Parsed LLM explanations: `rank` counts from 0 within (uid, label) in the order the LLM listed them."""
    return pa.schema(
        [
            _required("uid", pa.string()),
            _required("label", pa.string()),
            _required("rank", pa.int64()),
            _required("text", pa.string()),
            _required("is_refusal", pa.bool_()),
        ]
    )


def scores(labels: LabelSet) -> pa.Schema:
    """One row per prompt: `score_*` of each label's letter at the first answer position.

    `explanation_order` is the comma-joined positions of the explanations in the order shown ("" for none),
    `option_order` the comma-joined label keys in the order shown. `score_*` is a logit or a natural-log probability, as
    `score` in the file's provenance says; null where an API did not list the letter among the most likely tokens, and
    then at most `score_bound` (null otherwise). `label_mass` is the total probability of the label letters, null where
    the engine does not give it. `top_token` is the text of the most probable first token, null where it is not known.
    """
    return pa.schema(
        [
            _required("uid", pa.string()),
            _required("explanation_order", pa.string()),
            _required("option_order", pa.string()),
            *_group(labels, "score", pa.float64(), nullable=True),
            pa.field("score_bound", pa.float64()),
            pa.field("label_mass", pa.float64()),
            pa.field("top_token", pa.string()),
        ]
    )


def distributions(labels: LabelSet) -> pa.Schema:
    """One probability distribution per item."""
    return pa.schema([_required("uid", pa.string()), *_group(labels, "p", pa.float64())])


def mjd(labels: LabelSet) -> pa.Schema:
    """Model judgment distributions: a distribution per item and the number of prompts averaged."""
    return distributions(labels).append(_required("n_prompts", pa.int64()))


def pairs(text_fields: Sequence[str]) -> pa.Schema:
    """Labelled pairs for the base classifier; `label` is a label key."""
    return pa.schema([_required(name, pa.string()) for name in ("uid", *text_fields, "label")])


def ood(text_fields: Sequence[str]) -> pa.Schema:
    """Out-of-distribution test items; `round` names the test set (R1, R2, R3 for ANLI)."""
    return pa.schema([_required(name, pa.string()) for name in ("uid", "round", *text_fields, "label")])


def predictions(labels: LabelSet) -> pa.Schema:
    """Classifier predictions: `system` is a system slug, `split` dev, test or an OOD round; `p_*` sum to 1.

    `truncated` items were longer than the encoder's `max_length` and lost tokens.
    """
    return pa.schema(
        [
            _required("system", pa.string()),
            _required("seed", pa.int64()),
            _required("split", pa.string()),
            _required("uid", pa.string()),
            *_group(labels, "p", pa.float64()),
            _required("truncated", pa.bool_()),
        ]
    )


def training_history() -> pa.Schema:
    """Training history: dev scores at every evaluation step; `is_best` marks the checkpoint kept.

    `dev_macro_f1` counts any of the labels that tie in an HJD as right; `dev_share_ties` of the dev items have several.
    """
    return pa.schema(
        [
            _required("system", pa.string()),
            _required("seed", pa.int64()),
            _required("step", pa.int64()),
            pa.field("train_loss", pa.float64()),
            _required("dev_macro_f1", pa.float64()),
            _required("dev_loss", pa.float64()),
            _required("dev_share_ties", pa.float64()),
            _required("is_best", pa.bool_()),
        ]
    )


def columns(schema: pa.Schema) -> list[str]:
    """Column names of a schema, in order."""
    return list(schema.names)


def missing(schema: pa.Schema, present: Iterable[str]) -> list[str]:
    """Columns of `schema` that are absent from `present`."""
    have = set(present)
    return [name for name in schema.names if name not in have]
