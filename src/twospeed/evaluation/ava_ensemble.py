"""Average detections of several networks: csv files in, the rows of their mean score out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava import NO_PERSON, BoxRows
from twospeed.errors import DatasetError

_STEP = 1e-4  # of the image: boxes that differ by less are the same person's
_DECIMALS = 6  # as in files, so that scoring the written file gives the same


def average_detections(files: Sequence[BoxRows]) -> tuple[BoxRows, tuple[str, ...]]:
    """Return rows with the mean score of each (keyframe, box, class), and notes on what is not in every file.

    A score that a file does not have counts as 0; of one that it has twice the higher counts. Rows come in the order in
    which they first appear. Raises DatasetError when a file shares no box with the first one.
    """
    numbers = number_keyframes(*((rows.videos, rows.seconds) for rows in files))
    corners = np.round(np.concatenate([rows.boxes_xyxy for rows in files]) / _STEP).astype(np.int64)
    low, span = corners.min(), int(np.ptp(corners)) + 1
    places = np.zeros(len(corners), np.int64)
    for column in (corners - low).T:  # four numbers below 2^14 and so on: one number for each box
        places = places * span + column
    _, box = np.unique(places, return_inverse=True)
    actions = np.concatenate([rows.actions for rows in files])
    person = np.concatenate(numbers) * (int(box.max()) + 1) + box
    keys = person * (int(actions.max()) + 1) + actions
    distinct, first, key = np.unique(keys, return_index=True, return_inverse=True)
    total = np.zeros(len(distinct))
    notes = []
    ends = np.cumsum([len(rows) for rows in files])[:-1]
    people = np.split(person, ends)
    for rows, its_keys, its_people in zip(files, np.split(key, ends), people, strict=True):
        if not np.isin(its_people, people[0]).any():
            raise DatasetError(
                f"{rows.path}: shares no box with {files[0].path}; only detections of the same boxes can be averaged"
            )
        scores = np.full(len(distinct), -np.inf)
        np.maximum.at(scores, its_keys, rows.scores)
        known = np.isfinite(scores)
        total += np.where(known, scores, 0.0)
        if not known.all():
            missing = len(distinct) - int(known.sum())
            notes.append(f"{rows.path}: {missing} of {len(distinct)} scores are missing and count as 0")
    order = np.argsort(first, kind="stable")
    chosen = first[order]
    videos = [video for rows in files for video in rows.videos]
    mean = BoxRows(
        path=Path(" + ".join(str(rows.path) for rows in files)),
        lines=np.arange(1, len(chosen) + 1),
        videos=tuple(videos[row] for row in chosen.tolist()),
        seconds=np.concatenate([rows.seconds for rows in files])[chosen],
        boxes_xyxy=np.concatenate([rows.boxes_xyxy for rows in files])[chosen],
        actions=actions[chosen],
        persons=np.full(len(chosen), NO_PERSON, np.int64),
        scores=np.round(total[order] / len(files), _DECIMALS),
    )
    return mean, tuple(notes)


def number_keyframes(
    *lists: tuple[Sequence[str], NDArray[np.float64]], whole_seconds: bool = False
) -> list[NDArray[np.int64]]:
    """Number keyframes (videos, seconds): the same video and second is the same number in all lists.

    Seconds are distinguished to six decimals, as the server does; whole_seconds: cut to whole ones, as PySlowFast does.
    """
    videos: dict[str, int] = {}
    codes = [np.array([videos.setdefault(video, len(videos)) for video in names], np.int64) for names, _ in lists]
    seconds = [np.trunc(values) if whole_seconds else np.round(values, 6) for _, values in lists]
    distinct, places = np.unique(np.concatenate(seconds), return_inverse=True)
    ends = np.cumsum([len(values) for values in seconds])[:-1]
    return [code * len(distinct) + place for code, place in zip(codes, np.split(places, ends), strict=True)]
