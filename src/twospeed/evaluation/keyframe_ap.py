"""Frame-mAP of scored keyframes as they are in memory: what a training watches, without files in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava_keyframes import Keyframe
from twospeed.metrics.frame_ap import FrameAP, FrameBoxes, frame_ap


def keyframe_ap(
    truth: Sequence[Keyframe],
    people: Sequence[Keyframe],
    scores: Sequence[NDArray[np.floating]],
    classes: Sequence[int],
) -> FrameAP:
    """Score people whose actions are known by `scores`, one array (n, C) for each keyframe, column c of class c + 1.

    truth: annotated keyframes. classes: ids that count. The ActivityNet server's rule, see `twospeed.metrics.frame_ap`.
    """
    numbers: dict[tuple[str, float], int] = {}  # of keyframes, the same on both sides
    return frame_ap(_annotated(truth, numbers), _scored(people, scores, numbers), list(classes))


def _annotated(truth: Sequence[Keyframe], numbers: dict[tuple[str, float], int]) -> FrameBoxes:
    counts = [[len(actions) for actions in keyframe.actions] for keyframe in truth]
    flat = [action for keyframe in truth for actions in keyframe.actions for action in actions]
    return FrameBoxes(
        frames=_numbered(truth, [sum(count) for count in counts], numbers),
        boxes_xyxy=np.concatenate(
            [_NONE, *(keyframe.boxes_xyxy.repeat(count, axis=0) for keyframe, count in zip(truth, counts, strict=True))]
        ),
        classes=np.array(flat, np.int64),
        scores=np.ones(len(flat)),
    )


def _scored(
    people: Sequence[Keyframe], scores: Sequence[NDArray[np.floating]], numbers: dict[tuple[str, float], int]
) -> FrameBoxes:
    classes = scores[0].shape[1] if len(scores) else 0
    return FrameBoxes(
        frames=_numbered(people, [found.size for found in scores], numbers),
        boxes_xyxy=np.concatenate([_NONE, *(keyframe.boxes_xyxy for keyframe in people)]).repeat(classes, axis=0),
        classes=np.tile(np.arange(1, classes + 1), sum(map(len, people))),
        scores=np.concatenate([np.zeros(0), *(found.ravel() for found in scores)]),
    )


def _numbered(
    keyframes: Sequence[Keyframe], counts: Sequence[int], numbers: dict[tuple[str, float], int]
) -> NDArray[np.int64]:
    """Return each keyframe's number as often as it has rows."""
    keys = [numbers.setdefault((keyframe.video, keyframe.second), len(numbers)) for keyframe in keyframes]
    return np.repeat(np.array(keys, np.int64), counts)


_NONE = np.zeros((0, 4))
