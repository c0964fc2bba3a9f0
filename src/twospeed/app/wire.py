"""Masks as the page, the store and the worker pass them on: a header, the objects, and run lengths.

Little endian: `u8 1, u8 source, u16 K, u32 frame, u32 rev, u16 height, u16 width, u32 n, u32 0` (24 bytes), then K
times `u16 id, u16 0, f32 confidence`, n bytes of values, and n LEB128 lengths, row by row, which sum to height * width.
The page's half is `static/wire.js`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

GIVEN, TRACKED, EDITED = 0, 1, 2
STALE = 16  # added to the source: a keyframe that bounds this frame has changed since

_HEADER = struct.Struct("<BBHIIHHII")
_OBJECT = struct.Struct("<HHf")
_MOST_SIDE = 16384
_LONGEST = 5  # bytes of a length


@dataclass(frozen=True)
class WireMask:
    """One frame's labels, encoded. runs: n (u32), values and lengths. confidence: by object id."""

    frame: int
    height: int
    width: int
    runs: bytes
    confidence: Mapping[int, float] = field(default_factory=dict)
    source: int = GIVEN
    rev: int = 0

    def to_bytes(self) -> bytes:
        """Return the mask as it travels."""
        count, objects = struct.unpack_from("<I", self.runs)[0], len(self.confidence)
        head = _HEADER.pack(1, self.source, objects, self.frame, self.rev, self.height, self.width, count, 0)
        return head + pack_confidence(self.confidence) + self.runs[4:]

    def labels(self) -> NDArray[np.uint8]:
        """Return uint8 (H, W). Raises InputError where lengths do not fit the size."""
        return decode_runs(self.runs, self.height, self.width)

    def marked(self, *, source: int, rev: int) -> WireMask:
        """Return the same mask with another source and revision."""
        return replace(self, source=source, rev=rev)


def mask_of(
    labels: NDArray[np.uint8], frame: int, confidence: Mapping[int, float] | None = None, source: int = GIVEN
) -> WireMask:
    """Encode labels (H, W)."""
    height, width = labels.shape
    return WireMask(frame, height, width, encode_runs(labels), dict(confidence or {}), source)


def parse(data: bytes, size: tuple[int, int] | None = None) -> WireMask:
    """Read a mask. size: (height, width) that it must have. Raises InputError for anything that is no such mask."""
    if len(data) < _HEADER.size:
        raise InputError(f"a mask of {len(data)} bytes is shorter than its header of {_HEADER.size}")
    version, source, objects, frame, rev, height, width, count, reserved = _HEADER.unpack_from(data)
    if version != 1 or reserved:
        raise InputError(f"a mask of version {version} cannot be read; this is version 1")
    if not (0 < height <= _MOST_SIDE and 0 < width <= _MOST_SIDE):
        raise InputError(f"a mask of {width}x{height} pixels is too large or empty")
    if size is not None and (height, width) != size:
        raise InputError(f"the mask is {width}x{height}, its frame {size[1]}x{size[0]}")
    begin = _HEADER.size + objects * _OBJECT.size
    if count > height * width or begin + 2 * count > len(data):
        raise InputError(f"the mask states {count} runs, which do not fit its {len(data)} bytes")
    confidence = unpack_confidence(data[_HEADER.size : begin])
    mask = WireMask(frame, height, width, struct.pack("<I", count) + data[begin:], confidence, source, rev)
    mask.labels()
    return mask


def pack_confidence(confidence: Mapping[int, float]) -> bytes:
    """Return the objects' part: for each `u16 id, u16 0, f32 confidence`."""
    return b"".join(_OBJECT.pack(i, 0, value) for i, value in sorted(confidence.items()))


def unpack_confidence(data: bytes) -> dict[int, float]:
    """Read the objects' part. Raises InputError where its length is none that it can have."""
    if not isinstance(data, bytes) or len(data) % _OBJECT.size:
        raise InputError("the mask ends within its objects")
    return {i: value for i, _, value in _OBJECT.iter_unpack(data)}


def encode_runs(labels: NDArray[np.uint8]) -> bytes:
    """Return `u32 n`, n values, n LEB128 lengths of labels (H, W), row by row."""
    flat = np.ascontiguousarray(labels, np.uint8).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]])).astype(np.uint64)
    groups = (lengths[:, None] >> (7 * np.arange(_LONGEST, dtype=np.uint64))) & np.uint64(0x7F)  # (n, 5), low first
    used = np.maximum(1, _LONGEST - (groups[:, ::-1] != 0).argmax(1))
    used[lengths < 128] = 1
    place = np.arange(_LONGEST)
    coded = groups.astype(np.uint8) | np.where(place < used[:, None] - 1, 0x80, 0).astype(np.uint8)
    return struct.pack("<I", len(starts)) + flat[starts].tobytes() + coded[place < used[:, None]].tobytes()


def decode_runs(runs: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Return labels uint8 (height, width). Raises InputError where the lengths do not sum to height * width."""
    if not isinstance(runs, bytes) or len(runs) < 4 or len(runs) < 4 + struct.unpack_from("<I", runs)[0]:
        raise InputError("the mask ends within its runs")
    (count,) = struct.unpack_from("<I", runs)
    coded = np.frombuffer(runs, np.uint8, offset=4 + count)
    last = np.flatnonzero(coded < 0x80)
    if not count or len(last) != count or last[-1] != len(coded) - 1:
        raise InputError(f"the mask states {count} runs and holds {len(last)} lengths")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= _LONGEST:
        raise InputError("a run of the mask is longer than any image")
    shift = (np.arange(len(coded)) - np.repeat(first, last - first + 1)) * 7
    lengths = np.add.reduceat((coded & 0x7F).astype(np.int64) << shift, first)
    if int(lengths.sum()) != height * width or (lengths == 0).any():
        raise InputError(f"the mask's runs cover {int(lengths.sum())} pixels of {width}x{height}")
    values = np.frombuffer(runs, np.uint8, count, offset=4)
    return np.repeat(values, lengths).reshape(height, width)
