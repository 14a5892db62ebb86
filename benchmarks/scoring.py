"""Seconds an item for the first-token scores of all its prompts: mjd's prefix trees against the other ways.

    python benchmarks/scoring.py results/downloads/models/smollm2-135m-instruct --vllm-python VENV/bin/python

Human explanations, explicit, all orders; real items where MJD_MIRROR names a mirror, else the bundled sample. Ways:
the reference procedure, plain first-token batches, vLLM on CPU with prefix caching (where its interpreter is given),
and prefix trees; each in a process of its own, same items, same threads. The floor is distinct tree nodes x FLOPs per
token / measured peak of 2048^3 float32 matrix products; the peak is given for torch.matmul and for oneDNN. `--growth`
adds how cost grows with explanations, 6 to 720 prompts. Tables are printed and written as Parquet.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from designs import flex, levels, packed
from prompts_of_items import prompts_of, read_items
from ways import (
    Measured,
    Work,
    alone,
    flops_per_token,
    largest_difference,
    matrix_peak,
    plain,
    reference,
    tree,
    vllm,
)

from mjd.backends import onednn
from mjd.config.schema import Config
from mjd.io import provenance, write_parquet
from mjd.llm.base import ScoreRequest
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.transformers.tree import forest
from mjd.prompts.templates import ScorePrompt

# Names of the ways that run in this environment.
WAYS = {
    "tree": ("prefix tree", tree),
    "levels": ("level by level", levels),
    "packed": ("one sequence", packed),
    "flex": ("FlexAttention", flex),
    "plain": ("plain batches", plain),
    "reference": ("reference", reference),
}
WAYS_HELP = f"what to measure: vllm, {', '.join(WAYS)} (flex needs a C++ compiler)"
GIB = 2**30
MOST_EXPLANATIONS = 5


def work_of(model: str, config: Config, prompts: list[tuple[str, list[ScorePrompt]]]) -> Work:
    """Prompts as token ids and requests."""
    tokens = ChatTokenizer(model, "auto", model)
    requests = [[ScoreRequest(one.messages, config.labels.letters) for one in of_item] for _, of_item in prompts]
    texts = [[tokens.render(request.messages) for request in of_item] for of_item in requests]
    letters = tokens.letter_ids(config.labels.letters, texts[0][0])
    pad = tokens.tokenizer.pad_token_id
    pad_id = int(pad if pad is not None else tokens.end_ids[0])
    return Work(model, [tokens.encode(of_item) for of_item in texts], requests, letters, pad_id, tokens.end_ids)


def peaks() -> dict[str, float]:
    """FLOP/s of 2048^3 float32 products by torch.matmul and by oneDNN."""
    return {"torch.matmul": matrix_peak(torch.matmul), "oneDNN": matrix_peak(onednn.product)}


def comparison(work: Work, measured: dict[str, Measured], peak: dict[str, float]) -> pd.DataFrame:
    """One row a way: medians over items."""
    nodes = [len(forest(item)) for item in work.items]
    per_token = flops_per_token(work.model)
    base = next(measured[name] for name in ("plain batches", "prefix tree") if name in measured)

    def median_of(seconds: list[float], amount: list[float]) -> float:
        return statistics.median(a / s for a, s in zip(amount, seconds, strict=True))

    rows: list[dict[str, Any]] = []
    for name, found in measured.items():
        s = found.seconds
        row: dict[str, Any] = {"way": name, "seconds": statistics.median(s), "least": min(s), "most": max(s)}
        if "reference" in measured:
            row["times_as_fast"] = median_of(s, measured["reference"].seconds)
        row["prompts_per_second"] = median_of(s, [float(len(item)) for item in work.items])
        for library, flops in peak.items():
            row[f"share_of_floor_{library}"] = median_of(s, [n * per_token / flops for n in nodes])
        row["peak_gib"] = max(found.peak_bytes) / GIB
        row["largest_difference"] = largest_difference(found.scores, base.scores, logprobs=name == "vLLM")
        rows.append(row)
    for library, flops in peak.items():
        floor = statistics.median(n * per_token / flops for n in nodes)
        rows.append({"way": f"floor by {library}", "seconds": floor})
    return pd.DataFrame(rows)


def growth(model: str, config: Config, items: pd.DataFrame, human: pd.DataFrame) -> pd.DataFrame:
    """Cost of the first item with 1 to 5 of its (then the next item's) explanations in all orders."""
    uid = str(items["uid"][0])
    shown = pd.concat([human[human["uid"] == one] for one in items["uid"].head(2)])
    shown = shown.head(MOST_EXPLANATIONS).assign(uid=uid)
    shown["position"] = range(len(shown))
    first = items.head(1)
    work = work_of(model, config, [prompts_of(config, first, shown.head(k + 1))[0] for k in range(len(shown))])
    found = alone(tree, work)
    rows = pd.DataFrame(
        {
            "explanations": range(1, len(shown) + 1),
            "prompts": [len(item) for item in work.items],
            "tokens": [sum(map(len, item)) for item in work.items],
            "nodes": [len(forest(item)) for item in work.items],
            "seconds": found.seconds,
            "peak_gib": [peak / GIB for peak in found.peak_bytes],
        }
    )
    rows["ms_per_prompt"] = 1000 * rows["seconds"] / rows["prompts"]
    rows["ms_per_node"] = 1000 * rows["seconds"] / rows["nodes"]
    return rows


def report(table: pd.DataFrame, path: Path, title: str, **more: Any) -> None:
    """Print a table and write it as Parquet."""
    print(f"\n{title}\n{table.to_string(index=False, float_format=lambda x: f'{x:.3g}', na_rep='')}", flush=True)
    write_parquet(table, path, pa.Schema.from_pandas(table, preserve_index=False), provenance(**more))


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory")
    parser.add_argument("--config", help="configuration that names the items and prompts")
    parser.add_argument("--items", type=int, default=3)
    default = ["tree", "vllm", "plain", "reference"]
    parser.add_argument("--ways", nargs="*", choices=["vllm", *WAYS], default=default, metavar="WAY", help=WAYS_HELP)
    vllm_python = os.environ.get("MJD_VLLM_PYTHON")
    parser.add_argument("--vllm-python", default=vllm_python, help="Python of an environment with vLLM")
    parser.add_argument("--growth", action="store_true", help="also 1 to 5 explanations")
    parser.add_argument("--downloads", type=Path, default=Path("results/benchmarks/sources"))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    arguments = parser.parse_args()
    config, items, human = read_items(arguments.config, arguments.downloads)
    work = work_of(arguments.model, config, prompts_of(config, items.head(arguments.items), human))
    before = peaks()
    measured: dict[str, Measured] = {}
    for way in arguments.ways:
        if way == "vllm" and arguments.vllm_python:
            measured["vLLM"] = vllm(work, arguments.vllm_python)
        elif way != "vllm":
            name, run = WAYS[way]
            try:
                measured[name] = alone(run, work)
            except Exception:
                logging.exception("%s failed and is left out", name)
    peak = {library: max(flops, before[library]) for library, flops in peaks().items()}
    given = {"model": arguments.model, "items": arguments.items, "threads": torch.get_num_threads(), "peak": peak}
    speeds = ", ".join(f"{flops / 1e9:.0f} GFLOP/s by {library}" for library, flops in peak.items())
    title = f"{config.data.title}, {len(work.items)} items, {given['threads']} threads; 2048^3 products: {speeds}"
    if measured:
        report(comparison(work, measured, peak), arguments.output / "scoring.parquet", title, **given)
    if arguments.growth:
        table = growth(arguments.model, config, items, human)
        report(table, arguments.output / "scoring_growth.parquet", "Prefix trees of one item", **given)


if __name__ == "__main__":
    main()
