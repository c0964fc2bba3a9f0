"""What one element of a data set is: typed samples that data sets yield and evaluations and recipes take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.label_files import read_label_part
from twospeed.errors import DatasetError
from twospeed.video.png_labels import LabelPart

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class VideoObject:
    """One annotated object of a sequence: its label, its class, and the frames where it is annotated."""

    label: int
    category: str
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SequenceSample:
    """One video of a segmentation set: where its frames and masks lie. Pixels are read when they are asked for.

    frames: names of all frames in time order ("00000"). images, annotations: files by frame name; either may
    lack frames (a test set shows the first mask only). foreground: all objects of a file are one, label 1
    (DAVIS-2016). objects: what the set's own list says of each object (YouTube-VOS), by label; empty where
    there is no list.
    """

    name: str
    frames: tuple[str, ...]
    images: Mapping[str, Path]
    annotations: Mapping[str, Path]
    foreground: bool = False
    objects: Mapping[int, VideoObject] = field(default_factory=dict)

    def image(self, frame: str) -> NDArray[np.uint8]:
        """Read one frame, uint8 (H, W, 3) RGB. Raises DatasetError (missing), VideoError (unreadable)."""
        path = self.images.get(frame)
        if path is None:
            raise DatasetError(f"{self.name}: frame {frame} has no image; {len(self.images)} others have")
        from twospeed.video.folders import read_image  # scoring mask files needs no decoder

        return read_image(path)

    def labels(self, frame: str) -> NDArray[np.uint8]:
        """Read one annotation, uint8 (H, W): 0 background, k object k, 255 void.

        Raises DatasetError when it is missing or no label map.
        """
        return self.label_part(frame).whole()

    def label_part(self, frame: str) -> LabelPart:
        """Read the part of one annotation that is not 0. Raises as `labels`."""
        path = self.annotations.get(frame)
        if path is None:
            raise DatasetError(f"{self.name}: frame {frame} is not annotated; {len(self.annotations)} other frames are")
        return read_label_part(path, foreground=self.foreground, has_void=True)


class SequenceSet(ABC):
    """Videos by name, in the order of `names`; the files of each are listed when it is asked for, and not kept."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[SequenceSample]:
        return map(self.sequence, self.names)

    def __getitem__(self, index: int) -> SequenceSample:
        return self.sequence(self.names[index])

    @abstractmethod
    def sequence(self, name: str) -> SequenceSample:
        """Return one video, its files listed and checked but not read. Raises DatasetError for what is missing."""


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """One frame of a set whose every pixel has a class: where image and labels lie. Pixels are read when asked for.

    name: as the set calls it. sequence, number: the recording and the frame's number in it. annotation: None where
    nothing is labelled. read_labels: how the set's files become classes, uint8 (H, W).
    """

    name: str
    sequence: str
    number: int
    image_file: Path
    annotation: Path | None
    read_labels: Callable[[Path], NDArray[np.uint8]]

    def image(self) -> NDArray[np.uint8]:
        """Read the image, uint8 (H, W, 3) RGB. Raises VideoError when it is unreadable."""
        from twospeed.video.folders import read_image

        return read_image(self.image_file)

    def labels(self) -> NDArray[np.uint8]:
        """Read the classes, uint8 (H, W). Raises DatasetError when they are missing or are no label map."""
        if self.annotation is None:
            raise DatasetError(f"{self.name}: the frame {self.image_file} is not labelled")
        return self.read_labels(self.annotation)


@dataclass(frozen=True, slots=True)
class ClipSample:
    """One clip of a labelled video, ready for a network.

    views: float32 (S, 3, T, H, W), normalised; S = 1 in training. label: class number.
    """

    views: Tensor
    label: int


@dataclass(frozen=True, slots=True)
class BrokenSample:
    """A video that could not be read, in the place of its clip: to be counted and reported, never replaced."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips of a batch: views float32 (N, S, 3, T, H, W), labels int64 (N,), and those that broke.

    N is smaller than what was asked for by len(broken), and may be 0 (views is then None).
    """

    views: Tensor | None
    labels: Tensor
    broken: tuple[BrokenSample, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class KeyframeSample:
    """The clip around one keyframe with the people in it, ready for a detector.

    clip: float32 (3, T, H, W), normalised. boxes_xyxy: float32 (n, 4), pixels of the clip; n may be 0. targets: float32
    (n, C), 1 for what a person does.
    """

    clip: Tensor
    boxes_xyxy: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class KeyframeBatch:
    """Clips of a batch with people in them: clips float32 (N, 3, T, H, W), boxes_xyxy N times (n, 4), targets (K, C)
    for all boxes in their order; how many clips had nobody, and those that broke.

    N is smaller than what was asked for by empty + len(broken), and may be 0 (clips and targets are then None).
    """

    clips: Tensor | None
    boxes_xyxy: tuple[Tensor, ...]
    targets: Tensor | None
    empty: int = 0
    broken: tuple[BrokenSample, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes_xyxy)


def collate_keyframes(samples: Sequence[KeyframeSample | BrokenSample]) -> KeyframeBatch:
    """Stack clips into a batch, leave out those without people and set the broken ones aside."""
    import torch

    whole = [sample for sample in samples if isinstance(sample, KeyframeSample)]
    used = [sample for sample in whole if len(sample.boxes_xyxy)]
    return KeyframeBatch(
        torch.stack([sample.clip for sample in used]) if used else None,
        tuple(sample.boxes_xyxy for sample in used),
        torch.cat([sample.targets for sample in used]) if used else None,
        empty=len(whole) - len(used),
        broken=tuple(sample for sample in samples if isinstance(sample, BrokenSample)),
    )


def collate_clips(samples: Sequence[ClipSample | BrokenSample]) -> ClipBatch:
    """Stack clips into a batch and set the broken ones aside."""
    import torch  # not above: scoring mask files, which uses the other samples, runs without it

    whole = [sample for sample in samples if isinstance(sample, ClipSample)]
    broken = tuple(sample for sample in samples if isinstance(sample, BrokenSample))
    return ClipBatch(
        torch.stack([sample.views for sample in whole]) if whole else None,
        torch.tensor([sample.label for sample in whole], dtype=torch.int64),
        broken,
    )
