"""From a decoder's image to upright RGB: colour matrix and range, bit depth, rotation, size."""

from __future__ import annotations

import logging
import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from twospeed.errors import VideoError
from twospeed.video.hdr import is_hdr, tone_mapped

logger = logging.getLogger(__name__)


class Orientation(NamedTuple):
    """How a stored image becomes upright: transpose first, then flip rows, then flip columns."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise that are applied (0, 90, 180 or 270); of a mirrored image, those before its mirroring."""
        if self.transpose:
            return 270 if self.flip_rows else 90
        return 180 if self.flip_rows else 0

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright view of an image (H, W, 3)."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def orientation_of(frame: Any) -> Orientation:
    """Read the display matrix that a phone stored with its video (ISO 14496-12, 8.3.2: x' = ax + cy, y' = bx + dy).

    Only right angles and mirroring are applied; any other angle counts as the nearest right one.
    """
    # Not `frame.side_data`: the frame and its container would hold each other, and with them the image, until Python
    # next looks for cycles: many images, where they are large.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # its stub lists no arguments
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if abs(b) > abs(a):
        return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)


MOST_PIXELS = 1 << 25
"""Pixels that an image may have, stored or scaled: 8K has 33.2 million. As RGB that is 100 MB."""


def check_pixels(name: str, width: int, height: int) -> None:
    """Raise VideoError for images of more than `MOST_PIXELS`, before memory is taken for one."""
    if width * height > MOST_PIXELS:
        raise VideoError(
            f"{name}: images of {width}x{height} = {width * height / 1e6:.0f} million pixels, at most "
            f"{MOST_PIXELS / 1e6:.0f} million are read; scale or crop the video first"
        )


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Return (width, height) with the shorter side at `short_side`, the longer one rounded to whole pixels.

    Raises VideoError where that is larger than `MOST_PIXELS`.
    """
    if short_side is None:
        return width, height
    if width < height:
        size = short_side, max(1, round(height * short_side / width))
    else:
        size = max(1, round(width * short_side / height)), short_side
    check_pixels(f"{width}x{height} scaled to the shorter side {short_side}", *size)
    return size


def scaled(image: NDArray[np.uint8], short_side: int | None) -> NDArray[np.uint8]:
    """Scale an image (H, W, 3) that is in memory to this shorter side, filtered when shrinking."""
    if short_side is None:
        return image
    size = scaled_size(image.shape[1], image.shape[0], short_side)
    shrinks = size[0] < image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized


class RgbConverter:
    """Turn decoded images into upright uint8 RGB (H, W, 3).

    The colour matrix and range that the stream states are used (BT.601, limited range where it states none, as
    FFmpeg and its users do); 10 and 12 bits are reduced to 8; alpha is dropped; HDR (PQ and HLG curves) is tone mapped
    to SDR (`twospeed.video.hdr`); interlaced lines stay woven and the pixel aspect ratio is left alone: images come as
    stored. short_side: scale to this shorter side in the same step (bilinear, filtered when shrinking). small_side: of
    the second image that `small` makes, if any.
    size: (width, height) as stored of the first image, else taken from the first that comes. Later ones of another
    size are scaled into it whole, with black bars where the shapes differ, and one warning is logged under `name`.
    """

    def __init__(
        self,
        short_side: int | None = None,
        *,
        small_side: int | None = None,
        size: tuple[int, int] | None = None,
        name: str = "",
    ) -> None:
        self.short_side = short_side
        self.size = size
        self._name = name
        self._warned = False
        self._reformatter = VideoReformatter()
        self._small = None if small_side is None else RgbConverter(small_side, size=size, name=name)

    def view(self, frame: Any) -> NDArray[np.uint8]:
        """Return the image as a view, possibly strided, of memory that it owns."""
        if self.size is None:
            self.size = (frame.width, frame.height)
        width, height = scaled_size(*self.size, self.short_side)
        if (frame.width, frame.height) == self.size:
            stored = self._rgb(frame, width, height)
        else:
            stored = self._fitted(frame, width, height)
        return orientation_of(frame).apply(stored)

    def image(self, frame: Any) -> NDArray[np.uint8]:
        """Return the image as a contiguous array of its own."""
        return np.array(self.view(frame), order="C", copy=True)

    def small(self, frame: Any) -> NDArray[np.uint8] | None:
        """Return the image at the shorter side `small_side`, as another converter with that `short_side` would."""
        if self._small is None:
            return None
        self._small.size = self.size
        self._small._warned = True
        return self._small.image(frame)

    def _rgb(self, frame: Any, width: int, height: int) -> NDArray[np.uint8]:
        # One thread: swscale's slices cost more than they gain below 4K, and the decoder's threads want the cores.
        if is_hdr(frame):
            deep = self._reformatter.reformat(frame, width=width, height=height, format="rgb48le", threads=1)
            return tone_mapped(deep.to_ndarray(), int(frame.color_trc), int(frame.color_primaries))  # type: ignore[arg-type]
        converted = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return converted.to_ndarray()  # type: ignore[return-value]

    def _fitted(self, frame: Any, width: int, height: int) -> NDArray[np.uint8]:
        if not self._warned:
            logger.warning(
                "%s: the image size changes from %dx%d to %dx%d; images are scaled to the first size",
                self._name, *self.size or (), frame.width, frame.height,
            )  # fmt: skip
            self._warned = True
        factor = min(width / frame.width, height / frame.height)
        inner = (max(1, round(frame.width * factor)), max(1, round(frame.height * factor)))
        canvas = np.zeros((height, width, 3), np.uint8)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas[top : top + inner[1], left : left + inner[0]] = self._rgb(frame, *inner)
        return canvas
