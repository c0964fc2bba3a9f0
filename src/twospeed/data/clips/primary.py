"""Training samples for networks that find what a clip is about: a frame, how it moves, and its primary objects.

Three kinds, mixed: frames of annotated videos; stills under a moving camera, in which only appearance
shows the object; and cut-outs that move over a filmed background, in which only motion does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.layers import draw_layers, filmed, random_motion
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import attempt
from twospeed.data.clips.videos import AnnotatedVideo
from twospeed.errors import InputError
from twospeed.ops.motion import OFFSETS, motion_planes
from twospeed.transforms.colour import recolour
from twospeed.transforms.warp import draw_resized_crop

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, left, height, width

_STEPS = (1, 1, 2, 2, 3, 4, 6)  # frames from one of OFFSETS to the next, drawn evenly
_AREA, _ASPECT = (0.4, 1.0), (1.3, 2.2)  # of a view: share of the frame, width / height
_INSIDE = 0.7  # share of the objects' pixels that a view must hold
_LEAST = 0.002  # share of a view that they must cover


@dataclass(frozen=True, slots=True, eq=False)
class PrimarySample:
    """image: uint8 RGB (H, W, 3). motion: float32 (12, H/2, W/2), of `ops.motion`. mask: uint8 (H, W), 1 on objects."""

    image: Image
    motion: NDArray[np.float32]
    mask: Image


class PrimaryObjects:
    """Draws samples.

    videos: annotated, every object of a frame primary. stills: pairs of image, uint8 RGB (h, w, 3), and mask, uint8
    (h, w), above 0 on the primary objects. made: where cut-outs and their backgrounds come from; None for neither.
    shares: of the three kinds; those without anything to draw from are left out. Raises InputError when all are.
    """

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        stills: Sequence[tuple[Image, Image]] = (),
        made: MovingObjects | None = None,
        *,
        shares: tuple[float, float, float] = (0.65, 0.15, 0.2),
    ) -> None:
        self.videos, self.stills, self.made = videos, stills, made
        kinds = [self._of_video, self._of_still, self._made]
        usable = [bool(len(videos)), bool(len(stills)), made is not None and made.frames is not None]
        self._kinds = [kind for kind, there in zip(kinds, usable, strict=True) if there]
        weights = np.array([share for share, there in zip(shares, usable, strict=True) if there])
        if not self._kinds or weights.sum() <= 0:
            raise InputError("no videos or images to draw from")
        self._weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator, size: tuple[int, int] = (192, 320)) -> PrimarySample:
        """Draw one sample of `size` (height, width), multiples of 32. Raises InputError when 20 draws show no object.

        Raises DatasetError and VideoError for files that cannot be read.
        """
        return attempt(
            lambda: self._kinds[int(rng.choice(len(self._kinds), p=self._weights))](rng, size),
            "they showed no object; are the masks empty?",
        )

    def _of_video(self, rng: np.random.Generator, size: tuple[int, int]) -> PrimarySample | None:
        video = self.videos[int(rng.integers(len(self.videos)))]
        names = list(video.annotations)
        index, step = int(rng.integers(len(names))), int(rng.choice(_STEPS))
        places = [index + offset * step for offset in OFFSETS]
        centre, mask = video.image(names[index]), video.labels(names[index]) == 1
        others = [video.image(names[place]) if 0 <= place < len(names) else None for place in places]
        box = _view(rng, mask)
        if box is None:
            return None
        pan = rng.normal(0, 0.02, 2) if rng.random() < 0.25 else np.zeros(2)
        return _sample(rng, centre, mask, others, box, pan, size)

    def _of_still(self, rng: np.random.Generator, size: tuple[int, int]) -> PrimarySample | None:
        image, mask = self.stills[int(rng.integers(len(self.stills)))]
        box = _view(rng, np.asarray(mask) > 0)
        if box is None:
            return None
        pan = rng.normal(0, 0.02, 2) * (rng.random() < 0.7)
        return _sample(rng, image, np.asarray(mask) > 0, [image] * len(OFFSETS), box, pan, size)

    def _made(self, rng: np.random.Generator, size: tuple[int, int]) -> PrimarySample | None:
        assert self.made is not None
        assert self.made.frames is not None
        side, (height, width) = max(size), size
        ground = self.made.frames[int(rng.integers(len(self.made.frames)))]
        scale = max(side / min(ground.shape[:2]), 0.4) * float(np.exp(rng.uniform(0.0, 0.5)))
        reach = float(rng.choice([0.0, 0.01, 0.03])) * side
        camera = random_motion(rng, centre=np.zeros(2), scale=scale, layer_side=side, reach=reach, strength=0.2)
        middle = np.array(ground.shape[1::-1]) / 2
        film = filmed(ground, camera, middle, side, 2 * max(OFFSETS) + 1, flip=bool(rng.random() < 0.5))
        labels = np.zeros(film.shape[:3], np.uint8)
        layers = [self.made.layer(rng, None, label=1, size=side) for _ in range(1 if rng.random() < 0.75 else 2)]
        draw_layers(rng, film, labels, layers)
        top = (side - height) // 2
        film, labels = film[:, top : top + height, :width], labels[:, top : top + height, :width]
        now = len(film) // 2
        others: list[Image | None] = [film[now + offset] for offset in OFFSETS]
        return _sample(rng, film[now], labels[now] == 1, others, (0, 0, height, width), np.zeros(2), size)


def _view(rng: np.random.Generator, mask: NDArray[np.bool_]) -> Box | None:
    """Draw a part of a frame that holds most of its objects: all of it when five draws do not; None without objects."""
    total = int(mask.sum())
    if total < _LEAST * mask.size:
        return None
    for _ in range(5):
        top, left, height, width = draw_resized_crop(rng, *mask.shape, area=_AREA, aspect=_ASPECT)
        if mask[top : top + height, left : left + width].sum() >= _INSIDE * total:
            return top, left, height, width
    return 0, 0, mask.shape[0], mask.shape[1]


def _panned(box: Box, pan: NDArray[np.float64], shape: tuple[int, ...]) -> Box:
    """Move a box by a share of the frame's size, down and right, as far as it stays inside."""
    top, left, height, width = box
    down, right = (round(float(share) * side) for share, side in zip(pan, shape, strict=False))
    return (
        min(max(top + down, 0), shape[0] - height), min(max(left + right, 0), shape[1] - width), height, width
    )  # fmt: skip


def _sample(
    rng: np.random.Generator,
    centre: Image,
    mask: NDArray[np.bool_],
    others: Sequence[Image | None],
    box: Box,
    pan: NDArray[np.float64],
    size: tuple[int, int],
) -> PrimarySample | None:
    """Cut a box out of each frame and scale it, measure motion, mirror and recolour.

    pan: share of the frame's size, down and right, by which the box moves for each unit of OFFSETS.
    """
    height, width = size
    boxes = [_panned(box, pan * offset, centre.shape) for offset in OFFSETS]
    inside = _scaled(mask.astype(np.uint8) * 255, box, size) > 127
    if inside.sum() < _LEAST * inside.size:
        return None
    image = _scaled(centre, box, size)
    half = (height // 2, width // 2)
    near = [None if one is None else _grey(one, at, half) for one, at in zip(others, boxes, strict=True)]
    motion = motion_planes(_grey(centre, box, half), near)
    image, marked = recolour(rng, image, strength=0.08), inside.astype(np.uint8)
    if rng.random() < 0.5:
        image, marked, motion = image[:, ::-1], marked[:, ::-1], motion[..., ::-1].copy()
        motion[::3] *= -1  # along x
    return PrimarySample(np.ascontiguousarray(image), motion, np.ascontiguousarray(marked))


def _scaled(image: Image, box: Box, size: tuple[int, int]) -> Image:
    top, left, height, width = box
    piece = image[top : top + height, left : left + width]
    how = cv2.INTER_AREA if height > size[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(piece, size[::-1], interpolation=how), np.uint8)


def _grey(image: Image, box: Box, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.cvtColor(_scaled(image, box, size), cv2.COLOR_RGB2GRAY), np.uint8)
