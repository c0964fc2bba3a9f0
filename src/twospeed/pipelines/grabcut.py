"""GrabCut (Rother et al., SIGGRAPH 2004) with the calls of `ClickSegmenter`: what a click network is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.ops.clicks import RADIUS, Box, Point
from twospeed.pipelines.prompts import mask_from_box, mask_from_point

_ROUNDS = 2  # from a mask that is nearly right


class GrabCutSegmenter:
    """Draw masks by colour alone, from a box, points and a mask to correct."""

    def predict(
        self,
        image: NDArray[np.uint8],
        points: Sequence[Point] = (),
        box: Box | None = None,
        start: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """As `ClickSegmenter.predict`."""
        if start is None or not start.any():
            start = self._first(image, points, box)
        if len(points) < 2 and not (points and box is not None):
            return start
        hints = np.where(start, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_PR_BGD))
        for x, y, sign in points:
            kind = cv2.GC_FGD if sign > 0 else cv2.GC_BGD
            cv2.circle(hints, (int(x), int(y)), RADIUS, kind, -1)
        if box is not None:
            left, top, right, bottom = (max(0, round(v)) for v in box)
            outside = np.ones(hints.shape, bool)
            outside[top:bottom, left:right] = False
            hints[outside] = cv2.GC_BGD
        given = hints.copy()
        cv2.setRNGSeed(0)  # its colour models start from a random clustering
        try:
            pixels = np.ascontiguousarray(image[..., ::-1])
            cv2.grabCut(pixels, hints, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
        except cv2.error:  # one flat colour: no model can be fitted
            hints = given
        return np.asarray((hints == cv2.GC_FGD) | (hints == cv2.GC_PR_FGD))

    def _first(self, image: NDArray[np.uint8], points: Sequence[Point], box: Box | None) -> NDArray[np.bool_]:
        if box is not None:
            return mask_from_box(image, (box[0], box[1], box[2] - box[0], box[3] - box[1]))
        on_object = [(x, y) for x, y, sign in points if sign > 0]
        return mask_from_point(image, on_object[0]) if on_object else np.zeros(image.shape[:2], bool)
