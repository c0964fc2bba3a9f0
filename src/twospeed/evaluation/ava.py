"""Score detections of actions on AVA, of csv files or in memory: the official frame-mAP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava import (
    NO_PERSON,
    BoxRows,
    default_label_map,
    read_detections,
    read_exclusions,
    read_ground_truth,
    read_label_map,
    write_rows,
)
from twospeed.data.benchmarks.ava_keyframes import Keyframe
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.report import Report, Table
from twospeed.files import atomic_file
from twospeed.metrics.frame_ap import KEPT_PER_FRAME, FrameAP, FrameBoxes, Rules, frame_ap

_STEP = 1e-4  # of the image: boxes that differ by less are the same person's
_DECIMALS = 6  # as in files, so that scoring the written file gives the same

_PROTOCOLS: dict[Rules, str] = {
    "activitynet": (
        f"frame-mAP at IoU 0.5 by the ActivityNet server's rule: the best {KEPT_PER_FRAME} detections of each "
        "keyframe, matched by score; keyframes without ground truth are ignored"
    ),
    "pyslowfast": (
        "frame-mAP at IoU 0.5 by PySlowFast's rule: all detections, matched in file order; excluded keyframes are left "
        "out; detections on keyframes without ground truth are wrong"
    ),
}


def check_rules(rules: str) -> Rules:
    """Return the rules' name. Raises InputError for an unknown one."""
    if rules not in get_args(Rules):
        raise InputError(f"rules are {rules!r}; choose {' or '.join(get_args(Rules))}")
    return cast(Rules, rules)


def of_videos(rows: BoxRows, videos: Sequence[str] | None) -> BoxRows:
    """Return the rows of these videos, all for None. Raises DatasetError for a video that the file does not have."""
    if videos is None:
        return rows
    if unknown := sorted(set(videos) - set(rows.videos)):
        raise DatasetError(f"{rows.path}: has no video {unknown[0]!r}; it has {len(set(rows.videos))} others")
    return rows.take(np.isin(np.array(rows.videos), list(videos)))


def evaluate_ava(
    predictions: Path | str | Sequence[Path | str],
    ground_truth: Path | str,
    *,
    labels: Path | str | None = None,
    exclusions: Path | str | None = None,
    rules: str = "activitynet",
    videos: Sequence[str] | None = None,
    averaged_to: Path | None = None,
) -> Report:
    """Score a csv of detections against AVA's annotations.

    predictions: rows of video, second, x1, y1, x2, y2, action id, score; the scores of several files are averaged, see
    `average_detections`. ground_truth: `ava_val_v2.2.csv`. labels: the label map (.pbtxt) of the classes that are
    scored; None takes the server's 60. exclusions: keyframes that the `pyslowfast` rules leave out (the server's ground
    truth does not have them). rules: see `twospeed.metrics.frame_ap`. videos: score only these. averaged_to: write the
    averaged rows there. The report's scores: mAP, class_AP {name: AP of each class with ground truth}.
    Raises DatasetError with the line of what is broken; where nothing can be scored; OutputError.
    """
    chosen = check_rules(rules)
    names = default_label_map() if labels is None else read_label_map(labels)
    truth_rows = of_videos(read_ground_truth(ground_truth, labels=names), videos)
    files = [predictions] if isinstance(predictions, str | os.PathLike) else list(predictions)
    found_rows = read_detections(files[0], labels=names)
    notes: tuple[str, ...] = ()
    if len(files) > 1:
        found_rows, notes = average_detections(
            [found_rows, *(read_detections(each, labels=names) for each in files[1:])]
        )
        if averaged_to is not None:
            with atomic_file(averaged_to) as temporary, temporary.open("w", encoding="utf-8") as file:
                write_rows(file, found_rows)
    if videos is not None:
        found_rows = found_rows.take(np.isin(np.array(found_rows.videos), list(videos)))
    left_out = [] if exclusions is None else read_exclusions(exclusions)
    keyframes = number_keyframes(
        (truth_rows.videos, truth_rows.seconds),
        (found_rows.videos, found_rows.seconds),
        ([video for video, _ in left_out], np.array([second for _, second in left_out], np.float64)),
        whole_seconds=chosen == "pyslowfast",
    )
    truth, found = (
        FrameBoxes(numbers, rows.boxes_xyxy, rows.actions, rows.scores)
        for numbers, rows in zip(keyframes, (truth_rows, found_rows), strict=False)
    )
    excluded = keyframes[2]
    result = frame_ap(truth, found, list(names), rules=chosen, excluded=excluded)
    if not result.by_class:
        raise DatasetError(
            f"{truth_rows.path}: none of its {len(truth_rows)} rows has a class that is scored; is this its label map?"
        )
    annotated = np.unique(truth.frames if chosen == "activitynet" else np.setdiff1d(truth.frames, excluded))
    seen = np.intersect1d(annotated, found.frames)
    if not len(seen):
        first = f"{_first(found_rows)} against {_first(truth_rows)}" if len(found_rows) else "other videos"
        raise DatasetError(
            f"{found_rows.path} and {truth_rows.path} share no keyframe: {first}; are names of videos and seconds "
            "written alike?"
        )
    by_name = {names[action]: value for action, value in result.by_class.items()}
    counts = {names[action]: result.ground_truth[action] for action in result.by_class}
    low, high = result.interval
    return Report(
        benchmark="ava",
        scores={
            "mAP": result.mean,
            "class_AP": by_name,
            "ground_truth_boxes": counts,
            "mAP_interval_of_ties": [low, high],
        },
        table=Table(("AP",), (("mAP", (result.mean,)), *((name, (value,)) for name, value in by_name.items()))),
        protocol=f"{_PROTOCOLS[chosen]}; mean over {len(by_name)} of {len(names)} classes, those with ground truth",
        coverage=f"{len(seen)} of {len(annotated)} annotated keyframes have detections",
        model=" + ".join(map(str, files)),
        notes=(*notes, *_notes(truth, found, len(seen), low, high, chosen, int(np.isin(annotated, excluded).sum()))),
        settings={
            "rules": chosen,
            "ground_truth": str(ground_truth),
            "labels": None if labels is None else str(labels),
            "exclusions": None if exclusions is None else str(exclusions),
        },
    )


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


def keyframe_ap(
    truth: Sequence[Keyframe],
    people: Sequence[Keyframe],
    scores: Sequence[NDArray[np.floating]],
    classes: Sequence[int],
) -> FrameAP:
    """Score keyframes as they are in memory, as a training does, by the ActivityNet server's rule.

    truth: annotated keyframes. people: those whose actions are known by `scores`, one array (n, C) for each, column c
    of class c + 1. classes: ids that count.
    """
    numbers: dict[tuple[str, float], int] = {}  # of keyframes, the same on both sides

    def number(keyframe: Keyframe) -> int:
        return numbers.setdefault((keyframe.video, keyframe.second), len(numbers))

    rows = [
        (frame, box, action)
        for frame, keyframe in zip(map(number, truth), truth, strict=True)
        for box, actions in zip(keyframe.boxes_xyxy, keyframe.actions, strict=True)
        for action in actions
    ]
    annotated = FrameBoxes(
        frames=np.array([frame for frame, _, _ in rows], np.int64),
        boxes_xyxy=np.array([box for _, box, _ in rows]).reshape(-1, 4),
        classes=np.array([action for _, _, action in rows], np.int64),
        scores=np.ones(len(rows)),
    )
    width = scores[0].shape[1] if len(scores) else 0
    found = FrameBoxes(
        frames=np.repeat(np.array([number(keyframe) for keyframe in people], np.int64), [s.size for s in scores]),
        boxes_xyxy=np.concatenate([np.zeros((0, 4)), *(one.boxes_xyxy for one in people)]).repeat(width, axis=0),
        classes=np.tile(np.arange(1, width + 1), sum(map(len, people))),
        scores=np.concatenate([np.zeros(0), *(each.ravel() for each in scores)]),
    )
    return frame_ap(annotated, found, list(classes))


def _notes(
    truth: FrameBoxes, found: FrameBoxes, seen: int, low: float, high: float, rules: Rules, excluded: int
) -> list[str]:
    notes = []
    elsewhere = len(np.unique(found.frames)) - seen
    if elsewhere:
        fate = "do not count" if rules == "activitynet" else "count as wrong, but for excluded ones"
        notes.append(f"detections on {elsewhere} keyframes without ground truth {fate}")
    if flat := _without_area(found):
        notes.append(f"{flat} detections have no area and are dropped")
    if flat := _without_area(truth):
        notes.append(f"{flat} boxes of the ground truth have no area and cannot be found")
    if high - low > 1e-6:
        notes.append(f"equal scores leave mAP between {100 * low:.3f} and {100 * high:.3f}")
    if excluded:
        notes.append(f"{excluded} excluded keyframes are annotated and count: only the pyslowfast rules leave them out")
    return notes


def _without_area(boxes: FrameBoxes) -> int:
    x1, y1, x2, y2 = boxes.boxes_xyxy.T
    return int(((x1 >= x2) | (y1 >= y2)).sum())


def _first(rows: BoxRows) -> str:
    return f"{rows.videos[0]} at {rows.seconds[0]:g}"
