"""Ways to get the first-token scores of every prompt of an item; each runs in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM

from mjd.config.llms import Llm
from mjd.llm.base import ScoreRequest
from mjd.llm.transformers.engine import TransformersEngine
from mjd.llm.transformers.plain import left_padded
from mjd.logs import Progress
from mjd.runtime.threads import WAIT_POLICY, thread_environment

Result = TypeVar("Result")

# The reference implementation's batch size and answer length (mainlp/MJD-Estimator).
REFERENCE_BATCH, REFERENCE_TOKENS = 20, 256
PLAIN_BATCH = 24


@dataclass(frozen=True)
class Work:
    """What every way is given.

    Attributes:
        model: model directory.
        items: for each item the token ids of its prompts.
        requests: the same prompts as mjd's requests.
        letters: token ids of the option letters.
        pad_id: token id for padding.
        end_ids: token ids that end an answer.
    """

    model: str
    items: list[list[list[int]]]
    requests: list[list[ScoreRequest]]
    letters: list[int]
    pad_id: int
    end_ids: list[int]


@dataclass
class Measured:
    """What came out: seconds of each item, scores [n_prompts, n_letters] of each, peak resident memory after each."""

    seconds: list[float] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def each_item(name: str, n: int, score: Callable[[int], torch.Tensor]) -> Measured:
    """Time `score(item)` for every item."""
    measured = Measured()
    with Progress(name, n, "items") as progress:
        for item in range(n):
            start = time.perf_counter()
            measured.scores.append(score(item))
            measured.seconds.append(time.perf_counter() - start)
            measured.peak_bytes.append(peak_memory())
            progress.done()
    return measured


def stock_model(directory: str) -> Any:
    """The model as Transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.inference_mode()
def reference(work: Work) -> Measured:
    """Generate up to 256 tokens for every prompt in batches of 20 and keep the scores of the first."""
    model = stock_model(work.model)

    def score(item: int) -> torch.Tensor:
        rows = []
        prompts = work.items[item]
        for start in range(0, len(prompts), REFERENCE_BATCH):
            inputs = left_padded(prompts[start : start + REFERENCE_BATCH], work.pad_id, model.device)
            del inputs["position_ids"]
            out = model.generate(
                **inputs,
                max_new_tokens=REFERENCE_TOKENS,
                do_sample=False,
                pad_token_id=work.pad_id,
                eos_token_id=work.end_ids,
                output_scores=True,
                return_dict_in_generate=True,
            )
            rows.append(out.scores[0][:, work.letters])
        return torch.cat(rows)

    return each_item("reference", len(work.items), score)


@torch.inference_mode()
def plain(work: Work) -> Measured:
    """One forward pass for every prompt, in length-sorted batches of 24, head on the last position only."""
    model = stock_model(work.model)

    def score(item: int) -> torch.Tensor:
        prompts = work.items[item]
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        found = torch.empty(len(prompts), len(work.letters))
        for start in range(0, len(order), PLAIN_BATCH):
            batch = order[start : start + PLAIN_BATCH]
            inputs = left_padded([prompts[i] for i in batch], work.pad_id, model.device)
            found[batch] = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1, work.letters]
        return found

    return each_item("plain batches", len(work.items), score)


def tree(work: Work) -> Measured:
    """mjd's prefix trees, from messages to scores."""
    settings = Llm(title="benchmark", model="benchmark", device="cpu", letter_tokens="single")  # as the other ways
    engine = TransformersEngine(work.model, settings, work.model)
    list(engine.score(work.requests[0][:2]))  # the engine checks itself before its first use

    def score(item: int) -> torch.Tensor:
        found = dict(engine.score(work.requests[item]))
        return torch.tensor([found[i].scores for i in range(len(found))])

    return each_item("prefix tree", len(work.items), score)


def vllm(work: Work, python: str) -> Measured:
    """vLLM with prefix caching, in its own environment; its scores are log-probabilities."""
    helper = Path(__file__).with_name("vllm_scoring.py")
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.json", Path(folder) / "found.json"
        given.write_text(json.dumps({"model": work.model, "items": work.items, "letters": work.letters}))
        # A job lets PyTorch's waiting threads sleep; vLLM's spin, as they do by themselves.
        own = {name: value for name, value in os.environ.items() if name != WAIT_POLICY}
        subprocess.run([python, str(helper), str(given), str(found)], check=True, env=own)
        result = json.loads(found.read_text())
    return Measured(
        [item["seconds"] for item in result["items"]],
        [torch.tensor(item["logprobs"]) for item in result["items"]],
        [result["peak_bytes"]] * len(result["items"]),
    )


def alone(way: Callable[..., Result], *given: Any) -> Result:
    """Run a way in a fresh process, whose peak memory is then its own."""
    os.environ.update(thread_environment(os.environ))  # as for a job
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_log_to_stderr) as pool:
        return pool.submit(way, *given).result()


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def matrix_peak(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: int = 2048) -> float:
    """FLOP/s of float32 matrix products of this size, the best of 12."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        product(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_per_token(model: str) -> float:
    """2 x the weights of all layers (embeddings, head and attention scores are left out)."""
    from transformers import AutoConfig

    with torch.device("meta"):
        layers = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    named = layers.named_parameters()
    weights: int = sum(p.numel() for name, p in named if "embed" not in name and "lm_head" not in name)
    return 2.0 * weights


def largest_difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], logprobs: bool) -> float:
    """Largest difference between two ways' scores; between letters only where one gives log-probabilities."""
    if logprobs:
        a, b = ([scores - scores[:, :1] for scores in of_items] for of_items in (a, b))
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))
