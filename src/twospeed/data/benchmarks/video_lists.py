"""Which videos exist and what they show: the lists in which data sets are published.

`read_video_list` takes a Kinetics list (a path and a label per line, as PySlowFast and others write it) or
the official csv; `read_class_folders` a folder of class folders. Videos are files or folders of images; whether
they exist is found out when they are read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twospeed.data.benchmarks.folders import entries, read_dataset_text, read_lines, subfolders
from twospeed.errors import DatasetError
from twospeed.files import is_there

VIDEO_SUFFIXES = frozenset((".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"))
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"))

_PATH_LABEL = re.compile(r"^(?P<path>.*?\S)(?P<separator>\s*[,;|\t]\s*|\s+)(?P<label>[+-]?[0-9]{1,9})$")
_MIDDLE_FIELD = re.compile(r"^(?P<path>.*?\S)(?:\s*[,;|\t]\s*|\s+)\d+(?:\.\d+)?$")


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """One line of a list: a video file or a folder of images, and its class number.

    labelled: False in lists of paths alone, as test sets have them; label is 0 there and means nothing.
    """

    path: Path
    label: int
    labelled: bool = True


def read_video_list(
    path: Path | str,
    *,
    root: Path | str | None = None,
    separator: str | None = None,
    num_classes: int | None = None,
    labels: Sequence[str] | None = None,
    unlabelled: bool = False,
) -> list[LabelledVideo]:
    """Read a Kinetics list.

    Two forms are distinguished by the first line. The official csv (its header names youtube_id, time_start,
    time_end and label) needs `labels`, the class names in order; where it is None, the sorted names of the
    file. Otherwise each line is `path<separator>label`; the separator may be a space, tab, comma, semicolon
    or bar, paths may hold spaces, and a number between path and label (a frame count) is passed over unless
    it belongs to an existing path. unlabelled: a file with paths alone, as test lists are, gives videos without
    labels; where it is False such a file is refused. root: what relative paths are relative to (None: the list's
    folder). separator: only this text separates fields.
    num_classes: labels must be below it. Raises DatasetError with the line number.
    """
    path = Path(path)
    base = Path(root) if root is not None else path.parent
    text, lines = read_dataset_text(path), read_lines(path)
    header = [name.strip().strip('"').lower() for name in lines[0][1].split(",")]
    if "youtube_id" in header:
        videos = list(_official(path, text, header, base, labels))
    else:
        videos = list(_plain(path, lines, base, separator, labels))
    if not videos:
        raise DatasetError(f"{path}: lists no videos")
    limit = num_classes if num_classes is not None else (len(labels) if labels is not None else None)
    for number, video in videos:
        if video.label < 0 or (limit is not None and video.label >= limit):
            allowed = f"0..{limit - 1}" if limit is not None else "0 or more"
            raise DatasetError(f"{path}:{number}: label {video.label} is outside {allowed}; check num_classes")
    if not unlabelled and any(not video.labelled for _, video in videos):
        raise DatasetError(f"{path}: its lines hold no labels; write `path label` on each, as Kinetics lists have it")
    return [video for _, video in videos]


def find_videos(
    data: Path | str,
    *,
    part: str = "val",
    root: Path | str | None = None,
    separator: str | None = None,
    labels: Sequence[str] | None = None,
    num_classes: int | None = None,
    unlabelled: bool = False,
) -> tuple[list[LabelledVideo], list[str] | None]:
    """Find one part of a data set, whichever way it is kept; returns its videos and class names (None: unknown).

    data: a list or csv file; or a folder with `<part>.csv`, `<part>.txt`, a folder `<part>` of class folders,
    or class folders. The other arguments are those of `read_video_list`. Raises DatasetError for anything
    else.
    """
    data = Path(data)
    lists = [data] if data.is_file() else [path for end in ("csv", "txt") if (path := data / f"{part}.{end}").is_file()]
    if lists:
        videos = read_video_list(
            lists[0], root=root, separator=separator, num_classes=num_classes, labels=labels, unlabelled=unlabelled
        )
        return videos, None if labels is None else list(labels)
    if not data.is_dir():
        raise DatasetError(f"{data}: no such list of videos or folder")
    folder = data / part if (data / part).is_dir() else data
    videos, names = read_class_folders(folder, labels=labels)
    if num_classes is not None and len(names) > num_classes:
        raise DatasetError(f"{folder}: has {len(names)} class folders, num_classes is {num_classes}")
    return videos, names


def read_class_names(path: Path | str) -> list[str]:
    """Read class names: one per line, or lines of `number name` (UCF's classInd.txt), in order of class number."""
    lines = [line for _, line in read_lines(Path(path))]
    numbered = [re.fullmatch(r"([0-9]{1,9})[\s,]+(\S.*)", line) for line in lines]
    if lines and all(numbered):
        return [m[2] for m in sorted((m for m in numbered if m), key=lambda m: int(m[1]))]
    return lines


def read_class_folders(
    root: Path | str, *, labels: Sequence[str] | None = None
) -> tuple[list[LabelledVideo], list[str]]:
    """Read a folder with a folder for each class, holding video files or folders of images.

    labels: the class names in order; None takes the sorted folder names. Returns the videos, by class and
    name, and the class names. Raises DatasetError when there are no classes, or a folder is no known class.
    """
    root = Path(root)
    names = class_folders(root)
    known = list(labels) if labels is not None else names
    videos = []
    for name in names:
        if name not in known:
            raise DatasetError(f"{root / name}: not one of the {len(known)} given classes")
        videos += [LabelledVideo(video, known.index(name)) for video in entries(root / name) if is_video(video)]
    if not videos:
        raise DatasetError(f"{root}: its {len(names)} class folders hold no video and no folder of images")
    return videos, known


def read_classes(root: Path | str) -> tuple[list[LabelledVideo], list[str]]:
    """Read class folders as `read_class_folders` does, to train on all of them: every class must hold a video.

    Raises DatasetError for a single class, a class without videos, and a name that is not UTF-8.
    """
    root = Path(root)
    names = class_folders(root)
    for name in names:
        if not name.isascii() and name.encode("utf-8", "replace").decode() != name:
            raise DatasetError(f"{root}: the name of the class folder {name!a} is not UTF-8; rename it")
        if not any(is_video(path) for path in entries(root / name)):
            raise DatasetError(f"{root / name}: {_instead(root / name)}; give it videos, or remove the folder")
    if len(names) < 2:
        raise DatasetError(f"{root}: holds one class, {names[0]!r}; a training needs at least two")
    return read_class_folders(root)


def _instead(folder: Path) -> str:
    """Say what a class folder without videos holds."""
    inside = entries(folder)
    if not inside:
        return "the class folder is empty"
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
        return "holds images, not videos (the frames of one clip may lie in a folder of their own)"
    deeper = [path for path in inside if path.is_dir() and any(is_video(each) for each in entries(path))]
    if deeper:
        return f"holds folders of videos ({deeper[0].name}, ...), not videos; is {folder} the folder to give"
    return f"holds no video ({inside[0].name}, ...)"


def class_folders(root: Path) -> list[str]:
    """Return the sorted names of a folder's folders; hidden ones do not count."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder of class folders")
    names = list(subfolders(root))
    if not names:
        raise DatasetError(f"{root}: holds no class folders")
    return names


def is_video(path: Path) -> bool:
    """Return whether a path looks like a video: a file with a video's ending, or a folder that holds images."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(p.suffix.lower() in IMAGE_SUFFIXES for p in entries(path))
    return path.suffix.lower() in VIDEO_SUFFIXES


def _plain(
    path: Path, lines: Sequence[tuple[int, str]], base: Path, separator: str | None, labels: Sequence[str] | None
) -> Iterator[tuple[int, LabelledVideo]]:
    split = [_split(line, separator, labels) for _, line in lines]
    without = [number for (number, _), (_, label) in zip(lines, split, strict=True) if label is None]
    if without and len(without) < len(lines):
        raise DatasetError(
            f"{path}:{without[0]}: no label at the end of {dict(lines)[without[0]]!r}, though other lines have one"
        )
    for (number, _), (text, label) in zip(lines, split, strict=True):
        yield number, LabelledVideo(_existing_path(text, base, separator), label or 0, label is not None)


def _split(line: str, separator: str | None, labels: Sequence[str] | None) -> tuple[str, int | None]:
    """Cut a line into path and label (None where it has none)."""
    if separator is not None and separator.strip():
        text, found, last = (part.strip() for part in line.rpartition(separator))
        if found and re.fullmatch(r"[+-]?[0-9]{1,9}", last):
            return text, int(last)
        if found and labels is not None and last in labels:
            return text, labels.index(last)
        return line, None
    match = _PATH_LABEL.match(line)
    if match:
        return match["path"], int(match["label"])
    for mark in (",", ";", "|", "\t"):
        text, found, last = line.rpartition(mark)
        if found and labels is not None and last.strip().strip('"') in labels:
            return text.strip(), labels.index(last.strip().strip('"'))
    return line, None


def _existing_path(text: str, base: Path, separator: str | None) -> Path:
    """Turn a line's path into a Path, passing over a middle field unless the whole text is what exists."""
    whole = base / text.strip('"')
    if separator is not None and separator.strip():
        before, found, middle = text.rpartition(separator)
        shorter = before.strip() if found and re.fullmatch(r"\s*\d+(\.\d+)?\s*", middle) else None
    else:
        match = _MIDDLE_FIELD.match(text)
        shorter = match["path"] if match else None
    if shorter is None or is_there(whole):
        return whole
    return base / shorter.strip().strip('"')


def _official(
    path: Path, text: str, header: list[str], base: Path, labels: Sequence[str] | None
) -> Iterator[tuple[int, LabelledVideo]]:
    missing = [name for name in ("youtube_id", "time_start", "time_end", "label") if name not in header]
    if missing:
        raise DatasetError(f"{path}:1: the official csv's header lacks {', '.join(missing)}")
    try:
        rows = list(csv.reader(text.splitlines()))[1:]
    except csv.Error as error:
        raise DatasetError(f"{path}: not csv ({error})") from error
    entries: list[tuple[int, dict[str, str]]] = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) < len(header):
            raise DatasetError(f"{path}:{number}: {len(row)} fields, the header names {len(header)}")
        entries.append((number, dict(zip(header, (value.strip() for value in row), strict=False))))
    names = list(labels) if labels is not None else sorted({entry["label"] for _, entry in entries})
    numbers = {name: i for i, name in enumerate(names)}
    numbers |= {name.replace(" ", "_"): i for i, name in enumerate(names)}  # labels as folder names
    contents = cache(_contents)  # a folder of 300,000 videos is listed once
    for number, entry in entries:
        name = entry["label"]
        if name not in numbers:
            raise DatasetError(f"{path}:{number}: label {name!r} is not one of the {len(names)} class names")
        try:
            start, end = (round(float(entry[key])) for key in ("time_start", "time_end"))
        except (ValueError, OverflowError):  # no number, not finite
            times = entry["time_start"], entry["time_end"]
            raise DatasetError(f"{path}:{number}: times {times} are not seconds") from None
        yield number, LabelledVideo(_official_path(entry, start, end, base, contents), numbers[name])


def _official_path(
    entry: dict[str, str], start: int, end: int, base: Path, contents: Callable[[Path], set[str]]
) -> Path:
    """Find a video of the official csv under the names in which it is kept; the usual one when none exists."""
    cut = f"{entry['youtube_id']}_{start:06d}_{end:06d}"
    inside = ["", entry["label"], entry["label"].replace(" ", "_")]
    inside += [f"{entry['split']}/{folder}" for folder in inside if entry.get("split")]
    for folder in (base / name for name in inside):
        for name in (cut, entry["youtube_id"]):
            for suffix in (".mp4", ".mkv", ".webm", ".avi", ""):
                if f"{name}{suffix}" in contents(folder):
                    return folder / f"{name}{suffix}"
    return base / entry["label"] / f"{cut}.mp4"


def _contents(folder: Path) -> set[str]:
    return {p.name for p in entries(folder)} if folder.is_dir() else set()
