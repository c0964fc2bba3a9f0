"""Say who does what, keyframe by keyframe, over a video of any length.

    for found in twospeed.detect("clip.mp4", "slowfast_r50_8x8_ava", boxes="people.csv"):
        found.time_s, found.boxes_xyxy, found.action_scores, found.track_ids

Around each keyframe the network sees one clip at a shorter side of 256 pixels, whole frame, as AVA is tested (SlowFast
section 5). One pass, at constant memory: only the frames of the clips in work are held, scaled down.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from twospeed.errors import InputError, VideoError
from twospeed.models.slowfast.inference import for_inference
from twospeed.models.slowfast.network import SlowFast
from twospeed.pipelines.action_labels import Labels, label_names
from twospeed.pipelines.people import PersonLinker
from twospeed.pipelines.person_boxes import Found, GivenBoxes, checked, given_boxes, person_detector
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import CropTransform, scale_only
from twospeed.values import ActionBoxes, Frame
from twospeed.video.reader import Source, frame_times, open_video
from twospeed.video.sampling import TRAINED_RATE
from twospeed.weights.catalog import Preprocessing, find
from twospeed.weights.load import create_model

DEFAULT_MODEL = "slowfast_r50_8x8_ava"
AVA = Preprocessing(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), short_side=256)


@dataclass(slots=True, eq=False)
class _Keyframe:
    """A keyframe whose clip is not complete yet, with the people in it."""

    time_s: float
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(slots=True, eq=False)
class _Held:
    """A frame that clips may need, scaled down."""

    time_s: float
    image: NDArray[np.uint8]


class Detector:
    """A network that is ready to say what people do, for one video after another.

    model_or_name: a detector of the SlowFast family (or any module with its call and its attributes `frames`,
    `frame_stride`, `num_classes`), or its catalogue name. weights: for names, as `create_model` takes them. boxes:
    where people are: in any form that `given_boxes` reads; a function from a picture, uint8 (H, W, 3) RGB, to (boxes
    (n, 4) xyxy in pixels, scores (n,)); None detects them with Faster R-CNN. every_s: seconds from one keyframe to the
    next, the first at 0; with boxes that have times these are the keyframes, thinned to at most one in every_s.
    threshold: people with a lower score are left out. start_s: what the boxes' file calls the video's first moment.
    labels: names of the classes, None takes the catalogue's. short_side: pixels at which the network works. precision:
    "bf16" computes in bfloat16. device: None chooses CUDA if present. Raises InputError for options that make no sense,
    CheckpointError and WeightsUnavailable.
    """

    def __init__(
        self,
        model_or_name: nn.Module | str = DEFAULT_MODEL,
        boxes: Any = None,
        every_s: float = 1.0,
        *,
        weights: Any = "default",
        threshold: float = 0.8,
        start_s: float = 0.0,
        labels: Labels | None = None,
        short_side: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        device: str | torch.device | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        if not every_s > 0:
            raise InputError(f"every_s={every_s}: give seconds above 0")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold}: give a score from 0 to 1")
        if precision not in ("fp32", "bf16"):
            raise InputError(f"precision={precision!r}: choose fp32 or bf16")
        if short_side is not None and short_side < 32:
            raise InputError(f"short_side={short_side}: the network needs 32 pixels or more")
        self.every_s, self.threshold, self.start_s, self.boxes = every_s, threshold, start_s, boxes
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        known, name = None, type(model_or_name).__name__
        if isinstance(model_or_name, str):
            entry = find(model_or_name)
            if entry.task != "detect":
                raise InputError(
                    f"{entry.name} is made for the task {entry.task}; `twospeed models --task detect` lists detectors"
                )
            known, name, preprocessing = entry.labels, entry.name, preprocessing or entry.preprocessing
            model_or_name = create_model(model_or_name, weights)
        for needed in ("frames", "frame_stride", "num_classes"):
            if not isinstance(getattr(model_or_name, needed, None), int):
                raise InputError(f"{name} has no whole number `{needed}`; it cannot be used to detect actions")
        dtype = torch.bfloat16 if precision == "bf16" else None
        ready: Any = for_inference(model_or_name, dtype) if isinstance(model_or_name, SlowFast) else model_or_name
        self.network = ready.to(self.device).eval()
        self.preprocessing = preprocessing or AVA
        self.short_side = short_side or self.preprocessing.short_side or 256
        self.labels = label_names(labels, known, ready.num_classes, name)
        self._find_people = person_detector(self.device) if boxes is None else boxes if callable(boxes) else None
        self.frames_read = 0  # of the video in work
        self.picture_size = np.ones(4)  # its width, height, width, height

    @property
    def clip_offsets_s(self) -> NDArray[np.float64]:
        """Times of the clip's frames relative to the keyframe, (T,): from half a clip before it, at 30 a second."""
        steps = np.arange(self.network.frames) - self.network.frames / 2
        return np.asarray(steps * self.network.frame_stride / TRAINED_RATE)

    def detect(self, source: Source) -> Iterator[ActionBoxes]:
        """Yield one result for each keyframe of a file, a folder of pictures, a camera or a pipe, in order.

        Frames before the first or after the last repeat that one, as AVA's authors do. Keyframes without people give
        empty results. Raises VideoError; InputError for given boxes outside of the picture or keyframes outside of the
        video (for files before anything is computed, for streams at their end).
        """
        is_path = isinstance(source, str | os.PathLike) and source != "-" and Path(source).exists()
        given = None
        reader = open_video(source)
        if self._find_people is None:
            rate = None if reader.info.frame_rate is None else float(reader.info.frame_rate)
            name = Path(source).stem if isinstance(source, str | os.PathLike) else ""
            try:
                given = given_boxes(self.boxes, video=name, start_s=self.start_s, rate=rate)
                if is_path and given.times_s:
                    self._check_times(given, float(frame_times(source)[-1]), rate, str(source))  # type: ignore[arg-type]
            except BaseException:
                reader.close()
                raise
        return self._results(reader, given, str(source))

    def _results(self, reader: Any, given: GivenBoxes | None, name: str) -> Iterator[ActionBoxes]:
        offsets = self.clip_offsets_s
        first_s, last_s = float(offsets[0]), float(offsets[-1])
        times = self._keyframe_times(given)
        upcoming = next(times, None)
        waiting: deque[_Keyframe] = deque()
        held: deque[_Held] = deque()
        linker = PersonLinker()
        previous: Frame | None = None
        skipped: Frame | None = None  # the last frame before the earliest clip, not scaled yet
        transform: CropTransform | None = None
        self.frames_read = 0
        with closing(reader):
            rate = float(reader.info.frame_rate or TRAINED_RATE)
            grace = 0.01 / rate  # containers round times
            for frame in reader:
                if previous is not None and frame.image.shape != previous.image.shape:
                    raise VideoError(
                        f"{name}: frame {frame.index} is {_size(frame)}, those before are {_size(previous)}; "
                        "cut the video there, or re-encode it at one size"
                    )
                if transform is None:
                    height, width = frame.image.shape[:2]
                    transform = scale_only(height, width, self.short_side)
                    self.picture_size = np.array([width, height, width, height], np.float64)
                while previous is not None and upcoming is not None and frame.time_s > upcoming[1] + grace:
                    waiting.append(self._keyframe(previous, given, *upcoming))
                    upcoming = next(times, None)
                while waiting and frame.time_s > waiting[0].time_s + last_s + grace:
                    yield self._result(waiting.popleft(), held, offsets + grace, transform, linker)
                if waiting or upcoming is not None:
                    clip_s = (waiting[0].time_s if waiting else upcoming[1]) + first_s  # type: ignore[index]
                    skipped = _hold(held, skipped, frame, clip_s + grace, transform)
                elif given is not None:
                    self.frames_read += 1
                    return  # no keyframe is left
                previous = frame
                self.frames_read += 1
            if previous is None or transform is None:
                return
            end_s = previous.time_s + 1 / rate
            if skipped is not None:
                held.append(_Held(skipped.time_s, _scaled(skipped.image, transform)))
            while upcoming is not None and upcoming[1] < end_s - grace:
                waiting.append(self._keyframe(previous, given, *upcoming))
                upcoming = next(times, None)
            while waiting:
                yield self._result(waiting.popleft(), held, offsets + grace, transform, linker)
        if given is not None and given.times_s and upcoming is not None:
            self._check_times(given, previous.time_s, rate, name)

    def _keyframe_times(self, given: GivenBoxes | None) -> Iterator[tuple[int, float]]:
        """Number and time of each keyframe: without end on a grid, or where boxes are given."""
        if given is None or not given.times_s:
            yield from ((number, number * self.every_s) for number in count())
            return
        last_s = -np.inf
        for number, time_s in enumerate(given.times_s):
            if time_s >= last_s + self.every_s - 1e-6:
                last_s = time_s
                yield number, time_s

    def _check_times(self, given: GivenBoxes, last_s: float, rate: float | None, name: str) -> None:
        end_s = last_s + 1 / (rate or TRAINED_RATE)
        for time_s, rows in zip(given.times_s, given.rows, strict=True):
            if time_s >= end_s:
                where = rows[0].where if rows else "boxes"
                raise InputError(
                    f"{where}: the keyframe at {time_s + self.start_s:g} s is out of range: {name} runs from "
                    f"{self.start_s:g} to {end_s + self.start_s:.3f} s (--start says what its first moment is called)"
                )

    def _keyframe(self, frame: Frame, given: GivenBoxes | None, number: int, time_s: float) -> _Keyframe:
        found: Found
        height, width = frame.image.shape[:2]
        if given is not None:
            found = given.at(number, height, width)
        else:
            assert self._find_people is not None
            found = checked(self._find_people(frame.image), height, width)
        boxes, scores = found
        sure = scores >= self.threshold
        return _Keyframe(time_s, boxes[sure], scores[sure])

    @torch.inference_mode()
    def _result(
        self,
        keyframe: _Keyframe,
        held: Iterable[_Held],
        offsets_s: NDArray[np.float64],
        transform: CropTransform,
        linker: PersonLinker,
    ) -> ActionBoxes:
        actions = np.zeros((0, len(self.labels)), np.float32)
        if len(keyframe.boxes):
            frames = list(held)
            times_s = np.array([frame.time_s for frame in frames])
            chosen = np.clip(np.searchsorted(times_s, keyframe.time_s + offsets_s, side="right") - 1, 0, None)
            pictures = torch.from_numpy(np.stack([frames[i].image for i in chosen])).permute(0, 3, 1, 2)
            pre = self.preprocessing
            clip = normalise(pictures, pre.mean, pre.std, order=pre.input_order).transpose(0, 1)[
                None
            ]  # (1, 3, T, H, W)
            boxes = transform.boxes(torch.from_numpy(keyframe.boxes), inclusive=True)
            logits = self.network(clip.to(self.device), [boxes.to(self.device)])
            actions = logits.float().sigmoid().cpu().numpy()
        return ActionBoxes(
            time_s=keyframe.time_s,
            boxes_xyxy=keyframe.boxes.astype(np.float32),
            person_scores=keyframe.scores.astype(np.float32),
            action_scores=actions,
            labels=self.labels,
            track_ids=linker.step(keyframe.boxes),
        )


def detect(
    source: Source,
    model_or_name: nn.Module | str = DEFAULT_MODEL,
    boxes: Any = None,
    every_s: float = 1.0,
    **options: Any,
) -> Iterator[ActionBoxes]:
    """Say who does what in one video: an iterator of one `ActionBoxes` for each keyframe.

    boxes, every_s and options: as `Detector` takes them; boxes=None detects people with torchvision's Faster R-CNN. To
    go through many videos make one `Detector`, so that the network is built once. Raises VideoError, InputError,
    DatasetError (files of boxes), CheckpointError, WeightsUnavailable; what can be known beforehand at once.
    """
    return Detector(model_or_name, boxes, every_s, **options).detect(source)


def _hold(
    held: deque[_Held], skipped: Frame | None, frame: Frame, clip_s: float, transform: CropTransform
) -> Frame | None:
    """Hold a frame for the clips that begin at clip_s or later, and of those before clip_s only the last.

    Returns the frame that may be that last one: it is scaled only once it is known to be.
    """
    while len(held) > 1 and held[1].time_s <= clip_s:
        held.popleft()
    if frame.time_s <= clip_s:
        held.clear()
        return frame
    if skipped is not None:
        held.append(_Held(skipped.time_s, _scaled(skipped.image, transform)))
    held.append(_Held(frame.time_s, _scaled(frame.image, transform)))
    return None


def _scaled(image: NDArray[np.uint8], transform: CropTransform) -> NDArray[np.uint8]:
    """Scale as AVA's authors do: bilinear on 8-bit values."""
    height, width = transform.scaled
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _size(frame: Frame) -> str:
    return f"{frame.image.shape[1]}x{frame.image.shape[0]}"
