"""GrabCut (Rother et al., SIGGRAPH 2004) with the calls of `ClickSegmenter`: masks by colour alone, without weights."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import MaskError
from twospeed.ops.clicks import Box, Point

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_ROUNDS = 5  # of GrabCut's alternation between colour models and cut
_WORK_SIDE = 480  # GrabCut's graph grows with pixels; a longer side than this is scaled down for it

# Radii around a point, in shorter sides of the image
_SURE, _NEAR, _LIKELY, _POSSIBLE = 0.02, 0.06, 0.15, 0.45


class GrabCutSegmenter:
    """Draw masks by colour alone, from a box, points and a mask to correct: best for objects that stand out.

    Nothing outside the box is marked, nothing right at a point beside the object, and all right at a point on it.
    """

    def predict(
        self, image: Image, points: Sequence[Point] = (), box: Box | None = None, start: Mask | None = None
    ) -> Mask:
        """As `ClickSegmenter.predict`. Raises MaskError for a box of less than 4x4 pixels in the image."""
        height, width = image.shape[:2]
        side = min(height, width)
        known = start is not None and bool(start.any())
        on, beside = (_distance(points, sign, (height, width)) / side for sign in (1, -1))
        hints = np.full((height, width), cv2.GC_BGD, np.uint8)
        if box is not None:
            left, top, right, bottom = _within(box, width, height)
            inside = hints[top:bottom, left:right]
            inside[:] = cv2.GC_PR_BGD  # corners and borders of a box are rarely the object
            inset_y, inset_x = (bottom - top) // 8, (right - left) // 8
            inside[inset_y : bottom - top - inset_y, inset_x : right - left - inset_x] = cv2.GC_PR_FGD
        within = hints != cv2.GC_BGD if box is not None else np.ones_like(hints, bool)
        if known and start is not None:
            away = cv2.distanceTransform((~start).astype(np.uint8), cv2.DIST_L2, 5) / side
            hints[within & (np.minimum(away, on) < _LIKELY)] = cv2.GC_PR_BGD
            hints[within & start] = cv2.GC_PR_FGD
        elif box is None:
            hints[on < _POSSIBLE] = cv2.GC_PR_BGD
        hints[within & (on < (_LIKELY if not known else _NEAR))] = cv2.GC_PR_FGD
        hints[(beside < _NEAR) & (beside < on) & (hints != cv2.GC_BGD)] = cv2.GC_PR_BGD
        hints[on < _SURE] = cv2.GC_FGD
        hints[(beside < _SURE) & (beside < on)] = cv2.GC_BGD
        return _cut(image, hints, [(x, y) for x, y, sign in points if sign > 0], box, start if known else None)


def _within(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[2])), min(height, round(box[3]))
    if right - left < 4 or bottom - top < 4:
        raise MaskError(
            f"box {box[0]:g},{box[1]:g} to {box[2]:g},{box[3]:g} covers no 4x4 pixels of the {width}x{height} image"
        )
    return left, top, right, bottom


def _distance(points: Sequence[Point], sign: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Distance of every pixel from the nearest point of this sign; infinite without any."""
    distance = np.full(size, np.inf)
    for x, y, own in points:
        if own == sign:
            np.minimum(distance, np.hypot(np.arange(size[0])[:, None] - y, np.arange(size[1])[None] - x), out=distance)
    return distance


def _cut(image: Image, hints: Image, positive: list[tuple[float, float]], box: Box | None, start: Mask | None) -> Mask:
    """Run GrabCut from hints, and keep the pieces that were pointed at (or the largest), without small holes."""
    height, width = hints.shape
    scale = min(1.0, _WORK_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., ::-1])
    labels = cv2.resize(hints, size, interpolation=cv2.INTER_NEAREST)
    fallback = (labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)
    cv2.setRNGSeed(0)  # its colour models start from a random clustering
    try:
        cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
        found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    except cv2.error:  # one flat colour: no model can be fitted
        found = fallback
    if not found.any():
        found = fallback
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8))
    pointed = list(positive)
    if not pointed and box is not None and start is None:
        pointed = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)]
    places = [(min(size[1] - 1, int(y * scale)), min(size[0] - 1, int(x * scale))) for x, y in pointed]
    chosen = {int(pieces[place]) for place in places}
    if start is not None:
        inside = cv2.resize(start.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        shares = np.bincount(pieces.ravel(), inside.ravel(), len(stats)) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
        chosen |= set(np.flatnonzero(shares >= 0.5).tolist())
    chosen.discard(0)
    if not chosen and len(stats) > 1:
        chosen = {1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))}
    mask = np.isin(pieces, list(chosen)).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    full: Mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return (full | (hints == cv2.GC_FGD)) & (hints != cv2.GC_BGD)
