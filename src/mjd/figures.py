"""Figures: colour-blind safe, labelled with units and data set, written as SVG and PNG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mjd.io import atomic_path

# Okabe and Ito's palette, distinguishable with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@contextmanager
def figure(paths: Sequence[Path], title: str, size: tuple[float, float] = (6.4, 4.2)) -> Iterator[tuple[Figure, Axes]]:
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
