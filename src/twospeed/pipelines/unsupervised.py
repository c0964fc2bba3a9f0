"""Unsupervised video object segmentation: no mask given, one frame at a time, a window of frames in memory.

Detections of each frame are merged to one foreground (DAVIS 2016) or linked to objects over time (DAVIS 2017
unsupervised). Results are those of every tracker. No ground truth is needed anywhere.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report), unsupervised part.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.environment import resolve_device
from twospeed.errors import InputError, MaskError
from twospeed.models.optimise import optimise
from twospeed.models.protocol import FRAME_DETECTOR
from twospeed.models.slowfast_maskrcnn.stream import Detections, DetectionStream, FrameDetector
from twospeed.ops.masks import soft_aggregate
from twospeed.ops.on_torch import image_array
from twospeed.pipelines.inputs import Image, Model, network_for
from twospeed.pipelines.linking import ObjectLinker
from twospeed.pipelines.trackers import Labels, VideoTracker, name_of, needs_masks
from twospeed.results import ObjectMasks, OnProgress

_LONGEST_SIDE = 1333 / 800  # of the shorter one, as published


def scaled_to(size: int) -> dict[str, Any]:
    """Options of a network that works at this shorter side, in pixels. Raises InputError for less than 32."""
    if size < 32:
        raise InputError(f"size is {size}; the network needs a shorter side of 32 pixels or more", option="size")
    return {"min_size": size, "max_size": round(size * _LONGEST_SIDE)}


def network_of(
    model_or_name: Model, weights: Any, size: int | None, on_progress: OnProgress | None = None
) -> nn.Module:
    """Build a network that finds objects from its name, or pass one on. Raises InputError for a size given too late."""
    options: dict[str, Any] = {} if size is None else scaled_to(size)
    if size is not None and not isinstance(model_or_name, str):
        raise InputError(
            f"size is {size}, but the network is built already; build it with create_model(name, min_size={size})"
        )
    return network_for("track", model_or_name, weights, FRAME_DETECTOR, on_progress, **options)[0]


class UnsupervisedTracker(VideoTracker):
    """Find the objects of a video frame by frame; a frame's result comes n // 2 frames later (n: fast frames).

    model_or_name: a network of the slowfast_maskrcnn family, or one that offers its `FrameDetector`; or a catalogue
    name (then with `weights`). size: shorter side in pixels at which a network given by name works; None takes 800, as
    published. merged: one object, the union of all detections of a frame, as the report scores DAVIS-2016; otherwise
    objects are linked over time. min_score: merged, least score of a detection that counts (None: all that the network
    gives, score_thresh); linked, least score that begins a new object (None: 0.5). max_objects: most objects of a
    video, when linked. device: None chooses CUDA if present. on_progress: called while weights are downloaded.

    Memory use does not depend on how many frames have passed. Raises InputError for options that make no sense, and
    WeightsUnavailable for a name without weights: none are published.
    """

    needs_masks = False

    def __init__(
        self,
        model_or_name: Model = "slowfast_maskrcnn_3_7",
        *,
        weights: Any = "default",
        device: str | torch.device | None = None,
        size: int | None = None,
        merged: bool = False,
        min_score: float | None = None,
        max_objects: int = 20,
        on_progress: OnProgress | None = None,
    ):
        super().__init__()
        if min_score is not None and not 0 <= min_score <= 1:
            raise InputError(f"min_score is {min_score}; give a number from 0 to 1", option="min_score")
        if max_objects < 1:
            raise InputError(f"max_objects is {max_objects}; give 1 or more", option="max_objects")
        self.device = resolve_device(device)
        self.merged, self.min_score, self.max_objects = merged, min_score, max_objects
        if needs_masks(model_or_name):
            raise InputError(
                f"{name_of(model_or_name)} follows masks that are given; use Tracker, or choose slowfast_maskrcnn_3_7"
            )
        self.model: Any = optimise(network_of(model_or_name, weights, size, on_progress).eval().to(self.device))
        self.reset()

    @property
    def delay(self) -> int:
        """How many frames after its frame a result comes: n // 2."""
        window: int = self.model.window
        return window // 2

    def reset(self, first_masks: NDArray[np.uint8] | None = None) -> None:
        """Forget the video.

        first_masks: uint8 (H, W) labels of the next video's first frame, for a network that was fine-tuned on them:
        linked detections are these objects, under these labels, and no others. They are not results: the first
        frame is segmented like any other.
        """
        known = None if first_masks is None else {int(k): first_masks == k for k in np.unique(first_masks) if k}
        if known is not None and not known:
            raise MaskError("the first frame's masks mark no object; nothing could be followed")
        self._stream = DetectionStream(cast("FrameDetector", self.model))
        self._linker = ObjectLinker(
            max_objects=self.max_objects, min_score=0.5 if self.min_score is None else self.min_score, known=known
        )
        self._times: deque[float] = deque()  # of the frames whose results are not out yet
        self._size: tuple[int, int] | None = None
        self._masks_size = None if first_masks is None else first_masks.shape
        self._index = 0  # of the next result

    @torch.inference_mode()
    def step(self, image: Image, masks: Labels | None = None, *, time_s: float = 0.0) -> ObjectMasks | None:
        """Take the next frame; return the result of the frame `delay` frames before it, None while there is none.

        image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. masks: None; networks that
        find objects take no prompts. time_s: of this frame, comes with its result. `finish` returns the last results.
        Raises InputError for masks, for an image of another kind, or of another size than those before.
        """
        if masks is not None:
            raise InputError("masks were given to an UnsupervisedTracker, which takes none; use Tracker")
        with self._alone():
            pixels = image_array(image, self.device)
            height, width = size = (pixels.shape[-2], pixels.shape[-1])
            if self._masks_size not in (None, size):
                raise MaskError(
                    f"frame 0 is {width}x{height}, its masks {self._masks_size[1]}x{self._masks_size[0]}; "
                    "give masks of the frame's size"
                )
            if self._size not in (None, size):
                number = self._index + len(self._times)
                raise InputError(
                    f"frame {number} is {width}x{height}, the frames before it {self._size[1]}x{self._size[0]}; "
                    "reset, or rescale the frames"
                )
            found = self._stream.push(pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels)
            self._size = size
            self._times.append(time_s)
            return self._result(found[0]) if found else None

    @torch.inference_mode()
    def finish(self) -> list[ObjectMasks]:
        """As `VideoTracker.finish`: the results of the last `delay` frames."""
        with self._alone():
            results = [self._result(found) for found in self._stream.finish()]
            self.reset()
            return results

    def _result(self, found: Detections) -> ObjectMasks:
        soft = found["masks"][:, 0].float()  # (n, H, W)
        planes, ids = (self._merge if self.merged else self._link)(soft, found["scores"])
        labels = torch.zeros(planes.shape[1:], dtype=torch.uint8, device=self.device)
        for plane, number in zip(planes, ids, strict=True):
            labels[plane >= 0.5] = number
        kept = planes.cpu()
        result = ObjectMasks(
            labels=labels.cpu().numpy(),
            probabilities=lambda: soft_aggregate(kept[None]).softmax(1)[0].contiguous().numpy(),
            object_ids=ids,
            frame_index=self._index,
            time_s=self._times.popleft(),
        )
        self._index += 1
        return result

    def _merge(self, soft: Tensor, scores: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The union of all detections. Shapes: (n, H, W), (n,) -> (1, H, W)."""
        if self.min_score is not None:
            soft = soft[scores >= self.min_score]
        assert self._size is not None
        union = soft.amax(0) if len(soft) else torch.zeros(self._size, device=self.device)
        return union[None], (1,)

    def _link(self, soft: Tensor, scores: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Each detection to its object; where several claim a pixel, the surest has it. Shapes: -> (K, H, W)."""
        numbers = self._linker.link((soft >= 0.5).cpu().numpy(), scores.cpu().numpy())
        ids = self._linker.object_ids
        assert self._size is not None
        planes = torch.zeros(len(ids), *self._size, device=self.device)
        kept = [(number, plane) for number, plane in zip(numbers, soft, strict=True) if number]
        if kept:
            masks = torch.stack([plane for _, plane in kept])
            owner = masks.argmax(0)
            for index, (number, plane) in enumerate(kept):
                planes[ids.index(number)] = plane * (owner == index)
        return planes, ids
