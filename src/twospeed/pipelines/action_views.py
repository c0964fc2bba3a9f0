"""From a video to clips that a recognition network takes: test views of a file, or windows sliding over a stream."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import ClipTooShort, VideoError
from twospeed.pipelines.inputs import Array, arrays_of
from twospeed.pipelines.parts import Part
from twospeed.results import Frame, VideoInfo
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import scale_only, view_crops
from twospeed.video.containers import Damaged
from twospeed.video.reader import VideoReader, frame_times, open_video, probe, read_frames
from twospeed.video.sampling import (
    LONGEST_PAUSE_S,
    TRAINED_RATE,
    ClipShape,
    clip_span,
    decoded_short_side,
    uniform_clip,
)
from twospeed.video.sources import GRACE_S, PositionLike, Source, SourceLike, find_source, parse_position

logger = logging.getLogger(__name__)

MOST_CLIP_BYTES = 1 << 29
"""Memory that the frames of one clip may take, scaled, as float32."""
Frames: TypeAlias = Literal["none", "small", "full"]
"""Which frames come beside the views: none, or all, at the size that views are made of or at their own."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One temporal view, with all its crops: clip float32 (S, 3, T, H, W), channels last in memory.

    number: which temporal view. sampling: which of the samplings. start_s, end_s: times of its first and last frame.
    """

    number: int
    sampling: int
    start_s: float
    end_s: float
    clip: Array


def prepare(frames: Array, sampling: ClipShape, crops: int) -> Array:
    """Scale, crop and normalise frames: uint8 (T, H, W, 3) RGB -> float32 (S, 3, T, crop, crop).

    Bilinear without antialiasing, as the authors' tests; crops lie along the longer side. A tensor or a NumPy array,
    and the same comes back.
    """
    arrays = arrays_of(frames)
    images = arrays.channels_first(frames)  # (T, 3, H, W)
    height, width = images.shape[-2:]
    check_clip("the clip", height, width, sampling.short_side, len(images))
    scaled = scale_only(height, width, sampling.short_side).frames(images)
    normal = normalise(scaled, sampling.mean, sampling.std, order=sampling.order)
    height, width = normal.shape[-2:]
    places = view_crops(height, width, short_side=sampling.short_side, crop=sampling.crop, crops=crops)
    return arrays.stacked_clips([place.frames(normal) for place in places])


def check_clip(name: str, height: int, width: int, short_side: int, frames: int) -> None:
    """Raise VideoError for images so long that a clip of them, scaled, takes more memory than `MOST_CLIP_BYTES`."""
    scale = short_side / min(height, width)
    size = round(width * scale), round(height * scale)
    if (wanted := 12 * frames * size[0] * size[1]) > MOST_CLIP_BYTES:
        raise VideoError(
            f"{name}: {frames} frames of {width}x{height}, scaled to {size[0]}x{size[1]}, take {wanted / 1e9:.1f} GB; "
            "crop the video first"
        )


class UniformViews(Sequence[View]):
    """The test views of a file or folder: `clips` spread uniformly, for each sampling; only their frames are decoded.

    Views may be read in any order and from several threads, or in one pass `with_frames`. start, end: the part that
    counts, damaged: what to do at broken frames, as `open_video` takes them; times stay those of the whole video. A
    video shorter than a clip repeats its last frame, as the authors' loaders do, or raises ClipTooShort. Raises
    VideoError when a view is read.
    """

    def __init__(
        self,
        source: SourceLike,
        samplings: Sequence[ClipShape],
        clips: int,
        crops: int,
        *,
        pad: Literal["repeat_last", "error"],
        start: PositionLike | None = None,
        end: PositionLike | None = None,
        damaged: Damaged = "error",
        arrays: ModuleType | None = None,
    ) -> None:
        self.arrays = arrays or arrays_of(None)
        self.source, self.start, self.end, self.damaged = find_source(source), start, end, damaged
        self.samplings, self.clips, self.crops, self.pad = samplings, clips, crops, pad

    def __len__(self) -> int:
        return self.clips * len(self.samplings)

    @cached_property
    def _facts(self) -> tuple[NDArray[np.float64], int, float | None, int]:
        """Times of the part's frames, the first one's index, frames per second (None for folders), shorter side."""
        # The rate is that of a folder of images; files have their own
        times_s = frame_times(self.source, rate=TRAINED_RATE, damaged=self.damaged)
        first, last = _place(times_s, self.start, 0), _place(times_s, self.end, len(times_s))
        if first >= last:
            raise VideoError(f"{self.source.name}: no frame from start={self.start} to end={self.end}", option="start")
        times_s = times_s[first:last]
        info = probe(self.source)
        rate = None
        if self.source.kind != "images" and len(times_s) > 1 and times_s[-1] > times_s[0]:
            rate = (len(times_s) - 1) / float(times_s[-1] - times_s[0])
        for sampling in self.samplings:
            span = clip_span(sampling.frames, sampling.stride, rate)
            if self.pad == "error" and len(times_s) < math.floor(span):
                raise ClipTooShort(
                    f"{self.source.name}: a clip of {sampling.frames} frames at stride {sampling.stride} spans "
                    f"{span:.0f} frames, the video has {len(times_s)}; choose pad='repeat_last', or a network of "
                    "shorter clips"
                )
        return times_s, first, rate, min(info.width, info.height)

    def __getitem__(self, index: int) -> View:  # type: ignore[override]  # slices are not needed
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, short_side, which = self._facts[1], self._facts[3], index % len(self.samplings)
        indices, reduced = self._indices(index), decoded_short_side(short_side, self.samplings[which].short_side)
        return self._view(index, indices, read_frames(self.source, indices + first, short_side=reduced))

    def with_frames(self, frames: Frames) -> Generator[View | Frame | VideoInfo, None, None]:
        """Yield what is known of the video, every frame of the part, and all views, each behind its last frame.

        The video is decoded once, and frames of clips that are not complete are held at the networks' size alone, so
        that memory does not grow with the length.
        """
        times_s, _, _, short_side = self._facts
        reduced = decoded_short_side(short_side, self.samplings[0].short_side)
        chosen = {index: self._indices(index) for index in range(len(self))}
        last_use = {place: index for index, indices in chosen.items() for place in indices.tolist()}
        held: dict[int, NDArray[np.uint8]] = {}
        upcoming = 0
        with closing(_open(self.source, self.start, self.end, reduced, frames, self.damaged)) as reader:
            yield reader.info
            for frame in _one_size(reader, self.source.name):
                # By its time, as indices shift where frames are lost
                place = int(np.searchsorted(times_s, frame.time_s + GRACE_S / 2, side="right")) - 1
                if place in last_use:
                    held[place] = _image(frame)
                yield frame
                while upcoming < len(self) and place >= chosen[upcoming][-1]:
                    yield self._of_held(upcoming, chosen[upcoming], held, reduced)
                    upcoming += 1
                    held = {kept: image for kept, image in held.items() if last_use[kept] >= upcoming}
        for index in range(upcoming, len(self)):  # whose last frames are lost
            yield self._of_held(index, chosen[index], held, reduced)

    def _indices(self, index: int) -> NDArray[np.int64]:
        times_s, _, rate, _ = self._facts
        number, which = divmod(index, len(self.samplings))
        sampling = self.samplings[which]
        return uniform_clip(number, self.clips, len(times_s), sampling.frames, sampling.stride, rate)

    def _of_held(
        self, index: int, indices: NDArray[np.int64], held: dict[int, NDArray[np.uint8]], reduced: int | None
    ) -> View:
        """A view of frames that are held; for one that is lost, the last before it."""
        wanted = self.samplings[index % len(self.samplings)].short_side
        if decoded_short_side(self._facts[3], wanted) != reduced:
            return self[index]  # of an ensemble whose members want other sizes
        places = np.array(list(held), np.int64)
        if not places.size:
            raise VideoError(f"{self.source.name}: no frame of clip {index} can be decoded")
        nearest = places[np.clip(np.searchsorted(places, indices, side="right") - 1, 0, None)]
        return self._view(index, indices, np.stack([held[place] for place in nearest.tolist()]))

    def _view(self, index: int, indices: NDArray[np.int64], images: NDArray[np.uint8]) -> View:
        times_s = self._facts[0]
        number, which = divmod(index, len(self.samplings))
        clip = prepare(self.arrays.as_array(images), self.samplings[which], self.crops)
        return View(number, which, float(times_s[indices[0]]), float(times_s[indices[-1]]), clip)


def sliding_views(
    source: SourceLike,
    samplings: Sequence[ClipShape],
    every_s: float,
    crops: int,
    *,
    start: PositionLike | None = None,
    end: PositionLike | None = None,
    damaged: Damaged = "error",
    arrays: ModuleType | None = None,
    part: Part | None = None,
    frames: Frames = "none",
) -> Generator[View | Frame | VideoInfo, None, None]:
    """Yield views whose centres are `every_s` seconds apart, in one pass over a file, folder, pipe or camera.

    frames: yield what is known of the video and every frame, too, each before the views that end with it.

    start, end, damaged: as of `open_video`; times stay those of the whole video. part: yield only the views that begin
    in it, each as all together would have it.
    The last one is moved back to end with the video. Only the frames of one window are held, whatever the length. A
    video shorter than a window repeats its last frame. Raises VideoError where the image changes its size.
    """
    arrays = arrays or arrays_of(None)
    source = find_source(source)
    reduce: int | None = max(sampling.short_side for sampling in samplings)
    if source.stored:
        info = probe(source)
        reduce = decoded_short_side(min(info.width, info.height), samplings[0].short_side)
    longest = max(sampling.span_s for sampling in samplings)
    held: deque[Frame] = deque()
    number = 0
    first_s, until_s = 0.0, math.inf
    begin = start
    if part is not None:
        first_s, until_s = part.begin_s, part.until_s
        while first_s + number * every_s < part.from_s:
            number += 1
        begin = part.first_needed(first_s + (number - 1) * every_s)  # the last one is moved back by less than a step
    with closing(_open(source, begin, end, reduce, frames, damaged)) as reader:
        if frames != "none":
            yield reader.info
        rate = float(reader.info.frame_rate or TRAINED_RATE)
        for frame in _one_size(reader, source.name):
            if frames != "none":
                yield frame
            if start is not None and not held and part is None:
                first_s = frame.time_s
            held.append(replace(frame, image=_image(frame), small=None))
            # The frame that has just come is the first one after the window, so the window's frames are complete.
            while frame.time_s > (window_s := first_s + number * every_s) + longest - 0.5 / rate:
                if window_s >= until_s:
                    return
                if len(held) > 1 and window_s > held[-2].time_s + LONGEST_PAUSE_S:
                    number = max(number + 1, math.ceil((frame.time_s - longest - first_s) / every_s))
                    logger.warning(
                        "%s: no frame between %.0f and %.0f s; nothing is computed there",
                        source.name,
                        held[-2].time_s,
                        frame.time_s,
                    )
                    continue
                yield from _window(held, samplings, number, window_s + longest / 2, rate, crops, arrays)
                number += 1
            while len(held) > 1 and held[1].time_s < frame.time_s - longest - 1 / rate:
                held.popleft()
    if not held:
        return
    end_s = held[-1].time_s + 1 / rate
    if first_s + number * every_s >= until_s:
        return
    if number == 0 or end_s > first_s + (number - 1) * every_s + longest + 0.5 / rate:
        yield from _window(
            held, samplings, number, max(end_s - longest / 2, first_s + longest / 2), rate, crops, arrays
        )


def _window(
    held: Sequence[Frame],
    samplings: Sequence[ClipShape],
    number: int,
    centre_s: float,
    rate: float,
    crops: int,
    arrays: ModuleType,
) -> Iterator[View]:
    """Cut the clip of every sampling around one centre out of the frames held."""
    times_s = np.array([frame.time_s for frame in held])
    for which, sampling in enumerate(samplings):
        start_s = centre_s - sampling.span_s / 2
        wanted_s = start_s + np.linspace(0.0, max(sampling.span_s - 1 / rate, 0.0), sampling.frames)
        # The last frame that is shown by then; times are rounded by containers, hence the small grace
        chosen = np.clip(np.searchsorted(times_s, wanted_s + 0.01 / rate, side="right") - 1, 0, None)
        images: NDArray[np.uint8] = np.stack([held[i].image for i in chosen])
        first_s, last_s = float(times_s[chosen[0]]), float(times_s[chosen[-1]])
        yield View(number, which, first_s, last_s, prepare(arrays.as_array(images), sampling, crops))


def _open(
    source: Source, start: PositionLike | None, end: PositionLike | None, side: int | None, frames: Frames,
    damaged: Damaged,
) -> VideoReader:  # fmt: skip
    """Open a video whose frames are at this shorter side, or have a `small` image of it where they are at full size."""
    short_side, small_side = (None, side) if frames == "full" else (side, None)
    return open_video(
        source, start, end, rate=folder_rate(source), damaged=damaged, short_side=short_side, small_side=small_side
    )


def folder_rate(source: Source) -> float | None:
    """Frames per second that a folder of images counts as having; other sources have times of their own."""
    return TRAINED_RATE if source.kind == "images" else None


def _image(frame: Frame) -> NDArray[np.uint8]:
    """The image of a frame at the size that views are made of."""
    return frame.image if frame.small is None else frame.small


def _one_size(frames: Iterable[Frame], name: str) -> Iterator[Frame]:
    """Pass on frames of one size. Raises VideoError where it changes."""
    first = None
    for frame in frames:
        first = first or _size(frame)
        if _size(frame) != first:
            raise VideoError(
                f"{name}: frame {frame.index} is {_size(frame)}, those before are {first}; "
                "cut the video there, or re-encode it at one size"
            )
        yield frame


def _place(times_s: NDArray[np.float64], position: PositionLike | None, otherwise: int) -> int:
    """Index of the first frame at a position or behind it."""
    if position is None:
        return otherwise
    found = parse_position(position)
    return min(found, len(times_s)) if isinstance(found, int) else int(np.searchsorted(times_s, found - GRACE_S))


def _size(frame: Frame) -> str:
    return f"{frame.image.shape[1]}x{frame.image.shape[0]}"
