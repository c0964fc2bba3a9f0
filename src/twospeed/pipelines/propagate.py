"""Track from annotated frames in any direction: what lies between two of them comes from the nearer one.

A video falls into segments that begin at an annotated frame and run away from it, forward or backward. Each is tracked
by itself, from the annotated frames nearest to it, so that a correction changes the segments beside it and no others,
and an interrupted run continues at any of them. Frames are read in either order in bounded memory; results that come
last one first are kept in a temporary file until their turn.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.pipelines.video_tracker import Labels
from twospeed.results import Frame, ObjectMasks
from twospeed.video.reader import open_video, read_reverse
from twospeed.video.sources import SourceLike

if TYPE_CHECKING:
    from twospeed.pipelines.tracker import Tracker

Direction = Literal["forward", "backward", "both"]
ReadFrames = Callable[[range], Iterable[Frame]]
Gone = Mapping[int, Collection[int]]

MOST_KEYFRAMES = 8
"""Annotated frames that a segment begins with: the nearest ones."""


def propagate(
    read: ReadFrames,
    tracker: Tracker,
    keyframes: Mapping[int, Labels],
    indices: range,
    gone: Gone | None = None,
    *,
    earlier: Mapping[int, NDArray[np.uint8]] | None = None,
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Track one segment of a video, rising or falling, from the annotated frames around it.

    read: gives the frames of consecutive indices, in the order of the range (see `frames_of`). tracker: is restarted.
    keyframes: masks by frame index, of any frames. Those within `indices` count when they are reached; of the others
    the 8 nearest to its beginning are remembered before, the nearest last, so that it decides where they disagree.
    gone: ids by the frame from which on they are absent, until a keyframe shows them. earlier: labels that an
    interrupted run gave the frames just before, in the order in which it came to them.
    Yields frames and results in the order of `indices`. Raises as `Tracker.step`.
    """
    tracker.restart()
    outside = [index for index in keyframes if index not in indices]
    nearest = sorted(outside, key=lambda index: abs(index - indices[0]))[:MOST_KEYFRAMES]
    for index in reversed(nearest):
        for frame in read(range(index, index + 1)):
            tracker.annotate(frame.image, keyframes[index])
    for index, labels in (earlier or {}).items():
        for frame in read(range(index, index + 1)):
            tracker.replay(frame.image, labels)
    for frame, seen in tracker.seen_ahead(read(indices), in_advance=True):
        tracker.absent = absent_at(frame.index, keyframes, gone or {})
        result = tracker.step(frame.image, keyframes.get(frame.index), time_s=frame.time_s, **seen)
        yield frame, result.numbered(frame.index)


def absent_at(index: int, keyframes: Mapping[int, Labels], gone: Gone) -> frozenset[int]:
    """Return the ids that were declared gone at this frame or before, and that no keyframe has shown since."""
    absent = set[int]()
    for when in sorted(at for at in {*keyframes, *gone} if at <= index):
        if when in keyframes:
            absent -= {int(i) for i in np.unique(np.asarray(keyframes[when]))}
        absent |= set(gone.get(when, ()))
    return frozenset(absent)


def frames_of(source: SourceLike) -> ReadFrames:
    """Return what reads frames of a stored source by range. Raises InputError, when called, for other sources."""

    def read(indices: range) -> Iterator[Frame]:
        if not len(indices):
            return
        if indices.step < 0:
            yield from read_reverse(source, indices[-1], indices[0] + 1)
            return
        with open_video(source, indices[0], indices[-1] + 1) as reader:
            yield from reader

    return read


def plan(keyframes: Collection[int], frames: range, direction: Direction) -> list[tuple[range, bool]]:
    """Divide a video into segments, in order of frames, each with whether anything is known there.

    forward: each annotated frame up to the next. backward: each down to the one before. both: half way to either side,
    the first one back to the beginning and the last one to the end. A falling range begins at its last frame.
    """
    points = sorted(keyframes)
    if not points:
        return [(frames, False)]
    first, last = frames[0], frames[-1] + 1
    if direction == "forward":
        ahead = [(range(a, b), True) for a, b in pairwise([*points, last])]
        segments = [(range(first, points[0]), False), *ahead]
    elif direction == "backward":
        behind = [(range(b, a, -1), True) for a, b in pairwise([first - 1, *points])]
        segments = [*behind, (range(points[-1] + 1, last), False)]
    else:
        segments = [(range(points[0] - 1, first - 1, -1), True)]
        for a, b in pairwise(points):
            middle = (a + b) // 2 + 1
            segments += [(range(a, middle), True), (range(b - 1, middle - 1, -1), True)]
        segments.append((range(points[-1], last), True))
    return [(indices, known) for indices, known in segments if len(indices)]


def track_segments(
    read: ReadFrames,
    tracker: Tracker,
    keyframes: Mapping[int, Labels],
    frames: range,
    direction: Direction = "both",
    gone: Gone | None = None,
    *,
    begin: int | None = None,
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Track a part of a video from annotated frames within it, and yield its frames with results, in order.

    read, keyframes, gone: as `propagate`. frames: the part. direction: see `plan`; frames of which nothing is known are
    empty. begin: leave out the results of the frames before; those after are the same. Memory is bounded: results of
    backward segments wait as labels in a temporary file, and their `probabilities` are those of the labels, 0 or 1.
    Raises InputError for a keyframe outside of the part, and as `Tracker.step`.
    """
    check_keyframes({*keyframes, *(gone or {})}, frames)
    tracker.reset()
    if tracker.finetune is not None:
        index = min(keyframes)
        for frame in read(range(index, index + 1)):
            tracker.learn(frame.image, keyframes[index])
    for indices, known in plan(keyframes, frames, direction):
        if begin is not None and max(indices) < begin:
            continue
        segment: Iterator[tuple[Frame, ObjectMasks]]
        if not known:
            segment = ((frame, _nothing(frame)) for frame in read(indices))
        elif indices.step > 0:
            segment = propagate(read, tracker, keyframes, indices, gone)
        else:
            segment = _turned(read, propagate(read, tracker, keyframes, indices, gone), indices)
        for frame, result in segment:
            if begin is None or frame.index >= begin:
                yield frame, result


def check_keyframes(indices: Collection[int], frames: range) -> None:
    """Raise InputError where one of these is no frame of the part."""
    if outside := sorted(index for index in indices if index not in frames):
        raise InputError(
            f"a mask is given for frame {outside[0]}, the video has {len(frames)} frames ({frames[0]} to {frames[-1]})",
            option="mask",
        )


def _nothing(frame: Frame) -> ObjectMasks:
    size = frame.image.shape[:2]
    return ObjectMasks(np.zeros(size, np.uint8), np.ones((1, *size), np.float32), (), frame.index, frame.time_s)


def _turned(
    read: ReadFrames, falling: Iterator[tuple[Frame, ObjectMasks]], indices: range
) -> Iterator[tuple[Frame, ObjectMasks]]:
    """Bring results that come last one first into the order of frames."""
    kept: list[
        tuple[int, int, tuple[int, ...], NDArray[np.float32]]
    ] = []  # place and length in the file, ids, how sure
    with tempfile.TemporaryFile() as file:
        for _, result in falling:
            packed = zlib.compress(result.labels.tobytes(), 1)
            kept.append((file.tell(), len(packed), result.object_ids, result.confidence))
            file.write(packed)
        for frame in read(indices[::-1]):
            at, length, ids, confidence = kept.pop()
            file.seek(at)
            size = frame.image.shape[:2]
            labels = np.frombuffer(zlib.decompress(file.read(length)), np.uint8).reshape(size).copy()
            planes = partial(_planes, labels, ids)
            yield frame, ObjectMasks(labels, planes, ids, frame.index, frame.time_s, confidence)


def _planes(labels: NDArray[np.uint8], ids: tuple[int, ...]) -> NDArray[np.float32]:
    return np.stack([labels == i for i in (0, *ids)]).astype(np.float32)
