"""A first mask from less than a mask: a box or a point on the object, by GrabCut (Rother et al., SIGGRAPH 2004)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import MaskError

_ROUNDS = 5  # of GrabCut's alternation between colour models and cut
_WORK_SIDE = 480  # GrabCut's graph grows with pixels; a longer side than this is scaled down for it


def mask_from_box(image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Cut out what fills a box.

    image: uint8 (H, W, 3) RGB. box: x, y, width, height in pixels. Returns bool (H, W); all outside the box is
    background. Raises MaskError for a box that is empty or outside the image.
    """
    height, width = image.shape[:2]
    x, y, w, h = box
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    if right - left < 4 or bottom - top < 4:
        raise MaskError(
            f"box {x:g},{y:g},{w:g},{h:g} covers no 4x4 pixels of the {width}x{height} image; give x,y,width,height"
        )
    hints = np.full((height, width), cv2.GC_BGD, np.uint8)
    hints[top:bottom, left:right] = cv2.GC_PR_FGD
    inset_y, inset_x = (bottom - top) // 8, (right - left) // 8
    hints[top : top + inset_y, left:right] = cv2.GC_PR_BGD  # corners and borders of a box are rarely the object
    hints[bottom - inset_y : bottom, left:right] = cv2.GC_PR_BGD
    hints[top:bottom, left : left + inset_x] = cv2.GC_PR_BGD
    hints[top:bottom, right - inset_x : right] = cv2.GC_PR_BGD
    return _cut(image, hints, ((left + right) // 2, (top + bottom) // 2))


def mask_from_point(image: NDArray[np.uint8], point: tuple[float, float]) -> NDArray[np.bool_]:
    """Cut out the object under a point, judged by colour: a guess, best for objects that stand out.

    image: uint8 (H, W, 3) RGB. point: x, y in pixels. Returns bool (H, W). Raises MaskError for a point outside.
    """
    height, width = image.shape[:2]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise MaskError(f"point {x:g},{y:g} lies outside the {width}x{height} image; give x,y in pixels")
    side = min(height, width)
    distance = np.hypot(np.arange(height)[:, None] - y, np.arange(width)[None] - x)
    hints = np.full((height, width), cv2.GC_BGD, np.uint8)
    hints[distance < 0.45 * side] = cv2.GC_PR_BGD
    hints[distance < 0.15 * side] = cv2.GC_PR_FGD
    hints[distance < 0.02 * side] = cv2.GC_FGD
    return _cut(image, hints, (round(x), round(y)))


def _cut(image: NDArray[np.uint8], hints: NDArray[np.uint8], centre: tuple[int, int]) -> NDArray[np.bool_]:
    """Run GrabCut from hints and keep the piece at the centre (or the largest), without holes smaller than 1 %."""
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
    x, y = min(size[0] - 1, int(centre[0] * scale)), min(size[1] - 1, int(centre[1] * scale))
    piece = int(pieces[y, x]) or 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    mask = (pieces == piece).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    full: NDArray[np.bool_] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return full & (hints != cv2.GC_BGD)
