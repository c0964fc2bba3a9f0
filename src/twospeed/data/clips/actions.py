"""Labelled videos: Kinetics lists and csv files, folders of class folders (UCF-101, HMDB-51), frame folders.

Lists say which videos exist; `TrainClips` decodes only the frames that a clip needs. A video
that is missing or damaged raises, or comes out as a `BrokenSample` where a recipe counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from twospeed.data.benchmarks.video_lists import LabelledVideo
from twospeed.data.samples import BrokenSample, ClipSample
from twospeed.errors import VideoError
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import draw_train_crop
from twospeed.video.reader import frame_times, probe, read_frames
from twospeed.video.sampling import ClipShape, decoded_short_side, random_clip

Key = int | tuple[int, int]  # index, or (epoch, index): what a draw depends on besides the seed


@dataclass(slots=True)
class _Facts:
    """What sampling needs to know of each video; remembered, as finding out means walking over its packets."""

    known: dict[Path, tuple[int, float | None, int]] = field(default_factory=dict)

    def of(self, path: Path) -> tuple[int, float | None, int]:
        """Return (frames, frames per second or None for frame folders, short side in pixels)."""
        if path not in self.known:
            times_s = frame_times(path)
            info = probe(path)
            rate = None
            if path.is_file() and len(times_s) > 1 and times_s[-1] > times_s[0]:
                rate = (len(times_s) - 1) / float(times_s[-1] - times_s[0])
            self.known[path] = (len(times_s), rate, min(info.width, info.height))
        return self.known[path]


class TrainClips(Dataset[ClipSample | BrokenSample]):
    """A random clip of each video: random start, scale jitter, random crop, flip, normalised.

    Ask with (epoch, index): what is drawn depends on (seed, epoch, index) alone, so the same clips come
    whatever the order, the number of workers or an interruption. A plain index means epoch 0. short_side: the
    jitter's range in pixels. count_broken: a video that cannot be read
    comes out as `BrokenSample`, which nothing replaces, instead of a VideoError.
    """

    def __init__(
        self,
        videos: Sequence[LabelledVideo],
        shape: ClipShape,
        *,
        short_side: tuple[int, int] = (256, 340),
        crop: int = 224,
        flip_probability: float = 0.5,
        count_broken: bool = False,
        seed: int = 0,
    ) -> None:
        self.videos = videos
        self.shape = shape
        self.short_side = short_side
        self.crop = crop
        self.flip_probability = flip_probability
        self.count_broken = count_broken
        self.seed = seed
        self._facts = _Facts()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Key) -> ClipSample | BrokenSample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            return self._draw(epoch, index)
        except VideoError as error:
            if not self.count_broken:
                raise
            return BrokenSample(index, self.videos[index].path, str(error))

    def _draw(self, epoch: int, index: int) -> ClipSample:
        rng = np.random.default_rng([self.seed, epoch, index])
        video = self.videos[index]
        count, rate, short = self._facts.of(video.path)
        indices = random_clip(rng, count, self.shape.frames, self.shape.stride, rate)
        frames = decode(video.path, indices, short, self.short_side[1])  # (3, T, H, W)
        geometry = draw_train_crop(
            rng,
            *frames.shape[-2:],
            short_side=self.short_side,
            crop=self.crop,
            flip_probability=self.flip_probability,
        )
        clip = geometry.frames(frames)
        clip = normalise(clip, self.shape.mean, self.shape.std, order=self.shape.order, channel_dim=0)
        return ClipSample(clip[None], video.label, index)


def decode(path: Path, indices: NDArray[np.int64], short_side: int, wanted_short_side: int) -> Tensor:
    """Decode chosen frames: uint8 (3, T, H, W), RGB; a much larger image already scaled down to what is wanted."""
    reduced = decoded_short_side(short_side, wanted_short_side)
    return torch.from_numpy(read_frames(path, indices, short_side=reduced)).permute(3, 0, 1, 2)
