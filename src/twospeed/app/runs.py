"""Results of finished runs of the command line: found in the folder, and copied into a project to look at or correct.

A run's own files are never changed. They may come from anyone: nothing is read through a link, and the video that
they name is opened only where its content is the one that the run has recorded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.app import wire
from twospeed.app.store import Project
from twospeed.app.wire import GIVEN, TRACKED
from twospeed.data.annotations import read_annotations
from twospeed.errors import InputError, TwospeedError, VideoError
from twospeed.files import read_json
from twospeed.output.record import identify, read_record
from twospeed.results import ObjectMasks
from twospeed.video.indexed_png import read_label_map
from twospeed.video.sources import find_source
from twospeed.weights.catalog import CATALOG

COMMANDS = ("track", "segment", "classify", "detect")
RECORD = "run.json"
_AT_ONCE = 64  # frames in one transaction
_MOST_BYTES = 256 << 20  # of a file of results


@dataclass(frozen=True)
class FinishedRun:
    """A folder with a `run.json`. video: as it was given to the run; identity: of its content, as `identify` has it."""

    folder: Path
    command: str
    model: str
    frames: int
    finished: bool
    video: str
    identity: tuple[Any, Any]
    keyframes: tuple[int, ...]

    def is_of(self, path: Path) -> bool:
        """Whether this is the video that the run has read."""
        if not (path.is_file() or path.is_dir()):  # a pipe would never end
            return False
        try:
            found = identify(find_source(path).files)
        except InputError:
            return False
        return (found["bytes"], found["sha256"]) == self.identity


def read_run(folder: Path) -> FinishedRun | None:
    """Describe the run in a folder; None where there is none that the page can show."""
    file = folder / RECORD
    try:
        if file.is_symlink() or file.stat().st_size > _MOST_BYTES:
            return None
        record = read_record(file)
        video = record["inputs"].get("video")
        if record["command"] not in COMMANDS or video is None:
            return None
        masks = [role.removeprefix("mask of frame ") for role in record["inputs"]]
        keys = [int(number) for number in masks if number.isascii() and number.isdecimal()]
        keys += [int(number) for number in record["options"].get("first_masks", ())]
        return FinishedRun(
            folder,
            str(record["command"]),
            str(record["model"]),
            int(record.get("frames", 0)),
            bool(record["finished"]),
            str(video.get("path", "")),
            (video["bytes"], video["sha256"]),
            tuple(sorted(set(keys))),
        )
    except (TwospeedError, OSError, ValueError, TypeError, AttributeError):
        return None


def copy_results(run: FinishedRun, project: Project) -> None:
    """Put a run's results into an empty project that knows its video. Raises InputError for files that do not fit."""
    copy: dict[str, Callable[[FinishedRun, Project], None]] = {
        "track": _copy_masks,
        "segment": _copy_classes,
        "classify": _copy_actions,
        "detect": _copy_people,
    }
    try:
        copy[run.command](run, project)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
        if isinstance(error, TwospeedError):
            raise
        raise InputError(f"{run.folder.name}: its results cannot be read ({type(error).__name__}: {error})") from error


def _copy_masks(run: FinishedRun, project: Project) -> None:
    _check_plain(run.folder, "masks", ".png")
    entry = CATALOG.get(run.model)
    marked = set(run.keyframes)
    for batch in _batches(read_annotations(run.folder)):
        masks: list[wire.WireMask] = []
        for one in batch:
            _check_frame(run, project, one.index)
            if not marked and (entry is None or entry.needs_masks) and one.masks.labels.any():
                marked = {one.index}  # marks of the first frame: boxes, points or outlines
            masks.append(_wire_mask(one.index, one.masks, GIVEN if one.index in marked else TRACKED))
        project.add_finished(masks)


def _wire_mask(index: int, masks: ObjectMasks, source: int) -> wire.WireMask:
    labels = np.where(masks.labels == 255, 0, masks.labels).astype(np.uint8)
    sure = {} if source == GIVEN else dict(zip(masks.object_ids, masks.confidence.tolist(), strict=True))
    return wire.mask_of(labels, index, sure, source)


def _copy_classes(run: FinishedRun, project: Project) -> None:
    _check_plain(run.folder, "labels", ".png")
    areas = _read(run, "areas.json")
    names = [str(name) for name in areas["areas"]]
    project.put_results("classes", {0: {"names": names, "colours": class_colours(names)}})
    shares = np.array(list(areas["areas"].values()), np.float64)  # (C, T)
    for batch in _batches(enumerate(_rows(run))):
        found: dict[int, bytes] = {}
        for place, row in batch:
            index, name = int(row["source_index"]), _name(row)
            _check_frame(run, project, index)
            labels = read_label_map(
                run.folder / "labels" / f"{name}.png", allow_empty=True, expect_size=project.size, name=f"{name}.png"
            )
            found[index] = wire.mask_of(labels, index).to_bytes()
            project.put_results("areas", {index: [round(float(value), 4) for value in shares[:, place]]})
        project.put_results("segment", found)


def _copy_actions(run: FinishedRun, project: Project) -> None:
    content = _read(run, "results.json")
    top = [[str(one["label"]), float(one["probability"])] for one in content["top"]]
    windows = [
        {
            "time_s": float(view["time_s"]),
            "top": [[str(one["label"]), float(one["probability"])] for one in view["top"]],
        }
        for view in content["views"]
    ]
    project.put_results("classify", {0: {"top": top, "windows": windows}})


def _copy_people(run: FinishedRun, project: Project) -> None:
    for keyframe in _read(run, "results.json")["keyframes"]:
        people = [
            {
                "id": None if one["id"] is None else int(one["id"]),
                "box_xyxy": [float(value) for value in one["box_xyxy"]],
                "person_score": float(one["person_score"]),
                "actions": [
                    {"label": str(a["label"]), "class_id": int(a["class_id"]), "score": float(a["score"])}
                    for a in one["actions"]
                ],
            }
            for one in keyframe["people"]
        ]
        time_s = float(keyframe["time_s"])
        project.put_results("detect", {round(time_s * 1000): {"time_s": time_s, "people": people}})


def frame_times(run: FinishedRun) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return times in seconds of frames 0 to the run's last, and (H, W), from its own files: where the video is gone.

    Raises VideoError for runs that hold no images of the video's size.
    """
    folder = {"track": "masks", "segment": "labels"}.get(run.command)
    if folder is None:
        raise VideoError(f"{run.folder.name}: its video, {run.video!r}, is not here; put it into the folder")
    _check_plain(run.folder, folder, ".png")
    rows = list(_rows(run))
    if not rows:
        raise InputError(f"{run.folder.name}: frames.csv lists no frame")
    known = np.array([int(row["source_index"]) for row in rows])
    if known.min() < 0 or known.max() > 100_000_000:
        raise InputError(f"{run.folder.name}: frames.csv lists frame {known.max()}")
    times = np.array([float(row["time_s"]) for row in rows])
    size = read_label_map(run.folder / folder / f"{_name(rows[0])}.png", allow_empty=True).shape
    return np.interp(np.arange(known.max() + 1), known, times), (size[0], size[1])


def class_colours(names: list[str]) -> list[list[int]]:
    """Return colours of classes as the command line draws them: RGB, by the names of known lists."""
    from twospeed.data.benchmarks import camvid, cityscapes
    from twospeed.output.palette import class_colours as spread_colours
    from twospeed.output.palette import distinct_colours

    for known in (cityscapes.CLASSES, camvid.CLASSES):
        if list(known.names) == names and known.colours is not None:
            return [[int(part) for part in colour] for colour in distinct_colours(known.colours)]
    return [[int(part) for part in colour] for colour in spread_colours(len(names))]


def _rows(run: FinishedRun) -> Iterator[dict[str, str]]:
    import csv

    file = run.folder / "frames.csv"
    _check_file(file)
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _name(row: Mapping[str, str]) -> str:
    name = row["file_name"] or f"{int(row['source_index']):05d}"
    if set(name) & {"/", "\\", "\0"}:
        raise InputError(f"frames.csv names a file outside of its folder, {name[:80]!r}")
    return name


def _read(run: FinishedRun, name: str) -> Any:
    _check_file(run.folder / name)
    return read_json(run.folder / name)


def _check_file(file: Path) -> None:
    if file.is_symlink() or not file.is_file():
        raise InputError(f"{file.parent.name}: holds no {file.name}; is the run finished?")
    if file.stat().st_size > _MOST_BYTES:
        raise InputError(f"{file.parent.name}/{file.name}: is larger than {_MOST_BYTES >> 20} MB")


def _check_plain(folder: Path, name: str, suffix: str) -> None:
    """Raise InputError where files of a folder are links, which could lead anywhere."""
    for part in (folder / "frames.csv", folder / name):
        if part.is_symlink() or not part.exists():
            raise InputError(f"{folder.name}: holds no {part.name}; is the run finished?")
    with os.scandir(folder / name) as entries:
        for entry in entries:
            if entry.name.endswith(suffix) and not entry.is_file(follow_symlinks=False):
                raise InputError(f"{folder.name}/{name}/{entry.name}: is no regular file")


def _check_frame(run: FinishedRun, project: Project, index: int) -> None:
    if not 0 <= index < project.frames:
        raise InputError(f"{run.folder.name}: has frame {index}, its video has frames 0 to {project.frames - 1}")


def _batches(items: Any) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(itertools.islice(items, _AT_ONCE)):
        yield batch
