"""Files of action scores: written by an evaluation, scored again later, or made by other software."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import DatasetError
from twospeed.files import atomic_file, make_folder, read_arrays, read_json, read_text

Scores = NDArray[np.float32]


def write_scores(path: Path, scores: Scores, labels: Sequence[int], videos: Sequence[Path]) -> None:
    """Write scores (n, C), labels (n,; -1: unknown) and the videos' paths to an .npz file that `read_scores` reads."""
    make_folder(path.parent)
    names = np.array([str(video) for video in videos])
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, labels=np.array(labels, dtype=np.int64), videos=names)


def read_scores(path: Path) -> dict[str, Scores]:
    """Read a file of scores: video name -> float32 (C,), the mean over views where the file has them.

    .npz with `scores` (n, C) or (n, views, C) and `videos` (n,) names; .json with {"name": [C numbers]} or
    {"name": [[C numbers], ...]}; .csv with a name and C numbers in each line. Raises DatasetError otherwise.
    """
    try:
        if path.suffix == ".npz":
            content = read_arrays(path, DatasetError)
            rows = list(zip((str(name) for name in content["videos"]), content["scores"], strict=True))
        elif path.suffix == ".json":
            rows = [(name, np.asarray(row, dtype=np.float64)) for name, row in read_json(path, DatasetError).items()]
        elif path.suffix == ".csv":
            rows = list(_csv_rows(path))
        else:
            raise DatasetError(f"{path}: scores are read from .npz, .json or .csv")
    except DatasetError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as scores ({type(error).__name__}: {error})") from error
    table: dict[str, Scores] = {}
    width = 0
    for name, row in rows:
        try:
            values = np.asarray(row, dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise DatasetError(f"{path}: the scores of {name} are not numbers ({error})") from error
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
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        try:
            values = np.array([float(value) for value in row[1:]])
        except ValueError as error:
            if number == 1:
                continue  # a header
            raise DatasetError(f"{path}:{number}: {error}") from error
        if row:
            yield row[0], values
