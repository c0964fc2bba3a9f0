"""Training samples for click networks: a crop around one annotated object, and what a user might say of it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.training_clip import attempt
from twospeed.errors import InputError
from twospeed.ops.clicks import Box, Point, prompt_planes
from twospeed.transforms.colour import jitter_colours

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class PromptedSample:
    """image: uint8 RGB (H, W, 3). mask: uint8 (H, W), 1 on the object. planes: float32 (PLANES, H, W), the prompts."""

    image: Image
    mask: Image
    planes: NDArray[np.float32]


class PromptedObjects:
    """Draws samples from (image, mask) pairs: uint8 RGB (h, w, 3) and uint8 (h, w), above 0 on the object.

    groups: sets of pairs, each drawn from equally often. Raises InputError when there is nothing to draw from.
    """

    def __init__(self, groups: Sequence[Sequence[tuple[Image, Image]]]) -> None:
        self.groups = [group for group in groups if len(group)]
        if not self.groups:
            raise InputError("no images to draw from")

    def draw(self, rng: np.random.Generator, *, size: int = 256) -> PromptedSample:
        """Draw one sample of size x size pixels whose object is in view. Raises InputError when 20 draws show none."""

        def crop() -> tuple[Image, Image] | None:
            group = self.groups[int(rng.integers(len(self.groups)))]
            image, mask = group[int(rng.integers(len(group)))]
            return _crop(rng, np.asarray(image), np.asarray(mask), size)

        piece, inside = attempt(crop, "they showed no object; are the masks empty?")
        points, box, before = first_prompts(rng, inside)
        return PromptedSample(piece, inside, prompt_planes(size, size, points, box, before))


def _crop(rng: np.random.Generator, image: Image, mask: Image, size: int) -> tuple[Image, Image] | None:
    """Cut, scale, turn a little, mirror and recolour, so that the object fills 0.15 to 0.95 of the crop's side."""
    ys, xs = np.nonzero(mask)
    if len(ys) < 64:
        return None
    low, high = np.array([xs.min(), ys.min()]), np.array([xs.max() + 1, ys.max() + 1])
    extent = float((high - low).max())
    wanted = size * float(
        np.exp(rng.uniform(np.log(0.15), np.log(0.95)) if rng.random() < 0.5 else np.log(rng.uniform(0.55, 0.85)))
    )
    scale = float(np.clip(wanted / extent, 0.3, 3.0))
    spare = max(0.0, size / scale - extent) / 2
    middle = (low + high) / 2 + rng.uniform(-1, 1, 2) * spare * 0.8
    if extent * scale > size:
        middle += rng.uniform(-0.3, 0.3, 2) * extent
    angle = rng.normal(0, 0.1)
    stretch = np.exp(rng.normal(0, 0.06))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.diag([flip * stretch, 1 / stretch])
    matrix = np.column_stack([linear, size / 2 - linear @ middle])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    piece = cv2.warpAffine(image, matrix, (size, size), flags=method, borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine((mask > 0).astype(np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST)
    if inside.sum() < 0.004 * size * size:
        return None
    piece = jitter_colours(rng, np.asarray(piece, np.uint8), 0.1)
    return piece, np.asarray(inside, np.uint8)


def first_prompts(rng: np.random.Generator, mask: Image) -> tuple[list[Point], Box | None, NDArray[np.float32] | None]:
    """Draw what a user says first of an object: points, a box, or both; now and then a mask to correct.

    mask: uint8 (H, W), 1 on the object.
    """
    kind = rng.random()  # below 0.3: box alone; below 0.5: box and points; else points alone
    points: list[Point] = []
    box: Box | None = None
    ys, xs = np.nonzero(mask)
    if kind < 0.5:
        low, high = np.array([xs.min(), ys.min()], float), np.array([xs.max() + 1, ys.max() + 1], float)
        if rng.random() < 0.7:
            side = high - low
            low, high = low + rng.normal(0, 0.03, 2) * side, high + rng.normal(0, 0.03, 2) * side
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    if kind >= 0.3:
        distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 0)[1:-1, 1:-1]
        for number in range(1 if rng.random() < 0.75 else int(rng.integers(2, 4))):
            if number == 0 and rng.random() < 0.5:
                row, column = np.unravel_index(int(distance.argmax()), distance.shape)
            else:
                rows, columns = np.nonzero(distance > distance.max() * rng.uniform(0.1, 0.6))
                pick = int(rng.integers(len(rows)))
                row, column = rows[pick], columns[pick]
            points.append((float(column) + 0.5, float(row) + 0.5, 1))
        if rng.random() < 0.25:
            near = cv2.dilate(mask, np.ones((41, 41), np.uint8)) > cv2.dilate(mask, np.ones((9, 9), np.uint8))
            rows, columns = np.nonzero(near)
            for _ in range(int(rng.integers(1, 3)) if len(rows) else 0):
                pick = int(rng.integers(len(rows)))
                points.append((float(columns[pick]) + 0.5, float(rows[pick]) + 0.5, -1))
    before = None
    if rng.random() < 0.15:  # a mask to correct: too much here, too little there, or moved
        wrong = mask.copy()
        side = mask.shape[0]
        for _ in range(int(rng.integers(1, 4))):
            centre = (int(rng.integers(side)), int(rng.integers(side)))
            if rng.random() < 0.6:
                pick = int(rng.integers(len(ys)))
                centre = (int(xs[pick]), int(ys[pick]))
            axes = (int(rng.integers(6, side // 5)), int(rng.integers(6, side // 5)))
            cv2.ellipse(wrong, centre, axes, float(rng.uniform(0, 180)), 0, 360, int(rng.integers(2)), -1)
        if rng.random() < 0.3:
            wrong = np.roll(wrong, rng.integers(-side // 16, side // 16, 2), (0, 1))
        before = wrong.astype(np.float32)
    return points, box, before
