"""Labelled videos: Kinetics lists and csv files, folders of class folders (UCF-101, HMDB-51), frame folders.

Lists say which videos exist; `TrainClips` decodes only the frames that a clip needs. A video
that is missing or damaged comes out as a `BrokenSample`, which recipes count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from twospeed.data.benchmarks.video_lists import LabelledVideo
from twospeed.data.samples import BrokenSample, ClipSample
from twospeed.errors import VideoError
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import draw_train_crop
from twospeed.video.reader import frame_times, probe, read_frames
from twospeed.video.sampling import ClipShape, decoded_short_side, random_clip

Key = int | tuple[int, int]  # index, or (epoch, index): what a draw depends on besides the seed


@dataclass(eq=False)
class TrainClips(Dataset[ClipSample | BrokenSample]):
    """A random clip of each video: random start, scale jitter, random crop, flip, normalised.

    Ask with (epoch, index): what is drawn depends on (seed, epoch, index) alone, so the same clips come
    whatever the order, the number of workers or an interruption. A plain index means epoch 0. short_side: the
    jitter's range in pixels. A video that cannot be read comes out as `BrokenSample`, which nothing replaces.
    """

    videos: Sequence[LabelledVideo]
    shape: ClipShape
    _: KW_ONLY
    short_side: tuple[int, int] = (256, 340)
    crop: int = 224
    flip_probability: float = 0.5
    seed: int = 0
    _facts: dict[Path, tuple[int, float | None, int]] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Key) -> ClipSample | BrokenSample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        video = self.videos[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        try:
            count, rate, short = self._facts_of(video.path)
            indices = random_clip(rng, count, self.shape.frames, self.shape.stride, rate)
            # A much larger image is scaled down while it is decoded
            reduced = decoded_short_side(short, self.short_side[1])
            images = read_frames(video.path, indices, short_side=reduced)
        except VideoError as error:
            return BrokenSample(video.path, str(error))
        frames = torch.from_numpy(images).permute(3, 0, 1, 2)  # (3, T, H, W)
        geometry = draw_train_crop(
            rng, *images.shape[1:3], short_side=self.short_side, crop=self.crop, flip_probability=self.flip_probability
        )
        clip = geometry.frames(frames)
        clip = normalise(clip, self.shape.mean, self.shape.std, order=self.shape.order, channel_dim=0)
        return ClipSample(clip[None], video.label)

    def _facts_of(self, path: Path) -> tuple[int, float | None, int]:
        """Return (frames, frames per second or None for frame folders, short side in pixels) of a video.

        They are remembered, as finding out means walking over its packets.
        """
        if path not in self._facts:
            times_s = frame_times(path)
            info = probe(path)
            rate = None
            if path.is_file() and len(times_s) > 1 and times_s[-1] > times_s[0]:
                rate = (len(times_s) - 1) / float(times_s[-1] - times_s[0])
            self._facts[path] = (len(times_s), rate, min(info.width, info.height))
        return self._facts[path]
