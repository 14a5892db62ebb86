"""Tokens per second of scoring against this machine's measured matrix-product peak.

    python benchmarks/scoring.py results/downloads/models/smollm2-135m-instruct

Scores the human explanations (all orders, explicit) of three items of the sample as prefix trees, and one of them in
plain batches, and prints medians. The floor is distinct tree nodes x FLOPs per token / measured peak.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch

from mjd.config import Llm, read_config
from mjd.llm import tree
from mjd.llm.base import Score
from mjd.llm.transformers_engine import TransformersEngine
from mjd.scoring import PromptSettings, item_prompts


def matrix_peak(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of a float32 matrix product of this size, the best of `repeats`."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_per_token(model: torch.nn.Module) -> float:
    """2 x the weights of all layers (embeddings and attention scores are left out)."""
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name and "lm_head" not in name)
    return 2.0 * weights


def seconds(engine: TransformersEngine, requests: list[Score]) -> float:
    start = time.perf_counter()
    for _ in engine.score(requests):
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="model directory")
    parser.add_argument("--items", type=int, default=3)
    arguments = parser.parse_args()
    config = read_config("config/config.yaml")
    items = pd.read_csv("resources/sample/synthetic_items.csv").head(arguments.items)
    human = pd.read_csv("resources/sample/synthetic_human_explanations.csv")
    settings = PromptSettings(config.prompts, config.labels, ("premise", "hypothesis"), "explicit", "all", 1)
    engine = TransformersEngine(arguments.model, Llm(title="benchmark", model="benchmark"), arguments.model)
    peak, per_token = matrix_peak(), flops_per_token(engine.model)
    print(
        f"matrix peak {peak / 1e9:.0f} GFLOP/s, {per_token / 1e9:.3f} GFLOP a token, {torch.get_num_threads()} threads"
    )
    rows = []
    for uid, prompts in item_prompts(items, human, settings):
        requests = [Score(prompt.messages, config.labels.letters) for prompt in prompts]
        ids = engine.encode([engine.render(request.messages) for request in requests])
        if not rows:
            seconds(engine, requests[:6])  # warm up, self-check included
        nodes, tokens = len(tree.forest(ids)), sum(map(len, ids))
        took = seconds(engine, requests)
        rows.append((took, tokens / took, nodes * per_token / peak / took))
        print(
            f"{uid}: {len(ids)} prompts, {tokens} tokens, {nodes} nodes, {took:.2f} s, {rows[-1][2]:.0%} of the floor"
        )
    plain = TransformersEngine(arguments.model, Llm(title="plain", model="plain", prefix_tree=False), arguments.model)
    took = seconds(plain, requests)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(f"prefix tree, median: {medians[0]:.2f} s/item, {medians[1]:.0f} tokens/s, {medians[2]:.0%} of the floor")
    print(f"plain batches, last item: {took:.2f} s, {tokens / took:.0f} tokens/s")


if __name__ == "__main__":
    main()
