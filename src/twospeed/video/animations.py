"""Animated WebP and AVIF, which FFmpeg does not read, by Pillow; and telling animated PNGs, which it does read."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.containers import Wanted
from twospeed.video.image_files import BROKEN_IMAGE, stated_size

DEFAULT_MS = 100
"""How long browsers show a frame that states no duration."""


def is_animation(path: Path) -> bool:
    """True for WebP files with the animation flag and for AVIF files, by their first bytes."""
    head = _head(path, 32)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return bool(head[20] & 2)
    return head[4:8] == b"ftyp" and head[8:12] in (b"avis", b"avif")


def is_animated_png(path: Path) -> bool:
    """True for PNG files whose animation chunk comes before the image data."""
    head = _head(path, 1 << 16)
    return head.startswith(b"\x89PNG") and b"acTL" in head.partition(b"IDAT")[0]


def _head(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError:
        return b""


def decode_animation(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield (time in seconds, image uint8 (H, W, 3) RGB without alpha) of every frame. Raises VideoError."""
    stated_size(path)  # refuses too many pixels
    number = 0
    try:
        with Image.open(path) as image:
            shown_ms = 0.0
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()
                yield shown_ms / 1000, np.array(image.convert("RGB"))
                shown_ms += image.info.get("duration") or DEFAULT_MS
    except BROKEN_IMAGE as error:
        raise VideoError(f"{path}: frame {number} cannot be decoded ({error}); fetch the file again") from None


def read_animation(path: Path, wanted: Wanted) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame that is wanted."""
    count = 0
    for index, (time_s, image) in enumerate(decode_animation(path)):
        count += 1
        if index < wanted.start:
            continue
        frame = wanted.frame(index, time_s, image)
        if index == wanted.start:
            height, width = frame.image.shape[:2]
            yield VideoInfo(str(path), width, height, codec=path.suffix.lower().lstrip("."))
        yield frame
    if count <= wanted.start:
        raise VideoError(f"{path}: has {count} frames, so none at start={wanted.start}", option="start")
