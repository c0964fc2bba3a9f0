"""Draw which classes were taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twospeed.output.figures import save_figure

MOST_NAMED = 60  # classes that still have room for their names
MOST_COUNTED = 25  # and for the numbers in the squares


def plot_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str], *, title: str = "") -> None:
    """Write a PNG of a confusion matrix, whole or not at all: true classes in rows, each as shares of its clips.

    matrix: counts (C, C). names: of the classes. Raises OutputError.
    """
    from matplotlib.figure import Figure

    count = len(names)
    side = min(16.0, 3.0 + 0.4 * min(count, MOST_NAMED))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the class's clips", shrink=0.8)
    axes.set(xlabel="taken for", ylabel="is", title=title)
    if count <= MOST_NAMED:
        labels = [_short(name) for name in names]
        axes.set_xticks(range(count), labels, rotation=90)
        axes.set_yticks(range(count), labels)
    if count <= MOST_COUNTED:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
    save_figure(figure, path)


def _short(name: str) -> str:
    """Return a name that takes one line and not much of it."""
    line = " ".join(name.split())
    return line if len(line) <= 24 else line[:23] + "…"
