"""Clicks, boxes and earlier masks as a network sees them, and where a user would click next."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, int]  # x, y in pixels, +1 on the object or -1 beside it
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

PLANES = 5  # clicks on the object, clicks beside it, inside the box, a box is given, the mask to correct
RADIUS = 5  # of a click's disc, in pixels of what the network sees


def prompt_planes(
    height: int, width: int, points: Sequence[Point], box: Box | None, mask: NDArray[np.floating] | None
) -> NDArray[np.float32]:
    """Draw prompts: float32 (PLANES, height, width) in 0..1. mask: the one to correct, (height, width) in 0..1."""
    planes = np.zeros((PLANES, height, width), np.float32)
    for x, y, sign in points:
        cv2.circle(planes[0 if sign > 0 else 1], (round(x - 0.5), round(y - 0.5)), RADIUS, 1.0, -1)
    if box is not None:
        left, top, right, bottom = (round(v) for v in box)
        planes[2, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
        planes[3] = 1
    if mask is not None:
        planes[4] = mask
    return planes


def next_click(truth: NDArray[np.bool_], result: NDArray[np.bool_], points: Sequence[Point] = ()) -> Point | None:
    """Return the click that corrects most, as click networks are evaluated (RITM): the middle of the thickest error.

    truth, result: bool (H, W). points: clicks so far, whose pixels are not clicked again. None where nothing is wrong.
    """
    best: tuple[float, Point] | None = None
    for sign, wrong in ((1, truth & ~result), (-1, result & ~truth)):
        padded = np.pad(wrong.astype(np.uint8), 1)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1]
        for x, y, _ in points:
            distance[int(y), int(x)] = 0
        row, column = np.unravel_index(int(distance.argmax()), distance.shape)
        depth = float(distance[row, column])
        if depth > 0 and (best is None or depth > best[0]):
            best = depth, (float(column) + 0.5, float(row) + 0.5, sign)
    return None if best is None else best[1]
