"""Consecutive frames of annotated videos, for networks that learn from the frames around each one.

A single image is a window of one frame. All changes are drawn once and made to every frame of a window alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from twospeed.data.clips.layers import Layer, place_layer, random_motion
from twospeed.data.clips.training_clip import TrainingClip
from twospeed.data.samples import SequenceSample
from twospeed.transforms.colour import jitter_colours
from twospeed.transforms.spatial import draw_affine

Image = NDArray[np.uint8]


def read_window(
    sample: SequenceSample, first: int, count: int, *, around: int = 0, short_side: int | None = None
) -> TrainingClip:
    """Read `count` frames from number `first` on, and `around` more on either side, T = count + 2 * around.

    short_side: to which larger frames are reduced, in pixels.
    """
    numbers = range(first - around, first + count + around)
    inside = np.array([0 <= number < len(sample.frames) for number in numbers])
    known = {number: sample.frames[number] for number, here in zip(numbers, inside, strict=True) if here}
    pairs = {number: _read(sample, frame, short_side) for number, frame in known.items()}
    images = {number: image for number, (image, _) in pairs.items()}
    labels = {number: marked for number, (_, marked) in pairs.items()}
    black, blank = np.zeros_like(next(iter(images.values()))), np.zeros_like(next(iter(labels.values())))
    return TrainingClip(
        np.stack([images.get(number, black) for number in numbers]),
        np.stack([labels.get(number, blank) for number in numbers]),
        inside=inside,
    )


def _read(sample: SequenceSample, frame: str, short_side: int | None) -> tuple[Image, Image]:
    image, labels = sample.image(frame), sample.labels(frame)
    height, width = labels.shape
    if short_side is None or min(height, width) <= short_side:
        return image, labels
    ratio = short_side / min(height, width)
    size = (round(width * ratio), round(height * ratio))
    return (
        np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def mirrored(window: TrainingClip) -> TrainingClip:
    """Flip left and right."""
    return replace(
        window,
        frames=np.ascontiguousarray(window.frames[:, :, ::-1]),
        labels=np.ascontiguousarray(window.labels[:, :, ::-1]),
    )


def turned(
    window: TrainingClip, rng: np.random.Generator, *, degrees: float = 30.0, scale: tuple[float, float] = (0.75, 1.25)
) -> TrainingClip:
    """Rotate by up to `degrees` either way and scale about the centre; what comes from outside is black background."""
    height, width = window.labels.shape[1:]
    change = draw_affine(rng, height, width, degrees=degrees, scale=scale)
    frames = change.frames(torch.from_numpy(window.frames).permute(0, 3, 1, 2)).round().to(torch.uint8)
    labels = change.masks(torch.from_numpy(window.labels))
    return replace(window, frames=frames.permute(0, 2, 3, 1).contiguous().numpy(), labels=labels.numpy())


def recoloured(window: TrainingClip, rng: np.random.Generator, strength: float) -> TrainingClip:
    """Change brightness, contrast and colour; strength 0..1 is the spread of each."""
    film = jitter_colours(rng, window.frames, strength)
    if window.inside is not None:
        film[~window.inside] = 0
    return replace(window, frames=film)


def cut_out(image: Image, labels: Image, rng: np.random.Generator) -> Image | None:
    """Cut one annotated object, chosen at random, out of a frame: uint8 RGBA, None where there is none."""
    ids = [int(i) for i in np.unique(labels[::4, ::4]) if i not in (0, 255)]
    if not ids:
        return None
    mask = labels == ids[int(rng.integers(len(ids)))]
    ys, xs = np.nonzero(mask)
    box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    alpha = cv2.erode(np.where(mask[box], np.uint8(255), np.uint8(0)), np.ones((3, 3), np.uint8))
    rgba = np.dstack([image[box], cv2.blur(alpha, (3, 3))])
    if min(rgba.shape[:2]) < 16 or not alpha.any():
        return None
    return np.ascontiguousarray(rgba[:, ::-1] if rng.random() < 0.5 else rgba)


def pasted(window: TrainingClip, rgba: Image, rng: np.random.Generator) -> TrainingClip:
    """Put a cut-out (RGBA) into the image as one more object, drifting and turning over the frames."""
    height, width = window.labels.shape[1:]
    rgba = np.dstack([jitter_colours(rng, rgba[..., :3], 0.1), rgba[..., 3]])
    side, extent = max(rgba.shape[:2]), height * float(np.exp(rng.uniform(np.log(0.2), np.log(0.9))))
    centre = rng.uniform(0.1, 0.9, 2) * np.array([width, height])
    motion = random_motion(
        rng, centre=centre, scale=extent / side, layer_side=side, reach=0.015 * height, strength=0.25
    )
    known = set(np.unique(window.labels).tolist())
    label = next(i for i in range(1, 255) if i not in known)
    layer = Layer(rgba, motion, label)
    frames, labels = window.frames.copy(), window.labels.copy()
    middle = len(frames) // 2
    for t in range(len(frames)) if window.inside is None else np.flatnonzero(window.inside):
        place_layer(frames[t], labels[t], layer, float(t - middle))
    return replace(window, frames=frames, labels=labels)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How windows are varied: probabilities and ranges, all off by default.

    flip: probability. degrees, scale: of `turned`. colour: strength of `recoloured`. paste: probability that an object
    of another training frame is put in.
    """

    flip: float = 0.0
    degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0
    paste: float = 0.0

    def apply(
        self,
        window: TrainingClip,
        rng: np.random.Generator,
        others: Sequence[SequenceSample] = (),
        *,
        short_side: int | None = None,
    ) -> TrainingClip:
        """Draw and make the changes. others: where pasted objects come from, read at `short_side`."""
        if others and rng.random() < self.paste:
            other = others[int(rng.integers(len(others)))]
            frame = other.frames[int(rng.integers(len(other.frames)))]
            rgba = cut_out(*_read(other, frame, short_side), rng)
            window = window if rgba is None else pasted(window, rgba, rng)
        if rng.random() < self.flip:
            window = mirrored(window)
        if self.degrees or self.scale != (1.0, 1.0):
            window = turned(window, rng, degrees=self.degrees, scale=self.scale)
        return recoloured(window, rng, self.colour) if self.colour else window
