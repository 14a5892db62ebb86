"""Explanations a second: answers in slots with shared prefixes against padded batches.

    python benchmarks/generation.py results/downloads/models/smollm2-135m-instruct [--items 16] [--batch-size 24 48]

Greedy answers to the explanation prompts of real items where MJD_MIRROR names a mirror, else of the bundled sample.
Each way runs in a process of its own. The table is printed and written as Parquet.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from prompts_of_items import read_items
from ways import alone, peak_memory

from mjd.config.llms import Llm
from mjd.io import provenance, write_parquet
from mjd.llm.base import Generated, GenerateRequest
from mjd.llm.transformers.engine import TransformersEngine
from mjd.logs import Progress
from mjd.prompts.templates import explain_prompt


def answers(model: str, settings: Llm, requests: list[GenerateRequest]) -> tuple[float, int, list[Generated]]:
    """Seconds, peak resident memory in bytes, and the answers."""
    engine = TransformersEngine(model, settings, model)
    list(engine.generate(requests[:2]))  # the engine checks itself before its first use
    found: dict[int, Generated] = {}
    start = time.perf_counter()
    with Progress(settings.title, len(requests), "answers") as progress:
        for i, answer in engine.generate(requests):
            found[i] = answer
            progress.done()
    return time.perf_counter() - start, peak_memory(), [found[i] for i in range(len(requests))]


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory")
    parser.add_argument("--config", help="configuration that names the items and prompts")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[24])
    parser.add_argument("--downloads", type=Path, default=Path("results/benchmarks/sources"))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/generation.parquet"))
    arguments = parser.parse_args()
    config, items, _ = read_items(arguments.config, arguments.downloads)
    fields = config.task.text_fields
    requests = [
        GenerateRequest(
            explain_prompt(config.prompts, {name: str(item[name]) for name in fields}, label), arguments.tokens
        )
        for item in items.head(arguments.items).to_dict("records")
        for label in config.labels
    ]
    rows: list[dict[str, Any]] = []
    first: list[Generated] = []
    for size in arguments.batch_size:
        for way, prefix_tree in (("slots, shared prefixes", True), ("padded batches", False)):
            settings = Llm(title=way, model="benchmark", device="cpu", prefix_tree=prefix_tree, batch_size=size)
            seconds, peak, found = alone(answers, arguments.model, settings, requests)
            first = first or found
            tokens = sum(one.usage.completion_tokens for one in found)
            rows.append(
                {
                    "way": way,
                    "batch_size": size,
                    "answers": len(found),
                    "tokens": tokens,
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds,
                    "peak_gib": peak / 2**30,
                    "same_text": sum(a.text == b.text for a, b in zip(found, first, strict=True)) / len(found),
                }
            )
    table = pd.DataFrame(rows)
    print(f"{config.data.title}\n{table.to_string(index=False, float_format=lambda x: f'{x:.3g}')}")
    schema = pa.Schema.from_pandas(table, preserve_index=False)
    write_parquet(table, arguments.output, schema, provenance(model=arguments.model))


if __name__ == "__main__":
    main()
