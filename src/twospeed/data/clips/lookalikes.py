"""Training samples in which several things look alike: the hardest case for a tracker that matches appearance.

Copies of an object, followed or not, beside the object itself; objects that are away in a frame and come back.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.synthetic import Layer, MovingObjects, Sample, place_layer, random_motion
from twospeed.data.clips.triplets import VideoTriplets
from twospeed.transforms.colour import jitter_colours

Image = NDArray[np.uint8]

_VISIBLE = 0.003  # share of the first frame that an object to be followed covers


class CrowdedObjects(MovingObjects):
    """`MovingObjects` in which every other object has one or two copies, most of them objects to be followed, too.

    away: probability that a cut-out is missing in one of the frames after the first.
    """

    away = 0.1

    def _attempt(self, rng: np.random.Generator, size: int, max_objects: int) -> Sample | None:
        source = self._pick(rng)
        film, own_mask = self._background(rng, source, size)
        layers = self._layers(rng, source, size)
        labels = np.zeros((self.length, size, size), np.uint8)
        if own_mask is not None:
            labels[own_mask > 127] = 255
        tints = 1 + rng.normal(0, 0.03, (self.length, len(layers)))
        missing = np.where(rng.random(len(layers)) < self.away, rng.integers(1, self.length, len(layers)), 0)
        for t in range(self.length):
            for layer, tint, gone in zip(layers, tints[t], missing, strict=True):
                if t == 0 or t != gone:
                    place_layer(film[t], labels[t], layer, t, float(tint))
        frames = self._camera(rng, film)
        counts = np.bincount(labels[0].ravel(), minlength=256)
        visible = [label for label in range(1, 256) if counts[label] >= _VISIBLE * size * size]
        if not visible:
            return None
        rng.shuffle(visible)
        wanted = visible[:max_objects]
        table = np.zeros(256, np.uint8)
        for new, old in enumerate(wanted, start=1):
            table[old] = new
        return Sample(frames, table[labels], len(wanted))

    def _layers(self, rng: np.random.Generator, source: int | None, size: int) -> list[Layer]:
        layers: list[Layer] = []
        label = 0
        for _ in range(int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))):
            label += 1
            layer = self.layer(rng, source, label=label, size=size)
            layers.append(layer)
            rgba, side = layer.rgba, max(layer.rgba.shape[:2])
            for _ in range(int(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15]))):
                copy_label = 0
                if rng.random() < 0.6:
                    label += 1
                    copy_label = label
                twin = np.dstack([jitter_colours(rng, rgba[..., :3], 0.03), rgba[..., 3]])
                motion = random_motion(
                    rng,
                    centre=rng.uniform(0.05, 0.95, 2) * size,
                    scale=layer.motion.scale * rng.uniform(0.75, 1.3),
                    layer_side=side,
                    reach=0.05 * size,
                )
                layers.insert(int(rng.integers(len(layers) + 1)), Layer(twin, motion, copy_label))
        if rng.random() < 0.3:  # something that passes in front
            rgba = self._cutout(rng, None if rng.random() < 0.3 else self._pick(rng), size)
            side = max(rgba.shape[:2])
            scale = size * rng.uniform(0.1, 0.4) / side
            centre = rng.uniform(0.0, 1.0, 2) * size
            motion = random_motion(rng, centre=centre, scale=scale, layer_side=side, reach=0.12 * size)
            layers.append(Layer(rgba, motion))
        return layers


class TwinTriplets(VideoTriplets):
    """`VideoTriplets` in which a copy of the object, moving as it does, is at times put beside it.

    twins: probability of a copy; most are one more object to be followed.
    """

    twins = 0.35

    def _attempt(
        self,
        rng: np.random.Generator,
        frames: Image,
        labels: Image,
        indices: tuple[int, int, int],
        size: int,
        max_objects: int,
    ) -> Sample | None:
        sample = super()._attempt(rng, frames, labels, indices, size, max_objects)
        if sample is None or rng.random() >= self.twins:
            return sample
        return with_twin(rng, sample, max_objects)


def with_twin(rng: np.random.Generator, sample: Sample, max_objects: int) -> Sample:
    """Return the sample with a copy of object 1 beside it; unchanged where none fits.

    The copy is cut from every frame, so that it moves and deforms as the object does; it is turned over half of the
    time, scaled, and drifts. It is followed as one more object, if `max_objects` allows, in seven of ten samples.
    """
    size = sample.labels.shape[-1]
    ys, xs = np.nonzero(sample.labels[0] == 1)
    extent = np.array([np.ptp(xs) + 1, np.ptp(ys) + 1])
    if min(extent) < 8:
        return sample
    centre = np.array([xs.mean(), ys.mean()])
    heading = rng.uniform(0, 2 * np.pi)
    offset = rng.uniform(0.5, 1.3) * extent * np.array([np.cos(heading), np.sin(heading)])
    drift = rng.normal(0, 0.04 * size, 2)
    scale = rng.uniform(0.75, 1.3)
    linear = scale * np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    label = sample.objects + 1 if sample.objects < max_objects and rng.random() < 0.7 else 0
    in_front = rng.random() < 0.4
    frames, labels = sample.frames.copy(), sample.labels.copy()
    tint = int(rng.integers(1 << 31))
    for t in range(len(frames)):
        matrix = np.column_stack([linear, centre + offset + drift * t - linear @ centre])
        alpha = np.where(sample.labels[t] == 1, np.uint8(255), np.uint8(0))
        cut = np.dstack([sample.frames[t], cv2.blur(alpha, (3, 3))])
        moved = cv2.warpAffine(cut, matrix, (size, size), flags=cv2.INTER_LINEAR)
        colour = jitter_colours(np.random.default_rng(tint), np.ascontiguousarray(moved[..., :3]), 0.03)
        weight = moved[..., 3:].astype(np.float32) / 255
        if not in_front:
            weight = weight * (sample.labels[t] == 0)[..., None]
        frames[t] = (frames[t] + (colour.astype(np.float32) - frames[t]) * weight).astype(np.uint8)
        labels[t][weight[..., 0] > 0.5] = label
    counts = np.bincount(labels[0].ravel(), minlength=256)
    needed = 0.002 * size * size
    if any(counts[k] < needed for k in range(1, sample.objects + 1)):
        return sample
    if label and counts[label] < needed:
        labels[labels == label] = 0
        label = 0
    return Sample(frames, labels, max(sample.objects, label))


def instances(pictures: Sequence[tuple[Image, Sequence[Image]]]) -> tuple[list[Image], list[Image]]:
    """Return (frames, masks) for `MovingObjects`: every picture once for each of its objects."""
    pairs = [(image, mask) for image, masks in pictures for mask in masks]
    return [image for image, _ in pairs], [mask for _, mask in pairs]
