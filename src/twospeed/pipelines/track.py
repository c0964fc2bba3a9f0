"""Track objects: first masks in, masks of every frame out, one frame at a time.

The expensive part (remembering a frame) runs every n-th frame, the cheap part (reading the memory) on all others.
Source: STCN (Cheng 2021) section 4 and appendix; protocols: DAVIS (masks on frame 0) and YouTube-VOS (objects appear
at any frame) are one `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.environment import resolve_device
from twospeed.errors import InputError, MaskError
from twospeed.models.memory import MemoryBank, ObjectBanks
from twospeed.models.stcn.inference import for_inference
from twospeed.models.stcn.network import STCN, KeyFeatures
from twospeed.models.stm.network import STM, QueryFeatures
from twospeed.ops.bf16 import autocast
from twospeed.ops.masks import one_hot, soft_aggregate
from twospeed.ops.pad import Padding, pad, padding_for, unpad
from twospeed.pipelines.finetune_tracker import TrackerFineTuning, fine_tune_tracker
from twospeed.pipelines.unsupervised import discover, finds_objects
from twospeed.results import Frame, ObjectMasks
from twospeed.video.indexed_png import read_label_map
from twospeed.video.reader import open_video
from twospeed.video.sources import SourceLike
from twospeed.weights.load import create_model

STRIDE = 16
MAX_OBJECTS = 50  # more labels than this are an anti-aliased image, not a label map
_OBJECTS_AT_ONCE = 8  # decoded together; bounds the memory that many objects take

Image = NDArray[np.uint8] | Tensor
Labels = NDArray[np.integer[Any]] | Tensor
Precision = Literal["fp32", "bf16"]


@dataclass
class _State:
    """All that a tracker knows of the video so far."""

    bank: MemoryBank | ObjectBanks
    object_ids: list[int] = field(default_factory=list)
    frame_index: int = 0
    since_memory: int = 0  # frames since the last one that was memorised
    image_size: tuple[int, int] | None = None


class Tracker:
    """Follow objects from the masks of the frames where they are given.

    model_or_name: a network of the STCN or STM family, or its catalogue name (then with its default weights, or
    `weights`). memory_every: every how many frames one is remembered. include_last: also remember the last frame until
    the next (STM). top_k: memory matches kept per cell; None keeps all. max_memory_frames: bound on the frames
    remembered (annotated ones stay for good); None lets memory grow with the video. size: shorter side in pixels at
    which the network works; None takes the input's. kernel_sigma: Gaussian of kernelized reading, in cells (7 at size
    600 is the published multi-scale setting). precision: "bf16" autocasts the convolutions. device: None chooses CUDA
    if present. finetune: practise so many iterations, or as the settings say, on the first masks before going on;
    on_iteration: told how many are done, and the loss.

    Memory use does not depend on how many frames have passed, but for remembered frames when max_memory_frames is None.
    Raises InputError for options that make no sense.
    """

    def __init__(
        self,
        model_or_name: nn.Module | str = "track_nano",
        memory_every: int = 5,
        include_last: bool = False,
        top_k: int | None = 20,
        max_memory_frames: int | None = None,
        size: int | None = 480,
        *,
        weights: Any = "default",
        device: str | torch.device | None = None,
        kernel_sigma: float | None = None,
        precision: Precision = "fp32",
        finetune: int | TrackerFineTuning | None = None,
        on_iteration: Callable[[int, float], None] = lambda done, loss: None,
    ):
        for name, value in {
            "memory_every": memory_every,
            "top_k": top_k,
            "max_memory_frames": max_memory_frames,
        }.items():
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give 1 or more")
        if size is not None and size < STRIDE:
            raise InputError(f"size is {size}; the network needs a shorter side of {STRIDE} pixels or more")
        self.device = resolve_device(device)
        model = create_model(model_or_name, weights) if isinstance(model_or_name, str) else model_or_name
        if not isinstance(model, STCN | STM):
            raise InputError(f"{type(model).__name__} cannot be given masks; choose stcn, stm or track_nano")
        self._given = model.eval().to(self.device)
        self.finetune = TrackerFineTuning(iterations=finetune) if isinstance(finetune, int) else finetune
        self._on_iteration = on_iteration
        self.memory_every, self.include_last, self.top_k = memory_every, include_last, top_k
        self.max_memory_frames, self.size, self.kernel_sigma = max_memory_frames, size, kernel_sigma
        self.precision: Precision = precision
        self.model = self._untuned = self._fast(self._given)
        self.reset()

    def _fast(self, model: STCN | STM) -> Any:
        """A copy rearranged for speed, in fp32; the given network stays trainable and as it is."""
        return for_inference(model) if self.precision == "fp32" and isinstance(model, STCN) else model

    def reset(self) -> None:
        """Forget the video: objects, memory, what was learned of it, and frame count."""
        self.model = self._untuned
        bank = ObjectBanks if isinstance(self.model, STM) else MemoryBank
        self._state = _State(
            bank(
                top_k=self.top_k,
                similarity=self.model.similarity,
                max_frames=self.max_memory_frames,
                kernel_sigma=self.kernel_sigma,
            )
        )

    @property
    def memory_frames(self) -> int:
        """How many frames are remembered at present."""
        return self._state.bank.frames

    @torch.inference_mode()
    def step(self, image: Image, masks: Labels | None = None, *, time_s: float = 0.0) -> ObjectMasks:
        """Take the next frame, with masks where they are known, and say where every object is.

        image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. masks: integer (H, W) labels,
        0 = background; labels not seen before add objects, known labels correct theirs, and the frame stays in memory
        for good. Before any object is known, all is background. time_s is passed on to the result.
        Raises MaskError (another size than the image, too many labels), InputError (image of another kind or size).
        """
        state = self._state
        pixels = self._image(image)
        height, width = state.image_size = self._checked_size(pixels)
        labels = None if masks is None else self._labels(masks, (height, width))
        if self.finetune is not None and labels is not None and not state.object_ids and bool(labels.any()):
            self._learn(pixels, labels, self.finetune)
        frame, padding = self._prepare(pixels)
        with autocast(self.device, torch.bfloat16 if self.precision == "bf16" else torch.float32):
            probabilities = self._advance(frame, labels, padding)
        result = self._result(unpad(probabilities, padding), (height, width), time_s)
        state.frame_index += 1
        return result

    @torch.inference_mode()
    def replay(
        self, image: Image, labels: NDArray[np.uint8], masks: Labels | None = None, *, time_s: float = 0.0
    ) -> ObjectMasks:
        """Take the next frame as `step`, but with the labels that an earlier run gave it: to go on where that ended.

        image, masks, time_s: as `step`, which is what runs where masks are given or no object is known. labels: uint8
        (H, W), the earlier result. Nothing is computed but what the memory needs; it differs from the earlier run's in
        that masks are remembered as they were written, not as probabilities. Raises as `step`.
        """
        state = self._state
        if masks is not None or not state.object_ids:
            return self.step(image, masks, time_s=time_s)
        pixels = self._image(image)
        size = self._checked_size(pixels)
        known = one_hot(self._labels(labels, size), state.object_ids)  # (K, H, W)
        state.since_memory += 1
        if state.since_memory >= self.memory_every or self.include_last:
            frame, padding = self._prepare(pixels)
            with autocast(self.device, torch.bfloat16 if self.precision == "bf16" else torch.float32):
                self._remember(frame, self.model.encode_key(frame), self._planes(known, frame, padding), padding)
        background = 1 - known.sum(0, keepdim=True)
        result = self._result(torch.cat([background, known]), size, time_s)
        state.frame_index += 1
        return result

    def _learn(self, pixels: Tensor, labels: Tensor, settings: TrackerFineTuning) -> None:
        """Go on with a copy of the network that has practised on these masks, at the size at which it works."""
        wanted = self._working_size(pixels)
        pixels = F.interpolate(pixels, wanted, mode="bilinear", antialias=True).clamp(0, 1)
        labels = F.interpolate(labels[None, None].byte(), wanted, mode="nearest")[0, 0]
        image = pixels[0].permute(1, 2, 0).mul(255).round().byte()
        tuned = fine_tune_tracker(
            self._given, image.cpu().numpy(), labels.cpu().numpy(), settings, on_iteration=self._on_iteration
        )
        self.model = self._fast(tuned)

    def _advance(self, frame: Tensor, labels: Tensor | None, padding: Padding) -> Tensor:
        """Segment one prepared frame and remember it when it is due. Shapes: (1, 3, H, W) -> (K+1, H, W)."""
        state, model = self._state, cast("Any", self.model)  # STCN, its fast form, or STM: one set of methods
        new_ids = [] if labels is None else [int(i) for i in labels.unique() if i > 0]
        if not state.object_ids and not new_ids:
            return frame.new_ones(1, *frame.shape[-2:])
        features = model.encode_key(frame)
        predicted = frame.new_zeros(0, *frame.shape[-2:])  # (K, H, W), of the objects known so far
        if state.object_ids and set(state.object_ids) <= set(new_ids):
            predicted = frame.new_zeros(len(state.object_ids), *frame.shape[-2:])  # all are about to be replaced
        elif state.object_ids:
            readout = state.bank.read(features.key[0])  # (K, V, h, w)
            logits = [model.decode(part[None], features)[0] for part in readout.split(_OBJECTS_AT_ONCE)]
            predicted = torch.cat(logits).float().sigmoid()
            predicted = soft_aggregate(predicted[None]).softmax(1)[0, 1:]
        if new_ids and labels is not None:
            predicted = self._annotate(predicted, labels, new_ids, padding)
            if isinstance(model, STM):  # takes given masks as they are
                probabilities = torch.cat([1 - predicted.sum(0, keepdim=True), predicted])
            else:
                probabilities = soft_aggregate(predicted[None]).softmax(1)[0]
        else:
            background = 1 - predicted.sum(0, keepdim=True)
            probabilities = torch.cat([background, predicted])

        state.since_memory += 1
        if new_ids or state.since_memory >= self.memory_every or self.include_last:
            self._remember(frame, features, probabilities[1:], padding, given=bool(new_ids))
        return probabilities

    def _remember(
        self,
        frame: Tensor,
        features: KeyFeatures | QueryFeatures,
        masks: Tensor,
        padding: Padding,
        *,
        given: bool = False,
    ) -> None:
        """Add a frame to the bank: for good where masks were given, until the next one where it is only the last."""
        state = self._state
        stays = given or state.since_memory >= self.memory_every
        key, value = self._memorise(frame, features, masks, padding)
        state.bank.add(key, value, permanent=given, temporary=not stays)
        if stays:
            state.since_memory = 0

    def _memorise(
        self, frame: Tensor, features: KeyFeatures | QueryFeatures, masks: Tensor, padding: Padding
    ) -> tuple[Tensor, Tensor]:
        """What the bank takes in. Shapes: masks (K, H, W) -> key (C, h, w), of STM (K, C, h, w), value (K, V, h, w)."""
        model = self.model
        if isinstance(model, STM):
            # Its border is empty, in the masks as in the image (authors' code)
            keys, values = model.encode_memory(frame, pad(unpad(masks, padding), padding)[None])
            return keys[0], values[0]
        assert isinstance(features, KeyFeatures)
        return features.key[0], model.encode_value(frame, features.f16, masks[None])[0]

    def _annotate(self, predicted: Tensor, labels: Tensor, new_ids: list[int], padding: Padding) -> Tensor:
        """Put given masks in the place of predictions, and clear the others under them (YouTube-VOS protocol)."""
        state = self._state
        state.object_ids += [i for i in new_ids if i not in state.object_ids]
        if len(state.object_ids) > MAX_OBJECTS:
            raise MaskError(
                f"{len(state.object_ids)} objects so far; {MAX_OBJECTS} is the most that can be tracked at once"
            )
        given = self._planes(one_hot(labels, new_ids), predicted, padding)
        covered = given.sum(0) > 0.5
        known = torch.zeros(len(state.object_ids), *predicted.shape[-2:], device=predicted.device)
        known[: len(predicted)] = predicted.masked_fill(covered, 0)
        for plane, object_id in zip(given, new_ids, strict=True):
            known[state.object_ids.index(object_id)] = plane
        return known

    def _planes(self, planes: Tensor, frame: Tensor, padding: Padding) -> Tensor:
        """Bring masks of the image's size to that of the prepared frame. Shapes: (K, H, W) -> (K, H', W')."""
        height, width = frame.shape[-2:]
        left, right, top, bottom = padding
        inner = (height - top - bottom, width - left - right)
        if planes.shape[-2:] != inner:
            planes = F.interpolate(planes[None], inner, mode="nearest")[0]
        return pad(planes, padding)

    def _checked_size(self, image: Tensor) -> tuple[int, int]:
        """Return the image's height and width, which all frames of a video share."""
        state = self._state
        height, width = image.shape[-2:]
        if state.image_size not in (None, (height, width)):
            raise InputError(
                f"frame {state.frame_index} is {width}x{height}, the frames before it {state.image_size[1]}x"
                f"{state.image_size[0]}; reset the tracker, or rescale the frames"
            )
        return height, width

    def _image(self, image: Image) -> Tensor:
        """Any accepted image -> float (1, 3, H, W) in 0..1 on the device."""
        x = _as_tensor(image)
        if x.ndim == 3 and x.dtype == torch.uint8 and x.shape[-1] == 3:
            return x.to(self.device).permute(2, 0, 1)[None].float().div(255)
        if x.ndim == 3 and x.is_floating_point() and x.shape[0] == 3:
            return x.to(self.device)[None].float()
        raise InputError(
            f"image is {x.dtype} of shape {tuple(x.shape)}; "
            "give uint8 (H, W, 3) RGB, or a float tensor (3, H, W) in 0..1"
        )

    def _labels(self, masks: Labels, size: tuple[int, int]) -> Tensor:
        x = _as_tensor(masks)
        if x.is_floating_point() or x.ndim != 2:
            raise MaskError(
                f"masks are {x.dtype} of shape {tuple(x.shape)}; give integer labels (H, W), 0 for the background"
            )
        if tuple(x.shape) != size:
            raise MaskError(
                f"mask is {x.shape[1]}x{x.shape[0]}, its frame {size[1]}x{size[0]}; "
                "scale the mask to the frame with nearest neighbours"
            )
        x = x.to(self.device, torch.int64)
        found = x.unique()
        if int(found[0]) < 0 or int(found[-1]) > 255:
            raise MaskError(f"mask labels run from {int(found[0])} to {int(found[-1])}; labels are 0..255")
        if len(found) - 1 > MAX_OBJECTS:
            raise MaskError(
                f"mask holds {len(found) - 1} different labels, more than {MAX_OBJECTS} objects; is it an anti-aliased "
                "image? Give one label for each object (`--snap` cleans such files)"
            )
        if len(found) == 1 and int(found[0]) == 0 and not self._state.object_ids and self._state.frame_index == 0:
            raise MaskError(
                "the first mask holds no object (all background); mark each object with a label of 1 or more"
            )
        return x

    def _prepare(self, image: Tensor) -> tuple[Tensor, Padding]:
        """Scale the shorter side, normalise, pad with zeros to the stride. Shapes: (1, 3, H, W) -> (1, 3, H', W')."""
        x = self.model.normalise(image)
        if x.shape[-2:] != (wanted := self._working_size(image)):
            # As the authors' YouTube-VOS loader: bicubic on the normalised image, no antialiasing
            x = F.interpolate(x, wanted, mode="bicubic", align_corners=False)
        padding = padding_for(x.shape[-2], x.shape[-1], STRIDE)
        return pad(x, padding).contiguous(memory_format=torch.channels_last), padding

    def _working_size(self, image: Tensor) -> tuple[int, int]:
        height, width = image.shape[-2:]
        scale = 1.0 if self.size is None else self.size / min(height, width)
        return int(height * scale + 1e-9), int(width * scale + 1e-9)

    def _result(self, probabilities: Tensor, size: tuple[int, int], time_s: float) -> ObjectMasks:
        if probabilities.shape[-2:] != size:
            probabilities = F.interpolate(probabilities[None], size, mode="bilinear", align_corners=False)[0]
        ids = torch.tensor([0, *self._state.object_ids], dtype=torch.uint8, device=self.device)
        labels = ids[probabilities.max(0).indices]  # argmax over a strided axis is ten times as slow on a CPU
        return ObjectMasks(
            labels=labels.cpu().numpy(),
            probabilities=probabilities.float().contiguous().cpu().numpy(),
            object_ids=tuple(self._state.object_ids),
            frame_index=self._state.frame_index,
            time_s=time_s,
        )


def _as_tensor(array: NDArray[Any] | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    # torch shares memory with numpy and will not take read-only or negatively strided arrays
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


FirstMasks = Labels | str | Path | Mapping[int, "Labels | str | Path"]


def track(
    source: SourceLike,
    masks: FirstMasks | None,
    model_or_name: nn.Module | str = "track_nano",
    **options: Any,
) -> Iterator[ObjectMasks]:
    """Track objects through a video, one result a frame, in constant memory when `max_memory_frames` is given.

    source: anything `open_video` takes. masks: labels (H, W) or a mask file for the first
    frame, or a mapping from frame index to either: objects may appear, and be corrected, at any frame; None for a model
    that finds objects by itself (slowfast_maskrcnn). options: of `Tracker`, or of `UnsupervisedTracker`.
    Raises VideoError, MaskError, InputError; errors of the masks appear before any frame is computed.
    """
    if finds_objects(model_or_name):
        if masks is not None:
            raise InputError("masks given to a model that finds objects by itself; pass masks=None, or choose stcn")
        return discover(source, model_or_name, **options)
    if masks is None:
        raise InputError(
            "no masks given: track_nano, stcn and stm follow objects that are marked; pass masks for the first frame, "
            "or choose slowfast_maskrcnn_3_7, which finds objects by itself"
        )
    given = masks if isinstance(masks, Mapping) else {0: masks}
    known = {index: read_label_map(Path(m)) if isinstance(m, str | Path) else m for index, m in given.items()}
    tracker = Tracker(model_or_name, **options)
    return _track(open_video(source), known, tracker)


def _track(frames: Iterable[Frame], known: Mapping[int, Labels], tracker: Tracker) -> Iterator[ObjectMasks]:
    for frame in frames:
        yield tracker.step(frame.image, known.get(frame.index), time_s=frame.time_s)
