"""Frame-mAP of AVA: average precision of each action over boxes of keyframes, by either official rule.

A detection belongs to the ground-truth box of its frame and class that it overlaps most; it is right when their
intersection over union is at least 0.5 and no better detection has found that box before: there is no second choice.
Over the whole set detections are ordered by score; precision is made monotone, and AP is the area under its steps over
recall. Detections without area are dropped. Source: Gu et al., AVA, CVPR 2018; both rules as their scripts have them.

| | `activitynet` (the challenge's server) | `pyslowfast` (scores in SlowFast's papers' logs) |
|---|---|---|
| who comes first in a frame and class | the higher score | the earlier row of the file |
| detections kept of a frame | the best 50 over all scored classes | all |
| frames without ground truth | ignored | all their detections are wrong |
| excluded frames | not known to it (they have no ground truth) | removed from both sides |

Equal scores are ordered by numpy's default sort, as in the official scripts. It is not stable, so that AP is only
defined up to ties: `FrameAP.interval` says between which values.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.ops.boxes import paired_iou

Rules: TypeAlias = Literal["activitynet", "pyslowfast"]

KEPT_PER_FRAME = 50  # by the ActivityNet rule
Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FrameBoxes:
    """Boxes of many keyframes, one action each, in the order of their file.

    frames: int64 (n,) numbers of keyframes. boxes_xyxy: float64 (n, 4) in any one unit. classes: int64 (n,). scores:
    float64 (n,), not used of ground truth. Raises InputError where lengths differ or a number is not finite.
    """

    frames: Integers
    boxes_xyxy: Floats
    classes: Integers
    scores: Floats

    def __post_init__(self) -> None:
        n = len(self.frames)
        if self.boxes_xyxy.shape != (n, 4) or self.classes.shape != (n,) or self.scores.shape != (n,):
            raise InputError(
                f"{n} frames with boxes {self.boxes_xyxy.shape}, classes {self.classes.shape} and scores "
                f"{self.scores.shape}: give one of each for every row"
            )
        if not (np.isfinite(self.boxes_xyxy).all() and np.isfinite(self.scores).all()):
            raise InputError("boxes and scores must be finite numbers")

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: NDArray[np.bool_] | Integers) -> FrameBoxes:
        """Return these rows, a mask or numbers."""
        return FrameBoxes(self.frames[rows], self.boxes_xyxy[rows], self.classes[rows], self.scores[rows])


@dataclass(frozen=True, slots=True)
class FrameAP:
    """mean: over the classes that have ground truth (NaN if none has). interval: the lowest and highest mean that an
    order of equal scores can give. by_class: AP of the classes with ground truth, 0..1. ground_truth, detections: boxes
    counted of each class asked for.
    """

    mean: float
    interval: tuple[float, float]
    by_class: dict[int, float]
    ground_truth: dict[int, int]
    detections: dict[int, int]


def frame_ap(
    ground_truth: FrameBoxes,
    detections: FrameBoxes,
    classes: Sequence[int],
    *,
    rules: Rules = "activitynet",
    excluded: Sequence[int] | Integers = (),
    iou_threshold: float = 0.5,
) -> FrameAP:
    """Score detections against ground truth; frames carry the same numbers on both sides.

    classes: those that are scored; rows of others are left out on both sides. excluded: frames that the `pyslowfast`
    rule leaves out. iou_threshold: at least this much overlap is a hit. Raises InputError for unknown rules.
    """
    if rules not in get_args(Rules):
        raise InputError(f"rules={rules!r}: choose {' or '.join(get_args(Rules))}")
    scored = np.unique(np.asarray(classes, np.int64))
    truth = ground_truth.take(np.isin(ground_truth.classes, scored))
    found = detections.take(np.isin(detections.classes, scored))
    if rules == "pyslowfast":
        left_out = np.asarray(excluded, np.int64)
        truth = truth.take(~np.isin(truth.frames, left_out))
        found = found.take(~np.isin(found.frames, left_out))
    else:
        found = found.take(_best_of_frames(found, KEPT_PER_FRAME))
        found = found.take(np.isin(found.frames, truth.frames))
    x1, y1, x2, y2 = found.boxes_xyxy.T
    found = found.take((x1 < x2) & (y1 < y2))
    found = _by_frame_of_appearance(found)
    hits = _hits(truth, found, by_score=rules == "activitynet", iou_threshold=iou_threshold)

    by_class: dict[int, float] = {}
    bounds: list[tuple[float, float]] = []
    counts, numbers = {}, {}
    by_class_rows = _rows_by_class(found.classes, scored)
    for action, rows in zip(scored.tolist(), by_class_rows, strict=True):
        counts[action] = int((truth.classes == action).sum())
        numbers[action] = len(rows)
        if counts[action]:
            scores, right = found.scores[rows], hits[rows]
            by_class[action] = average_precision(scores, right, counts[action])
            misses_first, hits_first = np.lexsort((~right, scores))[::-1], np.lexsort((right, scores))[::-1]
            low, high = (_area(right[order], counts[action]) for order in (misses_first, hits_first))
            bounds.append((low, high))
    if not by_class:
        return FrameAP(math.nan, (math.nan, math.nan), {}, counts, numbers)
    low, high = np.mean(bounds, axis=0).tolist()
    return FrameAP(float(np.mean(list(by_class.values()))), (low, high), by_class, counts, numbers)


def average_precision(scores: Floats, hits: NDArray[np.bool_], positives: int) -> float:
    """Return the area under the monotone envelope of precision over recall.

    scores (n,) and hits (n,) of detections; positives: how many there were to find, at least 1.
    """
    return _area(hits[np.argsort(scores)[::-1]], positives)


def _area(hits: NDArray[np.bool_], positives: int) -> float:
    """Average precision of detections (n,) that stand in order, best first."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(right) + 1)
    recall = right / positives
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _best_of_frames(found: FrameBoxes, most: int) -> NDArray[np.bool_]:
    """Mark the best-scored rows of each frame.

    Which of several equal scores at the limit are kept is as in the official script: a later row enters only with a
    higher score than the worst kept, and the smallest (score, class, y1, x1, y2, x2) leaves.
    """
    keep = np.ones(len(found), bool)
    frames, inverse, counts = np.unique(found.frames, return_inverse=True, return_counts=True)
    if not len(frames) or counts.max() <= most:
        return keep
    by_score = np.lexsort((-found.scores, inverse))  # frame by frame, best first
    starts = np.cumsum(counts) - counts
    keep[by_score[np.arange(len(found)) - np.repeat(starts, counts) >= most]] = False
    for start, end in ((starts[i], starts[i] + counts[i]) for i in np.flatnonzero(counts > most)):
        last, next_best = by_score[start + most - 1], by_score[start + most]
        if found.scores[last] != found.scores[next_best]:
            continue
        rows = np.sort(by_score[start:end])
        columns = np.column_stack([found.scores[rows], found.classes[rows], found.boxes_xyxy[rows][:, [1, 0, 3, 2]]])
        heap: list[tuple[list[float], int]] = []
        for row, values in zip(rows.tolist(), columns.tolist(), strict=True):
            if len(heap) < most:
                heapq.heappush(heap, (values, row))
            elif values[0] > heap[0][0][0]:
                heapq.heapreplace(heap, (values, row))
        keep[rows] = False
        keep[[row for _, row in heap]] = True
    return keep


def _by_frame_of_appearance(found: FrameBoxes) -> FrameBoxes:
    """Put rows of one frame together, frames in the order of their first row, rows of a frame in file order."""
    _, first, inverse = np.unique(found.frames, return_index=True, return_inverse=True)
    return found.take(np.argsort(first[inverse], kind="stable"))


def _rows_by_class(classes: Integers, scored: Integers) -> list[Integers]:
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], scored)
    ends = np.searchsorted(classes[order], scored, side="right")
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def _hits(truth: FrameBoxes, found: FrameBoxes, *, by_score: bool, iou_threshold: float) -> NDArray[np.bool_]:
    """Return for each detection whether it is the first that finds a box: all frames and classes at once."""
    hits = np.zeros(len(found), bool)
    if not len(truth) or not len(found):
        return hits
    # Number each (frame, class) of the ground truth; rows of one group stand together after sorting.
    keys = np.stack([truth.frames, truth.classes], axis=1)
    groups, truth_group, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    truth_order = np.argsort(truth_group.ravel(), kind="stable")
    truth_start = np.cumsum(sizes) - sizes
    group = _find_rows(groups, np.stack([found.frames, found.classes], axis=1))
    rows = np.flatnonzero(group >= 0)
    if not len(rows):
        return hits
    # Every detection beside every box of its group: P pairs, those of one detection next to each other.
    pairs = sizes[group[rows]]  # (n,) boxes that each detection is compared with
    pair_start = np.cumsum(pairs) - pairs
    detection = np.repeat(np.arange(len(rows)), pairs)  # (P,)
    box = np.arange(int(pairs.sum())) - np.repeat(pair_start, pairs) + np.repeat(truth_start[group[rows]], pairs)
    box = truth_order[box]  # (P,) rows of the ground truth
    iou = paired_iou(found.boxes_xyxy[rows][detection], truth.boxes_xyxy[box])
    best = np.maximum.reduceat(iou, pair_start)  # (n,)
    is_best = np.flatnonzero(iou == best[detection])
    _, first = np.unique(detection[is_best], return_index=True)  # the first of equally good boxes, in file order
    chosen = box[is_best[first]]  # (n,)

    near = np.flatnonzero(best >= iou_threshold)
    if by_score:
        near = near[np.argsort(-found.scores[rows[near]], kind="stable")]
    _, first = np.unique(chosen[near], return_index=True)  # who comes first takes the box
    hits[rows[near[first]]] = True
    return hits


def _find_rows(table: Integers, rows: Integers) -> Integers:
    """Return the number in `table` (sorted, unique, (m, 2)) of each row (n, 2); -1 for those not in it."""
    low, span = table.min(axis=0), table.max(axis=0) - table.min(axis=0) + 1
    inside = ((rows >= low) & (rows < low + span)).all(axis=1)
    table_key = (table[:, 0] - low[0]) * span[1] + table[:, 1] - low[1]  # ascends, as the table is sorted
    key = np.where(inside, (rows[:, 0] - low[0]) * span[1] + rows[:, 1] - low[1], -1)
    place = np.clip(np.searchsorted(table_key, key), 0, len(table) - 1)
    found: Integers = np.where(table_key[place] == key, place, -1)
    return found
