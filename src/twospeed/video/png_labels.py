"""Label PNGs read several times as fast as image libraries read them.

A mask is a few kilobytes that unpack to half a million bytes. Libraries unpack it row by row, which costs more than
everything else about it. Here a file is unpacked in one call by zlib-ng. Rows that are stored as they are (all rows of
most palette PNGs) are then ready; rows that are filtered are packed again without compression for Pillow, which
undoes the filters. A reader that needs only what is not 0 gets that part (`LabelPart`), often a small one. What is
unusual or damaged is left to the general reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from twospeed.video.image_files import png_pixels
from twospeed.video.pixels import MOST_PIXELS

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types
_LAST_FILTER = 4  # Paeth's
_zlib_error: type[Exception] = zlib_ng.error  # type: ignore[assignment]  # an instance in the package's stubs


class LabelPart(NamedTuple):
    """The part of a label image that holds all that is not 0, as read from a file; often a small one.

    values: uint8 (h, w), often read-only; its first pixel lies at (top, left) of the image of height x width pixels.
    Outermost rows and columns that are not the image's are 0. is_palette: values are indices, else grey.
    """

    values: NDArray[np.uint8]
    top: int
    left: int
    height: int
    width: int
    is_palette: bool

    @classmethod
    def of_whole(cls, values: NDArray[np.uint8], is_palette: bool) -> LabelPart:
        """Take a whole image, uint8 (H, W), as its own part."""
        return cls(values, 0, 0, values.shape[0], values.shape[1], is_palette)

    def whole(self) -> NDArray[np.uint8]:
        """Return the image, uint8 (H, W), possibly read-only."""
        height, width = self.values.shape
        if (height, width) == (self.height, self.width):
            return self.values
        image = np.zeros((self.height, self.width), np.uint8)
        image[self.top : self.top + height, self.left : self.left + width] = self.values
        return image


def read_png_labels(path: Path, *, cut: bool = False) -> LabelPart | None:
    """Read a grey or palette PNG of 8 bits, uninterlaced; None for any other file, and for one with any fault.

    cut: leave away what can be of an image's margins of 0; without it only where that is the fastest.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    packed = png_pixels(data) if data[:8] == _SIGNATURE and data[12:16] == b"IHDR" else None
    if packed is None:
        return None
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colour, compression, filters, interlaced = data[24:29]
    plain = (depth, compression, filters, interlaced) == (8, 0, 0, 0) and colour in (_GREY, _PALETTE)
    if not plain or not 0 < width * height <= MOST_PIXELS:
        return None
    try:
        rows = _unpacked(packed, width, height)
        last_filter = int(rows[:, 0].max())
        if last_filter > _LAST_FILTER:
            return None
        if not last_filter and not cut:
            return LabelPart.of_whole(rows[:, 1:], colour == _PALETTE)
        values, top, left = _unfiltered(rows) if last_filter else _cut(rows)
    except (_zlib_error, ValueError, OSError):
        return None
    return LabelPart(values, top, left, height, width, colour == _PALETTE)


def _unpacked(packed: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Return rows (H, 1 + W), the first byte of each its filter. Raises ValueError for another number of bytes."""
    size = (width + 1) * height
    unpacker = zlib_ng.decompressobj()
    rows = unpacker.decompress(packed, size)  # a bound: a small file may unpack to any size
    if len(rows) != size or not unpacker.eof:
        raise ValueError(f"{len(rows)} bytes for {width}x{height} pixels")
    return np.frombuffer(rows, np.uint8).reshape(height, width + 1)


def _box(stored: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of all that is not 0 in (H, W), with a pixel around it where there is one."""
    height, width = stored.shape
    rows = np.flatnonzero(np.bitwise_or.reduce(stored, axis=1))  # faster than a maximum
    if not rows.size:
        return 0, 0, 0, 0
    top, bottom = max(int(rows[0]) - 1, 0), min(int(rows[-1]) + 2, height)
    columns = np.flatnonzero(np.bitwise_or.reduce(stored[top:bottom], axis=0))
    return top, bottom, max(int(columns[0]) - 1, 0), min(int(columns[-1]) + 2, width)


def _cut(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, int]:
    """Return the part of unfiltered rows (H, 1 + W) that is not 0, uint8 (h, w), and its top and left."""
    top, bottom, left, right = _box(rows[:, 1:])
    return rows[top:bottom, 1 + left : 1 + right], top, left


def _unfiltered(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, int]:
    """Undo the filters of rows (H, 1 + W) and return the part that is not 0, uint8 (h, w), and its top and left.

    Filters predict a pixel from those left of it and above it: where all stored bytes from the first row, or from the
    left edge, on are 0, pixels are 0 too, and so they are behind a row or column of zeros with stored zeros alone after
    it. A mask's surroundings are like that, so that mostly its own rectangle is all that has to be unfiltered.
    """
    height, width = rows.shape[0], rows.shape[1] - 1
    top, bottom, left, right = _box(rows[:, 1:])
    if top == bottom:
        return np.zeros((0, 0), np.uint8), 0, 0
    while True:
        box = np.concatenate([rows[top:bottom, :1], rows[top:bottom, 1 + left : 1 + right]], axis=1)
        values = _unfiltered_by_pillow(box)
        goes_down, goes_right = bottom < height and values[-1].any(), right < width and values[:, -1].any()
        if not goes_down and not goes_right:
            return values, top, left
        bottom, right = height if goes_down else bottom, width if goes_right else right


def _unfiltered_by_pillow(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (rows.shape[1] - 1, rows.shape[0])
    return np.asarray(Image.frombytes("L", size, zlib_ng.compress(rows.data, 0), "zip", "L"))
