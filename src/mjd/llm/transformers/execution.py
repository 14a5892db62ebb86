"""How a local model is run: the fastest way that gives what one prompt alone gives, checked before its first use.

Ways, fastest first: prefix trees, padded batches, one prompt at a time, and (for answers) one prompt at a time without
a cache. Scoring and generation are checked apart, for a model may be right for one only. A model that no way fits is
refused before work starts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from mjd.errors import ModelError
from mjd.llm.base import GenerateRequest
from mjd.llm.transformers import reference
from mjd.llm.transformers.decoding import Answer
from mjd.llm.transformers.plain import OnePromptAtATime, PaddedBatches
from mjd.llm.transformers.tree_model import TreeModel

log = logging.getLogger(__name__)

# Tokens of a probe that are read as if they had been generated.
N_STEPS = 3


class Way(Protocol):
    """A way of running a model.

    `probe_last` gives logits [n_prompts, vocabulary] of prompts run together, `probe_steps` [n_prompts, n + 1,
    vocabulary] after their last tokens, `n` of them as if generated.
    """

    @property
    def name(self) -> str: ...

    def last_logits(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]: ...

    def answers(
        self, ids: Sequence[Sequence[int]], requests: Sequence[GenerateRequest], end_ids: frozenset[int]
    ) -> Iterator[Answer]: ...

    def probe_last(self, ids: Sequence[Sequence[int]]) -> torch.Tensor: ...

    def probe_steps(self, ids: Sequence[Sequence[int]], n: int) -> torch.Tensor: ...


@dataclass
class Chain:
    """The ways that are left for a task, fastest first, why others were rejected, and the longest text checked."""

    ways: list[Way]
    rejected: dict[str, str] = field(default_factory=dict)
    checked: int = 0


class Execution:
    """Runs a model in the fastest way that is right for it.

    Args:
        model: any causal language model of Transformers, in evaluation mode, loaded with eager attention.
        name: the model's name for errors.
        pad_id: token that fills shorter rows.
        prefix_tree: whether to try prefix trees.
        tokens_per_pass: most tokens in a forward call.
        batch_size: most answers in progress.
        longest: most tokens that the model reads; None where it has no end.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        pad_id: int,
        *,
        prefix_tree: bool,
        tokens_per_pass: int,
        batch_size: int,
        longest: int | None,
    ) -> None:
        self.model, self.name, self.longest = model, name, longest
        self.tree = TreeModel(model, tokens_per_pass, n_slots=batch_size) if prefix_tree else None
        padded = PaddedBatches(model, pad_id, tokens_per_pass, batch_size, self._use_attention)
        alone, uncached = (OnePromptAtATime(model, pad_id, self._use_attention, cache) for cache in (True, False))
        trees: list[Way] = [self.tree] if self.tree else []
        self._chains = {
            "scoring": Chain([*trees, padded, alone]),
            "generation": Chain([*trees, padded, alone, uncached]),
        }
        self._attention: str | None = None

    def last_logits(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Float32 logits after the last token of each prompt (token ids), as (indices [n], logits [n, vocabulary]).

        Raises:
            ModelError: no way of running the model is right, or logits are not finite.
        """
        for batch, logits in self._way("scoring", ids).last_logits(ids):
            reference.check_finite(logits, self.name, max(len(ids[i]) for i in batch))
            yield batch, logits

    def answers(
        self, ids: Sequence[Sequence[int]], requests: Sequence[GenerateRequest], end_ids: frozenset[int]
    ) -> Iterator[Answer]:
        """Answers to prompts (token ids), as they finish.

        Raises:
            ModelError: no way of running the model is right, or logits are not finite.
        """
        yield from self._way("generation", ids, max(r.max_new_tokens for r in requests)).answers(ids, requests, end_ids)

    def report(self) -> dict[str, Any]:
        """Provenance: how scoring and generation are run, and why not in a faster way."""
        used = {task: chain for task, chain in self._chains.items() if chain.checked}
        modes = {task: {"mode": chain.ways[0].name, "rejected": chain.rejected} for task, chain in used.items()}
        return {"execution": modes | ({"attention": self._attention} if self._attention else {})} if used else {}

    # -- checks ----------------------------------------------------------------------------------------------

    def _way(self, task: str, ids: Sequence[Sequence[int]], more: int = 0) -> Way:
        """The way for a task, checked for texts as long as the longest of these prompts and `more` tokens."""
        chain = self._chains[task]
        length = max(map(len, ids)) + more
        if length > chain.checked:
            try:
                self._check_in_float32(task, ids, length)
            except torch.OutOfMemoryError as error:
                raise ModelError(
                    f"The memory of {self.model.device} does not suffice for this model and a few prompts ({error}).",
                    "Use a GPU with more memory or one that nothing else uses, a smaller dtype, or a smaller model.",
                ) from error
            chain.checked = length
        return chain.ways[0]

    @torch.inference_mode()
    def _check_in_float32(self, task: str, ids: Sequence[Sequence[int]], length: int) -> None:
        """Check with float32 weights; where that takes too much memory, with the weights as they are."""
        try:
            with reference.in_float32(self.model):
                self._check(task, ids, length)
        except torch.OutOfMemoryError:
            self._check(task, ids, length)

    def _check(self, task: str, ids: Sequence[Sequence[int]], length: int) -> None:
        """Drop ways until one gives the reference's logits on a few of the prompts."""
        chain = self._chains[task]
        more = 0 if task == "scoring" else N_STEPS
        probes = choose_probes(ids, more, min(length, self.longest or length))
        most = reference.longest_eager(self.model)
        if len(probes[0]) > most:
            # Trees and SDPA have no such need: the longest prompt is compared with SDPA where that is exact.
            self._choose_attention(sorted(probes, key=len)[:2])
            is_eager = self._attention == "eager" and reference.can_set_attention(self.model)
            probes[0] = probes[0][: most if is_eager else max(most, *map(len, ids))]
        n = 0 if task == "scoring" else min(N_STEPS, min(map(len, probes)) - 1)
        expected = self._expected(probes, n)
        while chain.ways:
            way = chain.ways[0]
            reason = self._misfit(way, probes, expected, n)
            if reason is None:
                log.info("%s: %s uses %s (checked on %d prompts).", self.name, task, way.name, len(probes))
                return
            chain.rejected[way.name] = reason
            del chain.ways[0]
            if chain.ways:
                slower = chain.ways[0].name
                log.warning("%s: %s uses %s instead of %s (%s).", self.name, task, slower, way.name, reason)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in chain.rejected.items())
        raise ModelError(
            f"{task.capitalize()} with {self.name} is not possible: its forward pass of a prompt alone is "
            f"contradicted by every way of running it ({reasons}).",
            "Use engine: vllm for this model, another version of Transformers, or another model.",
        )

    def _expected(self, probes: Sequence[Sequence[int]], n: int) -> list[torch.Tensor]:
        """The reference's logits [n + 1, vocabulary] of each probe.

        Raises:
            ModelError: the forward call fails, its logits are not finite, or the model is not causal.
        """
        try:
            expected = [self._logits_alone(ids, n + 1) for ids in probes]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ModelError(
                f"A forward pass of {self.name} with a single prompt fails ({type(error).__name__}: {error}).",
                "Use engine: vllm for this model, another version of Transformers, or another model.",
            ) from error
        for ids, logits in zip(probes, expected, strict=True):
            reference.check_finite(logits, self.name, len(ids))
        reference.set_attention(self.model, "eager")
        if not reference.is_causal(self.model, min(probes, key=len)):
            raise ModelError(
                f"{self.name} is not a causal language model: its logits after a token change with the tokens that "
                "follow.",
                "Use a decoder-only model; encoders such as BERT and permutation models such as XLNet do not score a "
                "next token.",
            )
        return expected

    def _logits_alone(self, ids: Sequence[int], n_last: int) -> torch.Tensor:
        """Logits [n_last, vocabulary] of one prompt: by eager attention where its memory suffices."""
        is_long = len(ids) > reference.longest_eager(self.model)
        reference.set_attention(self.model, (self._attention or "eager") if is_long else "eager")
        return reference.logits_alone(self.model, ids, n_last)

    def _misfit(
        self, way: Way, probes: Sequence[Sequence[int]], expected: Sequence[torch.Tensor], n: int
    ) -> str | None:
        """Why a way is wrong here; None when it gives the logits [n + 1, vocabulary] expected of each probe."""
        try:
            if way is not self.tree:
                self._choose_attention(sorted(probes, key=len)[:2])
            found = way.probe_steps(probes, n) if n else way.probe_last(probes)[:, None]
            for one, other in zip(found, expected, strict=True):
                apart = reference.difference(one, other)
                if not apart <= reference.tolerance(other, self.model.dtype):
                    return f"logits differ by {apart:.2g}"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return error.problem if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        return None

    def _choose_attention(self, probes: Sequence[Sequence[int]]) -> None:
        if self._attention is None:
            self._attention = reference.exact_attention(self.model, probes)

    def _use_attention(self) -> None:
        reference.set_attention(self.model, self._attention or "eager")


def choose_probes(ids: Sequence[Sequence[int]], more: int, longest: int) -> list[list[int]]:
    """A few prompts of different lengths: the longest, the shortest, and a short one that leaves the shortest halfway.

    Args:
        ids: token ids of prompts.
        more: tokens to add to each as if they had been generated.
        longest: most tokens of a probe, and those of the longest: its tokens are repeated up to there.
    """
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    short, long = list(ids[by_length[0]]), list(ids[by_length[-1]])
    branch = short[: len(short) // 4] + short[len(short) // 2 :][::-1][: max(len(short) // 4, 1)]
    probes = [(long * -(-longest // len(long)))[:longest] if longest > len(long) else long]
    probes += [(one + (short + long) * more)[: min(len(one) + more, longest)] for one in (short, branch)]
    return [one for i, one in enumerate(probes) if one not in probes[:i]]
