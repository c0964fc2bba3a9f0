"""Who is in which keyframe of AVA: rows of its csv files grouped by keyframe, person by person.

A keyframe to test holds a person detector's boxes; a keyframe to train on holds the annotated boxes and, where wanted,
the detector's boxes that overlap them, which take over their actions. Source: SlowFast (Feichtenhofer 2019) section 5
and the ActivityNet 2019 report; files as `twospeed.data.benchmarks.ava` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava import NO_ACTION, BoxRows
from twospeed.errors import DatasetError
from twospeed.ops.boxes import box_iou, clip_boxes

PERSON_SCORE = 0.8  # of detected boxes, in the reported results; PySlowFast's default for others is 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """The people of one keyframe.

    video, second: as the files name them; seconds of the film. boxes_xyxy: float64 (n, 4), fractions of the image,
    within 0..1. scores: float64 (n,), the person detector's, 1 for annotated boxes. actions: for each box its ids,
    ascending, from 1; empty where nobody said what the person does.
    """

    video: str
    second: float
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    actions: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.boxes_xyxy)


def keyframes_of(
    rows: BoxRows, *, threshold: float = 0.0, excluded: Iterable[tuple[str, float]] = ()
) -> list[Keyframe]:
    """Group the rows of a file by keyframe, in the order of their first rows.

    Rows with the same box are one person with several actions. threshold: people with a lower score are left out, and
    keyframes in which nobody remains. excluded: keyframes that do not count, as `read_exclusions` gives them. Boxes are
    cut off at the image's edges; those without area are left out. Raises DatasetError when nobody remains at all.
    """
    left_out = {(video, round(second, 6)) for video, second in excluded}
    boxes = np.asarray(clip_boxes(rows.boxes_xyxy, 1.0, 1.0), np.float64)
    x1, y1, x2, y2 = boxes.T
    usable = np.flatnonzero((rows.scores >= threshold) & (x1 < x2) & (y1 < y2))
    people: dict[tuple[str, float], dict[tuple[float, ...], int]] = {}  # keyframe -> box -> its first row
    actions: dict[int, set[int]] = {}
    for row in usable.tolist():
        key = (rows.videos[row], round(float(rows.seconds[row]), 6))
        if key in left_out:
            continue
        first = people.setdefault(key, {}).setdefault(tuple(rows.boxes_xyxy[row].tolist()), row)
        found = actions.setdefault(first, set())
        if rows.actions[row] != NO_ACTION:
            found.add(int(rows.actions[row]))
    if not people:
        why = f"a score of at least {threshold:g} and " if threshold > 0 else ""
        raise DatasetError(f"{rows.path}: none of its {len(rows)} rows has {why}an area, in a keyframe that counts")
    return [
        Keyframe(
            video=video,
            second=second,
            boxes_xyxy=boxes[list(found.values())],
            scores=rows.scores[list(found.values())],
            actions=tuple(tuple(sorted(actions[row])) for row in found.values()),
        )
        for (video, second), found in people.items()
    ]


def with_proposals(annotated: Sequence[Keyframe], proposals: Iterable[Keyframe], *, iou: float = 0.9) -> list[Keyframe]:
    """Add to each annotated keyframe the detected boxes that overlap one of its boxes by more than `iou`.

    A detected box takes over the actions of all annotated boxes that it overlaps so far, whatever its own file says;
    the others, and those of keyframes that nobody annotated, are left out. The report trains with 0.9, some members of
    its ensemble with 0.75. A detected box that equals an annotated one is not counted twice.
    """
    found = {(keyframe.video, keyframe.second): keyframe for keyframe in proposals}
    result = []
    for keyframe in annotated:
        detected = found.get((keyframe.video, keyframe.second))
        if detected is None:
            result.append(keyframe)
            continue
        overlap = box_iou(detected.boxes_xyxy, keyframe.boxes_xyxy)  # (detected, annotated)
        near = overlap > iou
        same = (detected.boxes_xyxy[:, None] == keyframe.boxes_xyxy[None]).all(axis=2).any(axis=1)
        rows = np.flatnonzero(near.any(axis=1) & ~same)
        merged = [sorted({action for i in np.flatnonzero(near[row]) for action in keyframe.actions[i]}) for row in rows]
        result.append(_joined(keyframe, detected, rows, [tuple(actions) for actions in merged]))
    return result


def with_labelled(annotated: Sequence[Keyframe], labelled: Iterable[Keyframe]) -> list[Keyframe]:
    """Add detected boxes with the actions that their own file gives them; without any they are negatives.

    This is PySlowFast's training from files such as `ava_detection_train_boxes_and_labels_include_negative_v2.2.csv`.
    A box that is in both counts once, with the actions of both. Keyframes that only the detector knows come last.
    """
    found = {(keyframe.video, keyframe.second): keyframe for keyframe in labelled}
    result = []
    for keyframe in annotated:
        detected = found.pop((keyframe.video, keyframe.second), None)
        if detected is None:
            result.append(keyframe)
            continue
        place = {tuple(box): i for i, box in enumerate(keyframe.boxes_xyxy.tolist())}
        actions = list(keyframe.actions)
        rows = []
        for row, box in enumerate(detected.boxes_xyxy.tolist()):
            same = place.get(tuple(box))
            if same is None:
                rows.append(row)
            else:
                actions[same] = tuple(sorted({*actions[same], *detected.actions[row]}))
        both = replace(keyframe, actions=tuple(actions))
        result.append(_joined(both, detected, np.array(rows, np.int64), [detected.actions[row] for row in rows]))
    return [*result, *found.values()]


def _joined(first: Keyframe, second: Keyframe, rows: NDArray[np.int64], actions: Sequence[tuple[int, ...]]) -> Keyframe:
    """Append these boxes of the second to the first."""
    return replace(
        first,
        boxes_xyxy=np.concatenate([first.boxes_xyxy, second.boxes_xyxy[rows]]),
        scores=np.concatenate([first.scores, second.scores[rows]]),
        actions=(*first.actions, *actions),
    )
