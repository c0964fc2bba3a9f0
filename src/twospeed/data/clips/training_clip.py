"""The sample that networks for annotated video are trained on, whatever it is drawn from, and batches of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingClip:
    """A few frames of a video, real or made, with a label for every pixel.

    frames: uint8 RGB (T, H, W, 3). labels: uint8 (T, H, W); 1..objects are the objects to follow from frame 0 on, the
    rest is background. objects: how many there are; 0 where the labels are classes, or the ids of an annotation. soft:
    uint8 (objects, H, W), 0..255, masks of frame 0 where a warp blended their borders; None: as the labels say. inside:
    bool (T,), whether a frame is part of the video (those before its beginning and after its end are black and
    unlabelled); None: all are.
    """

    frames: Image
    labels: Image
    objects: int = 0
    soft: Image | None = None
    inside: NDArray[np.bool_] | None = None

    @property
    def masks(self) -> Image:
        """Masks of frame 0's objects, uint8 (objects, H, W), 0..255; one may be empty."""
        if self.soft is not None:
            return self.soft
        return np.stack([(self.labels[0] == k) * np.uint8(255) for k in range(1, self.objects + 1)])


def following(frames: Image, labels: Image, ids: Sequence[int]) -> TrainingClip:
    """Return the clip in which the objects of these ids are to be followed, numbered from 1; others are background.

    Without ids, the clip has one object that is nowhere to be seen.
    """
    table = np.zeros(256, np.uint8)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return TrainingClip(frames, table[labels], max(1, len(ids)))


def visible(labels: Image, share: float) -> list[int]:
    """Return the ids, 1..254, that cover at least this share of a label map (H, W)."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    return [k for k in range(1, 255) if counts[k] and counts[k] >= share * labels.size]


def attempt(draw: Callable[[], T | None], why_not: str) -> T:
    """Draw until something comes out. Raises InputError, with this reason, when twenty draws gave nothing."""
    for _ in range(20):
        if (drawn := draw()) is not None:
            return drawn
    raise InputError(f"20 draws gave nothing to train on: {why_not}")


class ClipSource(Protocol):
    """What training clips are drawn from: annotated videos, still images, generated objects."""

    name: str

    def __len__(self) -> int:
        """Count the clips of an epoch."""

    def draw(
        self, rng: np.random.Generator, *, index: int | None = None, size: int, objects: int = 2, gap: int = 5
    ) -> TrainingClip:
        """Draw a clip of size x size pixels with 1..objects to follow.

        index: which of the epoch's clips; None draws that, too. gap: largest distance between neighbouring frames,
        where there is a video to take them from.
        """


class ClipKey(NamedTuple):
    """All that a clip of a mix depends on, besides its seed; place is its number among the mix's clips."""

    epoch: int
    place: int
    size: int = 384
    objects: int = 2
    gap: int = 5


class ClipMix:
    """The clips of several sources, one epoch of each after the other: map-style, a pure function of key and seed."""

    def __init__(self, sources: Sequence[ClipSource], *, seed: int = 0) -> None:
        self.sources, self.seed = tuple(sources), seed
        self.items = [(source, index) for source in self.sources for index in range(len(source))]
        if not self.items:
            raise InputError("no videos or images to train on: give at least one data set")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: ClipKey) -> TrainingClip:
        """Return one clip. Raises DatasetError and VideoError for files that cannot be read."""
        source, index = self.items[key.place]
        rng = np.random.default_rng([self.seed, key.epoch, key.place])
        return source.draw(rng, index=index, size=key.size, objects=key.objects, gap=key.gap)


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Clips stacked: frames uint8 (B, T, 3, H, W), labels uint8 (B, T, H, W), masks uint8 (B, K, H, W).

    K is the most objects of any; objects says how many each clip has.
    """

    frames: Tensor
    labels: Tensor
    masks: Tensor
    objects: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.objects)


def stack_clips(clips: Sequence[TrainingClip]) -> TrainingBatch:
    """Stack clips of one size; the masks of missing objects are empty."""
    import torch

    masks = np.zeros((len(clips), max(clip.objects for clip in clips), *clips[0].labels.shape[1:]), np.uint8)
    for target, clip in zip(masks, clips, strict=True):
        target[: clip.objects] = clip.masks
    frames = np.stack([clip.frames for clip in clips]).transpose(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
    return TrainingBatch(
        torch.from_numpy(np.ascontiguousarray(frames)),
        torch.from_numpy(np.stack([clip.labels for clip in clips])),
        torch.from_numpy(masks),
        tuple(clip.objects for clip in clips),
    )
