"""How models are run: every architecture gives what one prompt alone gives by eager attention, or is refused."""

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from mjd.config.llms import Llm
from mjd.errors import ModelError
from mjd.llm.base import Generate, Message, Score
from mjd.llm.transformers.engine import TransformersEngine
from mjd.llm.transformers.execution import choose_probes
from mjd.llm.transformers.reference import exact_attention, in_float32
from tests.unit.llm.tiny_llms import FAMILIES, NOT_CAUSAL, OTHER_FAMILIES, save_tiny_llm

# Rendered, the longest has 88 tokens: more than the windows and chunks of 24 and Phi-3's short context of 64.
TEXTS = ["It rained all day long, and so the grass was wet.", "Hi", "It rained all night, or so.", "Hello there, rain"]
ALL_FAMILIES = (*FAMILIES, *OTHER_FAMILIES)
# Without the package of its authors, xLSTM's cache has another shape than its states.
NO_CACHE = {"xlstm"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return functools.cache(lambda family: save_tiny_llm(tmp_path_factory.mktemp(family), family))


def engine(directory: Path, **settings: object) -> TransformersEngine:
    return TransformersEngine(directory, Llm(title="tiny", model="tiny", device="cpu", **settings), "tiny")


def eager(directory: Path) -> Any:
    """Transformers' own model."""
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()


def ask(text: str, n: int = 12, **how: object) -> Generate:
    return Generate((Message("user", text),), n, **how)


def encoded(tiny: TransformersEngine, texts: list[str]) -> list[list[int]]:
    return tiny.tokens.encode([tiny.tokens.render(ask(text).messages) for text in texts])


def last_logits(tiny: TransformersEngine, ids: list[list[int]]) -> np.ndarray:
    """[n_prompts, vocabulary]."""
    rows = {i: row for batch, logits in tiny._last_logits(ids) for i, row in zip(batch, logits, strict=True)}
    return np.array([rows[i].tolist() for i in range(len(ids))])


@torch.inference_mode()
def logits_alone(model: Any, ids: list[list[int]]) -> np.ndarray:
    """The same by a forward call a prompt."""
    return np.array([model(torch.tensor([one]), use_cache=False).logits[0, -1].tolist() for one in ids])


@torch.inference_mode()
def greedy(model: Any, ids: list[int], n: int, use_cache: bool = True) -> list[int]:
    """Transformers' own greedy answer."""
    tokens = torch.tensor([ids])
    mask = torch.ones_like(tokens)
    out = model.generate(tokens, attention_mask=mask, max_new_tokens=n, do_sample=False, use_cache=use_cache)
    return [token for token in out[0, len(ids) :].tolist() if token != 1]


def modes(tiny: TransformersEngine) -> dict[str, str]:
    execution = tiny.report()["execution"]
    return {task: execution[task]["mode"] for task in ("scoring", "generation") if task in execution}


@pytest.mark.slow
@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_logits_of_every_architecture_equal_one_prompt_at_a_time(models: Any, family: str, prefix_tree: bool) -> None:
    tiny = engine(models(family), prefix_tree=prefix_tree)
    ids = encoded(tiny, TEXTS)
    np.testing.assert_allclose(last_logits(tiny, ids), logits_alone(eager(models(family)), ids), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_greedy_answers_of_every_architecture_equal_generate(models: Any, family: str, prefix_tree: bool) -> None:
    tiny = engine(models(family), prefix_tree=prefix_tree, batch_size=3)
    ids, asked = encoded(tiny, TEXTS), [ask(text, n) for text, n in zip(TEXTS, (12, 40, 3, 12), strict=True)]
    found = {answer.index: answer.tokens for answer in tiny._answers(ids, asked)}
    model = eager(models(family))
    for i, request in enumerate(asked):
        assert found[i] == greedy(model, ids[i], request.max_new_tokens, family not in NO_CACHE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "scoring", "generation"),
    [
        ("llama", "prefix trees", "prefix trees"),
        ("mixtral", "prefix trees", "prefix trees"),
        ("bloom", "padded batches", "padded batches"),
        ("jamba", "padded batches", "padded batches"),
        ("mamba", "padded batches", "one prompt at a time"),
        ("rwkv", "one prompt at a time", "one prompt at a time"),
        ("phi3", "one prompt at a time", "one prompt at a time"),
        ("xlstm", "one prompt at a time", "one prompt at a time without a cache"),
    ],
)
def test_provenance_and_log_name_the_fastest_way_that_fits_and_why(
    models: Any, family: str, scoring: str, generation: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tiny = engine(models(family))
    ids = encoded(tiny, TEXTS)
    assert tiny.report() == {}
    last_logits(tiny, ids)
    list(tiny._answers(ids, [ask(text, 4) for text in TEXTS]))
    assert modes(tiny) == {"scoring": scoring, "generation": generation}
    assert f"tiny: scoring uses {scoring} (checked on 3 prompts)." in caplog.text
    rejected = tiny.report()["execution"]["generation"]["rejected"]
    assert [*rejected, generation] == [
        "prefix trees",
        "padded batches",
        "one prompt at a time",
        "one prompt at a time without a cache",
    ][: len(rejected) + 1]
    assert all(reason in caplog.text for reason in rejected.values())


def save_capped(directory: Path, family: str = "gemma2") -> Path:
    """A Gemma 2 whose attention weights are far beyond its soft cap of 50."""
    save_tiny_llm(directory, family)
    model = eager(directory)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.data.mul_(50)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("prefix_tree", [True, False])
def test_soft_caps_that_matter_scores_equal_eager_attention(tmp_path: Path, prefix_tree: bool) -> None:
    directory = save_capped(tmp_path)
    tiny = engine(directory, prefix_tree=prefix_tree)
    ids = encoded(tiny, TEXTS)
    expected = logits_alone(eager(directory), ids)
    sdpa = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa").eval()
    assert np.abs(logits_alone(sdpa, ids) - expected).max() > 0.05  # the cap matters
    np.testing.assert_allclose(last_logits(tiny, ids), expected, atol=1e-4)
    assert modes(tiny) == {"scoring": "prefix trees" if prefix_tree else "padded batches"}


@pytest.mark.parametrize(
    ("family", "attention"), [("llama", "sdpa"), ("gemma2", "eager"), ("gpt_oss", "eager"), ("falcon", "eager")]
)
def test_sdpa_is_used_only_where_it_does_all_that_the_model_asks(models: Any, family: str, attention: str) -> None:
    """The tiny Gemma 2's weights are so small that its cap changes nothing on the probes."""
    tiny = engine(models(family), prefix_tree=False)
    last_logits(tiny, encoded(tiny, TEXTS))
    assert tiny.report()["execution"]["attention"] == tiny.model.config._attn_implementation == attention


def test_exact_attention_leaves_a_model_with_an_attention_of_its_own_alone(models: Any) -> None:
    assert exact_attention(eager(models("bloom")), [[5, 6, 7]]) == "eager"


def test_layers_with_attention_and_a_state_are_no_trees(models: Any) -> None:
    tiny = engine(models("falcon_h1"))
    last_logits(tiny, encoded(tiny, TEXTS))
    reason = tiny.report()["execution"]["scoring"]["rejected"]["prefix trees"]
    assert reason == "tokens influence each other by other means than attention"


@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("family", NOT_CAUSAL)
def test_a_model_that_is_not_causal_is_refused(models: Any, family: str, prefix_tree: bool) -> None:
    tiny = engine(models(family), prefix_tree=prefix_tree)
    with pytest.raises(ModelError, match=r"tiny is not a causal language model.*decoder-only"):
        list(tiny.score([Score(ask("Why?").messages, ("A", "B"))]))
    with pytest.raises(ModelError, match=r"tiny is not a causal language model"):
        list(tiny.generate([ask("Why?")]))


def test_longer_prompts_than_were_checked_are_checked_again(models: Any) -> None:
    """Attention in chunks is a tree's as long as prompts are shorter than a chunk."""
    tiny = engine(models("llama4"))
    short, long = [[5, 6, 7, 8, 9], [5, 6, 9, 10]], encoded(tiny, TEXTS)
    model = eager(models("llama4"))
    np.testing.assert_allclose(last_logits(tiny, short), logits_alone(model, short), atol=1e-4)
    assert modes(tiny) == {"scoring": "prefix trees"}
    np.testing.assert_allclose(last_logits(tiny, long), logits_alone(model, long), atol=1e-4)
    assert modes(tiny) == {"scoring": "padded batches"}


def test_answers_that_grow_beyond_a_chunk_equal_generate(models: Any) -> None:
    tiny, model = engine(models("llama4")), eager(models("llama4"))
    ids = [[5, 6, 7, 8, 9], [5, 6, 9, 10]]
    found = {answer.index: answer.tokens for answer in tiny._answers(ids, [ask("", 40), ask("", 30)])}
    assert [found[0], found[1]] == [greedy(model, ids[0], 40), greedy(model, ids[1], 30)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["rwkv", "phi3", "falcon_h1"])
def test_half_precision_hides_no_wrong_way(models: Any, family: str) -> None:
    """Checks are made in float32, then weights are as before, bit by bit."""
    single, half = engine(models(family)), engine(models(family), dtype="bfloat16")
    before = {name: tensor.clone() for name, tensor in half.model.state_dict().items()}
    ids = encoded(single, TEXTS)
    for tiny in (single, half):
        last_logits(tiny, ids)
        list(tiny._answers(ids, [ask(text, 2) for text in TEXTS]))
    assert modes(half) == modes(single)
    assert half.model.dtype == torch.bfloat16
    assert all(torch.equal(tensor, before[name]) for name, tensor in half.model.state_dict().items())


def test_float32_checks_spare_memory_that_is_not_free(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mjd.llm.transformers.reference.FLOAT32_BYTES", 0)
    half = engine(models("llama"), dtype="bfloat16")
    with in_float32(half.model):
        assert half.model.dtype == torch.bfloat16
    last_logits(half, encoded(half, TEXTS))
    assert modes(half) == {"scoring": "prefix trees"}


def test_float32_checks_that_run_out_of_memory_are_made_in_half_precision(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = engine(models("llama"), dtype="bfloat16")
    forward = type(half.model).forward

    def little_memory(self: Any, *args: object, **arguments: object) -> object:
        if self.dtype == torch.float32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, **arguments)

    monkeypatch.setattr(half.model, "forward", functools.partial(little_memory, half.model))
    last_logits(half, encoded(half, TEXTS))
    assert modes(half) == {"scoring": "prefix trees"}


def with_bad_token(directory: Path, value: float, family: str = "llama") -> Path:
    """A model whose embedding of the letter Z is not a number."""
    save_tiny_llm(directory, family)
    model = eager(directory)
    token = engine(directory).tokens.encode(["Z"])[0][0]
    model.get_input_embeddings().weight.data[token] = value
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("prefix_tree", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(tmp_path: Path, value: float, prefix_tree: bool) -> None:
    """Whether the prompt is one of those that are checked first (the second is neither longest nor shortest) or not."""
    directory = with_bad_token(tmp_path, value)
    for texts in (["Z is the longest"], ["Which is the longest", "Z is not", "Why?"]):
        with pytest.raises(ModelError, match=r"logits of tiny are not finite.*float32"):
            list(engine(directory, prefix_tree=prefix_tree).score([Score(ask(t).messages, ("A", "B")) for t in texts]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_from_logits_that_are_not_finite_are_refused(tmp_path: Path, temperature: float) -> None:
    tiny = engine(with_bad_token(tmp_path, float("nan")))
    asked = [ask(text, 4, temperature=temperature) for text in ("Which is the longest", "Z is not", "Why?")]
    with pytest.raises(ModelError, match=r"not finite.*float32"):
        list(tiny.generate(asked))


def test_a_forward_pass_that_fails_is_refused(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = engine(models("llama"))
    monkeypatch.setattr(tiny.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ModelError, match=r"forward pass of tiny with a single prompt fails \(ZeroDivisionError.*vllm"):
        list(tiny.score([Score(ask("Why?").messages, ("A", "B"))]))


def test_a_model_that_generate_contradicts_is_refused_with_all_reasons(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RWKV, whose answers need `generate`, with one that shows other logits than a forward call."""
    tiny = engine(models("rwkv"))

    def generate(tokens: torch.Tensor, logits_processor: Any, max_new_tokens: int, **_: object) -> None:
        for _step in range(max_new_tokens):
            logits_processor(tokens, torch.zeros(1, 258))

    monkeypatch.setattr(tiny.model, "generate", generate)
    reasons = (
        r"prefix trees: .*padded batches: .*one prompt at a time: logits differ by .*without a cache: logits differ"
    )
    with pytest.raises(ModelError, match=rf"Generation with tiny is not possible.*{reasons}.*engine: vllm"):
        list(tiny.generate([ask("Why?")]))
    assert tiny.report() == {}
    last_logits(tiny, encoded(tiny, TEXTS))
    assert modes(tiny) == {"scoring": "one prompt at a time"}


def test_sampled_answers_are_the_same_one_prompt_at_a_time(models: Any) -> None:
    tiny = engine(models("llama"))
    asked = [ask(text, 9, temperature=1.0, top_p=0.9, seed=3) for text in TEXTS]
    ids = encoded(tiny, TEXTS)
    trees = {answer.index: answer.tokens for answer in tiny._answers(ids, asked)}
    for way in tiny.execution._chains["generation"].ways[1:]:
        with torch.inference_mode():
            assert {answer.index: answer.tokens for answer in way.answers(ids, asked, tiny.end_ids)} == trees


def test_defaults_of_the_directory_change_no_answer_one_prompt_at_a_time(tmp_path: Path) -> None:
    directory = save_tiny_llm(tmp_path, "rwkv")
    tiny, expected = engine(directory), greedy(eager(directory), [5, 6, 7], 9)
    defaults = GenerationConfig(repetition_penalty=3.0, do_sample=True, suppress_tokens=[expected[0]], eos_token_id=1)
    defaults.save_pretrained(directory)
    tiny = engine(directory)
    assert [answer.tokens for answer in tiny._answers([[5, 6, 7]], [ask("", 9)])] == [expected]
    assert tiny.model.generation_config.repetition_penalty == 3.0


def test_an_answer_one_prompt_at_a_time_ends_at_the_end_token(models: Any) -> None:
    tiny = engine(models("rwkv"))
    free = next(tiny._answers([[5, 6, 7]], [ask("", 9)])).tokens
    tiny.end_ids = frozenset([free[3]])
    (ended,) = tiny._answers([[5, 6, 7]], [ask("", 9)])
    assert (ended.tokens, ended.ended) == (free[: free.index(free[3])], True)


def test_a_long_prompt_is_compared_with_sdpa_where_that_is_exact(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager attention of long prompts would take too much memory; Gemma 2's are cut."""
    monkeypatch.setattr("mjd.llm.transformers.reference.EAGER_BYTES", 4 * 4 * 60**2)
    lengths: list[tuple[str, int]] = []

    def spy(model: Any, ids: list[int], n_last: int = 1, original: Any = None) -> torch.Tensor:
        lengths.append((model.config._attn_implementation, len(ids)))
        out: torch.Tensor = original(model, ids, n_last)
        return out

    import mjd.llm.transformers.reference

    monkeypatch.setattr(
        mjd.llm.transformers.reference,
        "logits_alone",
        functools.partial(spy, original=mjd.llm.transformers.reference.logits_alone),
    )
    for family in ("llama", "gemma2"):
        lengths.clear()
        tiny = engine(models(family))
        ids = encoded(tiny, TEXTS)
        assert max(map(len, ids)) > 60
        last_logits(tiny, ids)
        assert modes(tiny) == {"scoring": "prefix trees"}
        assert max(n for attention, n in lengths if attention == "eager") <= 60
        assert (("sdpa", max(map(len, ids))) in lengths) == (family == "llama")


def lengths(probes: Iterator[list[int]] | list[list[int]]) -> list[int]:
    return [len(one) for one in probes]


def test_probes_of_equal_prompts_differ_in_length_and_branch() -> None:
    same = [*range(10, 30)]
    long, branch = choose_probes([same, same], 0, 20)
    assert (long, len(branch)) == (same, 10)
    assert branch[:5] == same[:5]
    assert branch[5] != same[5]


def test_probes_of_answers_are_as_long_as_the_longest_answer_makes_them() -> None:
    assert lengths(choose_probes([[1, 2, 3, 4], [1, 2]], 3, 50)) == [50, 5, 4]
    assert lengths(choose_probes([[7]], 3, 3)) == [3]  # equal probes are one


@pytest.mark.parametrize("family", ["llama", "rwkv"])
def test_a_prompt_of_one_token_is_scored_and_answered(models: Any, family: str) -> None:
    tiny, model = engine(models(family)), eager(models(family))
    np.testing.assert_allclose(last_logits(tiny, [[7]]), logits_alone(model, [[7]]), atol=1e-4)
    assert [answer.tokens for answer in tiny._answers([[7]], [ask("", 3)])] == [greedy(model, [7], 3)]
