"""Short drives made of single labelled images: a moving camera and pasted objects, with exact labels in every frame.

Only few data sets label frames that follow each other. Here each frame is the same image, looked up along a smooth
field that grows with time: outwards from where the drive leads to, fast for the road in front and for what is near at
the sides, slow along the horizon. Cut-outs of other images (cars, people) move across it. Labels take the same way
as pixels, so they are right wherever the image's are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.textures import smooth_noise
from twospeed.errors import InputError
from twospeed.transforms.colour import recolour
from twospeed.transforms.warp import draw_view

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]
Field = NDArray[np.float32]

_SMALLEST, _LARGEST = 200, 20_000  # pixels of a cut-out


@dataclass(frozen=True, slots=True)
class CutOut:
    """An object of an image: its box there, uint8 (h, w, 3), its mask, uint8 (h, w) of 0 and 1, and its class."""

    image: Image
    mask: Image
    label: int


def cut_outs(
    images: Sequence[Image], labels: Sequence[Image], classes: Sequence[int], most: int = 400
) -> tuple[CutOut, ...]:
    """Cut connected regions of some classes out of labelled images; up to `most`, evenly spread over them."""
    found = []
    for image, label in zip(images, labels, strict=True):
        for number in classes:
            count, regions, boxes, _ = cv2.connectedComponentsWithStats((label == number).astype(np.uint8))
            for region in range(1, count):
                x, y, width, height, area = (int(v) for v in boxes[region])
                if _SMALLEST <= area <= _LARGEST:
                    box = np.s_[y : y + height, x : x + width]
                    mask = (regions[box] == region).astype(np.uint8)
                    found.append(CutOut(np.ascontiguousarray(image[box]), mask, number))
    return tuple(found[:: max(1, -(-len(found) // most))])


class Drives:
    """Draws short drives from labelled images.

    images: uint8 (H, W, 3) RGB. labels: uint8 (H, W). void: the label of what no image shows. movers: classes whose
    regions are cut out and sent across other images. Raises InputError without images.
    """

    def __init__(self, images: Sequence[Image], labels: Sequence[Image], *, void: int, movers: Sequence[int]) -> None:
        if not images or len(images) != len(labels):
            raise InputError(f"{len(images)} images and {len(labels)} label maps; give as many of both, at least one")
        self.images, self.labels, self.void = images, labels, void
        self.cut_outs = cut_outs(images, labels, movers)

    def draw(
        self, rng: np.random.Generator, size: tuple[int, int], frames: int, *, speed: float = 0.09
    ) -> tuple[Image, Image]:
        """Draw a drive: frames uint8 (T, height, width, 3) and labels uint8 (T, height, width).

        speed: by what share of the distance to the vanishing point the nearest things move in a frame, at most.
        """
        index = int(rng.integers(len(self.images)))
        height, width = size
        view = draw_view(rng, self.labels[index].shape, size, scale=(0.75, 1.5), turn=2.0)
        field = _motion(rng, height, width, speed)
        back = view.back.astype(np.float32)
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)  # (h, w, 2), (x, y)
        film = np.empty((frames, height, width, 3), np.uint8)
        maps = np.empty((frames, height, width), np.uint8)
        middle = (frames - 1) / 2  # the image as it is lies in the middle, so that frames are stretched least
        for t in range(frames):
            shake = rng.normal(0, (0.3, 0.6)).astype(np.float32)
            at = cv2.transform(grid - (t - middle) * field + shake, back)
            cv2.remap(self.images[index], at, None, cv2.INTER_LINEAR, film[t], borderMode=cv2.BORDER_REFLECT_101)
            cv2.remap(self.labels[index], at, None, cv2.INTER_NEAREST, maps[t], cv2.BORDER_CONSTANT, (self.void,) * 3)
        for _ in range(int(rng.integers(4)) if self.cut_outs else 0):
            _send_across(rng, self.cut_outs[int(rng.integers(len(self.cut_outs)))], film, maps)
        return recolour(rng, film), maps


class DriveSnippets:
    """Drives as GSVNet trains on them, labelled in the last frame alone: map-style over (epoch, index).

    Yields frames uint8 (T, 3, h, w) and classes uint8 (h, w), a pure function of the key and the seed. counts: drives
    of an epoch for each distance from the first frame to the last, in the order of the index. size: (h, w) in pixels.
    """

    def __init__(self, drives: Drives, counts: Mapping[int, int], size: tuple[int, int], *, seed: int = 0) -> None:
        self.drives, self.size, self.seed = drives, size, seed
        self.distances = [distance for distance, count in counts.items() for _ in range(count)]

    def __len__(self) -> int:
        return len(self.distances)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        import torch

        epoch, index = key
        random = np.random.default_rng([self.seed, epoch, index])
        film, maps = self.drives.draw(random, self.size, self.distances[index] + 1)
        return torch.from_numpy(film).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(maps[-1])


def _motion(rng: np.random.Generator, height: int, width: int, speed: float) -> Field:
    """Draw how many pixels everything moves in a frame: float32 (height, width, 2), (x, y)."""
    kind = rng.random()
    rate = 0.0 if kind < 0.1 else float(rng.uniform(0.1, 1.0)) * speed * (-0.5 if kind > 0.9 else 1.0)
    horizon, ahead = height * rng.uniform(0.3, 0.6), width * rng.uniform(0.3, 0.7)
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    road = np.maximum(y - horizon, 0) / height  # a plane below the camera is nearer the lower it is seen
    sides = np.abs(x - ahead) / width * rng.uniform(0.2, 1.0)
    near = (
        0.08
        + 1.4 * np.maximum(road, sides)
        + 0.25 * smooth_noise(rng, height, width, cells=int(rng.integers(3, 8)), octaves=1)
    )
    turning = rng.normal(0, (0.012 * width, 0.003 * height))
    return np.stack([rate * near * (x - ahead) + turning[0], rate * near * (y - horizon) + turning[1]], 2).astype(
        np.float32
    )


def _send_across(rng: np.random.Generator, thing: CutOut, film: Image, maps: Image) -> None:
    """Move a cut-out over all frames of a drive, in place."""
    frames, height, width = maps.shape
    tall, wide = thing.mask.shape
    zoom = float(np.exp(rng.uniform(-0.4, 0.6)))
    place = np.array([rng.uniform(0, width), height * rng.uniform(0.45, 0.8)])  # of its centre, (x, y)
    step = rng.normal(0, (0.035 * width, 0.01 * height))  # oncoming cars move by 20 pixels of 480 in 1/15 s
    growth = float(rng.normal(0, 0.05))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    for t in range(frames):
        scale = zoom * (1 + growth) ** t
        linear = np.diag([mirror * scale, scale])
        shift = place + t * step - linear @ np.array([(wide - 1) / 2, (tall - 1) / 2])
        matrix = np.hstack([linear, shift[:, None]])
        mask = cv2.warpAffine(thing.mask * np.uint8(255), matrix, (width, height))
        left, top, across, down = cv2.boundingRect(mask)
        box = np.s_[top : top + down, left : left + across]
        if not across:
            continue
        matrix[:, 2] -= left, top
        moved = cv2.warpAffine(thing.image, matrix, (across, down), borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.GaussianBlur(mask[box], (0, 0), 0.7).astype(np.float32)[..., None] / 255
        film[t][box] = (film[t][box] + alpha * (moved.astype(np.float32) - film[t][box])).round()
        maps[t][box][mask[box] > 127] = thing.label
