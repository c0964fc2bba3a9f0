"""Text on images: sizes that follow the image, shapes from a real font, blended by their coverage."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]


def text_height(image: NDArray[np.uint8]) -> int:
    """Return the font size in pixels that suits an image (H, W, 3): 1/28 of its shorter side, at least 11."""
    return max(11, round(min(image.shape[:2]) / 28))


def line_width(image: NDArray[np.uint8]) -> int:
    """Return the width of outlines in pixels: 1/240 of the shorter side, at least 1."""
    return max(1, round(min(image.shape[:2]) / 240))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # DejaVu Sans, which matplotlib brings along, knows Latin, Greek and Cyrillic; Pillow's own font little but ASCII.
    matplotlib = find_spec("matplotlib")  # finds without importing
    if matplotlib is not None and matplotlib.origin is not None:
        file = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


@lru_cache(maxsize=512)
def text_coverage(text: str, size: int) -> NDArray[np.uint8]:
    """Return how much of each pixel a line of text covers: uint8 (h, w), 0..255, read-only.

    h is the same for every text of one size. Characters that the font lacks show as boxes.
    """
    font = _font(size)
    width = max(1, round(font.getlength(text)))
    height = round(size * 1.3)
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).text((0, height - round(size * 0.36)), text, fill=255, font=font, anchor="ls")
    coverage = np.array(canvas)
    coverage.flags.writeable = False
    return coverage


@lru_cache(maxsize=512)
def fitted(text: str, size: int, width: int) -> str:
    """Return the text, shortened with an ellipsis to at most `width` pixels ("" if not even that fits)."""
    text = " ".join(text.split())
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1].rstrip()
    return text + "…" if text else ""


def put_text(image: NDArray[np.uint8], text: str, left: int, top: int, size: int, colour: Colour) -> None:
    """Draw one line into the image, in place, cut off at its borders."""
    coverage = text_coverage(text, size)
    height, width = image.shape[:2]
    first_row, first_column = max(0, -top), max(0, -left)
    patch = image[max(0, top) : top + coverage.shape[0], max(0, left) : left + coverage.shape[1]]
    if left >= width or top >= height or not patch.size:
        return
    coverage = coverage[first_row : first_row + patch.shape[0], first_column : first_column + patch.shape[1]]
    weight = coverage[..., None].astype(np.uint16)
    patch[:] = (patch * (255 - weight) + np.array(colour, np.uint16) * weight + 127) // 255


def shade(
    image: NDArray[np.uint8], left: int, top: int, right: int, bottom: int, colour: Colour, opacity: float
) -> None:
    """Blend a rectangle of one colour into the image, in place."""
    height, width = image.shape[:2]
    patch = image[max(0, top) : max(0, min(bottom, height)), max(0, left) : max(0, min(right, width))]
    if patch.size:
        tint = np.empty_like(patch)
        tint[:] = colour
        patch[:] = cv2.addWeighted(patch, 1 - opacity, tint, opacity, 0)
