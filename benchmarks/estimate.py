"""How long scoring a whole configuration takes, without running its model: distinct tree nodes of every prompt.

    python benchmarks/estimate.py config/public.yaml MODEL_DIRECTORY [--orders all] [--nodes-per-second 1500]

The model directory's tokenizer is used, not its weights. Explanations are read from the configuration's results; a
source whose explanations do not exist yet is logged and left out. `--every 10` counts every tenth item and scales up.
`nodes_per_second` of a machine is printed by `scoring.py --growth` (1000 / ms_per_node). Attention makes deep trees a
little dearer than shallow ones.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from prompts_of_items import prompts_of, read_items

from mjd.config.schema import Config
from mjd.io import provenance, read_parquet, write_parquet
from mjd.llm.chat.tokens import ChatTokenizer
from mjd.llm.transformers.tree import forest
from mjd.logs import Progress
from mjd.paths import Paths
from mjd.systems import System, scored_variants

log = logging.getLogger(__name__)


def count(
    config: Config,
    system: System,
    items: pd.DataFrame,
    explanations: pd.DataFrame | None,
    tokens: ChatTokenizer,
    orders: Any,
) -> dict[str, Any]:
    """Prompts, tokens and distinct nodes of one system's items."""
    totals = {"prompts": 0, "tokens": 0, "nodes": 0}
    mode: Any = system.mode
    title = f"{system.scorer} {system.source} {system.generator or ''}"
    with Progress(title, len(items), "items") as progress:
        for _, prompts in prompts_of(config, items, explanations, mode, orders):
            ids = tokens.encode([tokens.render(one.messages) for one in prompts])
            for name, n in (("prompts", len(ids)), ("tokens", sum(map(len, ids))), ("nodes", len(forest(ids)))):
                totals[name] += n
            progress.done()
    return totals


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration")
    parser.add_argument("model", help="directory with the scorer's tokenizer")
    parser.add_argument("--orders", help="all, cyclic or a number, instead of the configuration's scoring.orders")
    parser.add_argument("--every", type=int, default=1, help="count every N-th item and scale up")
    parser.add_argument("--nodes-per-second", type=float, help="measured rate, for hours")
    parser.add_argument("--results", help="results directory, instead of the configuration's")
    parser.add_argument("--downloads", type=Path, default=Path("results/benchmarks/sources"))
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/estimate.parquet"))
    arguments = parser.parse_args()
    config, items, human = read_items(arguments.config, arguments.downloads)
    if arguments.results:
        config = config.model_copy(update={"results_dir": arguments.results})
    orders = arguments.orders or config.scoring.orders
    orders = int(orders) if str(orders).isdigit() else orders
    tokens = ChatTokenizer(arguments.model, "auto", arguments.model)
    counted = items.iloc[:: arguments.every]
    rows = []
    for system in scored_variants(config):
        named = {"scorer": system.scorer, "source": system.source, "generator": system.generator, "mode": system.mode}
        path = Paths.of(config).shown_by(system)
        if path and system.source != "human" and not Path(path).is_file():
            log.warning("%s by %s is left out: there is no %s yet", system.source, system.generator, path)
            continue
        shown = human if system.source == "human" else read_parquet(path) if path else None
        found = count(config, system, counted, shown, tokens, orders)
        rows.append(named | {"items": len(items)} | {key: n * len(items) // len(counted) for key, n in found.items()})
    table = pd.DataFrame(rows)
    if arguments.nodes_per_second:
        table["hours"] = table["nodes"] / arguments.nodes_per_second / 3600
    print(table.to_string(index=False, na_rep="-"))
    totals = table.drop(columns="items").sum(numeric_only=True)
    print("total: " + ", ".join(f"{value:.4g} {key}" for key, value in totals.items()))
    schema = pa.Schema.from_pandas(table, preserve_index=False)
    write_parquet(table, arguments.output, schema, provenance(config.model_dump(mode="json"), orders=orders))


if __name__ == "__main__":
    main()
