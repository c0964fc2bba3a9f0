"""AVA's files: boxes with actions, exclusions, label maps, frame lists, predicted boxes; every error names its line.

| file | a row |
|---|---|
| `ava_train_v2.2.csv`, `ava_val_v2.2.csv` | video, second, x1, y1, x2, y2, action id, person id |
| detections for the scorer | video, second, x1, y1, x2, y2, action id, score |
| predicted boxes of people | video, second, x1, y1, x2, y2, action id or nothing, score |
| `ava_..._excluded_timestamps_v2.2.csv` | video, second |
| `ava_action_list_v2.2_....pbtxt` | `item { name: "..." id: n }` or `label { name: "..." label_id: n }` |
| `frame_lists/val.csv` | a header, then `video number frame path labels`, between spaces |

Boxes are xyxy in fractions of the image, 0..1 from its top left corner. A row is one box with one action; a person
who does three things has three rows. Annotated seconds run from 902 to 1798 of the film; the videos that were handed
out begin at second 900. The data set versions 2.1 and 2.2 have the same layout.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.folders import read_dataset_text
from twospeed.errors import DatasetError

CLASSES = 80
FIRST_SECOND = 900  # of the film, where the videos begin
TOLERANCE = 0.01  # how far, in fractions of the image, coordinates may lie outside of it: detectors round
NO_ACTION = 0
NO_PERSON = -1
# The server scores 60 of the 80 classes, those with at least 25 boxes in the validation and test sets (Gu 2018)
# fmt: off
EVALUATED = (
    1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 20, 22, 24, 26, 27, 28, 29, 30, 34, 36, 37, 38, 41, 43, 45,
    46, 47, 48, 49, 51, 52, 54, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 72, 73, 74, 76, 77, 78,
    79, 80,
)
# fmt: on

Version = Literal["2.1", "2.2"]
VERSIONS = ("v2.2", "v2.1")
PUBLISHED_BOXES = "person_box_67091280_iou90"
"""The folder, in `annotations`, of the person detector's boxes that all published AVA results of PySlowFast use."""

Kind = Literal["ground truth", "detections", "predicted boxes"]
_COLUMNS: dict[Kind, str] = {
    "ground truth": "video, second, x1, y1, x2, y2, action id, person id",
    "detections": "video, second, x1, y1, x2, y2, action id, score",
    "predicted boxes": "video, second, x1, y1, x2, y2, action id or nothing, score",
}
_CORNERS = ("x1", "y1", "x2", "y2")
_ROW = np.dtype([("video", object), ("second", float), ("box", float, 4), ("action", float), ("last", float)])
_ROW_WITHOUT_LAST = np.dtype([(name, _ROW[name]) for name in ("video", "second", "box", "action")])
_LINES_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class BoxRows:
    """The rows of one file, in its order.

    path: of the file. lines: int64 (n,), line numbers from 1. videos: n names. seconds: float64 (n,). boxes_xyxy:
    float64 (n, 4), fractions of the image. actions: int64 (n,), ids from 1, `NO_ACTION` where there is none.
    persons: int64 (n,), `NO_PERSON` where there is none. scores: float64 (n,), 1 in ground truth.
    """

    path: Path
    lines: NDArray[np.int64]
    videos: tuple[str, ...]
    seconds: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    actions: NDArray[np.int64]
    persons: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> BoxRows:
        """Return these rows, a mask or numbers."""
        chosen = np.arange(len(self))[rows]
        columns = ("lines", "seconds", "boxes_xyxy", "actions", "persons", "scores")
        taken: dict[str, Any] = {name: getattr(self, name)[chosen] for name in columns}
        return replace(self, videos=tuple(self.videos[row] for row in chosen.tolist()), **taken)

    def where(self, row: int) -> str:
        """Name a row as errors do: `file:line`."""
        return f"{self.path}:{self.lines[row]}"


def read_ground_truth(path: Path | str, *, labels: dict[int, str] | None = None) -> BoxRows:
    """Read `ava_train_v2.2.csv` and the like; the person id may be missing, as in older versions.

    labels: the label map, for classes beyond AVA's 80. Raises DatasetError, with the line, for another number of
    columns, what is no number, an unknown class, a box outside the image.
    """
    return _read_rows(Path(path), "ground truth", labels)


def read_detections(path: Path | str, *, labels: dict[int, str] | None = None) -> BoxRows:
    """Read detections as the scorer takes them. Errors as `read_ground_truth`."""
    return _read_rows(Path(path), "detections", labels)


def read_predicted_boxes(path: Path | str, *, labels: dict[int, str] | None = None) -> BoxRows:
    """Read boxes that a person detector found, such as `ava_detection_val_boxes_and_labels.csv`.

    The action may be empty: a box that matches nobody who was annotated. Errors as `read_ground_truth`.
    """
    return _read_rows(Path(path), "predicted boxes", labels)


def read_label_map(path: Path | str) -> dict[int, str]:
    """Read a label map (.pbtxt): {id: name}, ids as in the csv files. Raises DatasetError with the line."""
    path = Path(path)
    text = read_dataset_text(path)
    names: dict[int, str] = {}
    entries = list(re.finditer(r"(?:item|label)\s*\{(?P<body>[^{}]*)\}", text))
    for entry in entries:
        where = f"{path}:{text.count(chr(10), 0, entry.start()) + 1}"
        number = re.search(r"\b(?:label_)?id\s*:\s*(-?[0-9]{1,9})\b", entry["body"])
        name = re.search(r"""\bname\s*:\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""", entry["body"])
        if number is None or name is None:
            raise DatasetError(f'{where}: an entry needs a name and an id, such as item {{ name: "walk" id: 14 }}')
        label = int(number[1])
        if label < 1 or label in names:
            raise DatasetError(f"{where}: id {label} {'is used twice' if label in names else 'is below 1'}")
        names[label] = re.sub(r"\\(.)", r"\1", name[1] if name[1] is not None else name[2])
    if not names:
        raise DatasetError(f'{path}: no entries such as item {{ name: "walk" id: 14 }}; is it a label map?')
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise DatasetError(f"{path}: two classes are called {twice!r}")
    return names


def default_label_map() -> dict[int, str]:
    """Return the 60 classes that the ActivityNet server scores: {id: name}."""
    names = (resources.files("twospeed") / "data" / "labels" / "ava.txt").read_text(encoding="utf-8").splitlines()
    return {number: names[number - 1] for number in EVALUATED}


def read_exclusions(path: Path | str) -> list[tuple[str, float]]:
    """Read the keyframes that are not scored: (video, second). Raises DatasetError with the line."""
    path = Path(path)
    found = []
    for line, row in _rows(path):
        if len(row) != 2:
            raise DatasetError(f"{path}:{line}: {len(row)} columns; a row of exclusions is video, second")
        found.append((row[0], _number(row[1], path, line, "second")))
    return found


def read_frame_list(path: Path | str) -> dict[str, list[str]]:
    """Read which images make up each video: {video: paths in order}, as the file writes them.

    Raises DatasetError, with the line, for rows of another form and for frame numbers that do not ascend by one.
    """
    path = Path(path)
    videos: dict[str, list[str]] = {}
    last: dict[str, int] = {}
    for line, text in enumerate(read_dataset_text(path).splitlines(), 1):
        fields = text.split()
        if not fields or (line == 1 and "path" in fields):
            continue
        if len(fields) not in (4, 5) or not re.fullmatch("[0-9]{1,9}", fields[2]):
            raise DatasetError(
                f"{path}:{line}: a row of a frame list is `video number frame path labels`, got {text[:80]!r}"
            )
        video, number = fields[0], int(fields[2])
        if number != last.get(video, number - 1) + 1:
            raise DatasetError(f"{path}:{line}: frame {number} of {video} follows {last[video]}; frames are missing")
        last[video] = number
        videos.setdefault(video, []).append(fields[3])
    if not videos:
        raise DatasetError(f"{path}: lists no frames")
    return videos


def find_annotations(
    folder: Path | str, split: str = "val", *, version: Version | None = None, need_ground_truth: bool = True
) -> dict[str, Path]:
    """Find the official files in a folder, or its `annotations` folder.

    version: of the data set; None takes the newest that is there.

    Returns "ground_truth", and "labels" and "exclusions" where there are such files of the same version. Raises
    DatasetError when there is no `ava_<split>_v2.2.csv` or `ava_<split>_v2.1.csv` and it is needed.
    """
    sets = []
    versions = VERSIONS if version is None else (f"v{version}",)
    for name in versions:
        for place in (Path(folder), Path(folder) / "annotations"):
            files = {
                "ground_truth": place / f"ava_{split}_{name}.csv",
                "exclusions": place / f"ava_{split}_excluded_timestamps_{name}.csv",
            }
            found = {role: path for role, path in files.items() if path.is_file()}
            if maps := sorted(place.glob(f"ava_action_list_{name}_for_activitynet_*.pbtxt")):
                found["labels"] = maps[-1]
            if "ground_truth" in found:
                return found
            sets.append(found)
    if need_ground_truth:
        wanted = " or ".join(f"ava_{split}_{name}.csv" for name in versions)
        raise DatasetError(f"{folder}: holds no {wanted}; give the folder of AVA's annotation files")
    return max(sets, key=len)


def find_predicted_boxes(folder: Path | str, split: str = "val") -> Path:
    """Find the boxes of people that a detector found, by the names they were published under.

    Where there are several, `PUBLISHED_BOXES` are taken. Raises DatasetError, saying what is looked for, when there are
    none.
    """
    names = (f"ava_{split}_predicted_boxes.csv", f"ava_detection_{split}_boxes_and_labels.csv")
    published = Path(folder) / "annotations" / PUBLISHED_BOXES
    for place in (published, Path(folder) / "annotations", Path(folder)):
        for name in names:
            for found in (place / name, *sorted(place.glob(f"*/{name}"))):
                if found.is_file():
                    return found
    raise DatasetError(
        f"{folder}: holds no boxes of people: neither {' nor '.join(names)} in its annotations; give the file",
        option="boxes",
    )


def write_detections(
    file: IO[str], video: str, second: float, boxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating]
) -> None:
    """Append the rows of one keyframe to an open file: every box with every class.

    second: of the film. boxes_xyxy: (n, 4) fractions. scores: (n, C), column c is
    class id c + 1. Coordinates and scores have six decimals; whole seconds four digits, as the server takes them.
    """
    when, name = second_text(second), _field(video)
    rows = [
        f"{name},{when},{corners},{action},{score:.6f}\n"
        for corners, row in zip(
            (",".join(f"{value:.6f}" for value in box) for box in boxes_xyxy.tolist()), scores.tolist(), strict=True
        )
        for action, score in enumerate(row, 1)
    ]
    file.write("".join(rows))


def write_rows(file: IO[str], rows: BoxRows) -> None:
    """Append rows of detections as they are to an open file, with six decimals."""
    columns = (rows.seconds.tolist(), rows.boxes_xyxy.tolist(), rows.actions.tolist(), rows.scores.tolist())
    file.writelines(detection_row(*row) for row in zip(rows.videos, *columns, strict=True))


def detection_row(video: str, second: float, box_xyxy: Iterable[float], action: int, score: float) -> str:
    """Return the line of one box, in fractions, with one action."""
    corners = ",".join(f"{value:.6f}" for value in box_xyxy)
    return f"{_field(video)},{second_text(second)},{corners},{action},{score:.6f}\n"


def _field(text: str) -> str:
    """Write a name as a field of a csv file, in quotes where it needs them."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def second_text(second: float) -> str:
    """Write a second as AVA does: four digits where it is whole, else with six decimals."""
    return f"{round(second):04d}" if abs(second - round(second)) < 5e-7 else f"{second:011.6f}"


# ------------------------------------------------------------------------------------------------ reading


def _read_rows(path: Path, kind: Kind, labels: dict[int, str] | None) -> BoxRows:
    lines, table = _regular(path, kind) or _careful(path, kind)
    if not len(table):
        raise DatasetError(f"{path}: no rows; a row of {kind} is {_COLUMNS[kind]}")
    known: dict[str, str] = {}
    for column, values in (("second", table["second"]), *zip(_CORNERS, table["box"].T, strict=True)):
        _finite(path, lines, values, column)
    last = table["last"]
    persons = np.full(len(table), NO_PERSON, np.int64)
    if kind == "ground truth":
        persons, last = _whole(path, lines, last, "person id"), np.ones(len(table))
    found = BoxRows(
        path=path,
        lines=lines,
        videos=tuple(known.setdefault(name, name.strip()) for name in table["video"]),
        seconds=table["second"].copy(),
        boxes_xyxy=table["box"].copy(),
        actions=_whole(path, lines, table["action"], "action id"),
        persons=persons,
        scores=_finite(path, lines, last, "score").copy(),
    )
    _check_rows(found, kind, labels)
    return found


def _regular(path: Path, kind: Kind) -> tuple[NDArray[np.int64], Any] | None:
    """Read a file as every program writes it: line numbers (n,) and rows of `_ROW`; None where a row is different."""
    numbers, tables = [np.zeros(0, np.int64)], [np.zeros(0, _ROW)]
    begins = 1
    options: dict[str, Any] = {"delimiter": ",", "comments": None, "quotechar": '"', "ndmin": 1}
    if kind == "predicted boxes":
        options["converters"] = {6: lambda text: float(text or NO_ACTION)}
    try:
        with io.StringIO(read_dataset_text(path)) as file:
            while lines := list(itertools.islice(file, _LINES_AT_ONCE)):
                filled = [number for number, line in enumerate(lines, begins) if not line.isspace()]
                without_last = kind == "ground truth" and lines[0].count(",") == 6
                if filled:
                    read = np.loadtxt(lines, dtype=_ROW_WITHOUT_LAST if without_last else _ROW, **options)
                    table = np.full(len(filled), NO_PERSON, _ROW) if without_last else read
                    for field in read.dtype.names if without_last else ():
                        table[field] = read[field]
                    numbers.append(np.array(filled, np.int64))
                    tables.append(table)
                begins += len(lines)
    except ValueError:
        return None
    return np.concatenate(numbers), np.concatenate(tables)


def _careful(path: Path, kind: Kind) -> tuple[NDArray[np.int64], Any]:
    """As `_regular`, row by row, to say which one is broken."""
    widths = (7, 8) if kind == "ground truth" else (8,)
    lines, rows = [], []
    for line, fields in _rows(path):
        if len(fields) not in widths:
            raise DatasetError(f"{path}:{line}: {len(fields)} columns; a row of {kind} is {_COLUMNS[kind]}")
        if kind == "predicted boxes":
            fields[6] = fields[6] or str(NO_ACTION)
        elif kind == "ground truth":
            fields[7:] = ["".join(fields[7:]) or str(NO_PERSON)]
        names = ("second", *_CORNERS, "action id", "person id" if kind == "ground truth" else "score")
        second, *box, action, last = (
            _number(text, path, line, name) for text, name in zip(fields[1:], names, strict=True)
        )
        lines.append(line)
        rows.append((fields[0], second, box, action, last))
    return np.array(lines, np.int64), np.array(rows, _ROW)


def _check_rows(found: BoxRows, kind: Kind, labels: dict[int, str] | None) -> None:
    outside = (found.boxes_xyxy < -TOLERANCE) | (found.boxes_xyxy > 1 + TOLERANCE)
    if outside.any():
        row = int(np.flatnonzero(outside.any(axis=1))[0])
        box = ", ".join(f"{value:g}" for value in found.boxes_xyxy[row])
        hint = "; they look like pixels: divide by width and height" if found.boxes_xyxy[row].max() > 2 else ""
        raise DatasetError(f"{found.where(row)}: box {box} lies outside the image, 0..1 in both directions{hint}")
    most = max(CLASSES, *labels) if labels else CLASSES
    lowest = NO_ACTION if kind == "predicted boxes" else 1
    unknown = (found.actions < lowest) | (found.actions > most)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise DatasetError(f"{found.where(row)}: unknown class {found.actions[row]}; ids are 1 to {most}")


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, fields without surrounding blanks) of every row that is not empty."""
    reader = csv.reader(read_dataset_text(path).splitlines())
    rows = []
    begins = 1
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                rows.append((begins, fields))
            begins = reader.line_num + 1  # a quote that is not closed makes one row of many lines
    except csv.Error as error:
        raise DatasetError(f"{path}:{begins}: not csv ({error})") from error
    return rows


def _finite(path: Path, lines: NDArray[np.int64], values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    broken = ~np.isfinite(values)
    if broken.any():
        raise DatasetError(f"{path}:{lines[int(np.flatnonzero(broken)[0])]}: {name} is not a finite number")
    return values


def _number(text: str, path: Path, line: int, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DatasetError(f"{path}:{line}: {name} is {text[:40]!r}, not a number") from error
    if not np.isfinite(value):
        raise DatasetError(f"{path}:{line}: {name} is not a finite number")
    return value


def _whole(path: Path, lines: NDArray[np.int64], values: NDArray[np.float64], name: str) -> NDArray[np.int64]:
    _finite(path, lines, values, name)
    broken = (values != np.round(values)) | (np.abs(values) > 2**53)
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise DatasetError(f"{path}:{lines[row]}: {name} is {values[row]:g}, not a whole number")
    return values.astype(np.int64)
