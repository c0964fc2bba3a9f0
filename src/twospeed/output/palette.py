"""Colours for objects and classes: RGB, 0..255."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.video.indexed_png import davis_palette

_LEAST_DISTANCE = 28.0  # in Lab with a third of the brightness

GOLDEN_ANGLE = 0.618034  # of a full turn: each next hue falls into the widest gap left by those before


@lru_cache(maxsize=1)
def object_colours() -> NDArray[np.uint8]:
    """Return a colour for every label that shows on a video: uint8 (256, 3), row 0 black, read-only.

    Labels 1 to 7 have the hues of the DAVIS palette at full brightness, as half of that palette is too dark to shine
    through an image; brightened, its later colours would repeat them, so labels from 8 on take `class_colours`.
    """
    colours = np.concatenate([np.zeros((1, 3), np.uint8), class_colours(255)])
    colours[:8] = davis_palette()[:8] // 128 * 255
    colours.flags.writeable = False
    return colours


@lru_cache(maxsize=32)
def class_colours(count: int) -> NDArray[np.uint8]:
    """Return `count` colours that differ from their neighbours in the list: uint8 (count, 3), read-only.

    Colour i does not depend on `count`. For classes that bring colours of their own, use those.
    """
    colours = [
        colorsys.hsv_to_rgb((0.05 + GOLDEN_ANGLE * i) % 1.0, (0.85, 0.55, 0.95)[i % 3], (0.95, 0.85, 0.7)[i // 3 % 3])
        for i in range(count)
    ]
    table = (np.array(colours).reshape(-1, 3) * 255).round().astype(np.uint8)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=32)
def distinct_colours(colours: tuple[tuple[int, int, int], ...]) -> NDArray[np.uint8]:
    """Return colours (n, 3), uint8, read-only, in which those too close to an earlier one are replaced.

    Published colours of classes, made for label images, are often hard to tell apart on a video: CamVid's trees and
    pedestrians are two shades of olive. Two colours are too close where brightness alone tells them apart,
    as it changes where colours are blended with an image, or where nothing does.
    """
    table = np.array(colours, np.uint8).reshape(-1, 3)
    spare = class_colours(64 + len(table))
    for i in range(1, len(table)):
        if _distances(table[i], table[:i]).min() < _LEAST_DISTANCE:
            others = np.delete(table, i, axis=0)
            gaps = [_distances(colour, others).min() for colour in spare]
            table[i] = spare[int(np.argmax(gaps))]
    table.flags.writeable = False
    return table


def _distances(colour: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Distances in Lab, brightness counting a third."""
    pair = np.concatenate([colour[None], others]).astype(np.float32)[None] / 255
    lab = cv2.cvtColor(pair, cv2.COLOR_RGB2LAB)[0].astype(np.float64) * (1 / 3, 1, 1)
    distances: NDArray[np.float64] = np.linalg.norm(lab[1:] - lab[0], axis=1)
    return distances


def text_colour(background: tuple[int, int, int] | NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return black or white, whichever is easier to read on this colour (higher contrast by WCAG 2 luminance)."""
    linear = (np.asarray(background, np.float64) / 255) ** 2.2
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    # Contrast (L1 + .05) / (L2 + .05) to black and to white is equal where (L + .05)^2 = 1.05 * .05.
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
