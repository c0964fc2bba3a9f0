"""Draw how much of each frame every class takes, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twospeed.errors import OutputError
from twospeed.output.figures import save_figure
from twospeed.output.palette import distinct_colours
from twospeed.results import LabelMap


def plot_areas(
    path: Path, times_s: Sequence[float], areas: Mapping[str, Sequence[float]], labels: LabelMap, *, title: str = ""
) -> None:
    """Write a PNG of stacked areas in the classes' own colours, whole or not at all.

    times_s: of the frames, in seconds. areas: share of the frame (0..1) by class name, one value a frame; classes that
    never occur are left out. Raises OutputError without frames, or when it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not times_s:
        raise OutputError(f"{path}: there are no frames to draw over time")
    shown = [(i, name) for i, name in enumerate(labels) if name in areas and max(areas[name]) > 0]
    times = np.asarray(times_s, np.float64)
    shares = [np.asarray(areas[name], np.float64) for _, name in shown]
    if len(times) == 1:  # an area needs a width
        times, shares = np.array([times[0], times[0] + 1]), [share.repeat(2) for share in shares]
    colours = [tuple(distinct_colours(labels.colours)[i] / 255) for i, _ in shown] if labels.colours else None
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    layers = axes.stackplot(times, *shares, colors=colours, labels=[name for _, name in shown], linewidth=0)
    axes.set_xlim(times[0], times[-1])
    axes.set_ylim(0, 1)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("share of the frame")
    axes.set_title(title)
    # From top to bottom as they are stacked
    axes.legend(layers[::-1], [name for _, name in shown][::-1], loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save_figure(figure, path)
