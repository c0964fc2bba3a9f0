"""Who is in which keyframe of AVA: rows of its csv files grouped by keyframe, person by person.

A keyframe to test holds a person detector's boxes; a keyframe to train on holds the annotated boxes and, where wanted,
the detector's boxes that overlap them, which take over their actions. Source: SlowFast (Feichtenhofer 2019) section 5
and the ActivityNet 2019 report; files as `twospeed.data.ava` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twospeed.data.ava import NO_ACTION, BoxRows
from twospeed.errors import DatasetError
from twospeed.ops.boxes import clip_boxes

PERSON_SCORE = 0.8  # of detected boxes, in the reported results; PySlowFast's default for others is 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """The people of one keyframe.

    video, second: as the files name them; seconds of the film. boxes_xyxy: float64 (n, 4), fractions of the picture,
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
    cut off at the picture's edges; those without area are left out. Raises DatasetError when nobody remains at all.
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
