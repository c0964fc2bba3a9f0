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

_FARTHEST = 1e9  # pixels; corners of annotations may lie outside of the image, but not anywhere
_MOST_CROSSINGS = 1 << 26  # of rows by the edges of one ring
_AT_ONCE = 1 << 20

_TOLERANCES = (0.75, 0.5, 0.3)  # pixels; the steps of a slanted edge deviate from it by up to 0.71


def outlines(mask: NDArray[Any]) -> list[Ring]:
    """Return the rings around the parts of a mask (H, W) and around the holes in them, filled by `fill_rings` exactly.

    Outer rings run clockwise as seen in the image, holes the other way. Parts that touch in a corner are apart.
    """
    part, left, top = _part(mask)
    inside = np.pad(part, 1)
    across = inside.shape[1]  # corners between pixels are numbered row by row
    starts, ends, ways = [], [], []
    # Edges clockwise around a pixel: where the neighbour is, and where the edge begins and ends. An edge of way
    # k is followed by one of way k + 1 where the outline turns right.
    for way, (dy, dx, begins, stops) in enumerate(
        ((-1, 0, 0, 1), (0, 1, 1, across + 1), (1, 0, across + 1, across), (0, -1, across, 0))
    ):
        pixels = np.flatnonzero(inside & ~np.roll(inside, (-dy, -dx), (0, 1)))
        starts.append(pixels + begins)
        ends.append(pixels + stops)
        ways.append(np.full(len(pixels), way))
    start, end, way_of = (np.concatenate(parts) for parts in (starts, ends, ways))
    order = np.argsort(start, kind="stable")
    start, end, way_of = start[order], end[order], way_of[order]
    # Where two pixels touch in a corner two edges begin: turning right keeps a ring for each of them
    following = np.searchsorted(start, end)
    other = np.minimum(following + 1, len(start) - 1)
    turns_right = (start[other] == end) & (way_of[other] == (way_of + 1) % 4)
    following = np.where(turns_right, other, following)
    turns = np.zeros(len(start), bool)  # edges that begin with a turn
    turns[following] = way_of[following] != way_of
    chain, done = following.tolist(), bytearray(len(start))
    rings = []
    for first in range(len(chain)):
        ring, edge = [], first
        while not done[edge]:
            done[edge] = 1
            ring.append(edge)
            edge = chain[edge]
        if ring:
            corners = start[[edge for edge in ring if turns[edge]]]
            rings.append(
                np.stack([corners % across + left - 1, corners // across + top - 1], axis=1).astype(np.float64)
            )
    return rings


def _part(mask: NDArray[Any]) -> tuple[NDArray[np.bool_], int, int]:
    """Return what encloses all pixels inside of a mask, and its left and top."""
    inside = np.ascontiguousarray(mask, bool)
    left, top, width, height = cv2.boundingRect(inside.view(np.uint8))
    return inside[top : top + height, left : left + width], left, top


def checked_points(points: Any) -> NDArray[np.float64]:
    """Return x, y of points, (n, 2). Raises ValueError for points that are no numbers or far off."""
    found = np.asarray(points, np.float64).reshape(-1, 2)
    if not (np.abs(found) <= _FARTHEST).all():  # NaN is not, either
        raise ValueError(f"a polygon has a corner that is no number, or further than {_FARTHEST:g} pixels away")
    return found


def fill_rings(rings: Iterable[NDArray[Any]], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of the pixels whose centres an odd number of rings encloses; parts outside are cut off.

    Raises ValueError for corners that are no numbers or far off, and for a ring that crosses millions of rows.
    """
    toggles = np.zeros((height, width + 1), np.uint8)
    flat, one = toggles.reshape(-1), np.uint8(1)
    for ring in rings:
        points = checked_points(ring)
        if len(points) < 3:
            continue
        x1, y1 = points.T
        x2, y2 = np.roll(points, -1, axis=0).T
        # An edge crosses the rows whose centres (row + 0.5) lie in [min y, max y)
        low, high = np.minimum(y1, y2), np.maximum(y1, y2)
        begin = np.ceil(low - 0.5).clip(0, height).astype(np.int64)
        end = np.ceil(high - 0.5).clip(0, height).astype(np.int64)
        all_counts = np.maximum(end - begin, 0)
        until = np.cumsum(all_counts)
        if until[-1] > _MOST_CROSSINGS:
            raise ValueError(f"a polygon of {len(points)} corners crosses {until[-1]} rows of pixels; simplify it")
        slopes = (x2 - x1) / np.where(y2 == y1, 1, y2 - y1)
        borders = np.searchsorted(until, np.arange(_AT_ONCE, int(until[-1]) + _AT_ONCE, _AT_ONCE), side="right")
        for part in np.split(np.arange(len(points)), np.unique(borders)):
            counts = all_counts[part]
            edge = np.repeat(part, counts)
            row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + begin[edge]
            x = x1[edge] + (row + 0.5 - y1[edge]) * slopes[edge]
            column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
            np.add.at(flat, row * (width + 1) + column, one)
    return (np.cumsum(toggles[:, :width] & 1, axis=1, dtype=np.uint8) & 1).astype(bool)  # it may wrap: 256 is even


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
