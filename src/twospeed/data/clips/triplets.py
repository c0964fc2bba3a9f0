"""Training samples from annotated video: three frames of one sequence, cropped, warped and jittered together."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.synthetic import MovingObjects, Sample, place_layer
from twospeed.errors import InputError
from twospeed.transforms.colour import jitter_colours

Image = NDArray[np.uint8]


def triplet_indices(rng: np.random.Generator, frames: int, max_gap: int) -> tuple[int, int, int]:
    """Draw three frame indices of a sequence, neighbours 1..max_gap apart, half of the time in reverse order.

    Raises InputError for a sequence of fewer than three frames.
    """
    if frames < 3:
        raise InputError(f"a sequence of {frames} frames has no triplet: give at least 3")
    gap = max(1, min(max_gap, (frames - 1) // 2))
    first, second = (int(rng.integers(1, gap + 1)) for _ in range(2))
    start = int(rng.integers(0, frames - first - second))
    indices = (start, start + first, start + first + second)
    return indices[::-1] if rng.random() < 0.5 else indices


class VideoTriplets:
    """Draws triplets of real frames around their annotated objects.

    sequences: for each its frames uint8 RGB (n, h, w, 3) and labels uint8 (n, h, w), 0 = background. objects:
    where a second, moving object is drawn from (half of the samples that show one object get one pasted in).
    scale: between which that of the crop is drawn.
    """

    def __init__(
        self,
        sequences: Sequence[tuple[Image, Image]],
        *,
        objects: MovingObjects,
        scale: tuple[float, float] = (0.5, 1.2),
    ) -> None:
        if not sequences:
            raise InputError("no sequences to draw triplets from")
        for number, (frames, labels) in enumerate(sequences):
            if len(frames) < 3 or frames.shape[:3] != labels.shape:
                raise InputError(
                    f"sequence {number}: frames {frames.shape} and labels {labels.shape}: give at least 3 frames and "
                    "a label map of the same size for each"
                )
        self.sequences = sequences
        self.objects = objects
        self.scale = scale

    def draw(self, rng: np.random.Generator, *, max_gap: int, size: int = 256, max_objects: int = 2) -> Sample:
        """Draw one sample of size x size pixels with one or two objects, each visible in its first frame.

        max_gap: largest distance between neighbouring frames. max_objects: 1 or 2; with 1, what would have
        been the second object is still there at times, but is not followed. Raises InputError when nothing is
        annotated.
        """
        sample = None
        for _ in range(20):
            frames, labels = self.sequences[int(rng.integers(len(self.sequences)))]
            sample = self._attempt(rng, frames, labels, triplet_indices(rng, len(frames), max_gap), size, max_objects)
            if sample is not None:
                return sample
        raise InputError("20 draws of frames showed no object: are the annotations empty?")

    def _attempt(
        self,
        rng: np.random.Generator,
        frames: Image,
        labels: Image,
        indices: tuple[int, int, int],
        size: int,
        max_objects: int,
    ) -> Sample | None:
        first = np.asarray(labels[indices[0]])
        ids = [int(i) for i in np.unique(first[::2, ::2]) if i != 0]
        if not ids:
            return None
        rng.shuffle(ids)
        ids = ids[:max_objects]
        height, width = first.shape

        # One crop for the three frames, around a pixel of the object; then a small affine change of each.
        low, high = np.log(self.scale)
        scale = max(float(np.exp(rng.uniform(low, high))), size / height, size / width)
        ys, xs = np.nonzero(first[::2, ::2] == ids[0])
        pick = int(rng.integers(len(ys)))
        half = size / scale / 2
        middle = np.array([2 * xs[pick], 2 * ys[pick]]) + rng.uniform(-0.6, 0.6, 2) * half
        middle = np.clip(middle, half, np.array([width, height]) - half)
        flip = -1.0 if rng.random() < 0.5 else 1.0
        film = np.empty((3, size, size, 3), np.uint8)
        maps = np.empty((3, size, size), np.uint8)
        for t, index in enumerate(indices):
            angle, shear = rng.normal(0, 0.08), rng.normal(0, 0.05)
            zoom = scale * np.exp(rng.normal(0, 0.04))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            linear = zoom * turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([flip, 1.0])
            shift = size / 2 - linear @ middle + rng.normal(0, 0.02, 2) * size
            matrix = np.column_stack([linear, shift])
            border = cv2.BORDER_REFLECT_101
            film[t] = cv2.warpAffine(np.asarray(frames[index]), matrix, (size, size), borderMode=border)
            maps[t] = cv2.warpAffine(
                np.asarray(labels[index]), matrix, (size, size), flags=cv2.INTER_NEAREST, borderMode=border
            )
        table = np.zeros(256, np.uint8)
        for new, old in enumerate(ids, start=1):
            table[old] = new
        maps = table[maps]

        objects = len(ids)
        if objects == 1 and rng.random() < 0.5:
            objects = max_objects
            layer = self.objects.layer(rng, None, label=2 if objects == 2 else 0, size=size)
            for t in range(3):
                place_layer(film[t], maps[t], layer, t)
        film = jitter_colours(rng, film.reshape(3 * size, size, 3), 0.08).reshape(film.shape)
        for t in range(3):
            film[t] = jitter_colours(rng, film[t], 0.015)

        counts = np.bincount(maps[0].ravel(), minlength=3)
        if counts[1] < 0.002 * size * size:
            return None
        if objects == 2 and counts[2] < 0.002 * size * size:  # the pasted object starts outside: only an occluder
            maps[maps == 2] = 0
            objects = 1
        return Sample(film, maps, objects)
