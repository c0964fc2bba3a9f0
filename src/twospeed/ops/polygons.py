"""Masks as polygons, and back: corners lie between pixels, so that the outline of a mask encloses exactly its pixels.

Coordinates are those of continuous images: pixel (row, column) covers [column, column + 1] x [row, row + 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""A closed line: corners (n, 2) as x, y; the last one is joined to the first."""

_TOLERANCES = (0.75, 0.5, 0.3)  # pixels; the steps of a slanted edge deviate from it by up to 0.71


def outlines(mask: NDArray[Any]) -> list[Ring]:
    """Return the rings around the parts of a mask (H, W) and around the holes in them, filled by `fill_rings` exactly.

    Outer rings run clockwise as seen in the image, holes the other way. Parts that touch in a corner are apart.
    """
    part, left, top = _part(mask)
    inside = np.pad(part, 1)
    rows, columns = np.nonzero(inside)
    segments: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The four sides of a pixel in clockwise order: where its neighbour is, where its edge begins and ends
    for (dy, dx), (y1, x1), (y2, x2) in (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 1)),
        ((1, 0), (1, 1), (1, 0)),
        ((0, -1), (1, 0), (0, 0)),
    ):
        edge = ~inside[rows + dy, columns + dx]
        y, x = rows[edge] + (top - 1), columns[edge] + (left - 1)  # without the padding
        starts = zip((x + x1).tolist(), (y + y1).tolist(), strict=True)
        ends = zip((x + x2).tolist(), (y + y2).tolist(), strict=True)
        for start, end in zip(starts, ends, strict=True):
            segments.setdefault(start, []).append(end)
    rings = []
    while segments:
        first = point = next(iter(segments))
        corners: list[tuple[int, int]] = []
        before = None
        while True:
            ends_here = segments[point]
            if len(ends_here) == 1 or before is None:
                following = ends_here.pop()
            else:  # two pixels touch in this corner: turn right, so that each keeps a ring of its own
                dx, dy = point[0] - before[0], point[1] - before[1]
                right = (point[0] - dy, point[1] + dx)
                ends_here.remove(right)
                following = right
            if not ends_here:
                del segments[point]
            if before is None or (following[0] - point[0], following[1] - point[1]) != (
                point[0] - before[0],
                point[1] - before[1],
            ):
                corners.append(point)
            before, point = point, following
            if point == first and (point not in segments or _turns_to(before, point, corners)):
                break
        rings.append(np.array(corners, np.float64))
    return rings


def _part(mask: NDArray[Any]) -> tuple[NDArray[np.bool_], int, int]:
    """Return what encloses all pixels inside of a mask, and its left and top."""
    inside = np.ascontiguousarray(mask, bool)
    left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
    return inside[top : top + height, left : left + width], left, top


def _turns_to(before: tuple[int, int], point: tuple[int, int], corners: Sequence[tuple[int, int]]) -> bool:
    """Say whether the ring that began at `point` ends there, where another one touches it."""
    if len(corners) < 2:
        return False
    dx, dy = point[0] - before[0], point[1] - before[1]
    ax, ay = corners[1][0] - corners[0][0], corners[1][1] - corners[0][1]
    step = (int(np.sign(ax)), int(np.sign(ay)))
    return step == (-dy, dx)


def fill_rings(rings: Iterable[NDArray[Any]], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of the pixels whose centres an odd number of rings encloses; parts outside are cut off."""
    toggles = np.zeros((height, width + 1), np.uint8)
    for ring in rings:
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        if len(points) < 3 or not np.isfinite(points).all():
            continue
        x1, y1 = points.T
        x2, y2 = np.roll(points, -1, axis=0).T
        # An edge crosses the rows whose centres (row + 0.5) lie in [min y, max y)
        low, high = np.minimum(y1, y2), np.maximum(y1, y2)
        begin = np.ceil(low - 0.5).clip(0, height).astype(np.int64)
        end = np.ceil(high - 0.5).clip(0, height).astype(np.int64)
        counts = np.maximum(end - begin, 0)
        edge = np.repeat(np.arange(len(points)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + begin[edge]
        slope = (x2 - x1)[edge] / np.where(y2 == y1, 1, y2 - y1)[edge]
        x = x1[edge] + (row + 0.5 - y1[edge]) * slope
        column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
        np.add.at(toggles, (row, column), 1)
    return (np.cumsum(toggles[:, :width] & 1, axis=1) & 1).astype(bool)


def simple_outlines(mask: NDArray[Any], least_iou: float = 0.985) -> list[Ring]:
    """Return `outlines` with fewer corners, whose filling still agrees with the mask (H, W) to this IoU."""
    exact = outlines(mask)
    inside, left, top = _part(mask)
    for tolerance in _TOLERANCES:
        rings = [cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, closed=True)[:, 0] for ring in exact]
        rings = [ring.astype(np.float64) for ring in rings if len(ring) > 2]
        filled = fill_rings([ring - (left, top) for ring in rings], *inside.shape)
        if (filled & inside).sum() >= least_iou * (filled | inside).sum():
            return rings
    return exact


def joined(rings: Sequence[NDArray[Any]]) -> Ring:
    """Return one ring for several, for formats that have one: joined by lines that run there and back.

    `fill_rings` fills it as it fills them.
    """
    whole = np.asarray(rings[0], np.float64)
    for ring in rings[1:]:
        other = np.asarray(ring, np.float64)
        gaps = np.linalg.norm(whole[:, None] - other[None], axis=2)
        here, there = np.unravel_index(int(gaps.argmin()), gaps.shape)
        loop = np.roll(other, -there, axis=0)
        whole = np.concatenate([whole[: here + 1], loop, loop[:1], whole[here:]])
    return whole
