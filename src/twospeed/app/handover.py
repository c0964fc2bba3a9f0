"""A project's masks for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from twospeed.app.store import Project
from twospeed.errors import InputError
from twospeed.results import AnnotatedFrame, ObjectMasks


def is_project(path: Path) -> bool:
    """Whether this is the folder of a project of the page."""
    return (path / "project.db").is_file()


def read_project(path: Path, *, marked: bool = False) -> Iterator[AnnotatedFrame]:
    """Yield the masks of a project's folder, in order of frames; also while the page is open.

    marked: only of frames that a person marked or corrected. Raises InputError for what is no project.
    """
    project = Project(path, only_read=True)
    try:
        if project.get("frames") is None:
            raise InputError(f"{path}: is no finished project; open its video in the page again")
        video = Path(project.get("name")).stem
        keys = project.keyframes()
        frames = keys if marked else [i for a, b in project.changed_since(-1) for i in range(a, b + 1)]
        for index in frames:
            yield AnnotatedFrame(video, f"{index:05d}", index, object_masks(project, index))
    finally:
        project.close()


def object_masks(project: Project, frame: int, objects: frozenset[int] | None = None) -> ObjectMasks:
    """Return a frame's masks of all objects, or the chosen ones. Probabilities are not stored: there are none."""
    mask = project.mask(frame)
    known = {} if mask is None else mask.confidence
    ids = sorted(entry["id"] for entry in project.objects() if objects is None or entry["id"] in objects)
    found = project.labels(frame)
    labels = np.where(np.isin(found, ids), found, 0).astype(np.uint8)
    confidence = np.array([known.get(i, 1.0) for i in ids], np.float32)
    planes = np.zeros((0, *labels.shape), np.float32)
    return ObjectMasks(labels, planes, tuple(ids), frame, float(project.times[frame]), confidence)
