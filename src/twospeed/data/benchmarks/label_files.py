"""Masks of data sets as files: images whose values are object ids, read without interpreting colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import DatasetError
from twospeed.video.image_files import open_image
from twospeed.video.png_labels import read_png_labels

VOID = 255
"""Label of pixels that an annotation leaves undecided."""


def read_indices(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Read a label image, uint8 (H, W), and say whether it is a palette image (its numbers cannot be grey).

    Raises DatasetError for a missing file or one that is no label map.
    """
    if (found := read_png_labels(path)) is not None:
        return found
    with open_image(path, DatasetError) as image:
        if image.mode in ("P", "L", "1"):
            return np.asarray(image, dtype=np.uint8), image.mode == "P"
        if image.mode in ("LA", "RGB", "RGBA"):  # some DAVIS-2016 masks: grey saved as colour
            colours = np.array(image.convert("RGB"))
            if (colours == colours[..., :1]).all():
                return np.ascontiguousarray(colours[..., 0]), False
        mode = image.mode
    raise DatasetError(
        f"{path}: an image of mode {mode}, not a label map; "
        "give a palette or 8-bit grey PNG whose values are object ids"
    )


def read_label_file(path: Path, *, has_void: bool = False) -> NDArray[np.uint8]:
    """Read a mask file as object ids, uint8 (H, W); a file of only 0 and 255 is one object, label 1.

    has_void: keep 255 of a palette file, which means "do not score this pixel" in annotations.
    Raises DatasetError for a missing file or one that is no label map.
    """
    labels, is_palette = read_indices(path)
    if not (is_palette and has_void) and labels.max(initial=0) == VOID and ((labels == 0) | (labels == VOID)).all():
        return np.asarray(labels != 0, dtype=np.uint8)
    return labels


def read_foreground(path: Path) -> NDArray[np.uint8]:
    """Read a mask file as one foreground, uint8 (H, W) of 0 and 1: all ids of a palette, grey above one half.

    Accepts 0/1, 0/255, palette ids, and soft 8-bit grey. Raises DatasetError as `read_label_file`.
    """
    labels, is_palette = read_indices(path)
    # Grey values below one half alone are ids in a file without a palette, not a mask that nobody could see.
    threshold = 0 if is_palette or int(labels.max(initial=0)) < 128 else 127
    foreground: NDArray[np.uint8] = (labels > threshold).view(np.uint8)
    return foreground
