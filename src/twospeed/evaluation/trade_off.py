"""What accuracy costs: keyframe intervals beside smaller images, as a table and for a plot.

Source: GSVNet (Lee, Chen, Peng, ICME 2021), Tables 1 and 2 and Figure A5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from twospeed.evaluation.report import Table


class OperatingPoint(NamedTuple):
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
    costs = ("gmacs_per_frame", "frames_per_second")
    intervals = [
        OperatingPoint("interval", n, row["average_mIoU"], row["minimum_mIoU"], *(row[name] for name in costs))
        for n, row in scores.get("intervals", {}).items()
    ]
    images = [
        OperatingPoint("image scale", scale, row["mIoU"], row["mIoU"], *(row[name] for name in costs))
        for scale, row in scores.get("image_scales", {}).items()
    ]
    return intervals + images


def cost_table(points: list[OperatingPoint]) -> Table:
    """Return a row for each point: average and minimum mIoU, multiply-adds in units of 1e9, frames per second."""
    names = {"interval": "keyframe every", "image scale": "image network alone at"}
    return Table(
        ("average mIoU", "minimum mIoU", "G multiply-adds/frame", "frames/s"),
        tuple((f"{names[point.kind]} {point.setting}", point[2:]) for point in points),
        ("share", "share", "number", "number"),
    )
