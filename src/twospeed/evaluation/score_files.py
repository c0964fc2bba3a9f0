"""Files of action scores: written by an evaluation, scored again later, or made by other software."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.video_lists import LabelledVideo
from twospeed.errors import DatasetError, OutputError
from twospeed.evaluation.report import Report, Table
from twospeed.metrics.topk import TopK, topk

Scores = NDArray[np.float32]

PROTOCOL = (
    "top-1 and top-5 accuracy over videos; a video's score is the mean of its views' probabilities; "
    "average_error is the mean of top-1 and top-5 error"
)


def fractions(result: TopK) -> dict[str, Any]:
    """Return the three scores under the names that others read."""
    return {"top1": result.top1, "top5": result.top5, "average_error": result.average_error}


def coverage(scored: int, listed: int, result: TopK) -> dict[str, Any]:
    """Return how many videos were scored, and the scores when the missing ones count as wrong."""
    share = scored / listed
    top1, top5 = result.top1 * share, result.top5 * share
    return {
        "videos": scored,
        "videos_listed": listed,
        "missing_as_errors": {"top1": top1, "top5": top5, "average_error": 1 - (top1 + top5) / 2},
    }


def scores_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table that people read: a row of the three scores for each name."""
    columns = ("top1", "top5", "average_error")
    return Table(
        ("top-1", "top-5", "avg. error"),
        tuple((name, tuple(values[column] for column in columns)) for name, values in rows.items()),
    )


def write_scores(path: Path, scores: Scores, labels: Sequence[int], videos: Sequence[Path]) -> None:
    """Write scores (n, C), labels (n,) and the videos' paths to an .npz file that `read_scores` reads."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            names = np.array([str(video) for video in videos])
            np.savez(file, scores=scores, labels=np.array(labels, dtype=np.int64), videos=names)
    except OSError as error:
        raise OutputError(f"{path}: scores could not be written ({error.strerror or error})") from error


def read_scores(path: Path) -> dict[str, Scores]:
    """Read a file of scores: video name -> float32 (C,), the mean over views where the file has them.

    .npz with `scores` (n, C) or (n, views, C) and `videos` (n,) names; .json with {"name": [C numbers]} or
    {"name": [[C numbers], ...]}; .csv with a name and C numbers in each line. Raises DatasetError otherwise.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                rows = list(zip((str(name) for name in content["videos"]), content["scores"], strict=True))
        elif path.suffix == ".json":
            rows = [(name, np.asarray(row, dtype=np.float64)) for name, row in json.loads(path.read_text()).items()]
        elif path.suffix == ".csv":
            rows = list(_csv_rows(path))
        else:
            raise DatasetError(f"{path}: scores are read from .npz, .json or .csv")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: cannot be read as scores ({type(error).__name__}: {error})") from error
    table: dict[str, Scores] = {}
    width = 0
    for name, row in rows:
        values = np.asarray(row, dtype=np.float32)
        values = values.mean(axis=0) if values.ndim == 2 else values
        width = width or values.size
        if values.ndim != 1 or values.size != width or not width or not np.isfinite(values).all():
            raise DatasetError(f"{path}: the scores of {name} are not {width} finite numbers")
        if name in table:
            raise DatasetError(f"{path}: {name} has scores twice")
        table[name] = values
    if not table:
        raise DatasetError(f"{path}: holds no scores")
    return table


def _csv_rows(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                values = np.array([float(value) for value in row[1:]])
            except ValueError as error:
                if number == 1:
                    continue  # a header
                raise DatasetError(f"{path}:{number}: {error}") from error
            if row:
                yield row[0], values


def report_scores(paths: Sequence[Path], videos: Sequence[LabelledVideo]) -> Report:
    """Score files against labelled videos; several files are averaged over the videos that all of them have.

    Names are matched as whole paths, else as file names, else without ending. Listed videos without scores are
    counted as missing.
    """
    tables = [read_scores(path) for path in paths]
    names: dict[str, int] = {}
    aliases: tuple[Callable[[Path], str], ...] = (str, lambda path: path.name, lambda path: path.stem)
    for alias in aliases:  # the more exact first
        found: dict[str, list[int]] = {}
        for i, video in enumerate(videos):
            found.setdefault(alias(video.path), []).append(i)
        for name, indices in found.items():
            if len(indices) == 1:  # what two videos share names neither
                names.setdefault(name, indices[0])
    rows: dict[int, list[Scores]] = {}
    unknown: list[str] = []
    for table in tables:
        for name, row in table.items():
            place = next((names[n] for n in (name, Path(name).name, Path(name).stem) if n in names), None)
            if place is None:
                unknown.append(name)
            else:
                rows.setdefault(place, []).append(row)
    complete = {i: values for i, values in rows.items() if len(values) == len(tables)}
    if not complete:
        raise DatasetError(
            f"{paths[0]}: no scored name is among the {len(videos)} listed videos "
            f"(scored {next(iter(tables[0]))!r}, listed {str(videos[0].path)!r})"
        )
    if len({row.size for values in complete.values() for row in values}) > 1:
        raise DatasetError("the files have scores for different numbers of classes; they cannot be averaged")
    order = sorted(complete)
    scores = np.stack([np.mean(complete[i], axis=0) for i in order])
    labels = np.array([videos[i].label for i in order])
    if labels.max() >= scores.shape[1]:
        raise DatasetError(f"{paths[0]}: has scores for {scores.shape[1]} classes, the list has label {labels.max()}")
    result = topk(scores, labels)
    summary = {**fractions(result), **coverage(len(order), len(videos), result)}
    table_rows: dict[str, Mapping[str, Any]] = {}
    if len(paths) > 1:
        for path, position in zip(paths, range(len(paths)), strict=True):
            single = np.stack([complete[i][position] for i in order])
            table_rows[path.name] = fractions(topk(single, labels))
    table_rows["mean of all" if table_rows else paths[0].name] = summary
    notes = []
    if len(order) < len(videos):
        notes.append(f"{len(videos) - len(order)} listed videos have no scores; missing_as_errors counts them as wrong")
    if unknown:
        notes.append(f"{len(unknown)} scored names are not in the list, such as {unknown[0]!r}; they were ignored")
    return Report(
        benchmark="kinetics",
        scores=summary,
        table=scores_table(table_rows),
        protocol=PROTOCOL,
        coverage=f"{len(order)} of {len(videos)} videos",
        model=", ".join(path.name for path in paths),
        notes=tuple(notes),
    )
