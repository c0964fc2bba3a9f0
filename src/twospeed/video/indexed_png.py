"""Masks as files: palette PNGs in which a pixel's index is its object's id, as DAVIS and YouTube-VOS keep them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.errors import InputError, MaskError
from twospeed.files import atomic_file
from twospeed.video import mask_colours
from twospeed.video.image_files import open_image

# Level 3 writes a 480p mask in about half the time of the default level; sizes stay in kilobytes.
COMPRESSION_LEVEL = 3


@lru_cache(maxsize=1)
def davis_palette() -> NDArray[np.uint8]:
    """Return the colours that DAVIS and PASCAL VOC give to labels: uint8 (256, 3), RGB, read-only.

    Bit j of a channel, counted from its highest, is bit 3j + channel of the label: neighbouring labels differ in
    high bits, so their colours differ clearly.
    """
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    palette = np.concatenate([np.packbits(bits[:, channel::3], axis=1) for channel in range(3)], axis=1)
    palette.flags.writeable = False
    return palette


def write_indexed_png(path: str | os.PathLike[str], labels: NDArray[np.integer] | NDArray[np.bool_]) -> None:
    """Write labels (H, W), whole numbers 0..255, as an 8-bit PNG with the DAVIS palette.

    The file appears whole or not at all. Raises InputError for another shape or values that are no labels, and
    OutputError where it cannot be written.
    """
    target = Path(path)
    image = Image.fromarray(_as_labels(labels, str(target)))
    image.putpalette(davis_palette().tobytes())
    with atomic_file(target) as temporary:
        image.save(temporary, format="PNG", compress_level=COMPRESSION_LEVEL, bits=8)


def _as_labels(labels: NDArray[np.integer] | NDArray[np.bool_], name: str) -> NDArray[np.uint8]:
    if labels.ndim != 2 or not labels.size:
        raise InputError(f"{name}: labels are an array (H, W), not of shape {labels.shape}")
    if labels.dtype == np.uint8:
        return np.ascontiguousarray(labels, dtype=np.uint8)
    if labels.dtype.kind not in "bui":
        raise InputError(f"{name}: labels are whole numbers 0..255, not {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 255:
        raise InputError(f"{name}: labels are whole numbers 0..255, not {low}..{high}")
    return labels.astype(np.uint8, order="C")


def read_label_map(
    path: str | os.PathLike[str] | BinaryIO,
    *,
    name: str | None = None,
    expect_size: tuple[int, int] | None = None,
    snap: bool = False,
    allow_empty: bool = False,
) -> NDArray[np.uint8]:
    """Read a mask file as labels: uint8 (H, W), 0 = background, other values are object ids.

    | file | labels |
    |---|---|
    | palette PNG | the indices, whatever the palette's colours |
    | black and white (1 bit, grey or RGB with 0 and 255 alone) | 1 where white |
    | grey, 8 or 16 bits, flat | the grey values, which must fit 0..255 |
    | RGB(A), flat, at most 10 colours | see `mask_colours.labels_from_colours` |

    An anti-aliased, blurred or JPEG-compressed mask has dozens of levels along its edges, and each would become an
    object; such files raise MaskError with the number found, unless `snap` is true, which gives every pixel the
    nearest of the mask's dominant colours first (a flat mask is left as it is).
    path: may be an open binary file; `name` is then its name in messages. expect_size: (H, W) that the mask must have,
    its frame's; a mask that is off by one pixel, rounded when somebody scaled it, is stretched to it (nearest).
    allow_empty: accept a mask of background alone.
    Raises MaskError also for files that are missing, unreadable, of another size, or without an object.
    """
    file = Path(path) if isinstance(path, str | os.PathLike) else path
    name = name or str(path)
    with open_image(file, MaskError, name=name) as image:
        labels = _labels_of(image, name, snap)
    if expect_size is not None and labels.shape != tuple(expect_size):
        if all(abs(have - want) <= 1 for have, want in zip(labels.shape, expect_size, strict=True)):
            labels = np.array(Image.fromarray(labels).resize(expect_size[::-1], Image.Resampling.NEAREST))
        else:
            raise MaskError(
                f"{name}: the mask is {labels.shape[1]}x{labels.shape[0]}, "
                f"its frame {expect_size[1]}x{expect_size[0]}; draw the mask at the frame's size"
            )
    if not allow_empty and not labels.any():
        raise MaskError(f"{name}: the mask has no object, every pixel is 0 (background)")
    return labels


def _labels_of(image: Image.Image, name: str, snap: bool) -> NDArray[np.uint8]:
    if image.mode == "P":
        try:
            return mask_colours.labels_from_indices(np.array(image), name)
        except MaskError:
            if not snap:
                raise
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in ("L", "F") or image.mode.startswith("I"):
        return mask_colours.labels_from_levels(np.array(image), name, snap=snap)
    rgba = image.convert("RGBA")
    return mask_colours.labels_from_colours(np.array(rgba), name, davis_palette(), snap=snap)
