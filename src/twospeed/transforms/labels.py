"""Views of a labelled image for training: zoomed, turned, cut, mirrored, recoloured, blurred, labels alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.transforms.colour import jitter_colours

Image = NDArray[np.uint8]

_GREY = (114, 114, 114)  # where a view reaches beyond its image


@dataclass(frozen=True, slots=True)
class LabelView:
    """A drawn view: the same move for image and labels.

    size: (height, width) of the view in pixels. matrix: 2 x 3, from the image's pixel centres to the view's.
    """

    size: tuple[int, int]
    matrix: NDArray[np.float64]

    def image(self, image: Image) -> Image:
        """Apply bilinearly: uint8 (H, W, 3) -> (height, width, 3), grey where nothing was."""
        height, width = self.size
        return np.asarray(cv2.warpAffine(image, self.matrix, (width, height), borderValue=_GREY), np.uint8)

    def labels(self, labels: Image, void: int) -> Image:
        """Apply to labels, nearest: uint8 (H, W) -> (height, width), `void` where nothing was."""
        height, width = self.size
        moved = cv2.warpAffine(
            labels, self.matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=(void, void, void)
        )
        return np.asarray(moved, np.uint8)


def draw_view(
    rng: np.random.Generator,
    source: tuple[int, int],
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.6, 1.8),
    turn: float = 4.0,
    aspect: float = 0.1,
    flip: float = 0.5,
    focus: tuple[int, int] | None = None,
) -> LabelView:
    """Draw a view of an image.

    source, size: (height, width) of image and view. scale: smallest and largest zoom, drawn evenly on a logarithmic
    scale. turn: standard deviation in degrees. aspect: largest change of one axis against the other. flip: probability
    of a mirror image. focus: (row, column) of the image that shall lie in the view. A view lies inside the image,
    or the image inside it where it is the larger, but for a rim of a twentieth.
    Raises InputError for sizes and scales that make no view.
    """
    if min(*source, *size) < 1 or not 0 < scale[0] <= scale[1]:
        raise InputError(f"no view of {size} from {source} at a zoom of {scale}; give positive numbers in order")
    zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    stretch = float(np.exp(rng.uniform(-aspect, aspect)))
    angle = np.deg2rad(rng.normal(0, turn)) if turn else 0.0
    mirror = -1.0 if rng.random() < flip else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    linear = zoom * np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror * stretch, 1.0 / stretch])
    centre, middle = (np.array([(n - 1) / 2 for n in pair[::-1]]) for pair in (source, size))  # (x, y)
    spare = np.array(source[::-1]) * zoom - np.array(size[::-1])  # negative where the view is the larger
    room = np.maximum(np.abs(spare), 0.1 * np.array(size[::-1])) / 2
    place = middle + rng.uniform(-room, room)  # of the image's centre
    if focus is not None:
        wanted = rng.uniform(0.1, 0.9, 2) * np.array(size[::-1]) - linear @ (np.array(focus[::-1]) - centre)
        place = np.clip(wanted, middle - room, middle + room)
    return LabelView(size, np.hstack([linear, (place - linear @ centre)[:, None]]))


def recolour(rng: np.random.Generator, image: Image, *, strength: float = 0.1, blur: float = 0.15) -> Image:
    """Change light and colour as weather and cameras do, and sometimes blur. uint8 (H, W, 3), the same shape back.

    strength: 0..1, spread of gain, offset, saturation and gamma. blur: probability of a Gaussian blur.
    """
    image = jitter_colours(rng, image, strength)
    gamma = float(np.exp(rng.normal(0, 2 * strength)))
    table = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    image = np.asarray(cv2.LUT(image, table), np.uint8)
    if rng.random() < blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.5))), np.uint8)
    return image


def border_weights(
    labels: Image, *, edges: Sequence[float] = (16, 64, 128), weights: Sequence[float] = (8, 4, 2, 1)
) -> NDArray[np.float32]:
    """Weigh pixels by their distance to the nearest pixel of another label: uint8 (H, W) -> float32 (H, W).

    weights: below each of the edges (in pixels), and beyond the last. SwiftNet's numbers for its boundary-aware loss.
    """
    distance = np.full(labels.shape, np.inf, np.float32)
    for label in np.unique(labels):
        inside = (labels == label).astype(np.uint8)
        if not inside.all():  # with one label alone there is no border
            distance = np.where(inside, cv2.distanceTransform(inside, cv2.DIST_L2, 5), distance)
    return np.asarray(weights, np.float32)[np.searchsorted(edges, distance, side="right")]


class Focus:
    """Where each class lies in a set of label maps, so that views can be drawn around rare ones.

    labels: label maps, uint8 (H, W) each. keep: how many pixels of each class and map are remembered, evenly spaced.
    """

    def __init__(self, labels: Sequence[Image], num_classes: int, keep: int = 64) -> None:
        self.places: list[list[tuple[int, NDArray[np.int64]]]] = [[] for _ in range(num_classes)]
        for index, label in enumerate(labels):
            flat = label.ravel()
            order = np.argsort(flat, kind="stable")
            ends = np.searchsorted(flat[order], np.arange(num_classes + 1))
            for number, (first, end) in enumerate(pairwise(ends)):
                if end > first:
                    chosen = order[first:end][:: max(1, (end - first) // keep)]
                    self.places[number].append((index, np.stack(np.unravel_index(chosen, label.shape), 1)))
        self.present = [number for number, found in enumerate(self.places) if found]

    def draw(self, rng: np.random.Generator) -> tuple[int, tuple[int, int]]:
        """Draw a class evenly, a map that has it, and a pixel of it: (map, (row, column))."""
        found = self.places[self.present[int(rng.integers(len(self.present)))]]
        index, pixels = found[int(rng.integers(len(found)))]
        row, column = pixels[int(rng.integers(len(pixels)))]
        return index, (int(row), int(column))
