"""Clips made of one image with masks: its objects, cut out, move over the background filled in behind them.

The idea is Lucid data dreaming's (Khoreva et al., 2017): what a video's objects look like is in its first frame, and
how they may move, and before what, can be made up.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.layers import Layer, draw_layers, filmed, random_motion
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.textures import procedural_texture
from twospeed.data.clips.training_clip import TrainingClip, attempt
from twospeed.errors import MaskError
from twospeed.transforms.colour import jitter_colours
from twospeed.transforms.labels import draw_object_view

Image = NDArray[np.uint8]


class FirstFrame:
    """Draws short clips of the marked objects of one image: a `ClipSource`.

    image: uint8 RGB (H, W, 3). labels: uint8 (H, W), 0 is the background. length: frames of a clip.
    Raises MaskError for labels of another size, or without an object of 16 pixels or more.
    """

    name = "first frame"

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

    def __len__(self) -> int:
        return 1

    def draw(
        self, rng: np.random.Generator, *, index: int | None = None, size: int = 224, objects: int = 2, gap: int = 5
    ) -> TrainingClip:
        """Draw one clip; objects that are not to be followed move, too. index and gap have no meaning here.

        Raises InputError when no object comes into view.
        """
        return attempt(lambda: self._attempt(rng, size, objects), "the objects came into view in none of them")

    def _attempt(self, rng: np.random.Generator, size: int, objects: int) -> TrainingClip | None:
        wanted = [int(k) for k in rng.permutation(self.ids)[:objects]]
        scale, middle = draw_object_view(rng, self.labels == wanted[0], size)
        camera = random_motion(rng, centre=np.zeros(2), scale=scale, layer_side=size, reach=0.03 * size, strength=0.5)
        film = filmed(self._ground(rng), camera, middle, size, self.length)
        labels = np.zeros((self.length, size, size), np.uint8)
        layers = [self._layer(rng, k, wanted, scale, middle, size) for k in rng.permutation(self.ids)]
        if rng.random() < 0.3:  # something passes in front
            layers.append(self.occluders.layer(rng, 0, label=0, size=size))
        draw_layers(rng, film, labels, layers)
        for number, k in enumerate(wanted, start=1):
            enough = min(0.002 * size * size, 0.25 * scale**2 * self.areas[k])
            if (labels[0] == number).sum() < enough:
                return None
        film = jitter_colours(rng, film, 0.08)
        film = np.stack([jitter_colours(rng, frame, 0.015) for frame in film])
        if rng.random() < 0.5:
            film, labels = film[:, :, ::-1], labels[:, :, ::-1]
        return TrainingClip(film, labels, len(wanted))

    def _ground(self, rng: np.random.Generator) -> Image:
        """Half of the time another background: else what the first frame does not show would pass for an object."""
        kind = rng.random()
        if kind < 0.25:
            return procedural_texture(rng, *self.labels.shape)
        return jitter_colours(rng, self.background[::-1], 0.2) if kind < 0.5 else self.background

    def _layer(
        self, rng: np.random.Generator, k: int, wanted: list[int], scale: float, middle: NDArray[np.float64], size: int
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
