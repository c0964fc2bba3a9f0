"""Masks of data sets as files: images whose values are object ids, read without interpreting colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import DatasetError
from twospeed.video.image_files import open_image
from twospeed.video.png_labels import LabelPart, read_png_labels

VOID = 255
"""Label of pixels that an annotation leaves undecided."""


def read_indices(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Read a label image, uint8 (H, W), and say whether it is a palette image (its numbers cannot be grey).

    Raises DatasetError for a missing file or one that is no label map.
    """
    part = _read(path, cut=False)
    return part.whole(), part.is_palette


def read_label_part(path: Path, *, foreground: bool = False, has_void: bool = False) -> LabelPart:
    """Read the part of a mask file that is not 0, as object ids; a file of only 0 and 255 is one object, label 1.

    foreground: as `read_foreground` instead. has_void: keep 255 of a palette file, which means "do not score this
    pixel" in annotations. Raises DatasetError for a missing file or one that is no label map.
    """
    part = _read(path, cut=True)
    values, is_palette = part.values, part.is_palette
    highest = int(values.max(initial=0))
    if foreground:
        # Grey values below one half alone are ids in a file without a palette, not a mask that nobody could see.
        threshold = 0 if is_palette or highest < 128 else 127
        values = values if highest <= 1 else (values > threshold).view(np.uint8)
    elif highest == VOID and not (is_palette and has_void) and ((values == 0) | (values == VOID)).all():
        values = (values != 0).view(np.uint8)
    return part._replace(values=values)


def read_foreground(path: Path) -> NDArray[np.uint8]:
    """Read a mask file as one foreground, uint8 (H, W) of 0 and 1: all ids of a palette, grey above one half.

    Accepts 0/1, 0/255, palette ids, and soft 8-bit grey. Raises DatasetError as `read_label_part`.
    """
    return read_label_part(path, foreground=True).whole()


def _read(path: Path, *, cut: bool) -> LabelPart:
    if (part := read_png_labels(path, cut=cut)) is not None:
        return part
    with open_image(path, DatasetError) as image:
        if image.mode in ("P", "L", "1"):
            return LabelPart.of_whole(np.asarray(image, dtype=np.uint8), image.mode == "P")
        if image.mode in ("LA", "RGB", "RGBA"):  # some DAVIS-2016 masks: grey saved as colour
            colours = np.array(image.convert("RGB"))
            if (colours == colours[..., :1]).all():
                return LabelPart.of_whole(np.ascontiguousarray(colours[..., 0]), is_palette=False)
        mode = image.mode
    raise DatasetError(
        f"{path}: an image of mode {mode}, not a label map; "
        "give a palette or 8-bit grey PNG whose values are object ids"
    )
