"""Prompt templates: the configuration's section `prompts`, and the check of their fields."""

from __future__ import annotations

import string
from collections.abc import Sequence

from pydantic import Field

from mjd.labels import Label, LabelSet, same_name
from mjd.settings import Settings

EXPLAIN_FIELDS = frozenset({"label", "label_meaning"})
SCORE_FIELDS = frozenset({"explanations", "options", "letters"})
EXPLANATION_FIELDS = frozenset({"number", "text", "label", "label_meaning"})
OPTION_FIELDS = frozenset({"letter", "label", "label_meaning"})


_CURE = "correct prompts.label_names"


class ExplainPrompts(Settings):
    """What generating explanations reads of the prompt templates."""

    system: str | None = Field(None, description="System message; null leaves the chat template's default.")
    explain: str | dict[str, str] = Field(
        description="Asks for explanations; also {label}, {label_meaning}. One template, or one for each label key."
    )
    label_names: dict[str, str] = Field(
        {}, description="How prompts write a label ({label}, {option_A}, ...), by label key; its name where left out."
    )

    def label_name(self, label: Label) -> str:
        """How the prompts write a label."""
        return self.label_names.get(label.key, label.name)

    def explain_template(self, label: Label) -> str:
        """The template that asks for explanations of a label."""
        return self.explain if isinstance(self.explain, str) else self.explain[label.key]


class Prompts(ExplainPrompts):
    """Prompt templates; `{field}` is replaced. Text fields of the task are available in explain and score prompts."""

    score: str = Field(
        description="Asks for a letter without explanations; also {letters}, {options} or {option_A}, {option_B}, ..."
    )
    score_with_explanations: str = Field(description="The same with {explanations}.")
    implicit: str = Field(description="One explanation, label hidden: {number}, {text}.")
    explicit: str = Field(description="One explanation with its label: also {label}, {label_meaning}.")
    option: str = Field("{letter}. {label}", description="One option line: {letter}, {label}, {label_meaning}.")


def check_templates(prompts: Prompts, text_fields: Sequence[str], labels: LabelSet) -> None:
    """Check that every template has the fields it needs and no other; raises `ValueError`, for validators."""
    texts = frozenset(text_fields)
    single = frozenset(f"option_{letter}" for letter in labels.letters)
    keys = frozenset(labels.keys)
    if unknown := sorted(prompts.label_names.keys() - keys):
        raise ValueError(f"prompts.label_names has {unknown[0]!r}, which is no label key ({', '.join(labels.keys)})")
    _check_label_names(prompts, labels)
    explain = {"explain": prompts.explain} if isinstance(prompts.explain, str) else prompts.explain
    if explain is prompts.explain:
        if explain.keys() != keys:
            raise ValueError(f"prompts.explain needs one template for each label key ({', '.join(labels.keys)})")
        explain = {f"explain.{key}": template for key, template in explain.items()}
    score, shown = texts | SCORE_FIELDS - {"explanations"} | single, texts | SCORE_FIELDS | single
    for name, template, allowed, required in (
        *((name, text, texts | EXPLAIN_FIELDS, texts) for name, text in explain.items()),
        ("score", prompts.score, score, texts | {"options"}),
        ("score_with_explanations", prompts.score_with_explanations, shown, texts | {"options", "explanations"}),
        ("implicit", prompts.implicit, frozenset({"number", "text"}), {"text"}),
        ("explicit", prompts.explicit, EXPLANATION_FIELDS, {"text", "label"}),
        ("option", prompts.option, OPTION_FIELDS, {"letter", "label"}),
    ):
        fields = _template_fields(template, f"prompts.{name}")
        for field in sorted(fields - allowed):
            raise ValueError(f"prompts.{name} has unknown field {{{field}}} (known: {', '.join(sorted(allowed))})")
        for field in sorted(required - fields):
            if field != "options" or not single <= fields:
                raise ValueError(f"prompts.{name} lacks the field {{{field}}}")


def _check_label_names(prompts: Prompts, labels: LabelSet) -> None:
    """Options that read alike, or like another label, give scores to the wrong label."""
    for label in labels:
        written = prompts.label_name(label)
        if len(written.splitlines()) != 1:
            raise ValueError(f"prompts write label {label.key!r} as {written!r}, which is not one line: {_CURE}")
        for other in labels:
            if other is not label and same_name(written, prompts.label_name(other)):
                raise ValueError(f"prompts write labels {label.key!r} and {other.key!r} both as {written!r}: {_CURE}")
            if other is not label and same_name(written, other.name):
                raise ValueError(
                    f"prompts.label_names writes label {label.key!r} as {written!r}, the name of {other.key!r}: {_CURE}"
                )


def _template_fields(template: str, key: str) -> frozenset[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{key} is not a valid template: {error} (write {{{{ and }}}} for braces)") from None
    for _, name, spec, conversion in parts:
        if spec or conversion:
            raise ValueError(f"{key} formats the field {{{name}}}: write {{{name}}}, without : and !")
    return frozenset(name for _, name, _, _ in parts if name is not None)
