"""A folder of images read as a video, in natural order of their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.containers import Wanted
from twospeed.video.image_files import png_pixels, quiet_opencv, stated_size
from twospeed.video.pixels import scaled

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".dib", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)

FOLDER_RATE = Fraction(24)
"""Frames per second assumed of a folder of images: DAVIS was filmed at 24."""


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key by which frame2 comes before frame10, whatever the zeros and capitals."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def list_images(folder: Path) -> list[Path]:
    """Return a folder's images in natural order.

    Hidden files are passed over; a link that leads nowhere is not: it would be a frame, and reading it is an error.
    Where files of two formats share their names (frames as 00000.jpg beside masks as 00000.png), only the more frequent
    format counts, .jpg where both are as many. Raises VideoError without images.
    """
    try:
        entries = sorted(folder.iterdir(), key=natural_order)
    except OSError as error:
        raise VideoError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    visible = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    images = [path for path in visible if path.is_file() or _is_dangling(path)]
    if len({path.stem for path in images}) < len(images):
        frequency = Counter(path.suffix.lower() for path in images)
        chosen = max(frequency, key=lambda suffix: (frequency[suffix], suffix in {".jpg", ".jpeg"}, suffix))
        images = [path for path in images if path.suffix.lower() == chosen]
    if not images:
        inside = f"{len(entries)} other entries" if entries else "nothing"
        raise VideoError(f"{folder}: the folder holds no images ({inside}); wanted .jpg, .png or the like")
    return images


def _is_dangling(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # links in a circle
        pass
    return False


def read_image(path: Path, *, short_side: int | None = None) -> NDArray[np.uint8]:
    """Read one image: uint8 (H, W, 3), RGB, upright by its EXIF orientation, 8 bits, without alpha.

    Raises VideoError for files that are no image or are cut off.
    """
    try:
        if not path.is_file() and path.exists():
            raise VideoError(f"{path}: is not a regular file")  # a pipe would be waited for
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every name on every system
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from None
    stated_size(path)
    if data[:4].tobytes() == b"\x89PNG" and png_pixels(data.tobytes()) is None:
        raise VideoError(f"{path}: the image is damaged or cut off ({data.size} bytes)")
    try:
        with quiet_opencv():
            bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise VideoError(f"{path}: is not an image that can be decoded ({data.size} bytes)")
    if data[:2].tobytes() == b"\xff\xd8" and _jpeg_is_cut(data.tobytes()):
        raise VideoError(f"{path}: the image is cut off ({data.size} bytes)")
    rgb: NDArray[np.uint8] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return scaled(rgb, short_side)


def _jpeg_is_cut(data: bytes) -> bool:
    """True if no end marker follows the last scan: libjpeg fills the rest with grey and only warns."""
    return data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0


def read_images(images: list[Path], name: str, wanted: Wanted) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame that is wanted, each image at its own size."""
    if wanted.start >= len(images):
        raise VideoError(f"{name}: has {len(images)} frames, so none at start={wanted.start}")
    step = 1 / (wanted.rate or FOLDER_RATE)
    described = False
    for index, path in enumerate(images[wanted.start :], wanted.start):
        try:
            frame = wanted.frame(index, float(index * step), read_image(path), name=path.stem, is_keyframe=True)
        except VideoError as error:
            if wanted.damaged == "skip" or (wanted.damaged == "stop" and not described):
                continue
            if wanted.damaged == "stop":
                return
            raise VideoError(f"{error}; it would be frame {index}") from None
        if not described:
            yield VideoInfo(
                name=name,
                width=frame.image.shape[1],
                height=frame.image.shape[0],
                frame_rate=wanted.rate,
                frame_count=len(images),
                duration_s=float(len(images) * step),
                codec=path.suffix.lower().lstrip("."),
            )
            described = True
        yield frame
        del frame
    if not described:
        raise VideoError(f"{name}: not one of its {len(images)} images can be decoded")


def read_chosen_images(
    images: list[Path], indices: Iterable[int], *, short_side: int | None = None
) -> NDArray[np.uint8]:
    """Read the images at these indices: uint8 (T, H, W, 3). Raises VideoError where sizes differ."""
    stack: list[NDArray[np.uint8]] = []
    for index in indices:
        stack.append(read_image(images[index], short_side=short_side))
        if stack[-1].shape != stack[0].shape:
            raise VideoError(
                f"{images[index]}: is {stack[-1].shape[1]}x{stack[-1].shape[0]}, others are "
                f"{stack[0].shape[1]}x{stack[0].shape[0]}; images of one clip need one size"
            )
    return np.stack(stack)
