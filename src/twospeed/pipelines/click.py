"""Masks from clicks, boxes and masks to correct, by a click network that looks closely at where the prompts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from twospeed.errors import InputError
from twospeed.models.click.network import STRIDE, ClickNetwork
from twospeed.ops.clicks import Box, Point, prompt_planes
from twospeed.pipelines.inputs import checked_prompts
from twospeed.weights.load import create_model

_CONTEXT = 1.4  # side of the window that the network sees, in sides of the object's box
_SMALL = 0.7  # an object whose window is smaller than this share of the image is looked at again, closer
_GAP = 9  # pixels: parts of a mask that are nearer to each other than this are one
_STRAY = 0.2  # parts smaller than this share of the largest one that was clicked are left out unless clicked
_LEAST = 32  # pixels that a window's side has at least


class ClickSegmenter:
    """Draw the mask of an object from what a user says of it.

    model_or_name: a click network, or its catalogue name, then with `weights`. size: pixels of the longer side of what
    the network sees. Raises InputError for another network, and sizes below 64.
    """

    def __init__(
        self, model_or_name: nn.Module | str = "click_nano", *, weights: Any = "default", size: int = 320
    ) -> None:
        model = create_model(model_or_name, weights) if isinstance(model_or_name, str) else model_or_name
        if not isinstance(model, ClickNetwork):
            raise InputError(f"{type(model).__name__} draws no masks from clicks; choose click_nano")
        if size < 2 * STRIDE:
            raise InputError(f"size is {size}; the network needs {2 * STRIDE} pixels or more")
        self.model, self.size = model.eval(), size

    @torch.inference_mode()
    def predict(
        self,
        image: NDArray[np.uint8],
        points: Sequence[Point] = (),
        box: Box | None = None,
        start: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Return the mask, bool (H, W).

        image: uint8 (H, W, 3) RGB. points: (x, y, +1 or -1), pixels, on the object or beside it. box: x0, y0, x1, y1 in
        pixels; nothing outside is part of the mask. start: bool (H, W), a mask to correct. Raises InputError for an
        image of another kind, MaskError for prompts that are missing, outside the image or of another size.
        """
        image, points, box, start = checked_prompts(image, points, box, start)
        height, width = image.shape[:2]
        whole = (0, 0, width, height)
        before = None if start is None or not start.any() else start.astype(np.float32)
        window = whole
        if box is not None or before is not None:
            window = _window(box if box is not None else _extent(before), points, width, height)
        probability = self._look(image, window, points, box, before)
        if window == whole and (probability > 0.5).any():
            closer = _window(_extent(probability > 0.5), points, width, height)
            if max((closer[2] - closer[0]) / width, (closer[3] - closer[1]) / height) < _SMALL:
                probability = self._look(image, closer, points, box, probability if before is None else before)
        mask = probability > 0.5
        if box is None and start is None:
            mask = _clicked_parts(mask, points)
        if box is not None:
            left, top, right, bottom = (round(v) for v in box)
            inside = np.zeros_like(mask)
            inside[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
            mask &= inside
        return np.asarray(mask)

    def _look(
        self,
        image: NDArray[np.uint8],
        window: tuple[int, int, int, int],
        points: Sequence[Point],
        box: Box | None,
        before: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Return probabilities (H, W), computed inside a window (x0, y0, x1, y1) and 0 beside it."""
        x0, y0, x1, y1 = window
        scale = self.size / max(x1 - x0, y1 - y0)
        wide, high = (max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (x1 - x0, y1 - y0))
        sx, sy = wide / (x1 - x0), high / (y1 - y0)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        piece = cv2.resize(image[y0:y1, x0:x1], (wide, high), interpolation=method)
        near = [((x - x0) * sx, (y - y0) * sy, sign) for x, y, sign in points]
        inner = (
            None if box is None else ((box[0] - x0) * sx, (box[1] - y0) * sy, (box[2] - x0) * sx, (box[3] - y0) * sy)
        )
        mask = None
        if before is not None:
            mask = cv2.resize(np.ascontiguousarray(before[y0:y1, x0:x1]), (wide, high), interpolation=cv2.INTER_AREA)
        planes = torch.from_numpy(prompt_planes(high, wide, near, inner, mask))[None]
        pixels = torch.from_numpy(np.ascontiguousarray(piece)).permute(2, 0, 1)[None].float() / 255
        answer = self.model(pixels, planes).sigmoid()[0].numpy()
        result = np.zeros(image.shape[:2], np.float32)
        result[y0:y1, x0:x1] = cv2.resize(answer, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        return result


def _clicked_parts(mask: NDArray[np.bool_], points: Sequence[Point]) -> NDArray[np.bool_]:
    """Leave out small parts of a mask, apart from the others, that nobody clicked on."""
    _, numbers = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), np.ones((_GAP, _GAP), np.uint8)))
    areas = np.bincount(numbers[mask], minlength=int(numbers.max()) + 1)
    clicked = {int(numbers[int(y), int(x)]) for x, y, sign in points if sign > 0} - {0}
    if not clicked:
        return mask
    large = np.flatnonzero(areas >= _STRAY * areas[list(clicked)].max())
    return np.asarray(np.isin(numbers, [*clicked, *large]) & mask)


def _extent(mask: NDArray[np.float32] | NDArray[np.bool_] | None) -> Box:
    """The box around what is above one half, x0, y0, x1, y1."""
    assert mask is not None
    ys, xs = np.nonzero(mask > 0.5)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def _window(box: Box, points: Sequence[Point], width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the image to look at: a box with room around it, every point inside, whole pixels."""
    xs = [box[0], box[2], *(x for x, _, _ in points)]
    ys = [box[1], box[3], *(y for _, y, _ in points)]
    centre = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    side = max(max(xs) - min(xs), max(ys) - min(ys), 1.0)
    spare = side * (_CONTEXT - 1) / 2
    half_width = max((max(xs) - min(xs)) / 2 + spare, _LEAST / 2)
    half_height = max((max(ys) - min(ys)) / 2 + spare, _LEAST / 2)
    x0, x1 = max(0, round(centre[0] - half_width)), min(width, round(centre[0] + half_width))
    y0, y1 = max(0, round(centre[1] - half_height)), min(height, round(centre[1] + half_height))
    return x0, y0, x1, y1
