"""The paper's prompts out of its public files: nothing of them stands in this repository."""

from __future__ import annotations

import ast
from itertools import permutations
from typing import Any

import pytest

from mjd import registry
from mjd.config.schema import Config
from mjd.data.public import ITEMS_FILE, read_json_lines
from mjd.errors import DownloadError
from mjd.prompts.templates import Explanation, score_prompts
from mjd.reproduction.upstream_prompts import (
    EXPLICIT,
    IMPLICIT,
    LABEL_WORDS,
    NOTEBOOK_FILE,
    PLAIN,
    explain_templates,
    parse_notebook,
    read_prompts,
)
from tests.real.conftest import ROOT, SourceDirectory

pytestmark = pytest.mark.real

TEXTS = ("premise", "hypothesis")
PUBLISHED = registry.published(ROOT / "resources/registry")["llama3"]


def test_all_published_answers_follow_one_template_a_label(source: SourceDirectory, public_config: Config) -> None:
    records = read_json_lines(source("mjd-estimator-items") / ITEMS_FILE)
    items = [(record["premise"], record["hypothesis"]) for record in records]
    assert len(items) == 341
    found = explain_templates(PUBLISHED, source(PUBLISHED.source), items, public_config.labels, TEXTS)
    assert list(found) == list(public_config.labels.keys)
    assert len(set(found.values())) == 3
    for key, template in found.items():
        assert public_config.labels[key].name in template
        assert template.index("{premise}") < template.index("{hypothesis}")


@pytest.mark.parametrize(("mode", "writer"), [("plain", PLAIN), ("implicit", IMPLICIT), ("explicit", EXPLICIT)])
def test_prompts_are_the_ones_the_notebook_writes(
    source: SourceDirectory, public_config: Config, mode: Any, writer: str
) -> None:
    """Our prompts of the first items, in all orders, beside what the notebook's own functions make of them."""
    try:
        notebook = source("mjd-estimator-notebook") / NOTEBOOK_FILE
    except DownloadError as error:
        if "could not be downloaded" not in error.problem:
            raise
        pytest.skip(f"the mirror has no notebook, and there is no network: {error}")
    items = source("mjd-estimator-items") / ITEMS_FILE
    labels = public_config.labels
    prompts = read_prompts(notebook, items, PUBLISHED, source(PUBLISHED.source), labels, TEXTS)
    names = _defined(notebook)
    for record in read_json_lines(items)[:10]:
        texts = {field: record[field] for field in TEXTS}
        shown = [Explanation(label, text) for text, label in record["comments"]]
        orders = permutations(range(len(shown) if mode != "plain" else 0))
        expected = [
            names[writer]([list(record.values())], words, *([list(order)] if mode != "plain" else []))
            for order in orders
            for words in permutations(names[LABEL_WORDS].values())
        ]
        found = score_prompts(prompts, texts, shown, labels, mode, "all", 1)
        assert [prompt.messages[0].content for prompt in found] == [one[0][0]["content"] for one in expected]


def _defined(notebook: Any) -> dict[str, Any]:
    """The notebook's functions that write prompts and its words for labels; nothing else of it is run."""
    wanted = [
        node
        for node in parse_notebook(notebook).body
        if (isinstance(node, ast.FunctionDef) and node.name in (PLAIN, IMPLICIT, EXPLICIT))
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == LABEL_WORDS)
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(wanted, type_ignores=[]), str(notebook), "exec"), names)
    return names
