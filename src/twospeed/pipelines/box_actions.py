"""What people in boxes do: one network or several, at one size or several, seen as they are and mirrored.

Scores are sigmoids, averaged over networks, sizes and mirrored clips. The ActivityNet 2019 report calls a network that
is tested at several sizes and mirrored "++", and averages the scores of networks alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.pipelines.action_labels import Labels, label_names
from twospeed.pipelines.action_views import check_clip
from twospeed.pipelines.clip_networks import ClipNetwork, clip_networks
from twospeed.pipelines.inputs import (
    Device,
    Model,
    Precision,
    arrays_of,
    one_or_several,
    place,
)
from twospeed.results import OnProgress
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import CropTransform, scale_only
from twospeed.weights.entries import Preprocessing

AVA = Preprocessing(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), short_side=256)
SMALLEST = 16  # pixels: one position of a detector's features

Images: TypeAlias = Callable[[int, int, CropTransform], NDArray[np.uint8]]
"""(frames, stride, transform) -> the keyframe's clip, uint8 (frames, height, width, 3), scaled as the transform says;
frames lie stride / 30 s apart, from half a clip before the keyframe."""


class BoxActions:
    """Networks that are ready to score what people in given boxes do.

    model_or_name: a detector of the SlowFast family (or any module with its call and its attributes `frames`,
    `frame_stride`, `num_classes`), its catalogue name, or several of either: scores are averaged. weights: for names,
    as `create_model` takes them; one for each of several networks. scales: shorter sides in pixels whose scores are
    averaged; none: the one of the catalogue. flip: average with mirrored clips too. labels: names of the classes, None
    takes the catalogue's. precision: "bf16" computes in bfloat16, "auto" where the device is made for it. device: None
    chooses CUDA if present. on_progress: called while weights are downloaded. Exported models are given by their
    folder. Raises InputError for options that make no sense, CheckpointError and WeightsUnavailable as `create_model`
    does.
    """

    def __init__(
        self,
        model_or_name: Model | Sequence[Model],
        *,
        weights: Any = "default",
        scales: Sequence[int] = (),
        flip: bool = False,
        labels: Labels | None = None,
        precision: Precision = "fp32",
        device: Device = None,
        preprocessing: Preprocessing | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        models = one_or_several(model_or_name)
        if scales and min(scales) < SMALLEST:
            raise InputError(f"a shorter side of {min(scales)}: the network needs {SMALLEST} pixels or more")
        if len(set(scales)) < len(scales):
            raise InputError(f"scales={','.join(map(str, scales))}: give each size once")
        self.device, self.precision, dtype = place(models, device, precision)
        self.flip = flip
        self._members = clip_networks(
            "detect", models, weights, preprocessing, default=AVA, dtype=dtype, device=self.device,
            on_progress=on_progress,
        )  # fmt: skip
        self._scales = tuple(scales)
        first = self._members[0]
        self._arrays = arrays_of(first.network)
        self.labels = label_names(labels, first.known_labels, first.network.num_classes, first.name)

    @property
    def name(self) -> str:
        """Names of the networks."""
        return " + ".join(member.name for member in self._members)

    @property
    def samplings(self) -> list[tuple[int, int]]:
        """What clips the networks see: (frames, stride), each kind once."""
        return list(dict.fromkeys((m.network.frames, m.network.frame_stride) for m in self._members))

    @property
    def passes(self) -> int:
        """How many clips are computed for each keyframe."""
        return sum(len(self._sides(member)) for member in self._members) * (2 if self.flip else 1)

    def _sides(self, member: ClipNetwork) -> tuple[int, ...]:
        """The shorter sides at which a network looks."""
        return self._scales or (member.preprocessing.short_side or 256,)

    def transforms(self, height: int, width: int) -> list[CropTransform]:
        """Return how images of this size are scaled for the networks, each way once.

        Raises VideoError where their clips would take too much memory.
        """
        sides = dict.fromkeys(side for member in self._members for side in self._sides(member))
        for side in sides:
            check_clip("a clip", height, width, side, max(frames for frames, _ in self.samplings))
        return [scale_only(height, width, side) for side in sides]

    def scores(self, images: Images, boxes_xyxy: NDArray[np.floating], height: int, width: int) -> NDArray[Any]:
        """Return what the people of one keyframe do: float32 (n, C) in 0..1.

        images: gives the clips, see `Images`. boxes_xyxy: (n, 4), pixels of the source, which is height x width.
        """
        if not len(boxes_xyxy):
            return np.zeros((0, len(self.labels)), np.float32)
        # Pixel numbers: PySlowFast cuts off at the last pixel before and after scaling
        last = np.array([width, height, width, height]) - 1
        arrays = self._arrays
        boxes = np.clip(np.asarray(boxes_xyxy, np.float64), 0, last)
        total = np.zeros((len(boxes), len(self.labels)), np.float32)
        for member in self._members:
            network, pre = member.network, member.preprocessing
            for side in self._sides(member):
                plain = scale_only(height, width, side)
                seen = arrays.on_device(
                    arrays.as_array(images(network.frames, network.frame_stride, plain)), self.device
                )
                frames = normalise(arrays.channels_first(seen), pre.mean, pre.std, order=pre.input_order)
                clip = frames.swapaxes(0, 1)[None]  # (1, 3, T, H, W)
                for transform in [plain, dataclasses.replace(plain, flip=True)] if self.flip else [plain]:
                    placed = arrays.on_device(arrays.as_array(transform.boxes(boxes)), self.device)
                    with arrays.inference(), arrays.autocast(self.device, member.autocast):
                        logits = network(arrays.mirrored(clip) if transform.flip else clip, [placed])
                    total += arrays.to_numpy(arrays.sigmoid(arrays.as_float(logits)))
        return total / np.float32(self.passes)


def scaled(image: NDArray[np.uint8], transform: CropTransform) -> NDArray[np.uint8]:
    """Scale an image (H, W, 3) as AVA's authors do: bilinear on 8-bit values."""
    height, width = transform.scaled
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
