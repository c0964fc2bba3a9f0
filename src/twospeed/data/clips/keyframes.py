"""What training sees of AVA's keyframes: the clip around each, boxes and pixels changed alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from twospeed.data.benchmarks.ava import CLASSES
from twospeed.data.benchmarks.ava_frames import AvaFrames, in_pixels
from twospeed.data.benchmarks.ava_keyframes import Keyframe
from twospeed.data.clips.actions import Key
from twospeed.data.samples import BrokenSample, KeyframeSample
from twospeed.errors import DatasetError, InputError, VideoError
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import CropTransform, draw_train_crop, scale_only
from twospeed.video.sampling import ClipShape


@dataclass(eq=False)
class TrainKeyframes(Dataset[KeyframeSample | BrokenSample]):
    """The clip around each keyframe as training sees it: scale jitter, random crop, flip, boxes moved along.

    Ask with (epoch, index): what is drawn depends on (seed, epoch, index) alone. num_classes: targets have so many
    columns, column c is class id c + 1. short_side: the jitter's range in pixels; inverse_uniform draws 1 / size
    uniformly, as PySlowFast does for AVA. crop: side of a square in pixels; None keeps the whole image, of one size,
    which suits sets of one shape. box_jitter: moves each edge of a box by up to this part of its width or
    height, within the image; 0 in the published trainings. A clip that cannot be read comes out as `BrokenSample`.

    Boxes are pixel numbers, 0..W-1, cut off at the crop; those that lie outside of it are left out, so that a sample
    may have none. Differs: PySlowFast keeps them, without area. Raises DatasetError for keyframes out of range or with
    an action above num_classes.
    """

    keyframes: Sequence[Keyframe]
    opened: AvaFrames
    shape: ClipShape
    _: KW_ONLY
    num_classes: int = CLASSES
    short_side: tuple[int, int] = (256, 340)
    crop: int | None = 224
    flip_probability: float = 0.5
    inverse_uniform: bool = False
    box_jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for keyframe in self.keyframes:
            highest = max((max(actions) for actions in keyframe.actions if actions), default=0)
            if highest > self.num_classes:
                raise DatasetError(
                    f"{keyframe.video} at second {keyframe.second:g} has action {highest}, num_classes is "
                    f"{self.num_classes}"
                )
        if self.crop is None and self.short_side[0] != self.short_side[1]:
            raise InputError(
                f"short_side={self.short_side} without a crop: clips of a batch need one size, give it twice"
            )
        if not 0 <= self.box_jitter < 0.5:
            raise InputError(f"box_jitter={self.box_jitter}: give a part of the box, at least 0 and below 0.5")

    def __len__(self) -> int:
        return len(self.keyframes)

    def __getitem__(self, key: Key) -> KeyframeSample | BrokenSample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        keyframe = self.keyframes[index]
        try:
            images = self.opened.clip(keyframe.video, keyframe.second, self.shape.frames, self.shape.stride)
        except VideoError as error:
            return BrokenSample(self.opened.data / keyframe.video, str(error))
        rng = np.random.default_rng([self.seed, epoch, index])
        height, width = images.shape[1:3]
        geometry = self._draw(rng, height, width)
        # One image at a time: films are large, and all images of a clip do not fit everywhere as floating point
        clip = torch.stack([geometry.frames(torch.from_numpy(image).permute(2, 0, 1)) for image in images], dim=1)
        boxes = jittered(rng, keyframe.boxes_xyxy, self.box_jitter)
        moved = torch.from_numpy(geometry.boxes(in_pixels(boxes, height, width)))
        inside = ((moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])).nonzero()[:, 0]
        targets = torch.zeros(len(keyframe), self.num_classes)
        for row, actions in enumerate(keyframe.actions):
            targets[row, [action - 1 for action in actions]] = 1
        return KeyframeSample(
            clip=normalise(clip, self.shape.mean, self.shape.std, order=self.shape.order, channel_dim=0),
            boxes_xyxy=moved[inside],
            targets=targets[inside],
        )

    def _draw(self, rng: np.random.Generator, height: int, width: int) -> CropTransform:
        if self.crop is None:
            flip = bool(rng.random() < self.flip_probability)
            return replace(scale_only(height, width, self.short_side[0]), flip=flip)
        return draw_train_crop(
            rng, height, width, short_side=self.short_side, crop=self.crop, flip_probability=self.flip_probability,
            inverse_uniform=self.inverse_uniform,
        )  # fmt: skip


def jittered(rng: np.random.Generator, boxes_xyxy: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """Move each edge of boxes (n, 4), in fractions, by up to `amount` of their width or height, within 0..1."""
    if amount == 0:
        return boxes_xyxy
    size = np.tile(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 2)  # width, height, width, height
    return np.clip(boxes_xyxy + rng.uniform(-amount, amount, boxes_xyxy.shape) * size, 0, 1)
