"""A causal language model run on prefix trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Any

import torch

from mjd.errors import ModelError
from mjd.llm.base import GenerateRequest
from mjd.llm.transformers import tree_attention
from mjd.llm.transformers.decoding import Answer, Decoder, Slots
from mjd.llm.transformers.reference import can_set_attention, difference, other_token, set_attention, tolerance
from mjd.llm.transformers.side_by_side import side_by_side
from mjd.llm.transformers.tree import forest, parts, passes
from mjd.llm.transformers.tree_attention import Attends, OwnTokenOnly, Walk

# Most passes at a time on a CPU. Each holds Python's lock for a few percent of its time.
MOST_WORKERS = 4


class TreeModel:
    """Forward calls whose attention follows a prefix tree.

    Args:
        model: any causal language model of Transformers, in evaluation mode.
        tokens_per_pass: most tree nodes in forward calls at a time: what bounds the memory.
        n_workers: forward calls at a time; None is one a thread on a CPU, up to four, and one on a GPU.
        n_slots: most answers in progress.
    """

    name = "prefix trees"

    def __init__(self, model: Any, tokens_per_pass: int, n_workers: int | None = None, n_slots: int = 1) -> None:
        self.model, self.tokens_per_pass, self.n_slots = model, tokens_per_pass, n_slots
        self.device: torch.device = model.device
        on_cpu = self.device.type == "cpu"
        self.n_workers = n_workers or (min(torch.get_num_threads(), MOST_WORKERS) if on_cpu else 1)
        self._last_mlp = _OnlyPlaces()
        last = _last_mlp(model)
        if last is not None:
            self._last_mlp.on(last)
        tree_attention.register()

    @torch.inference_mode()
    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, places: torch.Tensor | None, attends: Attends
    ) -> torch.Tensor:
        """Float32 logits [n, vocabulary].

        Args:
            tokens, positions: [n_rows, n_tokens].
            places: [n] tokens of the one row whose logits are wanted; None: the last token of every row.
        """
        self._use_tree_attention()
        with self._last_mlp.at(places):
            out = self.model(
                input_ids=tokens,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=1 if places is None else places,
                mjd_walk=attends,
            )
        return torch.as_tensor(out.logits[:, -1] if places is None else out.logits[0]).float()

    def last_logits(
        self, ids: Sequence[Sequence[int]], tokens_per_pass: int | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Logits after the last token of each prompt (token ids), as (indices [n], logits [n, vocabulary])."""
        self._use_tree_attention()  # once, before there are threads
        dealt = parts(ids, self.n_workers)
        n_workers = min(self.n_workers, len(dealt))
        size = max((tokens_per_pass or self.tokens_per_pass) // n_workers, 1)
        yield from side_by_side([partial(self._walk, ids, part, size) for part in dealt], n_workers)

    def _use_tree_attention(self) -> None:
        set_attention(self.model, tree_attention.ATTENTION)

    def _walk(
        self, ids: Sequence[Sequence[int]], part: list[int], size: int
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """The same for the prompts with indices `part`, in passes of `size` nodes."""
        tree = forest([ids[i] for i in part])
        tokens, depth = (torch.from_numpy(x).to(self.device) for x in (tree.tokens, tree.depth))
        walk = Walk(self.device)
        for step in passes(tree, size):
            walk.begin(step)
            nodes = slice(step.start, step.stop)
            places = torch.from_numpy(step.leaf).to(self.device)
            logits = self.forward(tokens[nodes][None], depth[nodes][None], places, walk)
            if len(places):
                yield [part[i] for i in step.prompts], logits

    def answers(
        self, ids: Sequence[Sequence[int]], requests: Sequence[GenerateRequest], end_ids: frozenset[int]
    ) -> Iterator[Answer]:
        """The answers to prompts (token ids), as they finish."""
        yield from self.decoder(end_ids, self.n_slots).run(ids, requests)

    def probe_last(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [n_prompts, vocabulary] after the last tokens of prompts, cut into several passes.

        Raises:
            ModelError: tokens influence each other by other means than attention.
        """
        self._check_mixing(ids[-1])
        found: list[torch.Tensor] = [torch.empty(0)] * len(ids)
        for indices, logits in self.last_logits(ids, max(max(map(len, ids)) // 2, 1)):
            for i, row in zip(indices, logits, strict=True):
                found[i] = row
        return torch.stack(found)

    def _check_mixing(self, ids: Sequence[int]) -> None:
        """Check that nothing but attention, in every layer, carries anything from token to token.

        State-space and recurrent layers, convolutions and token shifts do: a tree's neighbours are no prompt's.
        """
        if not can_set_attention(self.model):
            raise ModelError(f"{type(self.model).__name__} has an attention of its own", "")
        attends, positions = OwnTokenOnly(), torch.arange(len(ids), device=self.device)[None]
        last = [
            self.forward(torch.tensor([one], device=self.device), positions, positions[0, -1:], attends)
            for one in (ids, other_token(ids, 0, self.model), other_token(ids, max(len(ids) - 2, 0), self.model))
        ]
        n_layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", len(attends.layers))
        if len(attends.layers) < n_layers:
            raise ModelError(f"only {len(attends.layers)} of {n_layers} layers are attention layers", "")
        most = tolerance(last[0], self.model.dtype) / 10
        if len(ids) > 1 and not max(difference(one, last[0]) for one in last[1:]) <= most:
            raise ModelError("tokens influence each other by other means than attention", "")

    def probe_steps(self, ids: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """Logits [n_prompts, n + 1, vocabulary] after the last tokens of prompts, `n` of them as if generated."""
        self.probe_last(ids)
        decoder, slots = self.decoder(frozenset(), len(ids)), Slots(len(ids), max(map(len, ids)), self.device)
        found = [decoder.enter([one[:-n] for one in ids], slots)]
        for step in range(n):
            found.append(decoder.step([one[len(one) - n + step] for one in ids], slots))
        return torch.stack(found, dim=1)

    def decoder(self, end_ids: frozenset[int], n_slots: int) -> Decoder:
        """A decoder of answers with this model."""
        return Decoder(self.forward, self.device, end_ids, self.tokens_per_pass, n_slots)


def _last_mlp(model: Any) -> torch.nn.Module | None:
    """The last layer's MLP, where the model has a list of layers and they have one by that name."""
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return getattr(module[-1], "mlp", None)
    return None


class _OnlyPlaces(local):
    """Makes a module compute some places of [1, n, width] only and give zeros at the others; each thread its own.

    After the last layer only leaves are read; its MLP is 2.5 % of a 30-layer model.
    """

    places: torch.Tensor | None = None
    shape = torch.Size()

    def on(self, module: torch.nn.Module) -> None:
        """Do so from now on, while there are places."""
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    @contextmanager
    def at(self, places: torch.Tensor | None) -> Iterator[None]:
        """Set the places of this thread."""
        self.places = places
        try:
            yield
        finally:
            self.places = None

    def _before(self, module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.places is None:
            return None
        self.shape = given[0].shape
        return (given[0].index_select(1, self.places), *given[1:])

    def _after(self, module: torch.nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor | None:
        if self.places is None:
            return None
        return out.new_zeros(self.shape).index_copy_(1, self.places, out)
