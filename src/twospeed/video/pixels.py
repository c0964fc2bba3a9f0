"""From a decoder's image to upright RGB: colour matrix and range, bit depth, rotation, size."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray


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
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if abs(b) > abs(a):
        return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Return (width, height) with the shorter side at `short_side`, the longer one rounded to whole pixels."""
    if short_side is None:
        return width, height
    if width < height:
        return short_side, max(1, round(height * short_side / width))
    return max(1, round(width * short_side / height)), short_side


class RgbConverter:
    """Turn decoded images into upright uint8 RGB (H, W, 3).

    The colour matrix and range that the stream states are used (BT.601, limited range where it states none, as
    FFmpeg and its users do); 10 and 12 bits are reduced to 8; alpha is dropped; HDR transfer curves are not tone
    mapped; the pixel aspect ratio is left alone: images come as stored. short_side: scale to this shorter side in
    the same step (bilinear, filtered when shrinking).
    """

    def __init__(self, short_side: int | None = None) -> None:
        self.short_side = short_side
        self._reformatter = VideoReformatter()

    def view(self, frame: Any) -> NDArray[np.uint8]:
        """Return the image as a view, possibly strided, of memory that it owns."""
        width, height = scaled_size(frame.width, frame.height, self.short_side)
        # One thread: swscale's slices cost more than they gain below 4K, and the decoder's threads want the cores.
        converted = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        stored: NDArray[np.uint8] = converted.to_ndarray()  # type: ignore[assignment]
        return orientation_of(frame).apply(stored)

    def image(self, frame: Any) -> NDArray[np.uint8]:
        """Return the image as a contiguous array of its own."""
        return np.array(self.view(frame), order="C", copy=True)
