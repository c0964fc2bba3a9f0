"""Draw accuracy against throughput: label propagation beside smaller images (GSVNet's Figure A5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twospeed.render.figures import save_figure

Point = tuple[str, float, float]
"""What is written beside it, frames per second, mIoU (0..1)."""


def plot_trade_off(
    path: Path, curves: Sequence[tuple[str, Sequence[Point]]], *, title: str = "", clock: str = ""
) -> None:
    """Write a PNG of named curves, whole or not at all. clock: what frames per second count. Raises OutputError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in curves:
        axes.plot([speed for _, speed, _ in points], [100 * score for *_, score in points], marker="o", label=name)
        for text, speed, score in points:
            axes.annotate(text, (speed, 100 * score), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set_xlabel("frames per second" + (f"\n{clock}" if clock else ""))
    axes.set_ylabel("mIoU (%)")
    axes.set_title(title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)
