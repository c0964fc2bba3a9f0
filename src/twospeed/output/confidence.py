"""How sure a tracker was over time: a plot, and the frames that are most worth a look."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.output.figures import save_figure
from twospeed.output.run import Run
from twospeed.results import Frame, ObjectMasks

MOST_FRAMES = 10
_AROUND = 12  # frames to either side with which one is compared
_APART = 5  # frames between two that are listed
_MOST_POINTS = 4000  # of a drawn curve

Curves = Mapping[int, NDArray[np.float32]]


class ObjectAreas:
    """How often, how large and how surely each object is seen: the summary of a run, and confidence.png."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._objects: dict[int, list[int]] = {}  # id -> [frames, frames visible, pixels]
        self._sure: dict[int, array[float]] = {}  # id -> how sure, by frame; NaN where it is not seen
        self._indices, self._times = array("q"), array("d")

    def add(self, frame: Frame, result: ObjectMasks) -> None:
        """Count the pixels of a frame's objects."""
        counts = np.bincount(result.labels.ravel(), minlength=256)
        for object_id, sure in zip(result.object_ids, result.confidence, strict=True):
            seen = self._objects.setdefault(object_id, [0, 0, 0])
            area = int(counts[object_id])
            seen[:] = seen[0] + 1, seen[1] + (area > 0), seen[2] + area
            curve = self._sure.setdefault(object_id, array("f"))
            curve.extend([math.nan] * (len(self._indices) - len(curve)))
            curve.append(round(float(sure), 4) if area else math.nan)  # as frames.csv has it
        self._indices.append(frame.index)
        self._times.append(frame.time_s)

    def summarise(self) -> None:
        """Put the objects, and the frames to check first, into the record of the run; draw confidence.png."""
        objects = [
            {"id": object_id, "frames_visible": visible, "mean_area": round(pixels / frames, 1)}
            for object_id, (frames, visible, pixels) in sorted(self._objects.items())
        ]
        curves = {}
        for object_id, curve in sorted(self._sure.items()):
            curve.extend([math.nan] * (len(self._indices) - len(curve)))
            curves[object_id] = np.array(curve, np.float32)
        worth = frames_worth_a_look(curves, self._indices, self._times)
        self._run.summarise({"objects": objects, "worth_a_look": worth})
        if curves:
            self._run.write("confidence.png", lambda path: plot_confidence(path, curves, self._times, worth))


def frames_worth_a_look(
    curves: Curves, indices: Sequence[int], times_s: Sequence[float], most: int = MOST_FRAMES
) -> list[dict[str, Any]]:
    """Return where confidence is lowest against the frames around, worst first.

    Confidence compares frames of one video, not videos: what counts is the drop below the median of 12 frames to either
    side, at local minima. curves: by object, float32 (T,), NaN where the object is not seen. indices, times_s: of
    the T frames. Each line has `frame`, `time_s`, `object`, `confidence` and `drop`.
    """
    found: list[tuple[float, int, int]] = []
    for number, curve in curves.items():
        seen = ~np.isnan(curve)
        if not seen.any():
            continue
        drops = np.where(seen, np.nanmedian(_windows(curve, _AROUND), axis=1) - curve, 0)
        lowest = curve <= np.nanmin(_windows(curve, _APART), axis=1)
        found += [(float(drops[at]), int(at), number) for at in np.flatnonzero(seen & lowest & (drops > 0))]
    chosen: list[tuple[float, int, int]] = []
    for one in sorted(found, key=lambda one: (-one[0], one[1])):
        if len(chosen) < most and all(abs(one[1] - other[1]) >= _APART for other in chosen):
            chosen.append(one)
    return [
        {
            "frame": int(indices[at]),
            "time_s": round(float(times_s[at]), 3),
            "object": number,
            "confidence": round(float(curves[number][at]), 4),
            "drop": round(drop, 4),
        }
        for drop, at, number in chosen
    ]


def _windows(curve: NDArray[np.float32], around: int) -> NDArray[np.float32]:
    """Each frame with those around it. Shapes: (T,) -> (T, 2 around + 1), NaN beyond the ends."""
    padded = np.pad(curve, around, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * around + 1)
    return np.where(np.isnan(windows).all(axis=1, keepdims=True), np.float32(0), windows)


def plot_confidence(path: Path, curves: Curves, times_s: Sequence[float], marked: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG of confidence over time, one curve for each object; marked: what `frames_worth_a_look` returned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    step = -(-len(times_s) // _MOST_POINTS) or 1
    for number, curve in curves.items():
        axes.plot(np.asarray(times_s)[::step], curve[::step], linewidth=1, label=f"object {number}")
    for one in marked:
        axes.plot(one["time_s"], one["confidence"], "v", color="black", markersize=5)
        axes.annotate(f"frame {one['frame']}", (one["time_s"], one["confidence"]), (0, -12),
                      textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
    axes.set_xlabel("time (s)")
    axes.set_ylabel("confidence")
    axes.grid(alpha=0.3)
    if 1 < len(curves) <= 12:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    save_figure(figure, path)
