"""Masks as COCO's run lengths: column by column, how many pixels are alternately outside and inside.

Uncompressed counts are a list of numbers; compressed ones a string in which each number (from the third on, its
difference to the one before the last) takes as few characters of 5 bits and a sign as it needs. Both as pycocotools has
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MOST_BITS = 60  # of one number; a text that never ends one would take a time that grows with its square


def run_lengths(mask: NDArray[Any]) -> list[int]:
    """Return uncompressed counts. mask: (H, W), nonzero is inside; the first count is of pixels outside, perhaps 0."""
    pixels = np.asarray(mask, bool).ravel(order="F")
    if not pixels.size:
        return []
    borders = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate([[0], borders, [pixels.size]])).tolist()
    return [0, *counts] if pixels[0] else counts


def coco_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask (H, W) as COCO has it: segmentation (compressed run lengths), area and bbox."""
    return {
        "segmentation": {"size": list(mask.shape), "counts": compress(run_lengths(mask))},
        "area": int(np.count_nonzero(mask)),
        "bbox": list(cv2.boundingRect(mask.view(np.uint8))),
    }


def mask_of(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of uncompressed counts. Raises ValueError when they are not of height * width pixels."""
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"counts of {sum(counts)} pixels for a mask of {height} x {width}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def compress(counts: Sequence[int]) -> str:
    """Return the string of uncompressed counts."""
    characters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            part = value & 0x1F
            value >>= 5
            more = value != (-1 if part & 0x10 else 0)
            characters.append(chr((part | (0x20 if more else 0)) + 48))
    return "".join(characters)


def decompress(text: str) -> list[int]:
    """Return the counts of a string. Raises ValueError for what is none."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        part = ord(character) - 48
        if not 0 <= part < 64:
            raise ValueError(f"{character!r} does not occur in run lengths")
        if shift >= _MOST_BITS:
            raise ValueError(f"run lengths hold a number of more than {_MOST_BITS} bits")
        value |= (part & 0x1F) << shift
        shift += 5
        if not part & 0x20:
            if part & 0x10:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("run lengths end in the middle of a number")
    return counts
