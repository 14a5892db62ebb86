"""The Transformers engine on tiny random models of every family."""

import functools
import os
import re
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from mjd.config.files import read_config
from mjd.config.llms import Llm
from mjd.errors import ModelError
from mjd.llm.base import GenerateRequest, Message, ScoreRequest
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.transformers.decoding import Chooser
from mjd.llm.transformers.engine import TransformersEngine
from mjd.llm.transformers.tree import parts
from mjd.llm.transformers.tree_model import TreeModel
from mjd.prompts.templates import Explanation, score_prompts
from tests.unit.llm.tiny_llms import FAMILIES, FAMILY_PARAMETERS, byte_tokenizer, save_tiny_llm

CONFIG = read_config("config/config.yaml")
SHOWN = [Explanation("e", "Rain wets grass."), Explanation("n", "There may be a roof.")]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_tiny_llm(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def engine(directory: Path, **settings: object) -> TransformersEngine:
    return TransformersEngine(directory, Llm(title="tiny", model="tiny", device="cpu", **settings), "tiny")


@functools.cache
def cached_engine(directory: Path) -> TransformersEngine:
    return engine(directory)


@functools.cache
def cached_model(directory: Path) -> Any:
    """Transformers' own model."""
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()


def requests(text: str = "It rained.") -> list[ScoreRequest]:
    texts = {"premise": text, "hypothesis": "Wet."}
    prompts = score_prompts(CONFIG.prompts, texts, SHOWN, CONFIG.labels, "explicit", "all", 1)
    return [ScoreRequest(prompt.messages, CONFIG.labels.letters) for prompt in prompts]


def one_at_a_time(directory: Path, asked: list[ScoreRequest]) -> np.ndarray:
    """Logits of the letters by a plain forward pass a prompt, with a model of its own."""
    rows = []
    tokens = ChatTokenizer(directory, "auto", "tiny")
    model = cached_model(directory)
    for request in asked:
        prompt = tokens.render(request.messages)
        (ids,) = tokens.encode([prompt])
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        rows.append(logits[tokens.letter_ids(request.letters, prompt)].tolist())
    return np.array(rows)


@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("family", FAMILY_PARAMETERS)
def test_scores_equal_one_prompt_at_a_time(
    models: dict[str, Path], family: str, prefix_tree: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked = requests() + requests("It was dry, and long so.")
    tiny = engine(models[family], prefix_tree=prefix_tree, tokens_per_pass=700)
    found = {i: scored.scores for i, scored in tiny.score(asked)}
    assert "instead of" not in caplog.text
    np.testing.assert_allclose([found[i] for i in range(len(asked))], one_at_a_time(models[family], asked), atol=1e-4)


def test_a_model_that_trees_do_not_fit_is_run_in_padded_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bloom = save_tiny_llm(tmp_path, "bloom")
    tiny = engine(bloom)
    found = {i: scored.scores for i, scored in tiny.score(requests())}
    assert "tiny: scoring uses padded batches instead of prefix trees" in caplog.text
    expected = one_at_a_time(bloom, requests())
    np.testing.assert_allclose([found[i] for i in range(len(expected))], expected, atol=1e-4)
    answers = dict(tiny.generate([ask("Why?"), ask("Who is it?")]))
    assert answers[0].text == greedy(bloom, ask("Why?"))


def test_a_tree_with_other_logits_is_noticed(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = engine(models["llama"])
    monkeypatch.setattr(
        "mjd.llm.transformers.tree_attention._bias",
        lambda block, group, _: torch.zeros(block.mask.shape).repeat(group, 1),
    )
    found = {i: scored.scores for i, scored in tiny.score(requests())}
    assert re.search(r"padded batches instead of prefix trees \(logits differ by", caplog.text)
    expected = one_at_a_time(models["llama"], requests())
    np.testing.assert_allclose([found[i] for i in range(len(expected))], expected, atol=1e-4)


def test_lack_of_memory_is_not_taken_for_a_misfit(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TreeModel, "forward", fail)
    with pytest.raises(ModelError, match=r"memory of cpu does not suffice .*CUDA out of memory.*smaller dtype"):
        list(engine(models["llama"]).score(requests()))


def test_a_seed_gives_the_answers_of_earlier_versions() -> None:
    assert Chooser(ask("Why?", seed=1)).random.initial_seed() == 54901249455414030


@pytest.mark.parametrize("family", FAMILY_PARAMETERS)
def test_workers_side_by_side_change_no_score(
    models: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mjd.llm.transformers.tree.SMALLEST_PART", 1)
    tiny = cached_engine(models[family])
    ids = tiny.tokens.encode([tiny.tokens.render(request.messages) for request in requests() + requests("It was dry.")])
    assert len(parts(ids, 3)) == 3
    found = {}
    for n_workers in (1, 3):
        model = TreeModel(tiny.model, 300, n_workers)
        found[n_workers] = {
            i: row for batch, logits in model.last_logits(ids) for i, row in zip(batch, logits, strict=True)
        }
    for i in range(len(ids)):
        np.testing.assert_allclose(found[3][i], found[1][i], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@hypothesis.settings(max_examples=15)
@hypothesis.given(
    prompts=st.lists(st.text("ab ", min_size=1, max_size=60), min_size=1, max_size=8), size=st.integers(1, 80)
)
def test_random_trees_equal_one_prompt_at_a_time(
    models: dict[str, Path], family: str, prompts: list[str], size: int
) -> None:
    """All logits, in passes of any size."""
    tiny, model = cached_engine(models[family]), cached_model(models[family])
    ids = tiny.tokens.encode(prompts)
    assert tiny.execution.tree is not None
    found = {
        i: row
        for batch, logits in tiny.execution.tree.last_logits(ids, size)
        for i, row in zip(batch, logits, strict=True)
    }
    with torch.inference_mode():
        for i, one in enumerate(ids):
            np.testing.assert_allclose(found[i], model(torch.tensor([one])).logits[0, -1], atol=1e-4)


@pytest.mark.parametrize("prefix_tree", [True, False])
def test_letters_after_a_generated_answer_are_scored_as_what_follows_it(
    models: dict[str, Path], prefix_tree: bool
) -> None:
    tiny = engine(models["llama"], prefix_tree=prefix_tree)
    question = ask("Which is it, A or B?", 6)
    ((_, written),) = tiny.generate([question])
    continued = ScoreRequest(question.messages, ("A", "B"), answer_so_far=f"{written.text} So: ")
    ((_, scored),) = tiny.score([continued])
    text = tiny.tokens.render(question.messages) + continued.answer_so_far
    (ids,) = tiny.tokens.encode([text])
    with torch.inference_mode():
        logits = cached_model(models["llama"])(torch.tensor([ids])).logits[0, -1]
    expected = [logits[one].logsumexp(0).item() for one in tiny.tokens.letter_spellings(("A", "B"), text)]
    np.testing.assert_allclose(scored.scores, expected, atol=1e-4)
    assert scored.usage.prompt_tokens == len(ids)


def test_label_mass_is_the_probability_of_the_letters(models: dict[str, Path]) -> None:
    tiny = engine(models["llama"])
    (request,) = requests()[:1]
    ((_, scored),) = tiny.score([request])
    prompt = tiny.tokens.render(request.messages)
    (ids,) = tiny.tokens.encode([prompt])
    with torch.inference_mode():
        p = cached_model(models["llama"])(torch.tensor([ids])).logits[0, -1].softmax(0)
    assert scored.mass == pytest.approx(p[tiny.tokens.letter_ids("ABC", prompt)].sum().item(), abs=1e-5)


def test_letters_come_from_the_tokenizer(models: dict[str, Path]) -> None:
    tiny = engine(models["gpt2"])
    assert tiny.tokens.tokenizer.convert_ids_to_tokens(tiny.tokens.letter_ids("ABC", "Reply:\n")) == ["A", "B", "C"]


def test_a_letter_that_is_not_one_token_is_an_error(tmp_path: Path) -> None:
    tiny = engine(save_tiny_llm(tmp_path, rewrite={"C": "ce"}), letter_tokens="single")
    with pytest.raises(ModelError, match="does not write the option letter 'C' as one token"):
        list(tiny.score(requests()))


def test_a_prompt_longer_than_the_context_is_an_error(models: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"A prompt has \d+ tokens, but tiny reads at most 2048"):
        list(engine(models["llama"]).score(requests("long " * 500)))


@pytest.mark.parametrize("family", [*FAMILY_PARAMETERS, "bloom"])
def test_shared_weights_do_not_count_as_missing(tmp_path: Path, family: str) -> None:
    engine(save_tiny_llm(tmp_path, family))


def test_a_checkpoint_that_lacks_weights_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["llama"], tmp_path / "headless")
    AutoModelForCausalLM.from_pretrained(models["llama"]).model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"tiny lacks weights of the language model: lm_head\.weight"):
        engine(tmp_path / "headless")


def test_damaged_weights_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["llama"], tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", 1000)
    with pytest.raises(ModelError, match=r"tiny cannot be loaded as a language model .*download it again"):
        engine(tmp_path / "cut")


def test_an_unknown_architecture_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["llama"], tmp_path / "new")
    config = tmp_path / "new" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"no-such-model"'))
    with pytest.raises(ModelError, match=r"tiny cannot be loaded as a language model .*no-such-model"):
        engine(tmp_path / "new")


def test_no_prompts_have_no_tokens(models: dict[str, Path]) -> None:
    assert ChatTokenizer(models["llama"], "auto", "tiny").encode([]) == []


def test_no_chat_template_gives_plain_text(models: dict[str, Path]) -> None:
    tiny = engine(models["llama"], chat_template="none")
    assert tiny.tokens.render([Message("system", "S"), Message("user", "U")]) == "S\n\nU\n"
    assert engine(models["llama"]).tokens.render([Message("user", "U")]) == "<|user|>U\n<|assistant|>\n"


def tokens_with(template: str, directory: Path) -> ChatTokenizer:
    """The tiny tokenizer with another chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return ChatTokenizer(directory, "auto", "tiny")


def test_a_template_that_asks_for_the_day_gets_a_fixed_one(tmp_path: Path) -> None:
    dated = tokens_with("Today: {{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}", tmp_path)
    assert dated.render([Message("user", "U")]) == "Today: 26 Jul 2024 U"


def test_a_prompt_that_the_template_refuses_is_an_error(tmp_path: Path) -> None:
    refusing = tokens_with("{{ raise_exception('System role not supported') }}", tmp_path)
    with pytest.raises(ModelError, match=r"chat template of tiny refuses a prompt \(System role not supported\)"):
        refusing.render([Message("system", "S"), Message("user", "U")])


def ask(text: str, n: int = 12, **how: object) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), n, **how)


def greedy(directory: Path, request: GenerateRequest) -> str:
    """Transformers' own greedy answer."""
    tokens = ChatTokenizer(directory, "auto", "tiny")
    (ids,) = tokens.encode([tokens.render(request.messages)])
    model = cached_model(directory)
    out = model.generate(torch.tensor([ids]), max_new_tokens=request.max_new_tokens, do_sample=False)
    return tokens.decode(out[0, len(ids) :].tolist())


@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("family", FAMILY_PARAMETERS)
def test_greedy_answers_equal_transformers_own(models: dict[str, Path], family: str, prefix_tree: bool) -> None:
    asked = [
        ask("Why?"),
        ask("Why does it rain so much here?"),
        ask("Because", 5),
        ask("Why is it?", 1),
        ask("Why me?"),
    ]
    tiny = engine(models[family], prefix_tree=prefix_tree, batch_size=2, tokens_per_pass=256)
    answers = dict(tiny.generate(asked))
    assert {i: answer.text for i, answer in answers.items()} == {
        i: greedy(models[family], request) for i, request in enumerate(asked)
    }
    assert [answers[i].usage.completion_tokens for i in (2, 3)] == [5, 1]


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
    monkeypatch.setattr(tiny.tokens, "decode", lambda ids: " ".join(map(str, ids)))
    free = dict(tiny.generate([ask("Why?"), ask("Who is it?")]))
    tokens = free[0].text.split()
    tiny.end_ids = frozenset([int(tokens[2])])
    ended = dict(tiny.generate([ask("Why?"), ask("Who is it?")]))
    assert ended[0].text.split() == tokens[: tokens.index(tokens[2])]
    assert (ended[0].finish_reason, free[0].finish_reason) == ("stop", "length")
    assert free[1].text.startswith(ended[1].text)


@pytest.mark.parametrize("prefix_tree", [True, False])
def test_an_answer_ends_with_the_models_context(models: dict[str, Path], prefix_tree: bool) -> None:
    """GPT-2 has no positions beyond it."""
    tiny = engine(models["gpt2"], prefix_tree=prefix_tree)
    answers = dict(tiny.generate([ask("x" * 985, 64), ask("Why?", 5)]))
    assert sum(vars(answers[0].usage).values()) == tiny.tokens.longest == 1024
    assert (answers[0].finish_reason, answers[1].usage.completion_tokens) == ("length", 5)


@pytest.mark.parametrize(("batch_size", "n"), [(24, 48), (128, 256)])
def test_slots_are_never_short_of_prompts(models: dict[str, Path], batch_size: int, n: int) -> None:
    assert engine(models["llama"], batch_size=batch_size).answers_per_call == n
