"""Unsupervised video object segmentation: no mask given, one frame at a time, a window of frames in memory.

What is found in each frame is merged to one foreground (DAVIS 2016) or linked to objects over time (DAVIS 2017
unsupervised): by `find.ObjectFinder`, or from the detections of a SlowFast Mask R-CNN. Results are those of every
tracker. No ground truth is needed anywhere.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report), unsupervised part.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.environment import resolve_device
from twospeed.errors import InputError, MaskError
from twospeed.models.optimise import optimise
from twospeed.models.protocol import FRAME_DETECTOR, PRIMARY_FINDER, PrimaryFinder, lacks
from twospeed.models.slowfast_maskrcnn.stream import Detections, DetectionStream, FrameDetector
from twospeed.ops.masks import soft_aggregate
from twospeed.ops.on_torch import image_array
from twospeed.pipelines.find import FOLLOWED_AT, FindSettings, Found, ObjectFinder, make_follower
from twospeed.pipelines.inputs import Image, Model, entry_for, network_for
from twospeed.pipelines.linking import ObjectLinker
from twospeed.pipelines.video_tracker import Labels, VideoTracker, name_of, needs_masks
from twospeed.results import ObjectMasks, OnProgress
from twospeed.weights.catalog import DEFAULT_FINDER, DEFAULT_TRACKER

_LONGEST_SIDE = 1333 / 800  # of the shorter one, as published


def scaled_to(size: int) -> dict[str, Any]:
    """Options of a network that works at this shorter side, in pixels. Raises InputError for less than 32."""
    if size < 32:
        raise InputError(f"size is {size}; the network needs a shorter side of 32 pixels or more", option="size")
    return {"min_size": size, "max_size": round(size * _LONGEST_SIDE)}


def is_finder(model_or_name: Model) -> bool:
    """Return whether a network that needs no masks is a `PrimaryFinder`, whose finds a tracker follows."""
    if isinstance(model_or_name, str):
        return entry_for("track", model_or_name).finder
    return not lacks(model_or_name, PRIMARY_FINDER)


def network_of(
    model_or_name: Model, weights: Any, size: int | None, on_progress: OnProgress | None = None
) -> nn.Module:
    """Build a network that finds objects from its name, or pass one on.

    Raises InputError for a size of a SlowFast Mask R-CNN that is built already.
    """
    if is_finder(model_or_name):  # its frames are always of one size; size is the follower's
        return network_for("track", model_or_name, weights, PRIMARY_FINDER, on_progress)[0]
    options: dict[str, Any] = {} if size is None else scaled_to(size)
    if size is not None and not isinstance(model_or_name, str):
        raise InputError(
            f"size is {size}, but the network is built already; build it with create_model(name, min_size={size})"
        )
    return network_for("track", model_or_name, weights, FRAME_DETECTOR, on_progress, **options)[0]


class _Source(Protocol):
    """What finds the objects of one video: `ObjectFinder`, `_LinkedDetections`."""

    @property
    def delay(self) -> int:
        """How many frames after its frame a result comes."""
        ...

    def push(self, pixels: Tensor) -> list[Found]:
        """Take the next frame, uint8 (3, H, W) or float in 0..1; return what is ready, at most one frame's."""
        ...

    def finish(self) -> list[Found]:
        """End the video: return the results that are still missing."""
        ...


class _LinkedDetections:
    """Detections of a SlowFast Mask R-CNN, merged or linked over time."""

    def __init__(self, model: FrameDetector, *, merged: bool, min_score: float | None, linker: ObjectLinker) -> None:
        self.model, self.merged, self.min_score, self._linker = model, merged, min_score, linker
        self._stream = DetectionStream(model)

    @property
    def delay(self) -> int:
        return self.model.window // 2

    def push(self, pixels: Tensor) -> list[Found]:
        found = self._stream.push(pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels)
        return [self._found(one) for one in found]

    def finish(self) -> list[Found]:
        return [self._found(one) for one in self._stream.finish()]

    def _found(self, detections: Detections) -> Found:
        soft = detections["masks"][:, 0].float()  # (n, H, W)
        return (self._merge if self.merged else self._link)(soft, detections["scores"])

    def _merge(self, soft: Tensor, scores: Tensor) -> Found:
        """The union of all detections. Shapes: (n, H, W), (n,) -> (1, H, W)."""
        if self.min_score is not None:
            soft = soft[scores >= self.min_score]
        union = soft.amax(0) if len(soft) else soft.new_zeros(soft.shape[1:])
        return Found(union[None], (1,))

    def _link(self, soft: Tensor, scores: Tensor) -> Found:
        """Each detection to its object; where several claim a pixel, the surest has it. Shapes: -> (K, H, W)."""
        numbers = self._linker.link((soft >= 0.5).cpu().numpy(), scores.cpu().numpy())
        ids = self._linker.object_ids
        planes = soft.new_zeros(len(ids), *soft.shape[1:])
        kept = [(number, plane) for number, plane in zip(numbers, soft, strict=True) if number]
        if kept:
            masks = torch.stack([plane for _, plane in kept])
            owner = masks.argmax(0)
            for index, (number, plane) in enumerate(kept):
                planes[ids.index(number)] = plane * (owner == index)
        return Found(planes, ids)


class UnsupervisedTracker(VideoTracker):
    """Find the objects of a video frame by frame; a frame's result comes `delay` frames later.

    model_or_name: `find_nano`, whose finds the default tracker follows; a network that offers its `PrimaryFinder`; a
    network of the slowfast_maskrcnn family, or one that offers its `FrameDetector`; or a catalogue name (then with
    `weights`). size: shorter side in pixels: at which finds are followed, None for 480; or at which a SlowFast Mask
    R-CNN given by name works, None for 800, as published. merged: one object, the union of all that is found in a
    frame, as the report scores DAVIS-2016; otherwise objects are linked over time. min_score: of find_nano, least
    confidence of the maps that a window begins with (None: 0.5); of detections, merged, least score of one that counts
    (None: all that the network gives, score_thresh); linked, least score that begins a new object (None: 0.5).
    max_objects: most objects of a video, when linked. device: None chooses CUDA if present. on_progress: called while
    weights are downloaded.

    Memory use does not depend on how many frames have passed. Raises InputError for options that make no sense, and
    WeightsUnavailable for a SlowFast Mask R-CNN without weights: none are published.
    """

    needs_masks = False

    def __init__(
        self,
        model_or_name: Model = DEFAULT_FINDER,
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
            raise InputError(f"{name_of(model_or_name)} follows masks that are given; use Tracker, or choose find_nano")
        network = network_of(model_or_name, weights, size, on_progress).eval().to(self.device)
        self.model: Any = optimise(network)
        self._finder: ObjectFinder | None = None
        if is_finder(network):
            follower = make_follower(DEFAULT_TRACKER, FOLLOWED_AT if size is None else size, self.device, on_progress)
            settings = FindSettings() if min_score is None else FindSettings(sure=min_score)
            finds = cast("PrimaryFinder", self.model)
            self._finder = ObjectFinder(finds, follower, merged=merged, max_objects=max_objects, settings=settings)
        self.reset()

    @property
    def delay(self) -> int:
        """How many frames after its frame a result comes: 45 with find_nano, n // 2 with n fast frames."""
        return self._source.delay

    def reset(self, first_masks: NDArray[np.uint8] | None = None) -> None:
        """Forget the video.

        first_masks: uint8 (H, W) labels of the next video's first frame, for a network that was fine-tuned on them:
        linked detections are these objects, under these labels, and no others. They are not results: the first
        frame is segmented like any other.
        """
        known = None if first_masks is None else {int(k): first_masks == k for k in np.unique(first_masks) if k}
        if known is not None and not known:
            raise MaskError("the first frame's masks mark no object; nothing could be followed")
        self._source: _Source
        if self._finder is not None:
            if known is not None:
                raise InputError(f"{type(self.model).__name__} takes no first masks; give them to Tracker")
            self._finder.reset()
            self._source = self._finder
        else:
            linker = ObjectLinker(
                max_objects=self.max_objects, min_score=0.5 if self.min_score is None else self.min_score, known=known
            )
            self._source = _LinkedDetections(self.model, merged=self.merged, min_score=self.min_score, linker=linker)
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
            found = self._source.push(pixels)
            self._size = size
            self._times.append(time_s)
            return self._result(found[0]) if found else None

    @torch.inference_mode()
    def finish(self) -> list[ObjectMasks]:
        """As `VideoTracker.finish`: the results of the last `delay` frames."""
        with self._alone():
            results = [self._result(found) for found in self._source.finish()]
            self.reset()
            return results

    def _result(self, found: Found) -> ObjectMasks:
        planes, ids = found
        size = self._size
        assert size is not None
        labels = torch.zeros(size, dtype=torch.uint8, device=planes.device)
        for plane, number in zip(_resized(planes, size), ids, strict=True):
            labels[plane >= 0.5] = number
        kept = planes.cpu()
        result = ObjectMasks(
            labels=labels.cpu().numpy(),
            probabilities=lambda: soft_aggregate(_resized(kept, size)[None]).softmax(1)[0].contiguous().numpy(),
            object_ids=ids,
            frame_index=self._index,
            time_s=self._times.popleft(),
        )
        self._index += 1
        return result


def _resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring planes (K, h, w) to the image's size, float32."""
    if not len(planes):
        return torch.zeros(0, *size)
    if tuple(planes.shape[-2:]) == size:
        return planes.float()
    return F.interpolate(planes[None].float(), size, mode="bilinear", align_corners=False)[0]
