"""Read frames from any source, all in one way: in order (`open_video`), by index (`read_frames`), or backwards.

    with open_video("clip.mp4", start="00:01:00", end="90s") as frames:
        for frame in frames:
            frame.index, frame.time_s, frame.image

Decoding runs on a thread of its own, a few frames ahead, so that it overlaps with the network, and memory does not
grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video import animations, camera, containers, folders, network, seeking
from twospeed.video.ahead import DecodeAhead
from twospeed.video.containers import ASSUMED_RATE, Damaged, Wanted
from twospeed.video.sources import GRACE_S, PositionLike, Source, SourceLike, find_source, frames_of, parse_position

Rate: TypeAlias = float | Fraction | None
Items: TypeAlias = Generator[Frame | VideoInfo, None, None]

HELD_BYTES = 256 << 20
"""Memory for frames that are decoded ahead or, backwards, held; at least one frame or chunk whatever its size."""


class VideoReader:
    """The frames of one source in order, each once; made by `open_video`.

    Iterate over it, or call `next`. `info` says what is known beforehand, `frames_expected` how many frames will come:
    as the container's count and rate suggest, None where they suggest nothing; for progress alone. `reads_ahead` says
    whether frames are read before they are asked for, and all of them. `close()`, leaving a `with` block, or dropping
    the reader ends the decoding thread and closes the source.
    """

    def __init__(
        self, frames: Items, *, ahead: int, keep_newest: bool = False, start: float = 0, end: float | None = None
    ) -> None:
        # The source is opened on the thread too: waiting for a thread can be interrupted (Ctrl-C), waiting inside
        # FFmpeg for a pipe that stays silent cannot.
        self._items: DecodeAhead[Frame | VideoInfo] | Items = (
            DecodeAhead(frames, ahead, keep_newest=keep_newest) if ahead else frames
        )
        self.reads_ahead = ahead > 0 and not keep_newest
        self._closed = False
        info = next(self._items)
        assert isinstance(info, VideoInfo)
        self.info: VideoInfo = info
        self.frames_expected = _expected(info, start, end)
        if isinstance(self._items, DecodeAhead):
            self._items.hold(max(1, min(ahead, HELD_BYTES // (3 * info.width * info.height))))

    def __iter__(self) -> VideoReader:
        return self

    def __next__(self) -> Frame:
        if self._closed:
            raise StopIteration
        frame = next(self._items)
        assert isinstance(frame, Frame)
        return frame

    def close(self) -> None:
        """Stop decoding and close the source; iteration then ends. Closing twice does nothing."""
        self._closed = True
        self._items.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoReader({self.info!r})"


def open_video(
    source: SourceLike,
    start: PositionLike | None = None,
    end: PositionLike | None = None,
    *,
    ahead: int = 8,
    format: str | None = None,
    rate: Rate = None,
    short_side: int | None = None,
    small_side: int | None = None,
    damaged: Damaged = "error",
    live: Literal["newest", "every"] | None = None,
    reconnect_s: float | None = None,
) -> VideoReader:
    """Open a video and return an iterator over its frames, with what is known of it in `.info`.

    source: anything that `find_source` takes: a path of a file or folder, a pattern, a camera, "-", an address, a
    binary stream, bytes, images or Frames from Python. An open VideoReader is returned as it is.
    start, end: the part to deliver, as frame (int), seconds (float or "3.5s") or time ("HH:MM:SS.mmm"), as
    `parse_position` reads them: frames with start <= index < end or start <= time_s < end, where half a millisecond
    counts as equal. Files are sought, streams read through. Indices and times stay those of the whole source.
    ahead: frames decoded in advance on a thread, fewer where they are large; 0 decodes on the caller's, as images from
    Python always are.
    format: FFmpeg's name of the container where a stream does not show it ("mpegts", "matroska", "h264", ...).
    rate: frames per second of sources without times of their own (folders: 24 unless given; raw streams and images
    from Python: 25; a camera is asked for it); sources with times keep them.
    short_side: scale every frame to this shorter side, in pixels, while converting it (not images from Python).
    small_side: deliver `Frame.small` too, at this shorter side, for who needs both; the file is decoded once.
    damaged: what to do at a frame that cannot be decoded, or a file that is cut off: "error" raises VideoError after
    delivering the frames before it, "stop" ends quietly there, "skip" continues (later indices then shift in files).
    live: "newest" drops the oldest frame instead of falling behind (the default of cameras and rtsp), which shows as a
    gap in the indices; "every" delivers all (the default of everything else).
    reconnect_s: seconds without a frame after which a broken network stream is given up (see `read_network`).

    Frames are uint8 RGB (H, W, 3), upright by rotation and mirroring metadata, in 8 bits, by the colour matrix and
    range that the stream states; HDR is tone mapped, pixels keep their stored shape (no correction of anamorphic
    video). Where a stream changes its size, later images are scaled whole into the first one's size, with black bars
    where the shapes differ; images of a folder come each at its own.
    Raises VideoError for what is missing, unreadable, empty, too large, has no image or none in the part; InputError
    for bad arguments.
    """
    first = 0 if start is None else parse_position(start, "start")
    last = None if end is None else parse_position(end, "end")
    if last is not None and isinstance(first, int) == isinstance(last, int) and last <= first:
        raise InputError(f"end={end} is not after start={first if start is None else start}", option="end")
    if ahead < 0:
        raise InputError(f"ahead must be 0 or more, not {ahead}")
    exact_rate = _rate(rate)
    _check_short_side(short_side)
    _check_short_side(small_side)
    if damaged not in ("error", "stop", "skip"):
        raise InputError(f"damaged={damaged!r} is none of 'error', 'stop', 'skip'", option="damaged")
    if live not in (None, "newest", "every"):
        raise InputError(f"live={live!r} is neither 'newest' nor 'every'", option="live")
    if reconnect_s is not None and not 0 <= reconnect_s < float("inf"):
        raise InputError(f"reconnect_s is a number of seconds, not {reconnect_s}", option="reconnect_s")
    if isinstance(source, VideoReader):
        if start is None and end is None:
            return source
        raise InputError("start and end are given where a video is opened, this one is open already")
    found = find_source(source)
    if isinstance(first, float) and found.stored:
        first = _index_at(found, first, exact_rate)
    wanted = Wanted(
        start=first if isinstance(first, int) else 0, format=format, rate=exact_rate, short_side=short_side,
        small_side=small_side, damaged=damaged, reconnect_s=reconnect_s,
    )  # fmt: skip
    items = _items(found, wanted)
    if last is not None or isinstance(first, float):
        items = _part(items, found.name, first, last)
    newest = live == "newest" or (live is None and found.live)
    return VideoReader(items, ahead=0 if found.kind == "frames" else ahead, keep_newest=newest, start=first, end=last)


def may_read_ahead(frames: Iterable[Frame]) -> bool:
    """Return whether frames may be taken before their turn: those of a reader that does so itself, or of a sequence.

    Whoever makes frames one by one may do so as they come, or write each into the memory of the one before.
    """
    return frames.reads_ahead if isinstance(frames, VideoReader) else isinstance(frames, Sequence)


def _expected(info: VideoInfo, start: float, end: float | None) -> int | None:
    """Return about how many frames a part holds, or None. start, end: frames (int) or seconds (float)."""

    def index(position: float) -> float | None:
        if isinstance(position, int):
            return position
        return position * float(info.frame_rate) if info.frame_rate else None

    begin, stop = index(start), info.frame_count if end is None else index(end)
    if begin is None or stop is None:
        return None
    if info.frame_count is not None:
        stop = min(stop, info.frame_count)
    return max(0, round(stop - begin))


def _items(source: Source, wanted: Wanted) -> Items:
    """Everything that is wanted of a source: the VideoInfo, then Frames."""
    target, name, start = source.target, source.name, wanted.start
    match source.kind:
        case "camera":
            return camera.read_camera(target, wanted)
        case "images":
            return folders.read_images(target, name, wanted)
        case "animation":
            return animations.read_animation(target, wanted)
        case "frames":
            return _given(source, start, float(1 / (wanted.rate or ASSUMED_RATE)))
        case "network":
            return network.read_network(target, name, wanted)
    if source.kind == "file" and start and wanted.format is None:
        packets = seeking.index_packets(target, wanted.rate)
        if packets.pts is not None and start < len(packets):
            keyframe, origin = packets.keyframe_before(start), int(packets.pts[0])
            return containers.read_container(target, name, wanted, keyframe=keyframe, origin_pts=origin)
    return containers.read_container(target, name, wanted)


def _given(source: Source, start: int, step_s: float) -> Items:
    described = False
    count = 0
    for frame in frames_of(source, step_s):
        count += 1
        if frame.index < start:
            continue
        if not described:
            yield VideoInfo(source.name, frame.image.shape[1], frame.image.shape[0])
            described = True
        yield frame
    if not described:
        raise VideoError(f"{source.name}: {count} frames came, so none at start={start}", option="start")


def _part(items: Items, name: str, start: float, end: float | None) -> Items:
    """Pass on the VideoInfo and the frames of a part; `start` counts here only where it is in seconds."""
    delivered = False
    seen: Frame | None = None
    with closing(items):
        for item in items:
            if isinstance(item, VideoInfo):
                yield item
                continue
            at = item.index if isinstance(end, int) else item.time_s + GRACE_S
            if end is not None and at >= end:
                break
            seen = item
            if isinstance(start, float) and item.time_s + GRACE_S < start:
                continue
            delivered = True
            yield item
            del item
            seen = None
    if not delivered:
        until = "" if seen is None else f", the last frame seen is {seen.index} at {seen.time_s:.3f} s"
        raise VideoError(f"{name}: no frame from start={start} to end={end}{until}", option="start")


def _index_at(source: Source, start_s: float, rate: Fraction | None) -> int:
    times_s = _times(source, rate, "skip")
    index = int(np.searchsorted(times_s, start_s - GRACE_S))
    if index == len(times_s):
        raise VideoError(
            f"{source.name}: its last frame is at {times_s[-1]:.3f} s, so none at start={start_s} s", option="start"
        )
    return index


def read_frames(
    source: SourceLike, indices: Sequence[int] | NDArray[np.integer], *, short_side: int | None = None, threads: int = 0
) -> NDArray[np.uint8]:
    """Return the frames at these indices, in the order asked, repeats allowed: uint8 (T, H, W, 3), RGB, upright.

    They are those that `open_video` numbers so. The file is sought to the keyframe before the first frame and decoded
    once up to the last; only wanted frames are converted. Where whole groups of images lie between two wanted frames
    it seeks again. Files that do not state when their images are shown are decoded from the start.
    source: a file or folder, or a pattern of images. short_side: scale to this shorter side, in pixels.
    threads: of the decoder, 0 for one per core; 1 suits loaders that run one process per core.
    Raises VideoError for an index outside the video, and where images of a folder differ in size.
    """
    _check_short_side(short_side)
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or not wanted.size or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(f"indices must be a list of whole numbers, at least one, not {indices!r}")
    found = _stored(source)
    if found.kind == "file":
        return seeking.read_indexed(found.target, wanted.astype(np.int64), short_side=short_side, threads=threads)
    seeking.check_range(found.name, wanted.tolist(), len(_times(found, None, "skip")))
    if found.kind == "images":
        return folders.read_chosen_images(found.target, wanted.tolist(), short_side=short_side)
    with open_video(found, int(wanted.min()), int(wanted.max()) + 1, short_side=short_side) as reader:
        frames = {frame.index: frame.image for frame in reader if frame.index in wanted}
    return np.stack([frames[index] for index in wanted.tolist()])


def read_reverse(
    source: SourceLike,
    start: PositionLike | None = None,
    end: PositionLike | None = None,
    *,
    chunk: int = 16,
    short_side: int | None = None,
    rate: Rate = None,
) -> Iterator[Frame]:
    """Yield the frames that `open_video(source, start, end)` delivers, last one first, in bounded memory.

    `chunk` frames are decoded and held at a time; where a file can only be decoded from its start, as many as fit
    into `HELD_BYTES`, since each chunk costs a pass. source: a file or folder, or a pattern of images.
    Raises VideoError, InputError, before the first frame where the part is empty.
    """
    if chunk < 1:
        raise InputError(f"chunk must be at least 1 frame, not {chunk}")
    _check_short_side(short_side)
    part = frame_range(source, start, end, rate=rate)
    return _backwards(_stored(source), part.start, part.stop, chunk, short_side, _rate(rate))


def frame_range(
    source: SourceLike, start: PositionLike | None = None, end: PositionLike | None = None, *, rate: Rate = None
) -> range:
    """Return the indices of the frames that `open_video(source, start, end)` delivers from a file or folder.

    Raises VideoError where there are none, InputError for other sources.
    """
    found = _stored(source)
    times_s = _times(found, _rate(rate), "skip")
    first, last = (
        at if isinstance(at, int) else int(np.searchsorted(times_s, at - GRACE_S))
        for at in (
            parse_position(0 if start is None else start, "start"),
            parse_position(len(times_s) if end is None else end, "end"),
        )
    )
    last = min(last, len(times_s))
    if first >= last:
        raise VideoError(
            f"{found.name}: no frame from start={start} to end={end}; it has {len(times_s)}", option="start"
        )
    return range(first, last)


def _backwards(
    source: Source, first: int, last: int, chunk: int, short_side: int | None, rate: Fraction | None
) -> Iterator[Frame]:
    if source.kind != "images" and not (source.kind == "file" and seeking.index_packets(source.target).keyframes):
        with open_video(source, first, last, ahead=0, short_side=short_side) as reader:
            chunk = max(chunk, HELD_BYTES // (3 * reader.info.width * reader.info.height))
    while last > first:
        begin = max(first, last - chunk)
        with open_video(source, begin, last, ahead=0, short_side=short_side, rate=rate) as reader:
            held = list(reader)
        if [frame.index for frame in held] != list(range(begin, last)):
            raise VideoError(f"{source.name}: frames {begin} to {last - 1} cannot all be decoded; re-encode the video")
        while held:
            yield held.pop()
        last = begin


def probe(source: SourceLike) -> VideoInfo:
    """Return what is known of a source before reading it through; its first frame is decoded.

    Raises VideoError as `open_video` does. `frame_count` is the container's word: `len(frame_times(source))` counts.
    """
    with open_video(source, ahead=0) as reader:
        return reader.info


def frame_times(source: SourceLike, *, rate: Rate = None, damaged: Damaged = "error") -> NDArray[np.float64]:
    """Return the time of every frame in seconds from the first, float64 (T,): exact, and cheap (packets only).

    Frames are decoded only in files whose packets state no times of presentation or begin between keyframes.
    source: a file or folder, or a pattern of images. rate: frames per second of sources without times, as in
    `open_video`. damaged: a file that is cut off or whose frames do not all decode raises VideoError; "stop" and
    "skip" give the frames that it holds. Raises VideoError as `open_video` does.
    """
    return _times(_stored(source), _rate(rate), damaged).copy()


def _times(source: Source, rate: Fraction | None, damaged: Damaged) -> NDArray[np.float64]:
    if source.kind == "images":
        step = 1 / (rate or folders.FOLDER_RATE)
        return np.array([float(index * step) for index in range(len(source.target))])
    if source.kind == "animation":
        return np.array([time_s for time_s, _ in animations.decode_animation(source.target)])
    index = seeking.index_packets(source.target, rate)
    if index.damage and damaged == "error":
        raise VideoError(index.damage, option="damaged")
    return index.times_s


def _stored(source: SourceLike) -> Source:
    found = find_source(source)
    if not found.stored:
        raise InputError(f"{found.name}: frames are reached by index in files and folders only; use open_video")
    return found


def _rate(rate: Rate) -> Fraction | None:
    if rate is None:
        return None
    if not 0 < rate < float("inf"):
        raise InputError(f"rate must be a positive number of frames per second, not {rate}")
    return Fraction(rate).limit_denominator(100_000)


def _check_short_side(short_side: int | None) -> None:
    if short_side is not None and short_side < 1:
        raise InputError(f"short_side must be at least 1 pixel, not {short_side}")
