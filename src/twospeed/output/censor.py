"""What people do with a mask first: make what it covers unrecognisable, or put another background behind it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from twospeed.errors import InputError
from twospeed.files import is_there
from twospeed.output.matte import alpha_of, foreground
from twospeed.output.text import line_width
from twospeed.results import ObjectMasks
from twospeed.video.folders import read_image

Image = NDArray[np.uint8]
_CELLS = 24  # along the shorter side of an image: few enough that a face of half its height has no features left


def blur_objects(image: Image, masks: ObjectMasks) -> Image:
    """Blur all objects, and a line around them, beyond recognition."""
    return _covered(image, masks, _few_pixels(image, cv2.INTER_CUBIC))


def pixelate_objects(image: Image, masks: ObjectMasks) -> Image:
    """Show all objects, and a line around them, as large squares."""
    return _covered(image, masks, _few_pixels(image, cv2.INTER_NEAREST))


def replace_background(image: Image, masks: ObjectMasks, background: Image) -> Image:
    """Put all objects, with soft edges, before another image of the same size."""
    alpha = alpha_of(masks)
    opaque = alpha[..., None]
    mixed: Image = np.round(foreground(image, alpha) * opaque + background * (1 - opaque)).astype(np.uint8)
    return mixed


def read_background(given: str) -> Image:
    """Return a colour, by name or as #rrggbb, as uint8 (1, 1, 3), or an image file as (H, W, 3); RGB.

    Raises InputError for what is neither.
    """
    if is_there(path := Path(given)) and not path.is_dir():
        return read_image(path)
    try:
        return np.array([[ImageColor.getrgb(given)[:3]]], np.uint8)
    except (ValueError, OverflowError):  # the latter for rgb(300,0,0)
        raise InputError(
            f"{given!r} is neither a colour, such as green or #00b140, nor an image file", option="remove_background"
        ) from None


def fitted_background(background: Image, height: int, width: int) -> Image:
    """Scale a background until it covers a size, and cut what is too much on both sides."""
    scale = max(height / background.shape[0], width / background.shape[1])
    rows, columns = (
        max(size, round(side * scale)) for size, side in zip((height, width), background.shape, strict=False)
    )
    large = cv2.resize(background, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(large[top : top + height, left : left + width], np.uint8)


def _few_pixels(image: Image, interpolation: int) -> Image:
    height, width = image.shape[:2]
    cell = max(4, min(height, width) // _CELLS)
    small = cv2.resize(image, (max(1, width // cell), max(1, height // cell)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=interpolation), np.uint8)


def _covered(image: Image, masks: ObjectMasks, cover: Image) -> Image:
    reach = 2 * line_width(image) + 1
    inside = ((masks.labels > 0) & (masks.labels < 255)).view(np.uint8)
    drawn = image.copy()
    cv2.copyTo(cover, cv2.dilate(inside, np.ones((reach, reach), np.uint8)), drawn)
    return drawn
