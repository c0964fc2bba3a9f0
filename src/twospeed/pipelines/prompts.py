"""A mask from less than a mask: points, a box, or a mask to correct.

`click_nano` draws it where its weights are on this machine, else GrabCut, which judges by colour alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twospeed.ops.clicks import Box, Point
from twospeed.pipelines.grabcut import GrabCutSegmenter
from twospeed.pipelines.inputs import Image as AnyImage
from twospeed.pipelines.inputs import checked_prompts
from twospeed.pipelines.video_tracker import Labels
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
    image: AnyImage,
    points: Sequence[Point] | NDArray[Any] = (),
    box: Box | NDArray[Any] | None = None,
    start: Mask | Labels | None = None,
    *,
    network: PromptNetwork | None = None,
) -> Mask:
    """Draw the mask of one object.

    image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. points: (x, y, sign) in pixels,
    sign +1 on the object and -1 beside it. box: x0, y0, x1, y1 in pixels, around the object. start: bool (H, W), a mask
    to be corrected by the points. network: what draws; None takes `default_network`. Returns bool (H, W).
    Raises MaskError for points outside the image, a box or a start that does not fit it, or where nothing says where
    the object is; InputError for an image of another kind.
    """
    prompts = checked_prompts(image, points, box, start)
    return (network or default_network()).predict(*prompts)


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
