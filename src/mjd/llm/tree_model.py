"""A causal language model run on prefix trees, and the check that it comes out right."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Any

import torch

from mjd.errors import ModelError
from mjd.llm import plain, tree_attention
from mjd.llm.decoding import Decoder, Slots
from mjd.llm.side_by_side import side_by_side
from mjd.llm.tree import forest, parts, passes
from mjd.llm.tree_attention import Attends, Walk

log = logging.getLogger(__name__)

# Largest difference in logits between a tree and one prompt at a time that the check accepts.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.5}

# Most passes at a time on a CPU. Each holds Python's lock for a few percent of its time.
MOST_WORKERS = 4


class TreeModel:
    """Forward calls whose attention follows a prefix tree.

    Args:
        model: any causal language model of Transformers, in evaluation mode.
        tokens_per_pass: most tree nodes in forward calls at a time: what bounds the memory.
        n_workers: forward calls at a time; None is one a thread on a CPU, up to four, and one on a GPU.
    """

    def __init__(self, model: Any, tokens_per_pass: int, n_workers: int | None = None) -> None:
        self.model, self.tokens_per_pass = model, tokens_per_pass
        self.device: torch.device = model.device
        on_cpu = self.device.type == "cpu"
        self.n_workers = n_workers or (min(torch.get_num_threads(), MOST_WORKERS) if on_cpu else 1)
        self._plain_attention = model.config._attn_implementation
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
        if self.model.config._attn_implementation != tree_attention.ATTENTION:
            self.model.set_attn_implementation(tree_attention.ATTENTION)

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

    def misfit(self, ids: Sequence[Sequence[int]], pad_id: int) -> str | None:
        """Why this model must not be run as a tree; None when its logits equal plain ones on a few of the prompts.

        The probes are cut into several passes, and one of them is also read as a prompt and a generated token.

        Raises:
            ModelError: the GPU's memory does not suffice for the probes, which says nothing about trees.
        """
        probe = [ids[i] for i in sorted({0, len(ids) // 2, len(ids) - 1})]
        try:
            expected = self._plain_logits(probe, pad_id)
            found = torch.empty_like(expected)
            for indices, logits in self.last_logits(probe, max(len(probe[0]) // 2, 1)):
                found[indices] = logits
            pairs = [(found, expected)]
            if len(probe[0]) > 1:
                pairs.append((self._logits_of_generated(probe[0]), expected[0]))
            difference = max((a - b).abs().max().item() for a, b in pairs)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"The memory of {self.device} does not suffice for this model and a few prompts ({error}).",
                "Use a GPU with more memory or one that nothing else uses, a smaller dtype, or a smaller model.",
            ) from error
        except (AttributeError, IndexError, KeyError, ModelError, RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        if not difference <= TOLERANCES[self.model.dtype]:
            return f"logits differ by {difference:.2g}"
        return None

    def _plain_logits(self, ids: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
        self.model.set_attn_implementation(self._plain_attention)
        with torch.inference_mode():
            return torch.cat([plain.last_logits(self.model, [one], pad_id) for one in ids])

    def _logits_of_generated(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits after a prompt whose last token comes as if it had been generated."""
        decoder, slots = self.decoder(frozenset(), 1), Slots(1, len(ids), self.device)
        decoder.enter([ids[:-1]], slots)
        return decoder.step([ids[-1]], slots)[0]

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
