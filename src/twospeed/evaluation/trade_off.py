"""What accuracy costs: keyframe intervals beside smaller images, in words, as a table and for a plot.

Source: GSVNet (Lee, Chen, Peng, ICME 2021), Tables 1 and 2 and Figure A5.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from twospeed.errors import OutputError


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One way to label a video. average, minimum: mIoU over the interval, 0..1; the same for single images.

    kind: keyframes every `setting` frames, or each image by itself at `setting` times its size. frames_per_second: from
    pixels to labels at full size, NaN where nothing was timed.
    """

    kind: Literal["interval", "image scale"]
    setting: str
    average: float
    minimum: float
    gmacs_per_frame: float
    frames_per_second: float


def operating_points(scores: Mapping[str, Any]) -> list[OperatingPoint]:
    """Take the points of a report's scores: intervals, then scaled images. Empty for scores of files."""
    rows: list[tuple[Literal["interval", "image scale"], str, Mapping[str, float]]] = [
        *(("interval", n, row) for n, row in scores.get("intervals", {}).items()),
        *(("image scale", scale, row) for scale, row in scores.get("image_scales", {}).items()),
    ]
    return [
        OperatingPoint(
            kind,
            setting,
            row["average_mIoU"] if kind == "interval" else row["mIoU"],
            row["minimum_mIoU"] if kind == "interval" else row["mIoU"],
            row["gmacs_per_frame"],
            row["frames_per_second"],
        )
        for kind, setting, row in rows
    ]


def in_words(scores: Mapping[str, Any]) -> list[str]:
    """Return a line for each point, and for the parameters of each part."""
    lines = []
    for point in operating_points(scores):
        if point.kind == "interval":
            accuracy = f"keyframe every {point.setting}: average mIoU {100 * point.average:.1f}"
            accuracy += f", minimum {100 * point.minimum:.1f}"
        else:
            accuracy = f"image network alone at {point.setting}: mIoU {100 * point.average:.1f}"
        timed = math.isfinite(point.frames_per_second)
        speed = f", {1e3 / point.frames_per_second:.1f} ms a frame" if timed else ""
        lines.append(f"{accuracy}, {point.gmacs_per_frame:.2f} G multiply-adds{speed}")
    for name, part in scores.get("parameters", {}).items():
        lines.append(f"{name.replace('_', ' ')}: {part['count']:,} parameters, {part['bytes'] / 1e6:.2f} MB")
    return lines


def write_points(path: Path, points: list[OperatingPoint]) -> None:
    """Write the points as CSV, whole or not at all. Raises OutputError when that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["kind", "setting", "average_mIoU", "minimum_mIoU", "gmacs_per_frame", "frames_per_second"])
            rows.writerows(
                [f"{value:.6g}" if isinstance(value, float) else value for value in astuple(point)] for point in points
            )
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: could not be written ({error.strerror or error})") from error
