"""Read frames from a file, a folder of images, a camera or a pipe, all by one door.

    with open_video("clip.mp4") as frames:
        for frame in frames:
            frame.index, frame.time_s, frame.image

Decoding runs on a thread of its own, a few frames ahead, so that it overlaps with the network, and memory does not
grow with the length of the video.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video import camera, containers, folders, seeking
from twospeed.video.ahead import DecodeAhead
from twospeed.video.containers import Damaged

Source: TypeAlias = str | os.PathLike[str] | int | BinaryIO
Rate: TypeAlias = float | Fraction | None


class VideoReader:
    """The frames of one source in order, each once; made by `open_video`.

    Iterate over it, or call `next`. `info` says what is known beforehand. `close()`, leaving a `with` block, or
    dropping the reader ends the decoding thread and closes the source.
    """

    def __init__(
        self, frames: Generator[Frame | VideoInfo, None, None], *, ahead: int, keep_newest: bool = False
    ) -> None:
        # The source is opened on the thread too: waiting for a thread can be interrupted (Ctrl-C), waiting inside
        # FFmpeg for a pipe that stays silent cannot.
        self._items: DecodeAhead[Frame | VideoInfo] | Generator[Frame | VideoInfo, None, None] = (
            DecodeAhead(frames, ahead, keep_newest=keep_newest) if ahead else frames
        )
        self._closed = False
        info = next(self._items)
        assert isinstance(info, VideoInfo)
        self.info: VideoInfo = info

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoReader({self.info!r})"


def open_video(
    source: Source,
    *,
    start: int = 0,
    ahead: int = 8,
    format: str | None = None,
    rate: Rate = None,
    short_side: int | None = None,
    damaged: Damaged = "raise",
) -> VideoReader:
    """Open a video and return an iterator over its frames, with what is known of it in `.info`.

    source: path of a video file, of one image, or of a folder of images (natural order of names; where two
    formats share names, the more frequent one); a camera's index, as a number or a string of digits that names no
    file; "-" for standard input; or a binary stream, which is left open.
    start: index of the first frame to deliver; files are sought, pipes read through. Indices and times stay those of
    the whole video.
    ahead: frames decoded in advance on a thread; 0 decodes on the caller's. A camera drops its oldest frame instead
    of falling behind, which shows as a gap in the indices.
    format: FFmpeg's name of the container where a pipe does not tell ("mpegts", "matroska", "h264", ...).
    rate: frames per second of sources without times of their own (folders: 24 unless given; raw streams: 25; a
    camera is asked for it); sources with times keep them.
    short_side: scale every frame to this shorter side, in pixels, while converting it.
    damaged: what to do at a frame that cannot be decoded, or a file that is cut off: "raise" VideoError after
    delivering the frames before it, "stop" quietly there, or "skip" it and go on (later indices then shift in files).

    Frames are uint8 RGB (H, W, 3), upright by rotation and mirroring metadata, in 8 bits, by the colour matrix and
    range that the stream states; pixels keep their stored shape (no correction of anamorphic video) and HDR is not
    tone mapped. A stream that changes its size delivers each frame at its own: compare with `.info`.
    Raises VideoError for what is missing, unreadable, empty, or has no image; InputError for bad arguments.
    """
    if start < 0 or ahead < 0:
        raise InputError(f"start and ahead must be 0 or more, not {start} and {ahead}")
    exact_rate = _rate(rate)
    _check_short_side(short_side)
    if damaged not in ("raise", "stop", "skip"):
        raise InputError(f"damaged={damaged!r} is none of 'raise', 'stop', 'skip'")
    index = _camera_index(source)
    if index is not None:
        live = camera.read_camera(index, start=start, rate=exact_rate)
        return VideoReader(live, ahead=ahead, keep_newest=True)
    if source == "-" or hasattr(source, "read"):
        stream, name = (_standard_input(), "standard input") if source == "-" else (source, "the given stream")
        frames = containers.read_container(
            stream,  # type: ignore[arg-type]
            name,
            start=start,
            format=format,
            rate=exact_rate,
            short_side=short_side,
            damaged=damaged,
        )
        return VideoReader(frames, ahead=ahead)
    path = _existing(source)
    if path.is_dir() or path.suffix.lower() in folders.IMAGE_SUFFIXES:
        images = folders.list_images(path) if path.is_dir() else [path]
        frames = folders.read_images(
            images, str(path), start=start, rate=exact_rate, short_side=short_side, damaged=damaged
        )
        return VideoReader(frames, ahead=ahead)
    keyframe, origin_pts = None, None
    if start and format is None:
        packets = seeking.index_packets(path, exact_rate)
        if packets.pts is not None and start < len(packets):
            keyframe = packets.keyframe_before(start)
            origin_pts = int(packets.pts[0])
    frames = containers.read_container(
        path,
        str(path),
        start=start,
        keyframe=keyframe,
        origin_pts=origin_pts,
        format=format,
        rate=exact_rate,
        short_side=short_side,
        damaged=damaged,
    )
    return VideoReader(frames, ahead=ahead)


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int] | NDArray[np.integer],
    *,
    short_side: int | None = None,
    threads: int = 0,
) -> NDArray[np.uint8]:
    """Return the frames at these indices, in the order asked, repeats allowed: uint8 (T, H, W, 3), RGB, upright.

    The file is sought to the keyframe before the first frame and decoded once up to the last; only wanted frames are
    converted. Where whole groups of images lie between two wanted frames it seeks again. Indices are those of
    `open_video`.
    path: a file or a folder of images. short_side: scale to this shorter side, in pixels, during the conversion.
    threads: of the decoder, 0 for one per core; 1 suits loaders that run one process per core.
    Raises VideoError for an index outside the video, and where frames differ in size.
    """
    _check_short_side(short_side)
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or not wanted.size or not np.issubdtype(wanted.dtype, np.integer):
        raise InputError(f"indices must be a list of whole numbers, at least one, not {indices!r}")
    existing = _existing(path)
    if existing.is_dir() or existing.suffix.lower() in folders.IMAGE_SUFFIXES:
        images = folders.list_images(existing) if existing.is_dir() else [existing]
        seeking.check_range(str(existing), wanted.tolist(), len(images))
        return folders.read_chosen_images(images, wanted.tolist(), short_side=short_side)
    return seeking.read_indexed(existing, wanted.astype(np.int64), short_side=short_side, threads=threads)


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Return what is known of a file or folder before reading it through; its first frame is decoded.

    Raises VideoError as `open_video` does. `frame_count` is the container's word: `len(frame_times(path))` counts.
    """
    with open_video(path, ahead=0) as reader:
        return reader.info


def frame_times(path: str | os.PathLike[str], *, rate: Rate = None) -> NDArray[np.float64]:
    """Return the time of every frame in seconds from the first, float64 (T,): exact, and cheap (packets only).

    Frames are decoded only in files whose packets state no times or begin between keyframes. A file that is damaged
    or cut off gives the frames that it holds. rate: frames per second of sources without times, as in `open_video`.
    Raises VideoError as `open_video` does.
    """
    existing = _existing(path)
    exact_rate = _rate(rate)
    if existing.is_dir() or existing.suffix.lower() in folders.IMAGE_SUFFIXES:
        images = folders.list_images(existing) if existing.is_dir() else [existing]
        step = 1 / (exact_rate or folders.FOLDER_RATE)
        return np.array([float(index * step) for index in range(len(images))])
    return seeking.index_packets(existing, exact_rate).times_s.copy()


def _existing(source: object) -> Path:
    try:
        path = Path(source)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"a video is a path, a camera index, '-' or a binary stream, not {type(source).__name__}"
        ) from None
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder")
    if path.is_file() and not path.stat().st_size:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    return path


def _camera_index(source: object) -> int | None:
    if isinstance(source, int) and not isinstance(source, bool):
        if source < 0:
            raise InputError(f"a camera index is 0 or more, not {source}")
        return source
    if isinstance(source, str) and source.isascii() and source.isdecimal() and not Path(source).exists():
        return int(source)
    return None


def _standard_input() -> BinaryIO:
    """Standard input without Python's buffer, whose lock a blocked reading thread would hold as the program ends."""
    try:
        return io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError, AttributeError):  # replaced or closed, as under a test runner
        if getattr(sys.stdin, "buffer", None) is None:
            raise VideoError("standard input is closed: pipe a video into it") from None
        return sys.stdin.buffer


def _rate(rate: Rate) -> Fraction | None:
    if rate is None:
        return None
    if not 0 < rate < float("inf"):
        raise InputError(f"rate must be a positive number of frames per second, not {rate}")
    return Fraction(rate).limit_denominator(100_000)


def _check_short_side(short_side: int | None) -> None:
    if short_side is not None and short_side < 1:
        raise InputError(f"short_side must be at least 1 pixel, not {short_side}")
