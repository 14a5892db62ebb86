"""The command `mjd`: looking after the response store.

mjd store stats STORE                    what it holds, by engine and model, and what was spent
mjd store verify STORE                   check every page and row
mjd store export STORE FILE.parquet      all replies as a table
mjd store prune STORE --model TEXT ...   remove replies that are no longer wanted, single ones by --key or --text
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mjd.errors import MjdError
from mjd.llm.store.maintenance import Filter, export, prune, stats, verify
from mjd.llm.store.replies import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 1 with the error on standard error."""
    chosen = _parser().parse_args(arguments)
    try:
        with Store(chosen.store, create=False) as store:
            print(chosen.run(store, chosen))
    except MjdError as error:
        print(f"mjd: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mjd", description="Look after mjd's response store.")
    commands = parser.add_subparsers(required=True, metavar="store").add_parser("store", help="the response store")
    actions = commands.add_subparsers(required=True, metavar="action")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=summary, description=summary)
        added.add_argument("store", type=Path, help="the store, usually RESULTS_DIR/store/answers.sqlite")
        return added

    action("stats", "What the store holds, by engine and model, and what was spent.").set_defaults(
        run=lambda store, chosen: stats(store)
    )
    action("verify", "Check every page, and every row against its key.").set_defaults(
        run=lambda store, chosen: verify(store)
    )
    exporting = action("export", "Write all replies to a Parquet file.")
    exporting.add_argument("file", type=Path, help="the Parquet file to write")
    exporting.set_defaults(run=lambda store, chosen: export(store, chosen.file))
    pruning = action("prune", "Remove replies. They would be asked for, and paid for, again.")
    pruning.add_argument("--model", help="only replies of models whose identity contains this text")
    pruning.add_argument("--engine", help="only replies of this engine")
    pruning.add_argument("--before", type=_day, metavar="YYYY-MM-DD", help="only replies stored before this day (UTC)")
    pruning.add_argument("--key", metavar="PREFIX", help="only replies whose key begins like this")
    pruning.add_argument("--text", help="only replies to prompts that contain this text, such as an item's")
    pruning.add_argument("--kind", choices=["score", "answer"], help="only scores, or only answers")
    pruning.add_argument("--dry-run", action="store_true", help="show and count them, but remove nothing")
    pruning.set_defaults(run=lambda store, chosen: prune(store, _filter(chosen), chosen.dry_run))
    return parser


def _filter(chosen: argparse.Namespace) -> Filter:
    kind = {"score": "Score", "answer": "Generate"}.get(chosen.kind)
    return Filter(chosen.model, chosen.engine, chosen.before, chosen.key, chosen.text, kind)


def _day(text: str) -> float:
    """Seconds since 1970 of a day's beginning in UTC."""
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()


if __name__ == "__main__":
    sys.exit(main())
