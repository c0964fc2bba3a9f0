"""What a run of labelled frames sums up: how large and how sure classes and objects are over time."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.output.plots import plot_areas, plot_confidence
from twospeed.output.run import Run
from twospeed.results import ClassMap, Frame, ObjectMasks

MOST_FRAMES = 10
_AROUND = 12  # frames to either side with which one is compared
_APART = 5  # frames between two that are listed


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
    curves: Mapping[int, NDArray[np.float32]], indices: Sequence[int], times_s: Sequence[float]
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
        if len(chosen) < MOST_FRAMES and all(abs(one[1] - other[1]) >= _APART for other in chosen):
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
