"""Where people are: boxes that are given, in a file or as arrays, or a person detector's.

| given as | how |
|---|---|
| AVA's csv | `video,second,x1,y1,x2,y2,action or nothing,score`, fractions of the image |
| csv with a header | columns x1, y1, x2, y2; time_s (or second) or frame; score if known |
| JSON | a list of `{"time_s": 1.0, "boxes": [[x1, y1, x2, y2], ...], "scores": [...]}` ("frame" instead of "time_s"; one "box" instead of "boxes"; COCO's "bbox" x, y, width, height); or a plain list of boxes |
| an array (n, 4) or (n, 5) | the same boxes at every keyframe, the fifth column their scores |
| {seconds: array} | boxes at these times |

Boxes are xyxy; a file or mapping in which no coordinate is above 1 holds fractions of the image, others pixels of the
source frame. Boxes without a time hold at every keyframe.
"""  # noqa: E501

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.ava import TOLERANCE, BoxRows, read_predicted_boxes
from twospeed.errors import CheckpointError, InputError, WeightsUnavailable
from twospeed.files import read_json
from twospeed.ops.boxes import clip_boxes, xywh_to_xyxy
from twospeed.results import OnProgress
from twospeed.weights import store
from twospeed.weights.entries import Entry, WeightsFile

Found: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]  # boxes (n, 4) in pixels, scores (n,)
PersonDetector: TypeAlias = Callable[[NDArray[np.uint8]], Found]
GIVE_BOXES = "give boxes instead: a file (AVA csv, csv or JSON), or an array"


@dataclass(frozen=True, slots=True)
class Given:
    """One box. time_s: None where it holds at every keyframe; frame: a frame's index instead. where: for errors."""

    where: str
    xyxy: tuple[float, float, float, float]
    score: float = 1.0
    time_s: float | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GivenBoxes:
    """Boxes by time. times_s: ascending, empty where the same boxes hold at every keyframe; rows: boxes of each time,
    or of all. normalised: fractions of the image, else pixels.
    """

    times_s: tuple[float, ...]
    rows: tuple[tuple[Given, ...], ...]
    normalised: bool

    def check(self, height: int, width: int) -> None:
        """Raise InputError for a box that does not fit images of this size, see `at`."""
        for number in range(max(1, len(self.times_s))):
            self.at(number, height, width)

    def at(self, number: int, height: int, width: int) -> Found:
        """Return the boxes of time `number` in pixels of an image, cut off at its edges.

        Raises InputError for a box that lies outside of the image by more than a hundredth of its size, or that has
        no area.
        """
        rows = self.rows[number if self.times_s else 0]
        size = np.array([width, height, width, height], np.float64)
        boxes = np.array([row.xyxy for row in rows], np.float64).reshape(-1, 4) * (size if self.normalised else 1.0)
        for row, box in zip(rows, boxes, strict=True):
            text = ", ".join(f"{value:g}" for value in row.xyxy)
            if (box < -TOLERANCE * size).any() or (box > (1 + TOLERANCE) * size).any():
                raise InputError(f"{row.where}: box {text} lies outside of the image of {width}x{height} pixels")
            if box[2] <= box[0] or box[3] <= box[1]:
                raise InputError(f"{row.where}: box {text} has no area; give x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        scores = np.array([row.score for row in rows], np.float64)
        return np.asarray(clip_boxes(boxes, height, width), np.float64), scores


def given_boxes(boxes: Any, *, video: str = "", start_s: float = 0.0, rate: float | None = None) -> GivenBoxes:
    """Read boxes in any of the forms above.

    video: name of the source, whose rows are taken from a file of several videos. start_s: the file's time of the
    source's first frame (900 for the cut videos of AVA). rate: frames per second, for boxes given by frame. Raises
    InputError or DatasetError with the line.
    """
    keyframes: list[float] = []  # also those in which nobody is
    if isinstance(boxes, str | os.PathLike):
        rows, keyframes = _from_file(Path(boxes), video)
    elif isinstance(boxes, Mapping):
        rows = [row for time_s, array in boxes.items() for row in _from_array(array, f"boxes at {time_s} s", time_s)]
        keyframes = [float(time_s) for time_s in boxes]
    else:
        rows = _from_array(boxes, "boxes", None)
    if not rows and not keyframes:
        raise InputError("no boxes given; give at least one, or none at all to have people detected")
    if not all(map(math.isfinite, keyframes)):
        raise InputError("a keyframe's time is not a finite number")
    for row in rows:
        if not all(map(math.isfinite, (*row.xyxy, row.score, row.time_s or 0.0))):
            raise InputError(f"{row.where}: a coordinate, score or time is not a finite number")
        if not 0 <= row.score <= 1:
            raise InputError(f"{row.where}: score {row.score:g} is not from 0 to 1")
    normalised = max((max(row.xyxy) for row in rows), default=0.0) <= 1 + TOLERANCE
    timed = [row.time_s is not None or row.frame is not None for row in rows]
    if any(timed) and not all(timed):
        raise InputError(
            f"{rows[timed.index(False)].where}: has no time_s, other boxes have one; give all of them or none"
        )
    if rows and not timed[0]:
        return GivenBoxes((), (tuple(rows),), normalised)
    by_time: dict[float, list[Given]] = {}
    if not all(map(math.isfinite, keyframes)):
        raise InputError("a keyframe's time is not a finite number")
    for row in rows:
        if row.time_s is None and rate is None:
            raise InputError(f"{row.where}: boxes by frame need a source that states its frame rate; give time_s")
        time_s = (row.frame or 0) / (rate or 1.0) if row.time_s is None else row.time_s - start_s
        by_time.setdefault(round(time_s, 6), []).append(row)
    for time_s in keyframes:
        by_time.setdefault(round(time_s - start_s, 6), [])
    times = sorted(by_time)
    if times[0] < -1e-6:
        where = by_time[times[0]][0].where if by_time[times[0]] else "boxes"
        raise InputError(
            f"{where}: the keyframe at {times[0] + start_s:g} s is before the video, which begins at {start_s:g} s"
        )
    return GivenBoxes(tuple(times), tuple(tuple(by_time[time]) for time in times), normalised)


# ------------------------------------------------------------------------------------------------ reading


def _from_array(array: Any, where: str, time_s: float | None) -> list[Given]:
    try:
        values = np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: not an array of numbers ({error})") from error
    values = values.reshape(0, 4) if not values.size else values
    if values.ndim != 2 or values.shape[1] not in (4, 5):
        raise InputError(f"{where} have shape {values.shape}; give (n, 4) xyxy, or (n, 5) with scores")
    return [
        Given(f"{where}, row {number}", tuple(row[:4]), row[4] if len(row) == 5 else 1.0, time_s)
        for number, row in enumerate(values.tolist())
    ]


def _from_file(path: Path, video: str) -> tuple[list[Given], list[float]]:
    if not path.is_file():
        raise InputError(f"no boxes at {path}; {GIVE_BOXES}")
    if path.suffix.lower() == ".json":
        return _from_json(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [name.strip().lower() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a csv or JSON file of boxes ({error})") from error
    return (_from_table(path, header) if "x1" in header else _of_video(read_predicted_boxes(path), video)), []


def _of_video(rows: BoxRows, video: str) -> list[Given]:
    """The boxes of one video in AVA's file, each once, whatever its number of actions."""
    names = sorted(set(rows.videos))
    if video not in names and len(names) > 1:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(
            f"{rows.path}: boxes of {len(names)} videos ({listed}), none of them called {video!r}; rename the video"
        )
    wanted = video if video in names else names[0]
    # Ground truth has the person's id, a whole number, in the place of the score
    known = not (rows.scores == np.round(rows.scores)).all()
    found: dict[tuple[float, tuple[float, ...]], Given] = {}
    for row, name in enumerate(rows.videos):
        if name != wanted:
            continue
        time_s, xyxy = float(rows.seconds[row]), tuple(rows.boxes_xyxy[row].tolist())
        score = float(rows.scores[row]) if known else 1.0
        before = found.get((time_s, xyxy))
        if before is None or score > before.score:
            found[time_s, xyxy] = Given(rows.where(row), xyxy, score, time_s)
    return list(found.values())


def _from_table(path: Path, header: list[str]) -> list[Given]:
    corners = [header.index(name) if name in header else -1 for name in ("x1", "y1", "x2", "y2")]
    if -1 in corners:
        raise InputError(f"{path}:1: columns {', '.join(header)}; boxes need x1, y1, x2, y2")
    time = next((header.index(name) for name in ("time_s", "second", "time") if name in header), None)
    frame = header.index("frame") if "frame" in header else None
    score = header.index("score") if "score" in header else None
    found = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, fields) for fields in reader][1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a csv file of boxes ({error})") from error
    for line, fields in rows:
        if not any(field.strip() for field in fields):
            continue
        where = f"{path}:{line}"
        if len(fields) != len(header):
            raise InputError(f"{where}: {len(fields)} columns, the header has {len(header)}")
        try:
            x1, y1, x2, y2 = (float(fields[i]) for i in corners)
            found.append(
                Given(
                    where,
                    (x1, y1, x2, y2),
                    1.0 if score is None else float(fields[score]),
                    None if time is None else float(fields[time]),
                    None if frame is None or time is not None else int(fields[frame]),
                )
            )
        except ValueError as error:
            raise InputError(f"{where}: a field is not a number ({error})") from error
    return found


def _from_json(path: Path) -> tuple[list[Given], list[float]]:
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("keyframes", [content])
    if not isinstance(content, list):
        raise InputError(f"{path}: a JSON file of boxes is a list")
    if content and all(isinstance(entry, list) for entry in content):
        return _from_array(content, str(path), None), []
    rows = [row for number, entry in enumerate(content) for row in _from_entry(entry, f"{path}: entry {number}")]
    times = [_time(entry) for entry in content]
    return rows, [float(time_s) for time_s in times if time_s is not None]


def _time(entry: Mapping[str, Any]) -> Any:
    return next((entry[name] for name in ("time_s", "second", "time") if name in entry), None)


def _from_entry(entry: Any, where: str) -> Iterable[Given]:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is no object with boxes, but {json.dumps(entry)[:60]}")
    time_s = _time(entry)
    frame = entry.get("frame") if time_s is None else None
    if time_s is not None and (
        isinstance(time_s, bool) or not isinstance(time_s, int | float) or not math.isfinite(time_s)
    ):
        raise InputError(f"{where}: time_s is {time_s!r}, not a number of seconds")
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int) or frame < 0):
        raise InputError(f"{where}: frame is {frame!r}, not a frame's number")
    boxes: Any
    scores: Any
    if "people" in entry:  # what `twospeed detect` itself writes
        if not isinstance(entry["people"], list) or not all(isinstance(one, dict) for one in entry["people"]):
            raise InputError(f'{where}: "people" is a list of objects, as `twospeed detect` writes them')
        boxes = [person.get("box_xyxy") for person in entry["people"]]
        scores = [person.get("person_score", 1.0) for person in entry["people"]]
    elif "boxes" in entry:
        boxes, scores = entry["boxes"], entry.get("scores")
    elif "box" in entry or "bbox" in entry:
        boxes = [entry.get("box", entry.get("bbox"))]
        scores = [entry["score"]] if "score" in entry else None
    else:
        raise InputError(f'{where} has no "boxes", "box" or "bbox"')
    rows = _from_array(boxes, where, None)
    if rows and "bbox" in entry and "box" not in entry and "boxes" not in entry:
        corners = xywh_to_xyxy(np.array([row.xyxy for row in rows]))
        rows = [Given(row.where, tuple(box), row.score) for row, box in zip(rows, corners.tolist(), strict=True)]
    if scores is not None and not isinstance(scores, list):
        raise InputError(f"{where}: scores is {json.dumps(scores)[:40]}, not a list")
    if scores is not None and len(scores) != len(rows):
        raise InputError(f"{where}: {len(rows)} boxes with {len(scores)} scores; give one for each")
    for number, row in enumerate(rows):
        score = row.score if scores is None else scores[number]
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise InputError(f"{where}: score {score!r} is not a number")
        yield Given(row.where, row.xyxy, float(score), None if time_s is None else float(time_s), frame)


# ------------------------------------------------------------------------------------------------ detecting

_PERSON = 1  # of COCO's classes
_DETECTOR = Entry(
    name="fasterrcnn_resnet50_fpn",
    task="detect",
    summary="Faster R-CNN, ResNet-50 FPN, of torchvision: where people are",
    builder="torchvision.models.detection:fasterrcnn_resnet50_fpn",
    converter="",
    paper="Ren, He, Girshick, Sun: Faster R-CNN, NIPS 2015",
    weights=WeightsFile(
        file="fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        url="https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        sha256="258fb6c6",
        licence="BSD-3-Clause (code)",
        trained_on="COCO",
    ),
)


def person_detector(
    device: Any = "cpu", *, threshold: float = 0.05, on_progress: OnProgress | None = None
) -> PersonDetector:
    """Return torchvision's Faster R-CNN as a function from an image, uint8 (H, W, 3) RGB, to people's boxes.

    Its COCO weights are taken from torch's or twospeed's cache, or fetched once. threshold: lowest score returned.
    on_progress: called while they are downloaded. Raises WeightsUnavailable, saying how to give boxes, when they are
    neither here nor fetchable.
    """
    try:
        path = store.default_weights(_DETECTOR, on_progress=on_progress)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(
            f"people cannot be detected without Faster R-CNN's weights: {error}; or {GIVE_BOXES}",
            option="boxes",
        ) from error
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn  # slow to import: not before it is of use

    from twospeed.weights.imports import read_state  # imports torch

    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=threshold)
    state, _ = read_state(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not torchvision's Faster R-CNN with ResNet-50 and pyramid ({why})") from error
    network = network.eval().to(device)

    @torch.inference_mode()
    def detect(image: NDArray[np.uint8]) -> Found:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float() / 255
        found = network([pixels])[0]
        people = found["labels"] == _PERSON
        return found["boxes"][people].double().cpu().numpy(), found["scores"][people].double().cpu().numpy()

    return detect


def checked(found: Sequence[Any], height: int, width: int) -> Found:
    """Take what a person detector that was passed in returns: boxes (n, 4) in pixels, and scores (n,)."""
    try:
        boxes, scores = (np.asarray(part, np.float64) for part in found)
    except (TypeError, ValueError) as error:
        raise InputError("a person detector returns (boxes (n, 4) xyxy in pixels, scores (n,))") from error
    boxes = boxes.reshape(0, 4) if not boxes.size else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise InputError(
            f"the person detector returned boxes {boxes.shape} and scores {scores.shape}, not (n, 4) and (n,)"
        )
    boxes = np.asarray(clip_boxes(boxes, height, width), np.float64)
    solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[solid], scores[solid]
