"""The variables that a chat template reads: those that users set, and those that turn reasoning off."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import jinja2
import jinja2.meta

from mjd import registry
from mjd.errors import ConfigError
from mjd.llm.reasoning import opens_reasoning

Value = bool | int | float | str

# What Transformers gives to every template.
_GIVEN = frozenset({
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception",
    "strftime_now", "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
    "additional_special_tokens", "tojson",
})  # fmt: skip
# A tag of Transformers' own, which marks what the assistant wrote.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def variables(template: str) -> frozenset[str]:
    """Names that a template reads beside what every template is given; empty for one that Jinja cannot read."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except jinja2.TemplateError:  # the first prompt tells
        return frozenset()
    return frozenset(jinja2.meta.find_undeclared_variables(tree)) - _GIVEN


def check_known(chosen: Mapping[str, Value], template: str, name: str) -> None:
    """Check that the template reads every variable that is set: others would change nothing, without a word.

    Raises:
        ConfigError: it does not, or there is no template (`template` is empty).
    """
    known = variables(template)
    for variable in sorted(chosen.keys() - known):
        has = f"its variables are {', '.join(sorted(known))}" if known else "it has none"
        raise ConfigError(
            f"chat_template_kwargs sets {variable!r}, which the chat template of {name} does not read ({has}).",
            "Correct the name, or remove it from the LLM's or model's entry.",
        )


def without_reasoning(
    chosen: Mapping[str, Value], template: str, render: Callable[[Mapping[str, Value]], str]
) -> dict[str, Value]:
    """`chosen` and the registry's switches that turn reasoning off, where they change what the template renders.

    Args:
        chosen: variables that users set, which stay.
        template: the chat template.
        render: renders a chat with given variables.
    """
    known, found = variables(template), dict(chosen)
    switches = registry.reasoning().switches
    if any(switch.variable in chosen for switch in switches):
        return found
    for switch in switches:
        if switch.variable not in known:
            continue
        if switch.known_by and not re.search(switch.known_by, template):
            continue
        more = found | {switch.variable: switch.value}
        before, after = render(found), render(more)
        # A template that only asks whether the variable is there takes any value for yes.
        if after != before and not opens_reasoning(after):
            found = more
    return found
