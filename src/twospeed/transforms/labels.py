"""What the labels of a training image decide: where a view is drawn, and how much each pixel counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def draw_object_view(
    rng: np.random.Generator, inside: NDArray[np.bool_], size: int, *, scale: tuple[float, float] = (0.5, 1.2)
) -> tuple[float, NDArray[np.float64]]:
    """Draw where a square view of size x size pixels lies that shows an object: (zoom, centre (x, y) in the image).

    inside: bool (H, W), the object, not empty. scale: smallest and largest zoom, drawn evenly on a logarithmic scale,
    but no smaller than it takes to fill the view.
    """
    height, width = inside.shape
    low, high = np.log(scale)
    zoom = max(float(np.exp(rng.uniform(low, high))), size / height, size / width)
    half = size / zoom / 2
    rows, columns = np.nonzero(inside)
    pick = int(rng.integers(len(rows)))
    centre = np.array([columns[pick], rows[pick]]) + rng.uniform(-0.6, 0.6, 2) * half
    return zoom, np.clip(centre, half, np.array([width, height]) - half)


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
