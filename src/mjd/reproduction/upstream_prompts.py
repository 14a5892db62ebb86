"""The paper's prompts, read from its public files when they are needed: none of their sentences is kept here.

The prompts that ask for a letter are f-strings in a notebook of mainlp/MJD-Estimator: its cells are parsed, not run,
and the f-strings become templates. The prompts that ask for explanations stand at the head of the published Llama 3
answers: an item's texts in them are turned back into fields.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mjd.config.prompts import Prompts, check_templates
from mjd.data.public import nli_keys, read_json_lines, two_texts
from mjd.errors import DataError
from mjd.labels import LabelSet
from mjd.registry import PublishedSet
from mjd.reproduction.published_answers import published_spellings

NOTEBOOK_FILE = "MJD-generator/MJD-generator.ipynb"
LOADER = "prompts mjd-estimator"

# Names in the notebook: the functions that write a prompt without explanations, with explanations, and with
# explanations and labels; how it spells labels; an item, the options shown, and the explanation of a loop's turn.
PLAIN = "message_generate"
IMPLICIT = "message_generate_for_comments"
EXPLICIT = "message_generate_for_comments_add_labels"
LABEL_WORDS = "option_dict"
OPTION = "option_order_word[{place}]"
TEXT = "one_instance[{place}]"
NUMBER = "i + 1"
EXPLANATION = "one_instance[-1][comments_id][0]"
EXPLANATION_LABEL = "option_dict[one_instance[-1][comments_id][1]]"

_MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)
_CURE = "Put the file of the registry's commit into the mirror, or give templates of your own under prompts."


def read_prompts(
    notebook: Path,
    items: Path,
    published: PublishedSet,
    answers: Path,
    labels: LabelSet,
    text_fields: Sequence[str],
) -> Prompts:
    """The paper's templates.

    Args:
        notebook: the notebook that scores prompts.
        items: the items that the answers explain, one JSON record a line, in the order of the answers.
        published: the set whose answers begin with their prompts, `answers` its directory.
        labels: entailment, neutral and contradiction, under any keys.

    Raises:
        DataError: a file is not of the published form, naming what was expected.
    """
    texts = two_texts(text_fields, LOADER)
    scoring = scoring_templates(notebook, labels, texts)
    records = [(record["premise"], record["hypothesis"]) for record in read_json_lines(items)]
    explain = explain_templates(published, answers, records, labels, texts)
    prompts = Prompts(explain=explain, **scoring)
    try:
        check_templates(prompts, texts, labels)
    except ValueError as error:
        raise DataError(f"{notebook}: {error}.", _CURE) from None
    return prompts


# -- the notebook: prompts that ask for a letter ----------------------------------------------------------------------


def scoring_templates(notebook: Path, labels: LabelSet, texts: tuple[str, str]) -> dict[str, Any]:
    """Keyword arguments of `Prompts` that the notebook decides: all but `explain`."""
    keys = nli_keys(labels, LOADER)
    code = parse_notebook(notebook)
    fields = {TEXT.format(place=place): field for place, field in enumerate(texts)}
    fields |= {OPTION.format(place=place): f"option_{letter}" for place, letter in enumerate(labels.letters)}
    fields |= {NUMBER: "number", EXPLANATION: "text", EXPLANATION_LABEL: "label"}
    plain, implicit, explicit = (_Writer(code, name, fields, notebook) for name in (PLAIN, IMPLICIT, EXPLICIT))
    found = {
        "score": plain.message(),
        "implicit": implicit.explanation(),
        "explicit": explicit.explanation(),
        "score_with_explanations": implicit.message(),
        "label_names": _label_names(code, keys, notebook),
    }
    if explicit.message() != implicit.message():
        raise _unexpected(notebook, f"{IMPLICIT} and {EXPLICIT} to show explanations within the same prompt")
    return found


def parse_notebook(path: Path) -> ast.Module:
    """The syntax tree of a notebook's code cells, one after the other, without IPython's magics."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Run the rule that downloads it.") from None
    except (ValueError, KeyError, TypeError):
        raise _unexpected(path, "a notebook: JSON with cells that have a cell_type and a source") from None
    body: list[ast.stmt] = []
    for number, source in enumerate(sources, 1):
        try:
            body += ast.parse(_MAGIC.sub("", source)).body
        except SyntaxError as error:
            raise _unexpected(path, f"Python in code cell {number} (line {error.lineno}: {error.msg})") from None
    return ast.Module(body, type_ignores=[])


def _unexpected(path: Path, expected: str) -> DataError:
    return DataError(f"{path} has changed: expected {expected}.", _CURE)


class _Writer:
    """A function of the notebook that writes prompts, and the templates its f-strings stand for."""

    def __init__(self, code: ast.Module, name: str, fields: Mapping[str, str], path: Path) -> None:
        found = [node for node in code.body if isinstance(node, ast.FunctionDef) and node.name == name]
        if not found:
            raise _unexpected(path, f"a function {name}")
        self.name, self.path, self.fields = name, path, fields
        self.function = found[-1]
        self.added = [
            node for node in ast.walk(self.function) if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add)
        ]
        self.assigned = dict(_simple_assignments(self.function, {ast.unparse(node.target) for node in self.added}))

    def message(self) -> str:
        """The template of the user's message; all explanations are one field, each on a line of its own."""
        found = [
            dict(zip(map(_constant, node.keys), node.values, strict=True))
            for node in ast.walk(self.function)
            if isinstance(node, ast.Dict) and {"role", "content"} <= set(map(_constant, node.keys))
        ]
        if len(found) != 1 or _constant(found[0]["role"]) != "user":
            raise _unexpected(self.path, f"one message, the user's, in {self.name}")
        shown = {ast.unparse(node.target): "\n{explanations}" for node in self.added}
        return self._template(found[0]["content"], shown)

    def explanation(self) -> str:
        """The template of one explanation's line."""
        if len(self.added) != 1:
            raise _unexpected(self.path, f"one += in {self.name}, which adds an explanation")
        line = self._template(self.added[0].value, {})
        if not line.startswith("\n"):
            raise _unexpected(self.path, f"each explanation on a line of its own in {self.name}")
        return line.removeprefix("\n")

    def _template(self, node: ast.expr, shown: Mapping[str, str]) -> str:
        if not isinstance(node, ast.JoinedStr):
            raise _unexpected(self.path, f"an f-string in {self.name} instead of {ast.unparse(node)}")
        return "".join(self._part(part, shown) for part in node.values)

    def _part(self, part: ast.expr, shown: Mapping[str, str]) -> str:
        if isinstance(part, ast.Constant):
            return _escaped(str(part.value))
        assert isinstance(part, ast.FormattedValue)
        plain = part.conversion == -1 and part.format_spec is None
        value = ast.unparse(_Inlined(self.assigned).visit(part.value))
        if plain and value in shown:
            return shown[value]
        if not plain or value not in self.fields:
            expected = ", ".join(sorted([*self.fields, *shown]))
            raise _unexpected(self.path, f"one of {expected} in the f-string of {self.name}, not {ast.unparse(part)}")
        return f"{{{self.fields[value]}}}"


class _Inlined(ast.NodeTransformer):
    """An expression with variables replaced by what was assigned to them."""

    def __init__(self, assigned: Mapping[str, ast.expr]) -> None:
        self.assigned = assigned

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.assigned.get(node.id, node)


def _simple_assignments(function: ast.FunctionDef, changed: set[str]) -> Iterator[tuple[str, ast.expr]]:
    """Variables that are assigned an element of something: `name = thing[...]`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id not in changed:
                    yield target.id, node.value


def _constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _label_names(code: ast.Module, keys: Mapping[str, str], path: Path) -> dict[str, str]:
    """How the notebook spells labels, by our label keys (`keys`: the notebook's code -> ours)."""
    for node in code.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == LABEL_WORDS:
            try:
                words: dict[str, str] = ast.literal_eval(node.value)
                return {keys[letter]: str(word) for letter, word in words.items()}
            except (ValueError, KeyError, AttributeError):
                break
    raise _unexpected(path, f"a dictionary {LABEL_WORDS} from e, n and c to the words for the labels")


# -- published answers: prompts that ask for explanations -------------------------------------------------------------


def explain_templates(
    published: PublishedSet,
    directory: Path,
    items: Sequence[tuple[str, str]],
    labels: LabelSet,
    texts: tuple[str, str],
) -> dict[str, str]:
    """One template for each label key: the prompts of its answers with an item's texts as fields.

    The first item's prompt becomes the template; every other item's must be that template filled with its own texts.
    White space is not compared: decoding has closed it up before punctuation in some files.

    Raises:
        DataError: a prompt is missing, lacks an item's text or is not the template.
    """
    templates = {}
    spellings = published_spellings(published, labels)
    for key in labels.keys:
        paths = [directory / published.answers.format(index=index, label=spellings[key]) for index in range(len(items))]
        template = _as_template(_prompt(published, paths[0]), dict(zip(texts, items[0], strict=True)), paths[0])
        for path, item in zip(paths, items, strict=True):
            expected = template.format(**dict(zip(texts, item, strict=True)))
            if _squeezed(_prompt(published, path)) != _squeezed(expected):
                raise _unexpected(path, f"the prompt of {paths[0]} with this item's texts")
        templates[key] = template
    return templates


def _prompt(published: PublishedSet, path: Path) -> str:
    """The user's message at the head of a published answer."""
    if not (published.prompt_after and published.answer_after):
        problem = f"Published set {published.title} names no prompt_after and answer_after."
        raise DataError(problem, "Add them to resources/registry/published.yaml.")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Run the rule that downloads it.") from None
    head, marker, _ = text.partition(published.answer_after)
    _, opened, prompt = head.partition(published.prompt_after)
    if not (marker and opened):
        raise _unexpected(path, f"a prompt between {published.prompt_after!r} and {published.answer_after!r}")
    return prompt.partition(published.answer_before or published.answer_after)[0].strip()


def _as_template(prompt: str, texts: Mapping[str, str], path: Path) -> str:
    """A prompt with an item's texts, one after the other, replaced by fields."""
    parts, rest = [], prompt
    for field, text in texts.items():
        found = re.search(r"\s*".join(map(re.escape, _squeezed(text))), rest)
        if found is None:
            raise _unexpected(path, f"the {field} {text!r} in its prompt")
        parts += [_escaped(rest[: found.start()]), f"{{{field}}}"]
        rest = rest[found.end() :]
    return "".join([*parts, _escaped(rest)])


def _squeezed(text: str) -> str:
    """Text without white space."""
    return "".join(text.split())
