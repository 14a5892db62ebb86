"""Prompts: orders, modes, text in its place."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mjd.config.files import read_config
from mjd.prompts.templates import Explanation, explain_prompt, explanation_orders, first_score_prompt, score_prompts

CONFIG = read_config("config/config.yaml")
TEXTS = {"premise": "It rained {all} day.", "hypothesis": "The grass is wet."}
SHOWN = [Explanation("e", "Rain wets grass."), Explanation("n", "Perhaps there is a roof.")]


def prompts(mode: str = "explicit", orders: str | int = "all") -> list:
    return score_prompts(CONFIG.prompts, TEXTS, SHOWN, CONFIG.labels, mode, orders, 1)


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 99))
def test_a_number_of_orders_is_distinct_and_starts_as_listed(n: int, orders: int, seed: int) -> None:
    found = explanation_orders(n, orders, seed)
    assert len(found) == len(set(found)) == min(orders, math.factorial(n))
    assert found[0] == tuple(range(n))
    assert all(sorted(order) == list(range(n)) for order in found)


def test_a_number_of_orders_draws_from_all_of_them_without_listing_them() -> None:
    assert explanation_orders(3, 6, 1) == explanation_orders(3, "all", 1)
    assert len(set(explanation_orders(3, 5, 1))) == 5
    found = explanation_orders(25, 4, 1)  # 25! has 26 digits
    assert len(set(found)) == 4
    assert all(sorted(order) == list(range(25)) for order in found)


def test_cyclic_orders_put_each_explanation_in_each_place_once() -> None:
    assert explanation_orders(3, "cyclic", 1) == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]


def test_no_explanations_have_one_empty_order() -> None:
    assert explanation_orders(0, "all", 1) == [()]


@pytest.mark.parametrize(("mode", "n"), [("explicit", 12), ("implicit", 12), ("plain", 6)])
def test_every_option_order_for_every_explanation_order(mode: str, n: int) -> None:
    found = prompts(mode)
    assert len(found) == len({prompt.messages for prompt in found}) == n


@pytest.mark.parametrize("mode", ["explicit", "implicit", "plain"])
def test_first_score_prompt_is_the_first_of_all(mode: str) -> None:
    assert first_score_prompt(CONFIG.prompts, TEXTS, SHOWN, CONFIG.labels, mode) == prompts(mode)[0]


def test_explicit_shows_the_label_and_implicit_hides_it() -> None:
    explicit, implicit = (prompts(mode)[0].messages[-1].content for mode in ("explicit", "implicit"))
    assert "Comment 1: Rain wets grass. So it is entailment." in explicit
    assert "Comment 1: Rain wets grass.\n" in implicit
    assert "So it is" not in implicit


def test_options_and_explanations_stand_in_the_order_told() -> None:
    prompt = next(p for p in prompts() if p.option_order == ("c", "e", "n") and p.explanation_order == (1, 0))
    content = prompt.messages[-1].content
    assert content.index("Comment 1: Perhaps there is a roof.") < content.index("Comment 2: Rain wets grass.")
    assert "A. contradiction\nB. entailment\nC. neutral" in content


def test_braces_in_an_items_text_are_left_alone() -> None:
    assert "It rained {all} day." in prompts("plain")[0].messages[-1].content


def test_explain_prompt_names_the_label() -> None:
    content = explain_prompt(CONFIG.prompts, TEXTS, CONFIG.labels["c"])[-1].content
    assert "cannot be true (contradiction)" in content


def test_labels_may_be_spelled_otherwise_and_stand_alone() -> None:
    template = "{premise}{hypothesis}\nA) {option_A}, B) {option_B}, C) {option_C}."
    changed = CONFIG.prompts.model_copy(update={"label_names": {"n": "Perhaps"}, "score": template})
    shown = score_prompts(changed, TEXTS, [], CONFIG.labels, "plain", "all", 1)
    assert shown[0].messages[0].content.endswith("A) entailment, B) Perhaps, C) contradiction.")
    assert shown[-1].messages[0].content.endswith("A) contradiction, B) Perhaps, C) entailment.")
    explicit = score_prompts(changed, TEXTS, SHOWN, CONFIG.labels, "explicit", 1, 1)
    assert "Perhaps there is a roof. So it is Perhaps." in explicit[0].messages[0].content


def test_each_label_may_have_a_template_of_its_own() -> None:
    changed = CONFIG.prompts.model_copy(update={"explain": {"e": "Why? {premise}", "n": "Why maybe?", "c": "Why not?"}})
    assert explain_prompt(changed, TEXTS, CONFIG.labels["e"])[0].content == "Why? It rained {all} day."
    assert explain_prompt(changed, TEXTS, CONFIG.labels["c"])[0].content == "Why not?"
