"""Attention of prefix trees, registered with Transformers as attention `mjd_tree`.

A `Walk` is handed to the model's forward call as `mjd_walk`; Transformers passes it on to every layer's attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.functional import pad

from mjd.backends import onednn
from mjd.errors import ModelError
from mjd.llm.transformers.tree import Block, Pass

ATTENTION = "mjd_tree"

# Keyword arguments of Transformers' attention call that do not change the result here.
HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_attentions", "return_dict"}
HARMLESS |= {"output_hidden_states", "num_items_in_batch", "logits_to_keep", "position_embeddings"}


class Attends(Protocol):
    """What `mjd_walk` may be: it knows which keys each query of a forward call reads."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor: ...


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    mjd_walk: Attends | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form Transformers calls attention functions.

    Args:
        query: [n_rows, n_heads, n_queries, head_dim]; key and value: the same with n_kv_heads.
        mjd_walk: the object given to the model's forward call.

    Returns:
        [n_rows, n_queries, n_heads, head_dim] and None.

    Raises:
        ModelError: the model asks for something this function does not do (attention sinks, position biases).
    """
    unknown = sorted(asked(others) - HARMLESS)
    layer = getattr(module, "layer_idx", None)
    if attention_mask is not None:
        unknown.append("a mask of its own")
    if layer is None or mjd_walk is None:
        unknown.append("keys and values without a layer's number")
    if unknown or layer is None or mjd_walk is None:
        raise ModelError(
            f"Prefix-tree attention cannot do what {type(module).__name__} asks ({', '.join(unknown)}).",
            "Set prefix_tree: false for this LLM.",
        )
    scaled = query * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    return mjd_walk.attend(layer, scaled, key, value, sliding_window, softcap), None


def asked(arguments: dict[str, Any]) -> set[str]:
    """Names of the arguments that ask an attention function for something."""
    return {name for name, given in arguments.items() if given is not None and given is not False}


class OwnTokenOnly:
    """Lets each token attend to itself alone; `layers` that did so."""

    def __init__(self) -> None:
        self.layers: set[int] = set()

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """[n_rows, n, n_heads, head_dim], each head's value at the token itself."""
        self.layers.add(layer)
        return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2)


class Walk:
    """The passes of one forest: keeps each layer's keys and values of the root path that the next pass reads.

    Call `begin` before each forward call.

    Args:
        device: the model's.
        together: attend to all blocks of a pass in one call, padded to the longest; otherwise one by one, unpadded.
            By default one by one on CPU, where calls are cheap and padding is not.
        on_keys: called for every layer with (layer, keys, values), [n_kv_heads, n_rows, head_dim] in rows of `Pass`.
    """

    def __init__(
        self,
        device: torch.device,
        together: bool | None = None,
        on_keys: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> None:
        self.device = device
        self.together = device.type != "cpu" if together is None else together
        self.on_keys = on_keys
        self._context: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self, step: Pass) -> None:
        """Make `step` the pass of the next forward call."""
        self._step = step
        self._carry = torch.from_numpy(step.carry).to(self.device)
        self._keys = [torch.from_numpy(block.keys).to(self.device) for block in step.blocks]
        self._biases: dict[tuple[int, int | None, torch.dtype], list[torch.Tensor]] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """[1, n_nodes, n_heads, head_dim] from query [1, n_heads, n_nodes, head_dim], key and value [1, n_kv, ...]."""
        k, v = key[0], value[0]
        if layer in self._context:
            k, v = (torch.cat(pair, dim=1) for pair in zip(self._context[layer], (k, v), strict=True))
        self._context[layer] = (k.index_select(1, self._carry), v.index_select(1, self._carry))
        if self.on_keys is not None:
            self.on_keys(layer, k, v)
        # Heads that share keys become further rows of one query: no key or value is repeated.
        q = query[0].reshape(len(k), -1, *query.shape[2:])
        biases = self._bias(q.shape[1], window, q.dtype)
        attended = self._together(q, k, v, biases, softcap) if self.together else self._alone(q, k, v, biases, softcap)
        return attended.flatten(1, 2)[None]

    def _alone(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: list[torch.Tensor], softcap: float | None
    ) -> torch.Tensor:
        """[n_nodes, n_kv, group, head_dim] from q [n_kv, group, n_nodes, head_dim]: a product a block and KV head."""
        n_kv, group, n_nodes, _ = q.shape
        out = q.new_empty(n_nodes, n_kv, group, v.shape[-1])
        for block, keys, bias in zip(self._step.blocks, self._keys, biases, strict=True):
            rows = slice(block.start, block.stop)
            k_block, v_block = k.index_select(1, keys), v.index_select(1, keys)
            for head in range(n_kv):
                attended = _attend_head(q[head, :, rows].flatten(0, 1), k_block[head], v_block[head], bias, softcap)
                out[rows, head] = attended.view(group, -1, attended.shape[-1]).transpose(0, 1)
        return out

    def _together(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: list[torch.Tensor], softcap: float | None
    ) -> torch.Tensor:
        """The same in one call: blocks are padded to one number of queries and keys."""
        n_kv, group, n_nodes, width = q.shape
        n_blocks, size, n_keys = len(biases), len(biases[0]) // group, max(map(len, self._keys))
        keys = torch.stack([pad(one, (0, n_keys - len(one))) for one in self._keys])
        wide = [pad(bias, (0, n_keys - bias.shape[1]), value=float("-inf")) for bias in biases]
        rows = [pad(bias.view(group, -1, n_keys), (0, 0, 0, size - len(bias) // group)) for bias in wide]
        queries = pad(q, (0, 0, 0, n_blocks * size - n_nodes)).view(n_kv, group, n_blocks, size, width)
        k_all, v_all = (x[:, keys].transpose(0, 1) for x in (k, v))
        bias = torch.stack(rows).flatten(1, 2)[:, None]
        out = attend_batch(queries.permute(2, 0, 1, 3, 4).flatten(2, 3), k_all, v_all, bias, softcap)
        out = out.view(n_blocks, n_kv, group, size, -1).permute(0, 3, 1, 2, 4)
        return out.reshape(n_blocks * size, n_kv, group, -1)[:n_nodes]

    def _bias(self, group: int, window: int | None, dtype: torch.dtype) -> list[torch.Tensor]:
        """For each block [group * n, n_keys]: 0 where a query may attend, else minus infinity."""
        which = (group, window, dtype)
        if which not in self._biases:
            self._biases[which] = [_bias(block, group, window).to(self.device, dtype) for block in self._step.blocks]
        return self._biases[which]


def _bias(block: Block, group: int, window: int | None) -> torch.Tensor:
    mask = block.mask & (block.distance < window) if window else block.mask
    return torch.zeros(mask.shape).masked_fill_(~torch.from_numpy(mask), float("-inf")).repeat(group, 1)


def _attend_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """[n, head_dim] from scaled queries [n, head_dim], k and v [n_keys, head_dim], bias [n, n_keys]."""
    if softcap is None:
        weights = onednn.product(q, k, bias)
    else:
        weights = softcap * torch.tanh(onednn.product(q, k) / softcap) + bias
    return onednn.product(weights.softmax(-1), v.t())


def attend_batch(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """[b, heads, n, head_dim] from scaled queries of that shape, k and v [b, heads, n_keys, head_dim]."""
    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    weights = softcap * torch.tanh(q @ k.transpose(-1, -2) / softcap) + bias
    return weights.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def register() -> None:
    """Make `tree_attention` known to Transformers under the name `mjd_tree`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, tree_attention)
