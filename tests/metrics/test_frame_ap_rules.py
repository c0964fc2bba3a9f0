"""Both rules against a plain reading of them in loops, on drawn sets: ties, repeats, empty classes, exclusions."""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.metrics import frame_ap as module
from twospeed.metrics.frame_ap import FrameBoxes, frame_ap

MOST = 4  # detections kept of a frame, in place of the server's 50
CORNERS = st.sampled_from(
    [(0, 0, 4, 4), (0, 0, 4, 3), (0, 0, 2, 4), (1, 0, 5, 4), (4, 4, 8, 8), (4, 4, 8, 6), (2, 2, 2, 6), (6, 2, 2, 6)]
)
ROW = st.tuples(st.integers(0, 3), CORNERS, st.integers(1, 4), st.sampled_from([0.1, 0.3, 0.3, 0.5, 0.7, 0.9]))
ROWS = st.lists(ROW, max_size=25)


def arrays(rows):
    frames, corners, classes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return FrameBoxes(
        np.array(frames, np.int64),
        np.array(corners, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(scores, np.float64),
    )


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both) if sum(areas) - both > 0 else 0.0


def kept(rows):
    """The best rows of one frame, as a heap of limited size keeps them."""
    heap = []
    for row in rows:
        _, (x1, y1, x2, y2), action, score = row
        entry = ((score, action, y1, x1, y2, x2), row)
        if len(heap) < MOST:
            heapq.heappush(heap, entry)
        elif score > heap[0][0][0]:
            heapq.heapreplace(heap, entry)
    return [row for _, row in sorted(heap, key=lambda entry: -entry[0][0])]


def area(marks, positives):
    """Average precision of (score, hit) that stand in order."""
    points, right = [], 0
    for count, hit in enumerate(marks, 1):
        right += hit
        points.append((right / positives, right / count))
    total, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        total += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return total


def plain(truth, found, classes, rules, excluded):
    """{class: (lowest, highest AP that an order of equal scores gives)}, number of boxes to find."""
    truth = [row for row in truth if row[2] in classes and not (rules == "pyslowfast" and row[0] in excluded)]
    found = [row for row in found if row[2] in classes and not (rules == "pyslowfast" and row[0] in excluded)]
    by_frame = defaultdict(list)
    for row in found:
        by_frame[row[0]].append(row)
    marks = defaultdict(list)
    for frame, rows in by_frame.items():
        if rules == "activitynet":
            if frame not in {row[0] for row in truth}:
                continue
            rows = kept(rows)
        taken = set()
        for _, box, action, score in rows:
            if box[0] >= box[2] or box[1] >= box[3]:
                continue
            there = [(n, row[1]) for n, row in enumerate(truth) if row[0] == frame and row[2] == action]
            best = max(there, key=lambda other: overlap(box, other[1]), default=None)  # the first of equals
            hit = best is not None and overlap(box, best[1]) >= 0.5 and best[0] not in taken
            if hit:
                taken.add(best[0])
            marks[action].append((score, hit))
    result = {}
    for action in classes:
        positives = sum(row[2] == action for row in truth)
        if positives:
            bounds = [
                area([hit for _, hit in sorted(marks[action], key=lambda m: (-m[0], sign * m[1]))], positives)
                for sign in (1, -1)
            ]
            result[action] = tuple(bounds)
    return result


@pytest.mark.parametrize("rules", ["activitynet", "pyslowfast"])
@settings(max_examples=150, deadline=None)
@given(truth=ROWS, found=ROWS, classes=st.sets(st.integers(1, 6), max_size=4), excluded=st.sets(st.integers(0, 4)))
def test_drawn_sets_score_as_the_rules_say(rules, truth, found, classes, excluded):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT_PER_FRAME", MOST)
        result = frame_ap(arrays(truth), arrays(found), sorted(classes), rules=rules, excluded=sorted(excluded))
    expected = plain(truth, found, classes, rules, excluded)
    assert set(result.by_class) == set(expected)
    for action, (low, high) in expected.items():
        assert low - 1e-9 <= result.by_class[action] <= high + 1e-9
    if expected:
        assert result.interval == pytest.approx(tuple(np.mean(list(expected.values()), axis=0)), abs=1e-9)
        assert result.mean == pytest.approx(np.mean(list(result.by_class.values())))
    else:
        assert np.isnan(result.mean)
