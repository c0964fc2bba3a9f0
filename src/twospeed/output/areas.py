"""How much of each frame every class takes, over time: counted, written and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twospeed.errors import OutputError
from twospeed.output.figures import save_figure
from twospeed.output.palette import distinct_colours
from twospeed.output.run import Run
from twospeed.results import ClassMap, Frame, LabelMap


class ClassAreas:
    """How much of each frame every class takes: `areas.json`, `areas.png`, and the summary of the run.

    segmenter: whose `labels` are known from its first result on. least_sure: mean probability of the likeliest class on
    keyframes below which a warning says that the video is unlike those of training.
    """

    def __init__(self, segmenter: Any, run: Run, least_sure: float | None) -> None:
        self._segmenter, self._run, self._least_sure = segmenter, run, least_sure
        self._sure: list[float] = []  # of keyframes
        self._times: list[float] = []
        self._shares: list[Any] = []
        self._keyframes = 0

    def add(self, frame: Frame, result: ClassMap) -> None:
        """Count the pixels of a frame's classes."""
        counts = np.bincount(result.labels.ravel(), minlength=len(self._segmenter.labels))
        self._times.append(round(frame.time_s, 6))
        self._shares.append((counts / result.labels.size).astype(np.float32))
        self._keyframes += result.is_keyframe
        if result.is_keyframe and result.confidence is not None:
            self._sure.append(result.confidence)

    def write(self) -> None:
        """Write the table and its plot."""
        run, labels = self._run, self._segmenter.labels
        sure = float(np.mean(self._sure)) if self._sure else None
        if sure is not None and self._least_sure is not None and sure < self._least_sure:
            run.warn(
                f"less sure here than on videos like those of training (mean probability {sure:.2f}, "
                f"there 0.96): its classes ({', '.join(labels)}) may not fit this video"
            )
        rows = zip(labels, np.stack(self._shares, 1), strict=True)
        areas = {name: [round(float(value), 6) for value in row] for name, row in rows}
        run.summarise(
            {
                "keyframes": self._keyframes,
                "mean_probability": None if sure is None else round(sure, 4),
                "mean_area": {name: sum(row) / len(row) for name, row in areas.items()},
            }
        )
        run.write_json("areas.json", {"keyframes": self._keyframes, "time_s": self._times, "areas": areas})
        title = run.folder.path.name if run.folder is not None else ""
        run.write("areas.png", lambda path: plot_areas(path, self._times, areas, labels, title=title))


def plot_areas(
    path: Path, times_s: Sequence[float], areas: Mapping[str, Sequence[float]], labels: LabelMap, *, title: str = ""
) -> None:
    """Write a PNG of stacked areas in the classes' own colours, whole or not at all.

    times_s: of the frames, in seconds. areas: share of the frame (0..1) by class name, one value a frame; classes that
    never occur are left out. Raises OutputError without frames, or when it cannot be written.
    """
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
