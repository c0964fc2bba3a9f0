"""Plots as PNG files, each written whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import OutputError
from twospeed.files import atomic_file
from twospeed.output.palette import distinct_colours
from twospeed.results import ActionScores, ActionSpan, LabelMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SPANS = 12  # rows below the curves of actions; the likeliest classes have priority
MOST_NAMED = 60  # classes whose names still fit beside a confusion matrix
MOST_COUNTED = 25  # and for the numbers in its squares
_MOST_POINTS = 4000  # of a drawn curve
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}  # a legend's place

Point = tuple[str, float, float]
"""What is written beside it, speed or cost, mIoU (0..1)."""


def plot_areas(
    path: Path, times_s: Sequence[float], areas: Mapping[str, Sequence[float]], labels: LabelMap, *, title: str = ""
) -> None:
    """Draw stacked areas in the classes' own colours.

    times_s: of the frames, in seconds. areas: share of the frame (0..1) by class name, one value a frame; classes that
    never occur are left out. Raises OutputError without frames, or when it cannot be written.
    """
    if not times_s:
        raise OutputError(f"{path}: there are no frames to draw over time")
    shown = [(i, name) for i, name in enumerate(labels) if name in areas and max(areas[name]) > 0]
    times = np.asarray(times_s, np.float64)
    shares = [np.asarray(areas[name], np.float64) for _, name in shown]
    if times[0] == times[-1]:  # an area needs a width
        times, shares = np.array([times[0], times[0] + 1]), [share[[0, -1]] for share in shares]
    colours = [tuple(distinct_colours(labels.colours)[i] / 255) for i, _ in shown] if labels.colours else None
    figure = _figure(10, 4.2)
    axes = figure.subplots()
    layers = axes.stackplot(times, *shares, colors=colours, labels=[name for _, name in shown], linewidth=0)
    axes.set(xlim=(times[0], times[-1]), ylim=(0, 1), xlabel="time (s)", ylabel="share of the frame", title=title)
    axes.legend(layers[::-1], [name for _, name in shown][::-1], **_BESIDE)  # from top to bottom as they are stacked
    _save(figure, path)


def plot_confidence(
    path: Path, curves: Mapping[int, NDArray[np.float32]], times_s: Sequence[float], marked: Sequence[Mapping[str, Any]]
) -> None:
    """Draw confidence over time, one curve for each object. marked: frames, as `frames_worth_a_look` returns them.

    Raises OutputError when it cannot be written.
    """
    figure = _figure(10, 3.2)
    axes = figure.subplots()
    step = -(-len(times_s) // _MOST_POINTS) or 1
    for number, curve in curves.items():
        axes.plot(np.asarray(times_s)[::step], curve[::step], linewidth=1, label=f"object {number}")
    for one in marked:
        axes.plot(one["time_s"], one["confidence"], "v", color="black", markersize=5)
        axes.annotate(f"frame {one['frame']}", (one["time_s"], one["confidence"]), (0, -12),
                      textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
    axes.set(xlabel="time (s)", ylabel="confidence")
    axes.grid(alpha=0.3)
    if 1 < len(curves) <= 12:
        axes.legend(**_BESIDE)
    _save(figure, path)


def plot_timeline(path: Path, scores: ActionScores, *, title: str = "", top: int = 5) -> None:
    """Draw when each action happens: curves of the likeliest classes over time, and their spans below.

    top: curves drawn. Raises OutputError without views, or when it cannot be written.
    """
    rows = scores.view_probabilities
    if rows is None or not len(rows):
        raise OutputError(f"{path}: there are no views to draw over time")
    shown = np.argsort(-rows.max(axis=0), kind="stable")[:top]
    listed = _listed(scores.timeline)
    figure = _figure(10, 4.2 + 0.28 * len(listed))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 0.6 + 0.28 * len(listed)])
    for c in shown:
        upper.plot(scores.view_times_s, rows[:, c], marker="o", markersize=3, label=_short(scores.labels[c], 32))
    upper.set(ylim=(0, max(float(rows[:, shown].max()) * 1.1, 1e-6)), ylabel="probability", title=title)
    upper.legend(**_BESIDE)
    upper.grid(alpha=0.3)
    for row, label in enumerate(listed):
        pieces = [span for span in scores.timeline if span.label == label]
        lower.broken_barh([(span.start_s, span.end_s - span.start_s) for span in pieces], (row - 0.4, 0.8))
    lower.set_yticks(range(len(listed)), [_short(label, 32) for label in listed])
    lower.invert_yaxis()
    lower.set_xlabel("time (s)")
    lower.grid(axis="x", alpha=0.3)
    _save(figure, path)


def plot_trade_off(
    path: Path, curves: Sequence[tuple[str, Sequence[Point]]], *, title: str = "", x_label: str = "frames per second"
) -> None:
    """Draw accuracy against throughput, such as label propagation beside smaller images (GSVNet's Figure A5).

    curves: points by name. Raises OutputError when it cannot be written.
    """
    figure = _figure(7.5, 5)
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves):
        beside = (6, 5) if number % 2 == 0 else (6, -13)  # curves meet: their texts should not
        axes.plot([speed for _, speed, _ in points], [100 * score for *_, score in points], marker="o", label=name)
        for text, speed, score in points:
            axes.annotate(text, (speed, 100 * score), textcoords="offset points", xytext=beside, fontsize=8)
    axes.set(xlabel=x_label, ylabel="mIoU (%)", title=title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str], *, title: str = "") -> None:
    """Draw which classes were taken for which: true classes in rows, each as shares of its clips.

    matrix: counts (C, C). names: of the classes. Raises OutputError when it cannot be written.
    """
    count = len(names)
    side = min(16.0, 3.0 + 0.4 * min(count, MOST_NAMED))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the class's clips", shrink=0.8)
    axes.set(xlabel="taken for", ylabel="is", title=title)
    if count <= MOST_NAMED:
        labels = [_short(name, 24) for name in names]
        axes.set_xticks(range(count), labels, rotation=90)
        axes.set_yticks(range(count), labels)
    if count <= MOST_COUNTED:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """Begin a figure of this size in inches. Matplotlib is imported by who draws alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    """Write a figure. Names in it are drawn as they are: "$" begins no formula, signs that the font lacks are boxes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with atomic_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(temporary, format="png", dpi=120)


def _listed(spans: Sequence[ActionSpan]) -> list[str]:
    """Return the labels to list, in order of first appearance; the longest-lasting ones where there are too many."""
    lasting: dict[str, float] = {}
    for span in spans:
        lasting[span.label] = lasting.get(span.label, 0.0) + span.end_s - span.start_s
    chosen = set(sorted(lasting, key=lambda label: -lasting[label])[:MOST_SPANS])
    return [label for label in lasting if label in chosen]


def _short(name: str, most: int) -> str:
    """Return a name that takes one line of at most so many characters."""
    line = " ".join(name.split())
    return line if len(line) <= most else line[: most - 1] + "…"
