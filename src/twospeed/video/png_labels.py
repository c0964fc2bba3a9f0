"""Label PNGs read several times as fast as image libraries read them.

A mask is a few kilobytes that unpack to half a million bytes. Libraries unpack it row by row, which costs more than
everything else about it. Here a file is unpacked in one call by zlib-ng. Rows that are stored as they are (all rows of
most palette PNGs) are then ready; rows that are filtered are packed again without compression for Pillow, which
undoes the filters. What is unusual or damaged is left to the general reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from twospeed.video.image_files import png_is_damaged
from twospeed.video.pixels import MOST_PIXELS

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types
_LAST_FILTER = 4  # Paeth's
_zlib_error: type[Exception] = zlib_ng.error  # type: ignore[assignment]  # an instance in the package's stubs


class PngLabels(NamedTuple):
    """Values of a PNG of one byte a pixel, uint8 (H, W), read-only; is_palette: they are indices, else grey."""

    values: NDArray[np.uint8]
    is_palette: bool


def read_png_labels(path: Path) -> PngLabels | None:
    """Read a grey or palette PNG of 8 bits, uninterlaced; None for any other file, and for one with any fault."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or png_is_damaged(data):
        return None
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colour, compression, filters, interlaced = data[24:29]
    plain = (depth, compression, filters, interlaced) == (8, 0, 0, 0) and colour in (_GREY, _PALETTE)
    if not plain or not 0 < width * height <= MOST_PIXELS:
        return None
    try:
        rows = _unpacked(_pixel_data(data), width, height)
        last_filter = int(rows[:, 0].max())
        if last_filter > _LAST_FILTER:
            return None
        values = _unfiltered(rows) if last_filter else rows[:, 1:]
    except (_zlib_error, ValueError, OSError):
        return None
    return PngLabels(values, colour == _PALETTE)


def _pixel_data(data: bytes) -> bytes:
    """Return the compressed pixels of a PNG that is not damaged."""
    parts, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(parts)


def _unpacked(packed: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Return rows (H, 1 + W), the first byte of each its filter. Raises ValueError for another number of bytes."""
    size = (width + 1) * height
    unpacker = zlib_ng.decompressobj()
    rows = unpacker.decompress(packed, size)  # a bound: a small file may unpack to any size
    if len(rows) != size or not unpacker.eof:
        raise ValueError(f"{len(rows)} bytes for {width}x{height} pixels")
    return np.frombuffer(rows, np.uint8).reshape(height, width + 1)


def _unfiltered(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the filters of rows (H, 1 + W): uint8 (H, W).

    Filters predict a pixel from those left of it and above it: where all stored bytes from the first row, or from the
    left edge, on are 0, pixels are 0 too, and so they are behind a row or column of zeros with stored zeros alone after
    it. A mask's surroundings are like that, so that mostly its own rectangle is all that has to be unfiltered.
    """
    height, width = rows.shape[0], rows.shape[1] - 1
    stored = rows[:, 1:]
    values = np.zeros((height, width), np.uint8)
    used_rows = np.flatnonzero(stored.max(axis=1))
    if not used_rows.size:
        return values
    top, bottom = int(used_rows[0]), min(int(used_rows[-1]) + 2, height)  # with one more row and column, to be 0
    used_columns = np.flatnonzero(stored[top:bottom].max(axis=0))
    left, right = int(used_columns[0]), min(int(used_columns[-1]) + 2, width)
    part = _unfiltered_by_pillow(np.concatenate([rows[top:bottom, :1], stored[top:bottom, left:right]], axis=1))
    if (bottom < height and part[-1].any()) or (right < width and part[:, -1].any()):
        return _unfiltered_by_pillow(rows)
    values[top:bottom, left:right] = part
    return values


def _unfiltered_by_pillow(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (rows.shape[1] - 1, rows.shape[0])
    return np.asarray(Image.frombytes("L", size, zlib_ng.compress(rows.data, 0), "zip", "L"))
