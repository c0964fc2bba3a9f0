"""Samples made of one image with masks: its objects, cut out, move over the background filled in behind them.

The idea is Lucid data dreaming's (Khoreva et al., 2017): what a video's objects look like is in its first frame, and
how they may move, and before what, can be made up.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.synthetic import Layer, MovingObjects, Sample, place_layer, random_motion
from twospeed.data.clips.textures import procedural_texture
from twospeed.errors import InputError, MaskError
from twospeed.transforms.colour import jitter_colours

Image = NDArray[np.uint8]


class FirstFrame:
    """Draws short clips of the marked objects of one image.

    image: uint8 RGB (H, W, 3). labels: uint8 (H, W), 0 is the background. length: frames of a sample.
    Raises MaskError for labels of another size, or without an object of 16 pixels or more.
    """

    def __init__(self, image: Image, labels: Image, *, length: int = 3) -> None:
        height, width = image.shape[:2]
        if labels.shape != (height, width):
            raise MaskError(
                f"the mask is {labels.shape[1]}x{labels.shape[0]}, its frame {width}x{height}; give it that size"
            )
        counts = np.bincount(labels.ravel(), minlength=256)
        self.areas = {k: int(counts[k]) for k in range(1, 256) if counts[k] >= 16}
        self.ids = list(self.areas)
        if not self.ids:
            raise MaskError("the first frame's mask marks no object of 16 pixels or more; there is nothing to learn")
        self.labels, self.length = labels, length
        self.background = _filled_in(image, labels > 0)
        self.cutouts = {k: _cut_out(image, labels == k) for k in self.ids}
        self.occluders = MovingObjects([self.background], procedural=0.5)

    def draw(self, rng: np.random.Generator, *, size: int = 224, max_objects: int = 2) -> Sample:
        """Draw one sample of size x size pixels with 1..max_objects of the objects to follow; the others move, too.

        Raises InputError when none comes into view.
        """
        for _ in range(20):
            sample = self._attempt(rng, size, max_objects)
            if sample is not None:
                return sample
        raise InputError("the objects came into view in none of 20 samples; are they larger than a few pixels?")

    def _attempt(self, rng: np.random.Generator, size: int, max_objects: int) -> Sample | None:
        height, width = self.labels.shape
        wanted = [int(k) for k in rng.permutation(self.ids)[:max_objects]]
        # Scale and place of the view as `VideoTriplets` draws them
        scale = max(float(np.exp(rng.uniform(np.log(0.5), np.log(1.2)))), size / height, size / width)
        half = size / scale / 2
        ys, xs = np.nonzero(self.labels == wanted[0])
        pick = int(rng.integers(len(ys)))
        middle = np.array([xs[pick], ys[pick]]) + rng.uniform(-0.6, 0.6, 2) * half
        middle = np.clip(middle, half, np.array([width, height]) - half)

        camera = random_motion(rng, centre=np.zeros(2), scale=scale, layer_side=size, reach=0.03 * size, strength=0.5)
        ground = self._ground(rng)
        film = np.empty((self.length, size, size, 3), np.uint8)
        maps = np.zeros((self.length, size, size), np.uint8)
        layers = [self._layer(rng, k, wanted, scale, middle, size) for k in rng.permutation(self.ids)]
        if rng.random() < 0.3:  # something passes in front
            layers.append(self.occluders.layer(rng, 0, label=0, size=size))
        tints = 1 + rng.normal(0, 0.03, (self.length, len(layers)))
        for t in range(self.length):
            matrix = camera.matrix(t, 0, 0)
            matrix[:, 2] += size / 2 - matrix[:, :2] @ middle
            film[t] = cv2.warpAffine(ground, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)
            for layer, tint in zip(layers, tints[t], strict=True):
                place_layer(film[t], maps[t], layer, t, float(tint))
        for number, k in enumerate(wanted, start=1):
            enough = min(0.002 * size * size, 0.25 * scale**2 * self.areas[k])
            if (maps[0] == number).sum() < enough:
                return None
        film = jitter_colours(rng, film.reshape(-1, size, 3), 0.08).reshape(film.shape)
        for t in range(self.length):
            film[t] = jitter_colours(rng, film[t], 0.015)
        if rng.random() < 0.5:
            film, maps = film[:, :, ::-1], maps[:, :, ::-1]
        return Sample(film, maps, len(wanted))

    def _ground(self, rng: np.random.Generator) -> Image:
        """Half of the time another background: else what the first frame does not show would pass for an object."""
        kind = rng.random()
        if kind < 0.25:
            return procedural_texture(rng, *self.labels.shape)
        return jitter_colours(rng, self.background[::-1], 0.2) if kind < 0.5 else self.background

    def _layer(
        self,
        rng: np.random.Generator,
        k: int,
        wanted: list[int],
        scale: float,
        middle: NDArray[np.float64],
        size: int,
    ) -> Layer:
        """Set an object near its place in the view, moving on its own."""
        rgba, place = self.cutouts[k]
        motion = random_motion(
            rng,
            centre=size / 2 + scale * (place - middle) + rng.normal(0, 0.08, 2) * size,
            scale=scale * float(np.exp(rng.normal(0, 0.15))),
            layer_side=max(rgba.shape[:2]),
            reach=0.05 * size,
        )
        blur = float(np.linalg.norm(motion.velocity)) * 0.4 if rng.random() < 0.2 else 0.0
        return Layer(rgba, motion, wanted.index(k) + 1 if k in wanted else 0, blur=min(blur, 15))


def _cut_out(image: Image, mask: NDArray[np.bool_]) -> tuple[Image, NDArray[np.float64]]:
    """Return the object's box as uint8 RGBA, and its middle (x, y) in the image."""
    ys, xs = np.nonzero(mask)
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    alpha = mask[top:bottom, left:right] * np.uint8(255)
    rgba = np.dstack([image[top:bottom, left:right], alpha])
    return cv2.copyMakeBorder(rgba, 2, 2, 2, 2, cv2.BORDER_CONSTANT), np.array([left + right, top + bottom]) / 2


def _filled_in(image: Image, mask: NDArray[np.bool_]) -> Image:
    """Fill the objects' places with what lies beside them at the same height, so that texture does not betray them."""
    width = mask.shape[1]
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    filled, empty = image.copy(), hole.copy()
    for eighths in (1, -1, 2, -2, 3, -3, 4):
        shift = eighths * width // 8
        take = empty & ~np.roll(hole, shift, axis=1)
        filled[take] = np.roll(image, shift, axis=1)[take]
        empty &= ~take
    if not empty.any():
        return filled
    return np.asarray(cv2.inpaint(filled, empty.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)
