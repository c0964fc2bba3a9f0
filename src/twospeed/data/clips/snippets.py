"""Snippets of driving videos: consecutive frames of which the last is labelled, as GSVNet trains and is scored on.

The first frame of a snippet is the keyframe, its distance to the label the number of propagation steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from twospeed.data.samples import LabelledFrame
from twospeed.errors import DatasetError, InputError

if TYPE_CHECKING:
    from torch import Tensor


class LabelledVideos(Protocol):
    """A data set of labelled frames that knows what lies before them: `CamVid`, `Cityscapes`."""

    def __len__(self) -> int:
        """Count the labelled frames."""

    def __getitem__(self, index: int) -> LabelledFrame:
        """Return one labelled frame."""

    def before(self, frame: LabelledFrame, count: int, step: int | None = None) -> tuple[LabelledFrame, ...] | None:
        """Return `count` frames before one and itself, `step` apart, or None where some are missing."""


def leading_to(
    data: LabelledVideos, frame: LabelledFrame, distance: int, *, step: int | None = None, most: int | None = None
) -> tuple[LabelledFrame, ...] | None:
    """Return the frames from a keyframe at this distance to a labelled frame, or None where they are not there.

    step: frames of the recording between two; None takes the finest that there is, but no more than `most`.
    """
    if distance == 0:
        return (frame,)
    path = data.before(frame, distance, step)
    apart = 0 if path is None else path[1].number - path[0].number
    return None if step is None and most is not None and apart > most else path


def find_snippets(
    data: LabelledVideos, distances: Sequence[int] = (1, 2, 3, 4), *, step: int | None = None, most: int | None = None
) -> dict[int, list[tuple[LabelledFrame, ...]]]:
    """Return, by distance, the frames of all snippets whose label is so many steps from the keyframe.

    step: frames of the recording from one frame to the next; None takes the finest that there is, which is no video
    where it is more than `most`. Labelled frames with too little before them are left out at that distance.
    Raises DatasetError when a distance has no snippet at all, InputError for negative distances.
    """
    if not distances or min(distances) < 0:
        raise InputError(f"distances are {tuple(distances)}; give one or more, 0 (the labelled frame alone) or more")
    frames = [data[index] for index in range(len(data))]
    snippets = {}
    for distance in distances:
        found = [leading_to(data, frame, distance, step=step, most=most) for frame in frames]
        snippets[distance] = [snippet for snippet in found if snippet is not None]
        if not snippets[distance]:
            raise DatasetError(
                f"none of the {len(frames)} labelled frames has {distance} frames before it (as "
                f"{frames[0].image_file} shows); propagation needs the frames of the video, not only labelled ones"
            )
    return snippets


def read_snippet(frames: Sequence[LabelledFrame]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the images of consecutive frames, uint8 (T, H, W, 3) RGB, and the last one's classes, uint8 (H, W).

    Raises DatasetError where sizes differ, VideoError where an image is unreadable.
    """
    images, labels = [frame.image() for frame in frames], frames[-1].labels()
    sizes: list[tuple[object, tuple[int, ...]]] = [
        (frame.image_file, image.shape[:2]) for frame, image in zip(frames, images, strict=True)
    ]
    last, wanted = sizes[-1]
    for what, size in [*sizes, ("labels", labels.shape)]:
        if size != wanted:
            raise DatasetError(
                f"{what}: is {size[1]}x{size[0]}, but {last} is {wanted[1]}x{wanted[0]}; "
                "frames and labels of one snippet need one size"
            )
    return np.stack(images), labels


@dataclass(frozen=True, slots=True)
class SnippetCrop:
    """How a training patch is drawn: one scale, one place and one flip for all frames and the labels of a snippet.

    part: of the image's height and width, rounded down to multiples of `multiple` pixels, as the scaled image is;
    scales: one of these factors is drawn; flip_probability: 0..1.
    """

    part: float = 0.75
    scales: tuple[float, ...] = (1.0,)
    flip_probability: float = 0.5
    multiple: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.part <= 1 or not self.scales or min(self.scales) < self.part or self.multiple < 1:
            raise InputError(
                f"a patch of {self.part} of images scaled by {self.scales}; give a part in 0..1 that all cover"
            )


class TrainSnippets:
    """Patches of snippets as tensors: map-style over (epoch, index), a pure function of them and the seed.

    snippets: as `find_snippets` gives them; all of the first distance come first, then all of the second, as the
    released code runs an epoch.
    Yields frames uint8 (T, 3, h, w) RGB and classes uint8 (h, w); void and what is no class stay as they are. All
    snippets of one distance and image size have one size. Raises InputError for images too small for a patch.
    """

    def __init__(
        self, snippets: Mapping[int, Sequence[Sequence[LabelledFrame]]], crop: SnippetCrop, *, seed: int = 0
    ) -> None:
        self.snippets, self.crop, self.seed = list(itertools.chain.from_iterable(snippets.values())), crop, seed

    def __len__(self) -> int:
        return len(self.snippets)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        import torch

        from twospeed.transforms.spatial import CropTransform

        epoch, index = key
        images, labels = read_snippet(self.snippets[index])
        size = labels.shape
        random = np.random.default_rng([self.seed, epoch, index])
        scale = self.crop.scales[random.integers(len(self.crop.scales))]
        height, width = (self._floored(side * self.crop.part, size) for side in size)
        scaled = size if scale == 1 else tuple(self._floored(side * scale, size) for side in size)
        transform = CropTransform(
            (size[0], size[1]),
            (scaled[0], scaled[1]),
            int(random.integers(scaled[0] - height + 1)),
            int(random.integers(scaled[1] - width + 1)),
            height,
            width,
            flip=bool(random.random() < self.crop.flip_probability),
        )
        frames = transform.frames(torch.from_numpy(images).permute(0, 3, 1, 2)).round_().to(torch.uint8)
        return frames, transform.masks(torch.from_numpy(labels.copy()))

    def _floored(self, length: float, size: tuple[int, ...]) -> int:
        floored = int(length) // self.crop.multiple * self.crop.multiple
        if floored < 1:
            raise InputError(
                f"images of {size[1]}x{size[0]} are too small for patches in multiples of {self.crop.multiple} pixels"
            )
        return floored
