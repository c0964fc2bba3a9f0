"""What moves against the camera: dense flow from one frame to another, less the motion of the whole image.

Flow: OpenCV's DIS (Kroeger et al., ECCV 2016). The image's own motion is an affine map, fitted to the flow by least
squares that are weighted again and again (Cauchy), so that objects, which disagree with it, stop counting.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

OFFSETS = (-3, -1, 1, 3)
"""Frames that motion is measured to, in steps: before and after, near and far."""

PLANES = 3  # for each of them: motion along x and y against the camera, and what changed in spite of the camera
_GRID = 4  # pixels between the places that the camera's motion is fitted to
_ROUNDS = 6
_CENT = 0.01  # motion is counted in hundredths of the image's width


def motion_planes(centre: NDArray[np.uint8], others: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.float32]:
    """Describe how a frame moves to some others: float32 (len(others) * PLANES, h, w).

    centre: grey, uint8 (h, w), 32 pixels or more each way. others: one for each of OFFSETS, of the same size, None
    where the video has no such frame: the one on the other side of the centre then stands for it, or nothing (zeros).
    Motion points forward in time, whichever side it was measured on; it is compressed, sign(m) log(1 + 4 |m|) of m in
    hundredths of the width. The third plane is the difference of brightness, in 0..4, once the camera's motion is
    undone.
    """
    height, width = centre.shape
    measured = [None if other is None else _against_camera(centre, other) for other in others]
    planes = np.zeros((len(measured), PLANES, height, width), np.float32)
    for index, found in enumerate(measured):
        mirrored = len(measured) - 1 - index
        if found is not None:
            planes[index] = found
            if OFFSETS[index] < 0:
                planes[index, :2] *= -1
        elif (stands_in := measured[mirrored]) is not None:
            planes[index] = stands_in
            if OFFSETS[mirrored] < 0:
                planes[index, :2] *= -1
    return planes.reshape(-1, height, width)


def _against_camera(centre: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return flow less the camera's, compressed, and the remaining difference: float32 (PLANES, h, w)."""
    height, width = centre.shape
    flow = _flow(centre, other)
    camera = camera_motion(flow)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    still = np.stack([a * columns + b * rows + c for a, b, c in camera.astype(np.float32)], -1)  # (h, w, 2)
    rest = (flow - still) / np.float32(_CENT * width)
    compressed = np.sign(rest) * np.log1p(4 * np.abs(rest))
    places = still + np.stack(np.broadcast_arrays(columns, rows), -1)
    undone = cv2.remap(other, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    changed = cv2.absdiff(centre, np.asarray(undone, np.uint8)).astype(np.float32) / 64
    return np.asarray(np.concatenate([compressed.transpose(2, 0, 1), changed[None]]), np.float32)


def _flow(centre: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return where every pixel of `centre` is in `other`, less where it was: float32 (h, w, 2), x and y in pixels."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(1)  # half the size: a fifth of the time, and borders come from the image anyway
    return np.asarray(method.calc(centre, other, None), np.float32)


def camera_motion(flow: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the affine motion that most of an image shares: (2, 3), flow = matrix @ (x, y, 1) in pixels."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[_GRID // 2 : height : _GRID, _GRID // 2 : width : _GRID]
    x, y = columns.ravel() / width - 0.5, rows.ravel() / height - 0.5
    terms = np.stack([x, y, np.ones_like(x)], 1)  # (n, 3)
    moved = flow[rows, columns].reshape(-1, 2).astype(np.float64)
    # Objects are more often in the middle than at the border
    weights = prior = 0.3 + 2 * np.maximum(np.abs(x), np.abs(y))
    fitted = np.zeros((3, 2))
    for _ in range(_ROUNDS):
        weighted = terms * weights[:, None]
        fitted = np.linalg.solve(weighted.T @ terms + 1e-6 * np.eye(3), weighted.T @ moved)
        error = np.linalg.norm(moved - terms @ fitted, axis=1)
        usual = max(1.5 * float(np.median(error)), 0.05)
        weights = prior / (1 + np.square(error / usual))
    a, b, c = fitted
    return np.stack([a / width, b / height, c - a / 2 - b / 2], 1)
