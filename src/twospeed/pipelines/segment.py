"""Label every pixel of a video: an image network on keyframes, propagation between them, labels at full size.

Source: GSVNet (Lee, Chen, Peng, ICME 2021). When to take a keyframe is a small function that is passed in.
"""

from __future__ import annotations

import copy
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, ClassVar, TypedDict, Unpack, cast

from twospeed.data.benchmarks import camvid, cityscapes
from twospeed.errors import InputError
from twospeed.models.protocol import (
    CLIP_NETWORK,
    FRAME_DETECTOR,
    MASK_MEMORY,
    VIDEO_SEGMENTATION,
    VideoSegmentationNetwork,
    lacks,
)
from twospeed.ops.grid import grid_size
from twospeed.output.palette import class_colours
from twospeed.pipelines.inputs import (
    Array,
    Device,
    Image,
    Model,
    Precision,
    arrays_of,
    network_for,
    optimised,
    place,
)
from twospeed.results import ClassMap, Frame, LabelMap, OnProgress, Progress
from twospeed.video.reader import HELD_BYTES, may_read_ahead, open_video
from twospeed.video.sources import SourceLike
from twospeed.weights.catalog import find


@dataclass(frozen=True, slots=True)
class Situation:
    """What a keyframe policy decides on.

    since_keyframe: how many frames ago the last keyframe was, 1 or more. drift: how far propagation has moved away from
    the images since then: the mean absolute difference between each small frame and the one before it, moved by the
    flow, in units of the pixels' std, summed over the frames since the keyframe. A policy is asked twice: before the
    step to this frame, with the drift that another step as the last one would lead to (a keyframe then costs no step),
    and after it, with the drift that it has led to.
    """

    since_keyframe: int
    drift: float


_LONGEST_INTERVAL = 16  # between keyframes, of intervals that are computed side by side: all their frames are held

KeyframePolicy = Callable[[Situation], bool]
"""Whether this frame shall be a keyframe. An attribute `uses_drift` that is False says that it does not look at
`Situation.drift`, which is then not computed but 0."""


@dataclass(frozen=True)
class Every:
    """Take every n-th frame as keyframe: the paper's policy. Raises InputError for n below 1."""

    n: int
    uses_drift: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"keyframe_every is {self.n}; give 1 (every frame) or more")

    def __call__(self, situation: Situation) -> bool:
        """Say whether this frame is a keyframe."""
        return situation.since_keyframe >= self.n


NEVER = Every(sys.maxsize)
"""The first frame is the only keyframe."""


def on_drift(most: float, *, at_most_every: int = 1, at_least_every: int = 10) -> KeyframePolicy:
    """Take a keyframe when the drift exceeds `most`, which spends them where propagation fails: cuts, fast motion.

    at_most_every, at_least_every: bounds on the interval. Raises InputError for values that make no sense.
    """
    if not most > 0 or not 1 <= at_most_every <= at_least_every:
        raise InputError(
            f"drift {most}, interval {at_most_every} to {at_least_every}; give a drift above 0 and 1 <= least <= most"
        )
    return lambda situation: (
        situation.since_keyframe >= at_most_every
        and (situation.drift > most or situation.since_keyframe >= at_least_every)
    )


@dataclass
class _State:
    """What a segmenter keeps of the video so far: bounded, whatever its length."""

    scores: Array | None = None  # (1, C, h, w)
    small: Array | None = None  # (1, 3, h, w)
    image_size: tuple[int, int] | None = None
    since_keyframe: int = 0
    drift: float = 0.0
    last_drift: float = 0.0  # what the last step added, 0 right after a keyframe
    frame_index: int = 0


class Segmenter:
    """Give every pixel of every frame a class.

    model_or_name: a network that offers `models.protocol.VideoSegmentationNetwork`, such as `GSVNet`; any image network
    that maps RGB 0..255 (1, 3, H, W) to class scores (then every frame is a keyframe; an attribute `align_corners` says
    how its scores are resized, False where it has none); a catalogue name (with `weights`); or the folder of an
    exported model, which runs without torch. keyframe_every: every how many frames the image network runs; or a policy,
    such as `on_drift(1.5)`. labels: names and colours of the
    classes; Cityscapes' or CamVid's when the network has as many, else plain numbers. precision: "bf16" runs the image
    network in bfloat16, "auto" where the device is made for it; propagation is always in float32. device: None chooses
    CUDA if present. on_progress: called while weights are downloaded. Networks of this package run as an optimised
    copy: training them further does not change it. Raises InputError for options that make no sense, WeightsUnavailable
    when a name has no default weights.
    """

    def __init__(
        self,
        model_or_name: Model = "segment_nano",
        keyframe_every: int | KeyframePolicy = 4,
        *,
        weights: Any = "default",
        labels: LabelMap | None = None,
        precision: Precision = "fp32",
        device: Device = None,
        on_progress: OnProgress | None = None,
    ):
        self.policy = Every(keyframe_every) if isinstance(keyframe_every, int) else keyframe_every
        self.device, self.precision, self._dtype = place(model_or_name, device, precision)
        model, _ = network_for("segment", model_or_name, weights, (), on_progress)
        self._of_video = not lacks(model, VIDEO_SEGMENTATION)
        others = (CLIP_NETWORK, FRAME_DETECTOR, MASK_MEMORY)
        if not self._of_video and (not _is_called(model) or not all(lacks(model, members) for members in others)):
            raise InputError(
                f"{type(model).__name__} is not a network that labels every pixel: it is neither called with "
                "an image nor has the methods of twospeed.models.protocol.VideoSegmentationNetwork",
                option="model",
            )
        self._arrays = arrays_of(model)
        self.model: Any = optimised(model.eval().to(self.device))
        self._may_copy = self.model is not model  # a user's own network runs on one thread, as it is
        self.labels = labels
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next frame is a keyframe."""
        self._state = _State()

    def step(self, image: Image, *, time_s: float = 0.0) -> ClassMap:
        """Take the next frame and return what every pixel of it is.

        image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. A frame of another size than
        the one before starts anew with a keyframe. time_s is passed on to the result.
        Raises InputError for an image of another kind, or under 8 pixels a side.
        """
        with self._arrays.inference():
            return self._labelled(image, time_s)

    def steps(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, ClassMap]]:
        """Take the next frames; yield each with what `step` would return for it, to rounding.

        frames: such as `open_video` delivers. On several cores keyframe intervals are computed side by side, which
        takes less time than sharing every operation, and a few intervals are read in advance; not of frames that only
        come one by one (`may_read_ahead`), for policies other than `Every`, and for networks that are not of this
        package. `reset` before other frames are taken where the iteration was not finished. Raises as `step` does.
        """
        count = self._intervals_at_once(frames)
        if count > 1:
            yield from self._side_by_side(frames, count)
            return
        for frame in frames:
            yield frame, self.step(frame.image, time_s=frame.time_s)

    def _intervals_at_once(self, frames: Iterable[Frame]) -> int:
        known_keyframes = isinstance(self.policy, Every) and self.policy.n <= _LONGEST_INTERVAL
        if not self._may_copy or not known_keyframes or not may_read_ahead(frames):
            return 1
        from twospeed.ops.side_by_side import pieces_at_once  # imports torch, which exported networks do without

        return pieces_at_once(self.device)

    def _side_by_side(self, frames: Iterable[Frame], count: int) -> Iterator[tuple[Frame, ClassMap]]:
        from twospeed.ops.side_by_side import ReadInAdvance, twin, workers

        free: SimpleQueue[Segmenter] = SimpleQueue()
        for _ in range(count):
            one = copy.copy(self)
            one.model = twin(self.model)
            free.put(one)

        def label(interval: list[Frame], state: _State) -> tuple[ReadInAdvance[ClassMap], list[ClassMap], _State]:
            one = free.get()
            one._state = state
            results = ReadInAdvance(one.step(frame.image, time_s=frame.time_s) for frame in interval)
            answer = results, list(results), one._state
            free.put(one)
            return answer

        waiting: deque[tuple[list[Frame], Future[tuple[ReadInAdvance[ClassMap], list[ClassMap], _State]]]] = deque()

        def first_of_all() -> Iterator[tuple[Frame, ClassMap]]:
            interval, labelled = waiting.popleft()
            results, done, self._state = labelled.result()
            for frame, result in zip(interval, done, strict=False):
                self.labels = self.labels or result.classes
                yield frame, result
            results.check()

        with workers(count) as pool:
            state, first = self._state, self._state.frame_index
            for interval in self._intervals(in_advance := ReadInAdvance(frames)):
                waiting.append((interval, pool.submit(label, interval, state)))
                first += len(interval)  # its thread counts in the state, which is its own now
                state = _State(frame_index=first)
                large = (len(waiting) + 1) * len(interval) * interval[0].image.nbytes > HELD_BYTES
                while len(waiting) > (count - 1 if large else count):
                    yield from first_of_all()
            while waiting:
                yield from first_of_all()
        in_advance.check()

    def _intervals(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """Cut a video before each keyframe: first what is left of the interval that this segmenter is in."""
        assert isinstance(self.policy, Every)
        length = self.policy.n if self._of_video else 1
        begun = self._state.scores is not None
        left = length - 1 - self._state.since_keyframe if begun else 0
        size = self._state.image_size
        interval: list[Frame] = []
        for frame in frames:
            if left <= 0 or size not in (None, frame.image.shape[:2]):
                if interval:
                    yield interval
                interval, left = [], length
            interval.append(frame)
            left, size = left - 1, frame.image.shape[:2]
        if interval:
            yield interval

    def _labelled(self, image: Image, time_s: float) -> ClassMap:
        arrays = self._arrays
        x = arrays.image_array(image, self.device)[None]
        pixels = x if arrays.is_8_bit(x) else x * 255  # 8-bit images stay 8 bits
        size = (pixels.shape[-2], pixels.shape[-1])
        if self._state.image_size not in (None, size):
            self._state = _State(frame_index=self._state.frame_index)
        self._state.image_size = size
        scores, labels, is_keyframe = self._run(pixels, size)
        if self.labels is None:
            self.labels = class_labels(scores.shape[1])
        elif len(self.labels) != scores.shape[1]:
            raise InputError(
                f"{len(self.labels)} class names were given, the network has {scores.shape[1]} classes; "
                "give the list that it learned",
                option="labels",
            )
        copies = arrays.HostCopy(labels), arrays.HostCopy(arrays.contiguous(arrays.as_float(scores[0])))
        result = ClassMap(
            labels=copies[0].numpy(),
            scores=copies[1].numpy(),
            is_keyframe=is_keyframe,
            frame_index=self._state.frame_index,
            time_s=time_s,
            classes=self.labels,
        )
        self._state.frame_index += 1
        return result

    def _run(self, image: Array, size: tuple[int, int]) -> tuple[Array, Array, bool]:
        """Return scores (1, C, h, w), labels (H, W), and whether the image network ran."""
        grid = grid_size(image)
        if not self._of_video:
            scores = self.by_image_network(getattr(self.model, "scores", self.model), image)
            return self._arrays.resize_aligned(scores, grid), self._image_labels(scores, size), True
        state, model = self._state, cast("VideoSegmentationNetwork", self.model)
        small = model.small(image)
        step = None
        if state.scores is not None and state.small is not None:
            state.since_keyframe += 1
            step = self._propagated(model, state, small)
        if step is None:
            state.scores, state.since_keyframe = self.by_image_network(model.keyframe, image), 0
            state.drift = state.last_drift = 0.0
        else:
            state.scores = getattr(step, "carried", step.scores)
        state.small = small
        shown = state.scores if step is None else step.scores
        return shown, self._arrays.full_size_labels(shown[0], size), step is None

    def by_image_network(self, network: Callable[[Array], Array], image: Array) -> Array:
        """Return what it says of an image, as float32."""
        with self._arrays.autocast(self.device, self._dtype):
            scores = network(self._arrays.as_float(image))
        return self._arrays.as_float(scores)

    def _propagated(self, model: VideoSegmentationNetwork, state: _State, small: Array) -> Any:
        """Return the propagation step, or None where the policy wants a keyframe."""
        assert state.scores is not None
        assert state.small is not None
        # A policy of the interval alone answers before anything is computed, one on drift where motion is steady
        if self.policy(Situation(state.since_keyframe, state.drift + state.last_drift)):
            return None
        step = model.step(state.scores, state.small, small)
        if not getattr(self.policy, "uses_drift", True):
            return step
        # Another warp, and the host waits for the device: only where a policy looks at it
        state.last_drift = float(abs(small - self._arrays.backward_warp(state.small, step.flow)).mean())
        state.drift += state.last_drift
        return None if self.policy(Situation(state.since_keyframe, state.drift)) else step

    def _image_labels(self, scores: Array, size: tuple[int, int]) -> Array:
        """Resize as the network itself does: BiSeNet aligns corners, SwiftNet and torchvision's networks do not."""
        return self._arrays.full_size_labels(scores[0], size, align_corners=getattr(self.model, "align_corners", False))


def _is_called(model: Any) -> bool:
    """Return whether a network is called with images itself."""
    if hasattr(model, "arrays"):
        return callable(model)
    from torch import nn

    return type(model).forward is not nn.Module.forward


def check_keyframe_scale(model: object, scale: float) -> None:
    """Raise InputError where keyframes cannot be seen at this fraction of their size."""
    if not isinstance(model, str) or find(model).converter != "twospeed.weights.gsvnet":
        name = model if isinstance(model, str) else type(model).__name__
        raise InputError(
            f"keyframe_scale is {scale:g}, but {name} is no GSVNet that is built by its name; leave it out",
            option="keyframe_scale",
        )
    if not 0 < scale <= 2:
        raise InputError(f"keyframe_scale is {scale:g}; give a factor above 0, at most 2", option="keyframe_scale")


def class_labels(num_classes: int) -> LabelMap:
    """Return names and colours by the number of classes: Cityscapes (19), CamVid (11), else numbers."""
    for known in (cityscapes.CLASSES, camvid.CLASSES):
        if len(known) == num_classes:
            return known
    colours = tuple((int(r), int(g), int(b)) for r, g, b in class_colours(num_classes))
    return LabelMap(tuple(f"class {i}" for i in range(num_classes)), colours)


class SegmentOptions(TypedDict, total=False):
    """Options of `segment`: those of `Segmenter`."""

    keyframe_every: int | KeyframePolicy
    weights: Any
    labels: LabelMap | None
    precision: Precision
    device: Device


def segment(
    source: SourceLike,
    model_or_name: Model = "segment_nano",
    *,
    on_progress: OnProgress | None = None,
    **options: Unpack[SegmentOptions],
) -> Iterator[ClassMap]:
    """Label the frames of a video, one result a frame, in constant memory.

    source: anything `open_video` takes. options: of `Segmenter`. on_progress: called while
    weights are downloaded and after each frame. Raises VideoError, InputError, WeightsUnavailable, CheckpointError; all
    but the video's before the first frame.
    """
    segmenter = Segmenter(model_or_name, on_progress=on_progress, **options)
    reader = open_video(source)

    def results() -> Iterator[ClassMap]:
        started = time.perf_counter()
        for done, (_, result) in enumerate(segmenter.steps(reader), 1):
            if on_progress is not None:
                seconds = time.perf_counter() - started
                on_progress(Progress("segment", done, reader.frames_expected, "frames", seconds))
            yield result

    return results()
