"""Figures: colour-blind safe, labelled with units and data set, written as SVG and PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mjd.analyses.convergence import ONE_PROMPT
from mjd.io import atomic_path

# Okabe and Ito's palette, distinguishable with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@contextmanager
def figure(paths: list[Path], title: str, size: tuple[float, float] = (6.4, 4.2)) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes, saved to `paths` (by suffix) when the block succeeds."""
    with plt.rc_context({"svg.hashsalt": "mjd", "svg.fonttype": "none", "font.size": 10, "axes.grid": True}):
        drawn, axes = plt.subplots(figsize=size, layout="constrained")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, fontsize=10)
        try:
            yield drawn, axes
            for path in paths:
                with atomic_path(path) as temporary:
                    metadata = {"Date": None} if path.suffix == ".svg" else {}
                    drawn.savefig(temporary, dpi=160, metadata=metadata)
        finally:
            plt.close(drawn)


def plot_convergence(table: pd.DataFrame, titles: dict[str, str], paths: list[Path]) -> None:
    """Error of the MJD against the number of prompts, one line a scorer, with intervals over items.

    Args:
        table: schema `mjd.analyses.convergence.schema`.
        titles: scorer -> title.
        paths: files to write.
    """
    about = "no item is complete"
    if len(table):
        about = f"{table['data_set'].iloc[0]}, n = {int(table['n'].max())} items"
    with figure(paths, f"How many explanation orders are enough?\n{about}") as (_, axes):
        for index, (scorer, rows) in enumerate(table.groupby("scorer", sort=False)):
            line = rows[~rows["orders"].isin(("cyclic", "all"))]
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            name = titles.get(str(scorer), str(scorer))
            axes.plot(line["n_prompts"], line["tvd_to_all"], color=colour, marker=marker, label=f"{name}: N orders")
            low, high = line["tvd_to_all_low"], line["tvd_to_all_high"]
            axes.fill_between(line["n_prompts"], low, high, color=colour, alpha=0.15, linewidth=0)
            cyclic = rows[rows["orders"] == "cyclic"]
            axes.plot(
                cyclic["n_prompts"],
                cyclic["tvd_to_all"],
                color=colour,
                marker="*",
                markersize=13,
                linestyle="none",
                label=f"{name}: cyclic",
            )
            for row in line.itertuples():
                text = "1 prompt" if row.orders == ONE_PROMPT else str(row.orders)
                axes.annotate(text, (row.n_prompts, row.tvd_to_all), (5, 5), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("prompts scored an item (labels: explanation orders, each with all option orders)")
        axes.set_ylabel("total variation distance to the MJD of all orders")
        axes.legend(frameon=False, fontsize=9)
