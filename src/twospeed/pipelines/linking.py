"""Detections of single frames -> objects that keep their number over time: Hungarian matching on mask IoU.

Source: the assignment is Kuhn's (1955); linking by overlap is the usual baseline of the DAVIS-2017 unsupervised task,
which allows 20 proposals a video.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

Masks = NDArray[np.bool_]

_NEW = 0.5  # a new object has at least this share of its pixels outside all others of its frame


@dataclass
class _Object:
    mask: Masks  # (HW,), where it was last seen
    seen: int  # frame at which


class ObjectLinker:
    """Give detections the numbers of the objects they belong to, frame by frame.

    First the objects of the frame before are matched, then those that were gone: an object that comes back about where
    it was last seen gets its number back. What is left over and scores min_score or more is a new object. min_iou:
    least overlap of a detection with the mask an object last had. max_objects: numbers that are given out, 1 to
    max_objects; when all are taken, the object that has been gone longest, patience frames at least, gives its number
    up. What is held is one mask for each number. reach: how far an object of the frame before may have moved to a
    detection of about its size that overlaps too little, in units of that size. known: masks of objects that are given,
    by number, as seen just before the first frame; then only these are followed, and a new object can only be one of
    them that was gone.
    Raises InputError for options that make no sense.
    """

    def __init__(
        self,
        *,
        max_objects: int = 20,
        min_score: float = 0.5,
        min_iou: float = 0.3,
        patience: int = 50,
        reach: float = 0.0,
        known: Mapping[int, Masks] | None = None,
    ):
        if not 1 <= max_objects <= 255:
            raise InputError(f"max_objects is {max_objects}; give 1 to 255 (labels are bytes)")
        for name, value in {"min_score": min_score, "min_iou": min_iou}.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; give a number from 0 to 1")
        self.max_objects, self.min_score, self.min_iou, self.patience = max_objects, min_score, min_iou, patience
        self.reach = reach
        self._frame = -1
        self._objects = {number: _Object(mask.reshape(-1).copy(), -1) for number, mask in (known or {}).items()}
        self._only_known = known is not None

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Numbers given out so far."""
        return tuple(sorted(self._objects))

    def link(self, masks: Masks, scores: NDArray[np.floating]) -> list[int]:
        """Take the next frame's detections and return each one's object; 0 for none.

        Shapes: masks bool (n, H, W), scores (n,) in 0..1.
        """
        self._frame += 1
        self._shape = masks.shape[1:]
        flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
        ids = [0] * len(flat)
        present = [i for i, one in self._objects.items() if one.seen == self._frame - 1]
        gone = [i for i, one in self._objects.items() if one.seen < self._frame - 1]
        for candidates in (present, gone):
            self._match(candidates, flat, ids)
        for index in sorted(range(len(flat)), key=lambda i: -scores[i]):
            if ids[index] == 0 and scores[index] >= self.min_score and self._is_new(flat, ids, index):
                ids[index] = self._returned(flat[index]) if self._only_known else self._number(flat[index])
        return ids

    def _match(self, candidates: list[int], flat: Masks, ids: list[int]) -> None:
        """Match objects to detections without a number, so that the sum of overlaps is the largest."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        free = [index for index, number in enumerate(ids) if number == 0 and flat[index].any()]
        if not candidates or not free:
            return
        before = np.stack([self._objects[i].mask for i in candidates])
        overlap = _iou(before, flat[free])
        if self.reach:  # less than any overlap that counts, nearer ones first
            near = _nearness(before, flat[free], self._shape, self.reach)
            overlap = np.maximum(overlap, np.where(near > 0, self.min_iou + 1e-3 * near, 0))
        # Pairs that overlap too little must not push better ones aside
        rows, columns = linear_sum_assignment(np.where(overlap >= self.min_iou, overlap, 0), maximize=True)
        for row, column in zip(rows, columns, strict=True):
            if overlap[row, column] >= max(self.min_iou, 1e-9):
                ids[free[column]] = candidates[row]
                self._objects[candidates[row]] = _Object(flat[free[column]].copy(), self._frame)

    def forget_places(self) -> None:
        """Forget where objects were, as after a cut: what comes next is new, and numbers are not used twice."""
        for one in self._objects.values():
            one.mask[:] = False

    def _is_new(self, flat: Masks, ids: list[int], index: int) -> bool:
        mask = flat[index]
        others = flat[[i for i, number in enumerate(ids) if number]].any(0)
        return bool(mask.any()) and float((mask & ~others).sum()) >= _NEW * float(mask.sum())

    def _returned(self, mask: Masks) -> int:
        """Give the number of the known object that has been gone longest, or 0 when all are in the frame."""
        gone = [number for number, one in self._objects.items() if one.seen < self._frame]
        if not gone:
            return 0
        number = min(gone, key=lambda i: self._objects[i].seen)
        self._objects[number] = _Object(mask.copy(), self._frame)
        return number

    def _number(self, mask: Masks) -> int:
        """Give out a number, or 0 when none is left."""
        number = next((i for i in range(1, self.max_objects + 1) if i not in self._objects), 0)
        if number == 0:
            longest = min(self._objects, key=lambda i: self._objects[i].seen)
            if self._frame - self._objects[longest].seen < self.patience:
                return 0
            number = longest
        self._objects[number] = _Object(mask.copy(), self._frame)
        return number


def _iou(a: Masks, b: Masks) -> NDArray[np.float32]:
    """Intersection over union of all pairs. Shapes: (m, P), (n, P) -> (m, n)."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    both = x @ y.T
    union = x.sum(1)[:, None] + y.sum(1)[None] - both
    result: NDArray[np.float32] = both / np.maximum(union, 1)
    return result


def _nearness(a: Masks, b: Masks, shape: tuple[int, ...], reach: float) -> NDArray[np.float32]:
    """How near masks are that could be one object moved: 1 in one place, 0 from `reach` of their size on, (m, n).

    Shapes: (m, P), (n, P) of images of `shape`. Masks of areas more than three times apart are never near.
    """

    def places(masks: Masks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        area = masks.sum(1).astype(np.float64)
        inside = masks.reshape(-1, *shape)
        rows = inside.sum(2) @ np.arange(shape[0]) / np.maximum(area, 1)
        columns = inside.sum(1) @ np.arange(shape[1]) / np.maximum(area, 1)
        return np.stack([rows, columns], 1), area

    (middle_a, area_a), (middle_b, area_b) = places(a), places(b)
    larger, smaller = np.maximum(area_a[:, None], area_b), np.minimum(area_a[:, None], area_b)
    distance = np.linalg.norm(middle_a[:, None] - middle_b, axis=2) / np.maximum(np.sqrt(larger), 1)
    near = np.where(larger <= 3 * smaller, 1 - distance / reach, 0)
    return np.asarray(np.clip(near, 0, 1), np.float32)
