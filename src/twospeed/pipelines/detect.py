"""Find who does what, keyframe by keyframe, over a video of any length.

    for found in twospeed.detect("clip.mp4", "slowfast_r50_8x8_ava", boxes="people.csv"):
        found.time_s, found.boxes_xyxy, found.action_scores, found.track_ids

Around each keyframe the network sees one clip at a shorter side of 256 pixels, whole frame, as AVA is tested (SlowFast
section 5). One pass, at constant memory: only the frames of the clips in work are held, scaled down.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, VideoError
from twospeed.pipelines.action_labels import Labels
from twospeed.pipelines.box_actions import BoxActions, scaled
from twospeed.pipelines.inputs import Device, Model, Precision
from twospeed.pipelines.parts import Answer, Part, misfit
from twospeed.pipelines.people import PersonLinker
from twospeed.pipelines.person_boxes import Found, GivenBoxes, checked, given_boxes, person_detector
from twospeed.results import ActionBoxes, Frame, OnProgress, Progress, VideoInfo
from twospeed.transforms.spatial import CropTransform
from twospeed.video.containers import Damaged
from twospeed.video.reader import VideoReader, frame_times, open_video
from twospeed.video.sampling import LEAST_STEP_S, LONGEST_PAUSE_S, TRAINED_RATE
from twospeed.video.sources import PositionLike, Source, SourceLike, find_source
from twospeed.weights.entries import Preprocessing

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "slowfast_r50_8x8_ava"


@dataclass(slots=True, eq=False)
class _Keyframe:
    """A keyframe whose clip is not complete yet, with the people in it. action_scores: where they are known already."""

    number: int
    time_s: float
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    action_scores: NDArray[np.float32] | None = None


@dataclass(slots=True, eq=False)
class _Held:
    """A frame that clips may need, scaled down to every size that the networks look at."""

    time_s: float
    images: dict[CropTransform, NDArray[np.uint8]]


class Detector:
    """Networks that are ready to score what people do, for one video after another.

    model_or_name, weights, scales, flip, labels, precision, device, preprocessing, on_progress: as
    `twospeed.pipelines.box_actions.BoxActions` takes them. boxes: where people are: in any form that `given_boxes`
    reads; a function from an image, uint8 (H, W, 3) RGB, to (boxes (n, 4) xyxy in pixels, scores (n,)); None detects
    them with Faster R-CNN. every_s: seconds from one keyframe to the next, the first at 0; with boxes that have times
    these are the keyframes, thinned to at most one in every_s. threshold: people with a lower score are left out.
    start_s: what the boxes' file calls the video's first moment. short_side: pixels at which the networks work, short
    for one of scales. Raises InputError for options that make no sense, CheckpointError and WeightsUnavailable.
    """

    def __init__(
        self,
        model_or_name: Model | Sequence[Model] = DEFAULT_MODEL,
        boxes: Any = None,
        every_s: float = 1.0,
        *,
        weights: Any = "default",
        threshold: float = 0.8,
        start_s: float = 0.0,
        labels: Labels | None = None,
        short_side: int | None = None,
        scales: Sequence[int] = (),
        flip: bool = False,
        precision: Precision = "fp32",
        device: Device = None,
        preprocessing: Preprocessing | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if not every_s >= LEAST_STEP_S:
            raise InputError(f"every_s={every_s}: give at least {LEAST_STEP_S} seconds", option="every")
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold}: give a score from 0 to 1")
        if short_side is not None:
            if scales:
                raise InputError("short_side and scales exclude each other: give the sizes as scales")
            scales = (short_side,)
        self.every_s, self.threshold, self.start_s, self.boxes = every_s, threshold, start_s, boxes
        self.actions = BoxActions(
            model_or_name,
            weights=weights,
            scales=scales,
            flip=flip,
            labels=labels,
            precision=precision,
            device=device,
            preprocessing=preprocessing,
            on_progress=on_progress,
        )
        self.labels, self.device = self.actions.labels, self.actions.device
        self._find_people = boxes if callable(boxes) else None
        if boxes is None:
            self._find_people = person_detector(self.device, on_progress=on_progress)
        self.frames_read = 0  # of the video in work
        self.info: VideoInfo | None = None  # of the same
        self.frames_expected: int | None = None  # as `VideoReader` has it
        self.image_size = np.ones(4)  # its width, height, width, height

    def detect(
        self,
        source: SourceLike,
        on_frame: Callable[[Frame], None] | None = None,
        *,
        start: PositionLike | None = None,
        end: PositionLike | None = None,
        damaged: Damaged = "error",
        known: Iterable[Answer] | None = None,
    ) -> Iterator[ActionBoxes]:
        """Yield one result for each keyframe of a file, a folder of images, a camera or a pipe, in order.

        on_frame: called with every frame as it is read, about half a clip ahead of its results. A folder of images
        has 30 a second, as AVA's frames. Frames before the first or after the last repeat that one, as AVA's authors
        do. Keyframes without people give empty results. start, end, damaged: as of `open_video`; keyframes outside of
        the part are left out. known: the `answers` of all parts of the video, which no network then computes again.
        `info` is what is known of the video. Raises VideoError; InputError for given boxes
        outside of the image or keyframes outside of the video (for files before anything is computed, for streams at
        their end).
        """
        found = find_source(source)
        reader, given = self._open(found, start, end, damaged)
        by_number = None if known is None else {values["number"]: values for values, _ in known}
        results = self._results(reader, given, found.name, on_frame, until_end=end is None, known=by_number)
        return (result for _, result in results)

    def answers(self, source: SourceLike, part: Part, *, end: PositionLike | None = None) -> Iterator[Answer]:
        """Compute the keyframes in a part of a file or a folder: what `detect` takes as `known`, but for their people's
        numbers. end: of the whole. Raises as `detect` does.
        """
        found = find_source(source)
        begin = part.first_needed(part.from_s + min(0.0, *self._reach_s())) if part.number > 1 else part.whole.start
        reader, given = self._open(found, begin, end, "error")
        for keyframe, result in self._results(reader, given, found.name, until_end=end is None, part=part):
            boxes, scores = keyframe.boxes.tolist(), keyframe.scores.tolist()
            actions = result.action_scores.tolist()
            yield {"number": keyframe.number, "boxes": boxes, "scores": scores, "action_scores": actions}, b""

    def _open(
        self, found: Source, start: PositionLike | None, end: PositionLike | None, damaged: Damaged
    ) -> tuple[VideoReader, GivenBoxes | None]:
        given = None
        folder_rate = TRAINED_RATE if found.kind == "images" else None
        reader = open_video(found, start, end, rate=folder_rate, damaged=damaged)
        self.info, self.frames_expected = reader.info, reader.frames_expected
        if self._find_people is None:
            rate = None if reader.info.frame_rate is None else float(reader.info.frame_rate)
            try:
                given = given_boxes(self.boxes, video=found.stem, start_s=self.start_s, rate=rate)
                given.check(reader.info.height, reader.info.width)
                if found.stored and given.times_s:
                    last_s = float(frame_times(found, rate=folder_rate)[-1])
                    self._check_times(given, last_s, rate, found.name)
            except BaseException:
                reader.close()
                raise
        return reader, given

    def _reach_s(self) -> tuple[float, float]:
        """Times of the first and last frame of all clips, relative to their keyframe."""
        offsets = [clip_offsets_s(*sampling) for sampling in self.actions.samplings]
        return min(float(times[0]) for times in offsets), max(float(times[-1]) for times in offsets)

    def _results(
        self,
        reader: VideoReader,
        given: GivenBoxes | None,
        name: str,
        on_frame: Callable[[Frame], None] | None = None,
        *,
        until_end: bool = True,
        part: Part | None = None,
        known: Mapping[int, dict[str, Any]] | None = None,
    ) -> Iterator[tuple[_Keyframe, ActionBoxes]]:
        first_s, last_s = self._reach_s()
        times = self._keyframe_times(given, part)
        upcoming = next(times, None)
        waiting: deque[_Keyframe] = deque()
        held: deque[_Held] = deque()
        linker = PersonLinker()
        previous: Frame | None = None
        skipped: Frame | None = None  # the last frame before the earliest clip, not scaled yet
        transforms: list[CropTransform] = []
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
                if previous is None:
                    while frame.index and upcoming is not None and upcoming[1] < frame.time_s - grace:
                        upcoming = next(times, None)  # before the part
                    height, width = frame.image.shape[:2]
                    transforms = self.actions.transforms(height, width) if known is None else []
                    self.image_size = np.array([width, height, width, height], np.float64)
                while previous is not None and upcoming is not None and frame.time_s > upcoming[1] + grace:
                    grid = given is None or not given.times_s
                    if grid and upcoming[1] > previous.time_s + LONGEST_PAUSE_S:
                        logger.warning(
                            "%s: no frame between %.0f and %.0f s; nothing is computed there",
                            name,
                            previous.time_s,
                            frame.time_s,
                        )
                        first = math.ceil((frame.time_s - grace) / self.every_s)
                        times = self._keyframe_times(None, part, first=first)
                        upcoming = next(times, None)
                        break
                    waiting.append(self._keyframe(previous, given, known, *upcoming))
                    upcoming = next(times, None)
                while waiting and frame.time_s > waiting[0].time_s + last_s + grace:
                    yield self._result(waiting.popleft(), held, grace, linker)
                if waiting or upcoming is not None:
                    clip_s = (waiting[0].time_s if waiting else upcoming[1]) + first_s  # type: ignore[index]
                    skipped = _hold(held, skipped, frame, clip_s + grace, transforms)
                elif on_frame is None:
                    self.frames_read += 1
                    return  # no keyframe is left
                previous = frame
                self.frames_read += 1
                if on_frame is not None:
                    on_frame(frame)
            if previous is None:
                return
            end_s = previous.time_s + 1 / rate
            if skipped is not None:
                held.append(_held(skipped, transforms))
            while upcoming is not None and upcoming[1] < end_s - grace:
                waiting.append(self._keyframe(previous, given, known, *upcoming))
                upcoming = next(times, None)
            while waiting:
                yield self._result(waiting.popleft(), held, grace, linker)
        whole = part is None or part.is_last
        if until_end and whole and given is not None and given.times_s and upcoming is not None:
            self._check_times(given, previous.time_s, rate, name)

    def _keyframe_times(
        self, given: GivenBoxes | None, part: Part | None, first: int = 0
    ) -> Iterator[tuple[int, float]]:
        """Number and time of each keyframe in a part: on a grid, from `first` on, or where boxes are given."""
        for number, time_s in self._all_keyframe_times(given, first):
            if part is not None and time_s >= part.until_s:
                return
            if part is None or time_s >= part.from_s:
                yield number, time_s

    def _all_keyframe_times(self, given: GivenBoxes | None, first: int) -> Iterator[tuple[int, float]]:
        if given is None or not given.times_s:
            yield from ((number, number * self.every_s) for number in count(first))
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
                    f"{self.start_s:g} to {end_s + self.start_s:.3f} s; start_s is the time of its first moment",
                    option="start_s",
                )

    def _keyframe(
        self,
        frame: Frame,
        given: GivenBoxes | None,
        known: Mapping[int, dict[str, Any]] | None,
        number: int,
        time_s: float,
    ) -> _Keyframe:
        found: Found
        height, width = frame.image.shape[:2]
        if known is not None:
            if number not in known:
                raise misfit(f"the keyframe at {time_s:g} s is in none of them")
            values = known[number]
            arrays = [np.array(values[name], np.float64) for name in ("boxes", "scores")]
            actions = np.array(values["action_scores"], np.float32).reshape(-1, len(self.labels))
            return _Keyframe(number, time_s, arrays[0].reshape(-1, 4), arrays[1], actions)
        if given is not None:
            found = given.at(number, height, width)
        else:
            assert self._find_people is not None
            found = checked(self._find_people(frame.image), height, width)
        boxes, scores = found
        sure = scores >= self.threshold
        return _Keyframe(number, time_s, boxes[sure], scores[sure])

    def _result(
        self, keyframe: _Keyframe, held: Sequence[_Held], grace_s: float, linker: PersonLinker
    ) -> tuple[_Keyframe, ActionBoxes]:
        times_s = np.array([frame.time_s for frame in held])

        def frames_at(frames: int, stride: int, transform: CropTransform) -> NDArray[np.uint8]:
            # The last frame that is shown by then
            wanted_s = keyframe.time_s + clip_offsets_s(frames, stride) + grace_s
            chosen = np.clip(np.searchsorted(times_s, wanted_s, side="right") - 1, 0, None)
            return np.stack([held[i].images[transform] for i in chosen])

        width, height = self.image_size[:2].astype(int).tolist()
        scores = keyframe.action_scores
        if scores is None:
            scores = self.actions.scores(frames_at, keyframe.boxes, height, width)
        return keyframe, ActionBoxes(
            time_s=keyframe.time_s,
            boxes_xyxy=keyframe.boxes.astype(np.float32),
            person_scores=keyframe.scores.astype(np.float32),
            action_scores=scores,
            labels=self.labels,
            track_ids=linker.step(keyframe.boxes),
        )


def clip_offsets_s(frames: int, stride: int) -> NDArray[np.float64]:
    """Times of a clip's frames relative to its keyframe, (frames,): from half a clip before it, at 30 a second."""
    return np.asarray((np.arange(frames) - frames / 2) * stride / TRAINED_RATE)


class DetectOptions(TypedDict, total=False):
    """Options of `detect`: those of `Detector`."""

    weights: Any
    threshold: float
    start_s: float
    labels: Labels | None
    short_side: int | None
    scales: Sequence[int]
    flip: bool
    precision: Precision
    device: Device
    preprocessing: Preprocessing | None


def detect(
    source: SourceLike,
    model_or_name: Model | Sequence[Model] = DEFAULT_MODEL,
    boxes: Any = None,
    every_s: float = 1.0,
    *,
    on_progress: OnProgress | None = None,
    **options: Unpack[DetectOptions],
) -> Iterator[ActionBoxes]:
    """Find who does what in one video: an iterator of one `ActionBoxes` for each keyframe.

    boxes, every_s and options: as `Detector` takes them; boxes=None detects people with torchvision's Faster R-CNN.
    on_progress: called while weights are downloaded and after each keyframe, with the frames read. To go through many
    videos make one `Detector`, so that the network is built once. Raises VideoError, InputError, DatasetError (files of
    boxes), CheckpointError, WeightsUnavailable; what can be known beforehand at once.
    """
    detector = Detector(model_or_name, boxes, every_s, on_progress=on_progress, **options)
    found, started = detector.detect(source), time.perf_counter()

    def results() -> Iterator[ActionBoxes]:
        for result in found:
            if on_progress is not None and detector.info is not None:
                seconds = time.perf_counter() - started
                on_progress(Progress("detect", detector.frames_read, detector.frames_expected, "frames", seconds))
            yield result

    return results()


def _hold(
    held: deque[_Held], skipped: Frame | None, frame: Frame, clip_s: float, transforms: Sequence[CropTransform]
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
        held.append(_held(skipped, transforms))
    held.append(_held(frame, transforms))
    return None


def _held(frame: Frame, transforms: Sequence[CropTransform]) -> _Held:
    return _Held(frame.time_s, {transform: scaled(frame.image, transform) for transform in transforms})


def _size(frame: Frame) -> str:
    return f"{frame.image.shape[1]}x{frame.image.shape[0]}"
