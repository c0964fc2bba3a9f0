"""Find and segment the objects of a video by itself: no mask given, one frame at a time, a window of frames in memory.

Detections of each frame are merged to one foreground (DAVIS 2016) or linked to objects over time (DAVIS 2017
unsupervised). Results are those of every tracker. No ground truth is needed anywhere.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report), unsupervised part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.environment import resolve_device
from twospeed.errors import InputError, MaskError
from twospeed.models.slowfast_maskrcnn.inference import for_inference
from twospeed.models.slowfast_maskrcnn.network import Detections, DetectionStream, SlowFastMaskRCNN
from twospeed.ops.masks import soft_aggregate
from twospeed.pipelines.linking import ObjectLinker
from twospeed.results import Frame, ObjectMasks
from twospeed.video.reader import open_video
from twospeed.video.sources import SourceLike
from twospeed.weights.catalog import find
from twospeed.weights.load import create_model

_LONGEST_SIDE = 1333 / 800  # of the shorter one, as published


def finds_objects(model_or_name: nn.Module | str) -> bool:
    """Say whether a model needs no masks. Raises InputError for a name that is not in the catalogue."""
    if isinstance(model_or_name, str):
        return find(model_or_name).builder.startswith("twospeed.models.slowfast_maskrcnn.")
    return isinstance(model_or_name, SlowFastMaskRCNN)


def scaled_to(size: int) -> dict[str, Any]:
    """Options of a network that works at this shorter side, in pixels. Raises InputError for less than 32."""
    if size < 32:
        raise InputError(f"size is {size}; the network needs a shorter side of 32 pixels or more")
    return {"min_size": size, "max_size": round(size * _LONGEST_SIDE)}


def network_of(model_or_name: nn.Module | str, weights: Any, size: int | None) -> SlowFastMaskRCNN:
    """Build a network that finds objects from its name, or pass one on. Raises InputError for a size given too late."""
    if isinstance(model_or_name, str):
        model_or_name = create_model(model_or_name, weights, **({} if size is None else scaled_to(size)))
    elif size is not None:
        raise InputError(
            f"size is {size}, but the network is built already; build it with create_model(name, min_size={size})"
        )
    assert isinstance(model_or_name, SlowFastMaskRCNN)  # as `finds_objects` has said
    return model_or_name


class UnsupervisedTracker:
    """Find the objects of a video frame by frame; a frame's result comes n // 2 frames later (n: fast frames).

    model_or_name: a network of the slowfast_maskrcnn family, or its catalogue name (then with `weights`). size: shorter
    side in pixels at which a network given by name works; None takes 800, as published. merged: one object, the union
    of all detections of a frame, as the report scores DAVIS-2016; otherwise objects are linked over time. min_score:
    merged, least score of a detection that counts (None: all that the network gives, score_thresh); linked, least score
    that begins a new object (None: 0.5). max_objects: most objects of a video, when linked. device: None chooses CUDA
    if present.

    Memory use does not depend on how many frames have passed. Raises InputError for options that make no sense, and
    WeightsUnavailable for a name without weights: none are published.
    """

    def __init__(
        self,
        model_or_name: nn.Module | str = "slowfast_maskrcnn_3_7",
        *,
        weights: Any = "default",
        device: str | torch.device | None = None,
        size: int | None = None,
        merged: bool = False,
        min_score: float | None = None,
        max_objects: int = 20,
    ):
        if min_score is not None and not 0 <= min_score <= 1:
            raise InputError(f"min_score is {min_score}; give a number from 0 to 1")
        self.device = resolve_device(device)
        self.merged, self.min_score, self.max_objects = merged, min_score, max_objects
        if not finds_objects(model_or_name):
            name = model_or_name if isinstance(model_or_name, str) else type(model_or_name).__name__
            raise InputError(f"{name} cannot find objects by itself; choose slowfast_maskrcnn_3_7, or give masks")
        self.model = for_inference(network_of(model_or_name, weights, size).eval().to(self.device))
        self.reset()

    def reset(self, first_masks: NDArray[np.uint8] | None = None) -> None:
        """Forget the video.

        first_masks: uint8 (H, W) labels of the next video's first frame, for a network that was fine-tuned on them:
        linked detections are these objects, under these labels, and no others. They are not results: the first
        frame is segmented like any other.
        """
        known = None if first_masks is None else {int(k): first_masks == k for k in np.unique(first_masks) if k}
        if known is not None and not known:
            raise MaskError("the first frame's masks mark no object; nothing could be followed")
        self._stream = DetectionStream(self.model)
        self._linker = ObjectLinker(
            max_objects=self.max_objects, min_score=0.5 if self.min_score is None else self.min_score, known=known
        )
        self._times: deque[float] = deque()  # of the frames whose results are not out yet
        self._size: tuple[int, int] | None = None
        self._masks_size = None if first_masks is None else first_masks.shape
        self._index = 0  # of the next result

    @torch.inference_mode()
    def push(self, image: NDArray[np.uint8] | Tensor, *, time_s: float = 0.0) -> list[ObjectMasks]:
        """Take the next frame; return the results that are ready, in order: none at first, then one a frame.

        image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. time_s: of this frame, comes
        with its result. Raises InputError for an image of another kind, or of another size than those before.
        """
        pixels = _image(image).to(self.device)
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
        self._size = size
        self._times.append(time_s)
        return [self._result(found) for found in self._stream.push(pixels)]

    @torch.inference_mode()
    def finish(self) -> list[ObjectMasks]:
        """End the video: return the results of its last frames. The next frame begins another video."""
        results = [self._result(found) for found in self._stream.finish()]
        self.reset()
        return results

    def run(
        self, frames: Iterable[Frame], first_masks: NDArray[np.uint8] | None = None
    ) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Run over a whole video of any length and yield each frame with its result. first_masks: as of `reset`."""
        self.reset(first_masks)
        waiting: deque[Frame] = deque()
        for frame in frames:
            waiting.append(frame)
            for result in self.push(frame.image, time_s=frame.time_s):
                yield waiting.popleft(), result
        for result in self.finish():
            yield waiting.popleft(), result

    def _result(self, found: Detections) -> ObjectMasks:
        soft = found["masks"][:, 0].float()  # (n, H, W)
        if self.merged:
            probabilities, ids = self._merge(soft, found["scores"])
        else:
            probabilities, ids = self._link(soft, found["scores"])
        labels = torch.zeros(probabilities.shape[1:], dtype=torch.uint8, device=self.device)
        for plane, number in zip(probabilities, ids, strict=True):
            labels[plane >= 0.5] = number
        together = soft_aggregate(probabilities[None]).softmax(1)[0]
        result = ObjectMasks(
            labels=labels.cpu().numpy(),
            probabilities=together.contiguous().cpu().numpy(),
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


def _image(image: NDArray[np.uint8] | Tensor) -> Tensor:
    """Any accepted image -> float (3, H, W) in 0..1."""
    # torch shares memory with numpy and will not take read-only or negatively strided arrays
    x = image if isinstance(image, Tensor) else torch.from_numpy(np.require(image, requirements=["C", "W"]))
    if x.ndim == 3 and x.dtype == torch.uint8 and x.shape[-1] == 3:
        return x.permute(2, 0, 1).float().div(255)
    if x.ndim == 3 and x.is_floating_point() and x.shape[0] == 3:
        return x.float()
    raise InputError(
        f"image is {x.dtype} of shape {tuple(x.shape)}; give uint8 (H, W, 3) RGB, or a float tensor (3, H, W) in 0..1"
    )


def discover(
    source: SourceLike,
    model_or_name: nn.Module | str = "slowfast_maskrcnn_3_7",
    **options: Any,
) -> Iterator[ObjectMasks]:
    """Find the objects of a video, one result a frame, in constant memory.

    source: anything `open_video` takes. options: of `UnsupervisedTracker`.
    Raises VideoError, InputError, WeightsUnavailable; those of the model appear before any frame is read.
    """
    known = signature(UnsupervisedTracker).parameters
    if unknown := [name for name in options if name not in known]:
        raise InputError(
            f"{unknown[0]} is no option of a model that finds objects by itself; "
            f"it takes {', '.join(name for name in known if name != 'model_or_name')}"
        )
    unsupervised_tracker = UnsupervisedTracker(model_or_name, **options)
    frames = open_video(source)
    return (result for _, result in unsupervised_tracker.run(frames))
