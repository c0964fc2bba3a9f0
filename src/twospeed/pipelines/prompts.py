"""A mask from less than a mask: points, a box, or a mask to correct.

`click_nano` draws it where its weights are on this machine, else GrabCut, which judges by colour alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, MaskError
from twospeed.ops.clicks import Box, Point
from twospeed.pipelines.grabcut import GrabCutSegmenter
from twospeed.weights.catalog import find

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

NETWORK = "click_nano"

_log = logging.getLogger(__name__)


class PromptNetwork(Protocol):
    """What draws masks from prompts: `ClickSegmenter`, `GrabCutSegmenter`, or anything with their one call."""

    def predict(
        self, image: Image, points: Sequence[Point] = (), box: Box | None = None, start: Mask | None = None
    ) -> Mask:
        """Return the mask, bool (H, W); arguments are those of `mask_from_prompts`, which checks them."""
        ...


def mask_from_prompts(
    image: Image,
    points: Sequence[Point] = (),
    box: Box | None = None,
    start: Mask | None = None,
    *,
    network: PromptNetwork | None = None,
) -> Mask:
    """Draw the mask of one object.

    image: uint8 (H, W, 3) RGB. points: (x, y, sign) in pixels, sign +1 on the object and -1 beside it. box: x0, y0, x1,
    y1 in pixels, around the object. start: bool (H, W), a mask to be corrected by the points. network: what draws; None
    takes `default_network`. Returns bool (H, W).
    Raises MaskError for points outside the image, a box or a start that does not fit it, or where nothing says where
    the object is; InputError for an image of another kind.
    """
    check_prompts(image, points, box, start)
    return (network or default_network()).predict(image, points, box, start)


@cache
def default_network() -> PromptNetwork:
    """Return click_nano where its weights come with the package and torch is installed, else GrabCut."""
    weights = find(NETWORK).weights
    if weights is None or weights.url is not None:
        return GrabCutSegmenter()
    try:
        from twospeed.pipelines.click import ClickSegmenter  # imports torch
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        _log.warning("torch is not installed: masks are drawn from points and boxes by GrabCut, not by %s", NETWORK)
        return GrabCutSegmenter()
    return ClickSegmenter(NETWORK)


def check_prompts(image: Image, points: Sequence[Point], box: Box | None, start: Mask | None) -> None:
    """Raise InputError for an image, MaskError for prompts, that no mask can be drawn from."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"image is {image.dtype} of shape {image.shape}; give uint8 RGB (H, W, 3)", option="image")
    height, width = image.shape[:2]
    where = f"the {width}x{height} image"
    if not points and box is None and start is None:
        raise MaskError("no prompt: give points, a box, or both")
    for x, y, sign in points:
        if sign not in (1, -1):
            raise MaskError(f"point {x:g},{y:g} has sign {sign}; give +1 (on the object) or -1 (beside it)")
        if not (0 <= x < width and 0 <= y < height):
            raise MaskError(f"point {x:g},{y:g} lies outside {where}; give x,y in pixels")
    if box is not None:
        left, right, top, bottom = max(0, box[0]), min(width, box[2]), max(0, box[1]), min(height, box[3])
        if not (right - left >= 1 and bottom - top >= 1):
            raise MaskError(f"box {', '.join(f'{v:g}' for v in box)} covers no pixel of {where}; give x0, y0, x1, y1")
    if start is not None and start.shape != (height, width):
        raise MaskError(
            f"the mask to correct is {start.shape[1]}x{start.shape[0]}, {where} is not; give one of its size"
        )
    if box is None and (start is None or not start.any()) and not any(sign > 0 for _, _, sign in points):
        raise MaskError("all points are beside the object; give one on it, or a box, or a mask to correct")
