"""What a video can be: one class for every source, found by `find_source`, and positions, read by `parse_position`."""

from __future__ import annotations

import glob
import io
import math
import numbers
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, VideoError
from twospeed.results import Frame
from twospeed.video import animations, folders
from twospeed.video.opening import PROTOCOLS

SourceLike: TypeAlias = (
    "str | os.PathLike[str] | int | bytes | BinaryIO | Iterable[NDArray[np.uint8]] | Iterable[Frame] | Source"
)
PositionLike: TypeAlias = int | float | str

Kind = Literal["file", "animation", "images", "camera", "stream", "network", "frames"]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where frames come from.

    kind: "file" (a video), "animation" (WebP, AVIF), "images" (a folder, a pattern or one image), "camera", "stream"
    (standard input, an open binary file, bytes), "network" (http, https, rtsp) or "frames" (arrays or Frames from
    Python). name: for messages. target: the path, paths, index, stream, address or iterable.
    """

    kind: Kind
    name: str
    target: Any

    @property
    def stored(self) -> bool:
        """Whether frames can be reached by index, and more than once."""
        return self.kind in ("file", "animation", "images")

    @property
    def files(self) -> list[Path]:
        """The files that it is read from, in order; none of what is not stored."""
        if not self.stored:
            return []
        return [self.target] if isinstance(self.target, Path) else list(self.target)

    @property
    def live(self) -> bool:
        """Whether the source does not wait for its reader."""
        return self.kind == "camera" or (self.kind == "network" and self.target.lower().startswith("rtsp"))

    @property
    def stem(self) -> str:
        """A short name for results: of a file or folder without its suffix, else empty."""
        return Path(self.name).stem if self.stored else ""


def find_source(source: SourceLike) -> Source:
    """Find out what a source is.

    source: path of a video file, an animated image, one image, or a folder of images (natural order of names; where
    two formats share names, the more frequent one); a pattern such as "shots/*.png" that matches images, or one video;
    a camera's index, as a number or a string of digits that names no file; "-" for standard input; an address
    beginning with rtsp://, rtsps://, http:// or https://; an open binary file (left open) or bytes; an iterable of
    images uint8 (H, W, 3) or of Frames.
    Raises VideoError for what is missing, empty or no regular file; InputError for what is no source at all.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, bool):
        raise _no_source(source)
    if isinstance(source, numbers.Integral):
        if source < 0:
            raise InputError(f"a camera index is 0 or more, not {source}")
        return Source("camera", f"camera {source}", int(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return Source("stream", "the given bytes", io.BytesIO(source))
    if hasattr(source, "read"):
        return Source("stream", "the given stream", source)
    if isinstance(source, str | os.PathLike):
        return _named(os.fspath(source))
    if isinstance(source, Iterable):
        return Source("frames", "the given frames", source)
    raise _no_source(source)


def _named(text: str) -> Source:
    if text == "-":
        return Source("stream", "standard input", _standard_input())
    protocol = text.partition("://")[0].lower() if "://" in text else ""
    if protocol in PROTOCOLS:
        return Source("network", re.sub(r"(?<=://)[^/@]*@", "", text), text)  # without a password
    if not text:
        raise VideoError("the name of the video is empty; give a path, an address, a camera's number or '-'")
    path = Path(text)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        return _absent(text, protocol, error)
    if stat.S_ISDIR(status.st_mode):
        return Source("images", text, folders.list_images(path))
    if stat.S_ISFIFO(status.st_mode):
        return Source("stream", text, _named_pipe(path))
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(
            f"{path}: is not a regular file but a device or socket; pipe its contents in as '-', or give a camera's "
            "number"
        )
    if not status.st_size:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    if animations.is_animation(path):
        return Source("animation", text, path)
    if path.suffix.lower() in folders.IMAGE_SUFFIXES and not animations.is_animated_png(path):
        return Source("images", text, [path])
    return Source("file", text, path)


def _absent(text: str, protocol: str, error: Exception) -> Source:
    if text.isascii() and text.isdecimal():
        return Source("camera", f"camera {text}", int(text[:9]))
    if protocol:
        raise VideoError(f"{text}: addresses begin with {', '.join(f'{p}://' for p in PROTOCOLS)}, not {protocol}://")
    if glob.has_magic(text):
        matches = sorted((Path(match) for match in glob.glob(text)), key=folders.natural_order)  # noqa: PTH207
        images = [path for path in matches if path.suffix.lower() in folders.IMAGE_SUFFIXES and path.is_file()]
        if images:
            return Source("images", text, images)
        if len(matches) == 1:
            return _named(str(matches[0]))
        found = f"{len(matches)} files or folders, none of them an image; give one of them" if matches else "nothing"
        raise VideoError(f"{text}: the pattern matches {found}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise VideoError(f"{text}: no such file or folder")
    raise VideoError(f"{text[:200]}: cannot be read ({getattr(error, 'strerror', None) or error})")


def _no_source(source: object) -> InputError:
    return InputError(
        "a video is a path, an address, a camera index, '-', a binary stream or an iterable of images, not "
        f"{type(source).__name__}"
    )


def _standard_input() -> BinaryIO:
    """Standard input without Python's buffer, whose lock a blocked reading thread would hold as the program ends."""
    try:
        return io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError, AttributeError):  # replaced or closed, as under a test runner
        if getattr(sys.stdin, "buffer", None) is None:
            raise VideoError("standard input is closed: pipe a video into it") from None
        return sys.stdin.buffer


def _named_pipe(path: Path) -> BinaryIO:
    """Open a named pipe, whose writer must come within `PIPE_S` seconds: opening it plainly would wait for ever."""
    import select

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError(f"{path}: the pipe cannot be read ({error.strerror})") from None
    waiting = select.poll()
    waiting.register(handle, select.POLLIN | select.POLLHUP)
    if not waiting.poll(1000 * PIPE_S):
        os.close(handle)
        raise VideoError(f"{path}: nothing has been written into this pipe for {PIPE_S} s")
    os.set_blocking(handle, True)
    return _Pipe(handle, "rb")


class _Pipe(io.FileIO):
    """A pipe that was opened here, so that nobody else closes it."""

    def __del__(self) -> None:
        self.close()


PIPE_S = 10
"""Seconds to wait for the writer of a named pipe."""

GRACE_S = 0.0005
"""Seconds by which a frame may miss a position in seconds: containers round to milliseconds, and so do people."""


def parse_position(position: Any, option: str | None = None) -> int | float:
    """Read a position in a video: an int is a frame (from 0), a float is seconds from the first frame.

    Strings: "120" is frame 120; "3.5s", "120s" and "3.5" are seconds; "MM:SS", "HH:MM:SS" and both with a fraction
    ("00:01:02.250") are seconds, each part behind a colon two digits below 60.
    option: name of the parameter, for messages. Raises InputError for anything else, and for what is negative or not
    finite.
    """
    named = f"{option}=" if option else "position "
    if isinstance(position, int | float | np.integer | np.floating) and not isinstance(position, bool):
        if not (position >= 0 and math.isfinite(position)):
            raise InputError(f"{named}{position}: a position is 0 or later", option=option)
        return int(position) if isinstance(position, int | np.integer) else float(position)
    text = position.strip() if isinstance(position, str) else ""
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?s|[0-9]{1,12}\.[0-9]{1,9}", text):
        return float(text.removesuffix("s"))
    parts = re.fullmatch(r"(?:([0-9]{1,6}):([0-5][0-9])|([0-9]{1,6})):([0-5][0-9](?:\.[0-9]{1,9})?)", text)
    if parts:
        hours, minutes, only_minutes, seconds = parts.groups()
        return 3600.0 * int(hours or 0) + 60.0 * int(minutes or only_minutes) + float(seconds)
    raise InputError(
        f"{named}{position!r} is not a position in a video; give a frame (120), seconds (3.5s) or a time "
        "(00:01:02.250)",
        option=option,
    )


def frames_of(source: Source, step_s: float) -> Iterator[Frame]:
    """Yield the Frames of an iterable; plain images get their place as index and follow each other after step_s."""
    for index, item in enumerate(source.target):
        if isinstance(item, Frame):
            yield item
            continue
        if not isinstance(item, np.ndarray):
            if index == 0:
                raise _no_source(source.target)
            raise InputError(f"frame {index} of {source.name} is {type(item).__name__}, not an image")
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
            raise InputError(f"frame {index} of {source.name} is {item.dtype} {item.shape}, not uint8 (H, W, 3) RGB")
        yield Frame(index, index * step_s, item)
