"""Draw accuracy against throughput: label propagation beside smaller images (GSVNet's Figure A5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twospeed.output.figures import save_figure

Point = tuple[str, float, float]
"""What is written beside it, speed or cost, mIoU (0..1)."""


def plot_trade_off(
    path: Path,
    curves: Sequence[tuple[str, Sequence[Point]]],
    *,
    title: str = "",
    x_label: str = "frames per second",
) -> None:
    """Write a PNG of named curves, whole or not at all. Raises OutputError when that fails."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves):
        beside = (6, 5) if number % 2 == 0 else (6, -13)  # curves meet: their texts should not
        axes.plot([speed for _, speed, _ in points], [100 * score for *_, score in points], marker="o", label=name)
        for text, speed, score in points:
            axes.annotate(text, (speed, 100 * score), textcoords="offset points", xytext=beside, fontsize=8)
    axes.set_xlabel(x_label)
    axes.set_ylabel("mIoU (%)")
    axes.set_title(title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)
