"""Give people the same number from keyframe to keyframe.

A simple, well-known tracker: boxes of one keyframe are assigned to the people known so far so that the sum of overlaps
is largest (Hungarian method), pairs that overlap too little are new people, and people not seen for a while are
forgotten, so that memory does not grow with the video.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.ops.boxes import box_iou

Boxes = NDArray[np.floating[Any]]


@dataclass
class PersonLinker:
    """Number people by the overlap of their boxes.

    min_iou: boxes that overlap less are different people. patience: keyframes that a person may be missing.
    """

    min_iou: float = 0.3
    patience: int = 2
    _boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4)))
    _ids: list[int] = field(default_factory=list)
    _missing: list[int] = field(default_factory=list)
    _next: int = 1

    def step(self, boxes_xyxy: Boxes) -> tuple[int, ...]:
        """Return the number of the person in each box (n, 4) of the next keyframe; numbers begin at 1."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
        iou = box_iou(boxes, self._boxes)
        # A pair below the limit is worth nothing, so that it never takes a box from a better one
        given, known = linear_sum_assignment(np.where(iou >= self.min_iou, iou, 0.0), maximize=True)
        ids = [0] * len(boxes)
        seen = set()
        for row, column in zip(given.tolist(), known.tolist(), strict=True):
            if iou[row, column] >= self.min_iou:
                ids[row] = self._ids[column]
                seen.add(column)
        for row, number in enumerate(ids):
            if not number:
                ids[row], self._next = self._next, self._next + 1
        kept = [i for i in range(len(self._ids)) if i not in seen and self._missing[i] < self.patience]
        self._boxes = np.concatenate([boxes, self._boxes[kept]])
        self._missing = [0] * len(boxes) + [self._missing[i] + 1 for i in kept]
        self._ids = ids + [self._ids[i] for i in kept]
        return tuple(ids)
