"""The Transformers engine on tiny random models of every family."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mjd.config import Llm, read_config
from mjd.errors import ModelError
from mjd.llm.base import Generate, Message, Score
from mjd.llm.transformers_engine import TransformersEngine
from mjd.prompts import Explanation, score_prompts
from tests.unit.tiny_llms import FAMILIES, save_tiny_llm

CONFIG = read_config("config/config.yaml")
SHOWN = [Explanation("e", "Rain wets grass."), Explanation("n", "There may be a roof.")]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_tiny_llm(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def engine(directory: Path, **settings: object) -> TransformersEngine:
    return TransformersEngine(directory, Llm(title="tiny", model="tiny", device="cpu", **settings), "tiny")


def requests(text: str = "It rained.") -> list[Score]:
    texts = {"premise": text, "hypothesis": "Wet."}
    prompts = score_prompts(CONFIG.prompts, texts, SHOWN, CONFIG.labels, "explicit", "all", 1)
    return [Score(prompt.messages, CONFIG.labels.letters) for prompt in prompts]


def one_at_a_time(tiny: TransformersEngine, asked: list[Score]) -> np.ndarray:
    """Logits of the letters by a plain forward pass a prompt."""
    rows = []
    tiny.model.set_attn_implementation("eager")
    for request in asked:
        prompt = tiny.render(request.messages)
        (ids,) = tiny.encode([prompt])
        with torch.inference_mode():
            logits = tiny.model(torch.tensor([ids])).logits[0, -1]
        rows.append(logits[tiny.letter_ids(request.letters, prompt)].tolist())
    return np.array(rows)


@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_one_prompt_at_a_time(models: dict[str, Path], family: str, prefix_tree: bool) -> None:
    asked = requests() + requests("It was dry, and long so.")
    tiny = engine(models[family], prefix_tree=prefix_tree, tokens_per_pass=1500)
    found = {i: scored.scores for i, scored in tiny.score(asked)}
    np.testing.assert_allclose([found[i] for i in range(len(asked))], one_at_a_time(tiny, asked), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_needs_the_fallback(models: dict[str, Path], family: str) -> None:
    tiny = engine(models[family])
    list(tiny.score(requests()))
    assert tiny._use_tree


def test_a_model_whose_tree_is_wrong_is_scored_in_plain_batches(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = engine(models["llama"])
    monkeypatch.setattr("mjd.llm.transformers_engine.tree.ATTENTION", "eager")
    found = {i: scored.scores for i, scored in tiny.score(requests())}
    assert "is scored in plain batches" in caplog.text
    expected = one_at_a_time(tiny, requests())
    np.testing.assert_allclose([found[i] for i in range(len(expected))], expected, atol=1e-4)


def test_label_mass_is_the_probability_of_the_letters(models: dict[str, Path]) -> None:
    tiny = engine(models["llama"])
    (request,) = requests()[:1]
    ((_, scored),) = tiny.score([request])
    prompt = tiny.render(request.messages)
    (ids,) = tiny.encode([prompt])
    with torch.inference_mode():
        p = tiny._last_logits([ids], as_tree=False)[0].softmax(0)
    assert scored.mass == pytest.approx(p[tiny.letter_ids("ABC", prompt)].sum().item(), abs=1e-5)


def test_letters_come_from_the_tokenizer(models: dict[str, Path]) -> None:
    tiny = engine(models["gpt2"])
    assert tiny.tokenizer.convert_ids_to_tokens(tiny.letter_ids("ABC", "Reply:\n")) == ["A", "B", "C"]


def test_a_letter_that_is_not_one_token_is_an_error(tmp_path: Path) -> None:
    tiny = engine(save_tiny_llm(tmp_path, rewrite={"C": "ce"}))
    with pytest.raises(ModelError, match="does not write the option letter 'C' as one token"):
        list(tiny.score(requests()))


def test_a_prompt_longer_than_the_context_is_an_error(models: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"A prompt has \d+ tokens, but tiny reads at most 1024"):
        list(engine(models["llama"]).score(requests("long " * 500)))


def test_no_chat_template_gives_plain_text(models: dict[str, Path]) -> None:
    tiny = engine(models["llama"], chat_template="none")
    assert tiny.render([Message("system", "S"), Message("user", "U")]) == "S\n\nU\n"
    assert engine(models["llama"]).render([Message("user", "U")]) == "<|user|>U\n<|assistant|>\n"


def ask(text: str, n: int = 12, **how: object) -> Generate:
    return Generate((Message("user", text),), n, **how)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_transformers_own(models: dict[str, Path], family: str) -> None:
    tiny = engine(models[family])
    asked = [ask("Why?"), ask("Why does it rain so much here?"), ask("Because", 5)]
    answers = dict(tiny.generate(asked))
    for i, request in enumerate(asked):
        (ids,) = tiny.encode([tiny.render(request.messages)])
        out = tiny.model.generate(torch.tensor([ids]), max_new_tokens=request.max_new_tokens, do_sample=False)
        expected = tiny.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        assert answers[i].text == expected


def test_sampled_answers_do_not_depend_on_the_batch(models: dict[str, Path]) -> None:
    tiny = engine(models["llama"])
    asked = [ask("Why?", temperature=1.0, top_p=0.9), ask("What now, then?", temperature=1.0)]
    together = {i: answer.text for i, answer in tiny.generate(asked)}
    alone = [answer.text for request in asked for _, answer in tiny.generate([request])]
    assert [together[0], together[1]] == alone


def test_samples_differ(models: dict[str, Path]) -> None:
    tiny = engine(models["llama"])
    asked = [ask("Why?", temperature=1.0, sample_index=index) for index in range(3)]
    assert len({answer.text for _, answer in tiny.generate(asked)}) == 3


def test_an_answer_ends_at_the_end_token(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = engine(models["llama"])
    monkeypatch.setattr(tiny.tokenizer, "decode", lambda ids, **_: " ".join(map(str, ids)))
    free = dict(tiny.generate([ask("Why?"), ask("Who is it?")]))
    tokens = free[0].text.split()
    tiny.end_ids = frozenset([int(tokens[2])])
    ended = dict(tiny.generate([ask("Why?"), ask("Who is it?")]))
    assert ended[0].text.split() == tokens[: tokens.index(tokens[2])]
    assert (ended[0].finish_reason, free[0].finish_reason) == ("stop", "length")
    assert free[1].text.startswith(ended[1].text)
