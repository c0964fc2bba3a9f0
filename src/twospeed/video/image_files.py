"""Image files from anyone: every fault of their readers becomes one error, and nothing is printed by the readers."""

from __future__ import annotations

import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from twospeed.errors import InputError, OutputError, VideoError
from twospeed.video.pixels import check_pixels

_lock = threading.Lock()
_quiet = {"blocks": 0, "level": 0}


@contextmanager
def open_image(
    path: Path | IO[bytes], error_type: type[InputError] = VideoError, *, name: str | None = None
) -> Iterator[Image.Image]:
    """Open an image with Pillow and give it; its pixels are read inside of the block, and nothing else belongs there.

    path: may be an open binary file; name: what messages call it.

    Raises error_type for a file that is missing, no regular file, no image, damaged, or of more pixels than
    `MOST_PIXELS`, which is checked before they are decoded.
    """
    name = name or str(path)
    try:
        if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):
            raise error_type(f"{name}: is not a regular file but a folder, pipe or device")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                check_pixels(name, *image.size)
                yield image
    except VideoError as error:
        raise error_type(str(error)) from None
    except InputError:
        raise
    except FileNotFoundError:
        raise error_type(f"{name}: no such file") from None
    except UnidentifiedImageError:
        raise error_type(f"{name}: is not an image") from None
    except MemoryError:
        raise error_type(f"{name}: cannot be read (more memory is needed than there is)") from None
    except BROKEN_IMAGE as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise error_type(f"{name}: cannot be read ({reason})") from None


def stated_size(path: Path) -> tuple[int, int] | None:
    """Return an image's (width, height) by its header, None where Pillow does not know the format.

    Raises VideoError for more than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: {error}; scale it down first") from None
    except BROKEN_IMAGE:
        return None
    check_pixels(str(path), width, height)
    return width, height


BROKEN_IMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
    AssertionError, NotImplementedError, RuntimeError, zlib.error, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise for files that are no images, broken or too large."""


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own warnings off stderr: the error that we raise says it in one line. For several threads."""
    logs = cv2.utils.logging
    with _lock:
        if not _quiet["blocks"]:
            _quiet["level"] = logs.getLogLevel()
            logs.setLogLevel(logs.LOG_LEVEL_SILENT)
        _quiet["blocks"] += 1
    try:
        yield
    finally:
        with _lock:
            _quiet["blocks"] -= 1
            if not _quiet["blocks"]:
                logs.setLogLevel(_quiet["level"])


def encoded(image: NDArray[np.uint8], suffix: str, *parameters: int) -> bytes:
    """Return RGB (H, W, 3) or RGBA (H, W, 4) as the content of a .jpg or .png file. parameters: of cv2.imencode."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, order), parameters)
    if not done:
        raise OutputError(f"an image of {image.shape[1]}x{image.shape[0]} cannot be written as {suffix}")
    return data.tobytes()


def encoded_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Return RGB (H, W, 3) as the content of a JPEG file of this quality, 0 to 100."""
    return encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)


def png_pixels(data: bytes) -> bytes | None:
    """Return the compressed pixels of a PNG; None where it is cut off or has wrong check sums, which libpng prints."""
    parts, at, view = [], 8, memoryview(data)
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data) or zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        if kind == b"IDAT":
            parts.append(view[at + 8 : end])
        if kind == b"IEND":
            return b"".join(parts)
        at = end + 4
    return None
