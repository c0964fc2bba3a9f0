"""Which videos a batch has: files, folders, patterns, addresses, and lists with options for each video."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from twospeed.batch.storage import file_system, tried
from twospeed.errors import InputError
from twospeed.files import is_there, read_text

LISTS = (".csv", ".parquet")
_FOREIGN = re.compile(r"[^\w.-]+")
_LONGEST_KEY = 80


@dataclass(frozen=True)
class Video:
    """One video. source: an absolute path or an address. arguments: options for this one, as a command line has them.
    error: why it cannot be worked on, where that is known already."""

    source: str
    arguments: Sequence[str] = ()
    error: str = ""

    def key(self, taken: set[str]) -> str:
        """Return a name for its results that is not taken: that of its file, with a checksum of its source if need be.

        taken: names in lower case.
        """
        stem = PurePosixPath(self.source.replace("\\", "/").rstrip("/")).stem
        name = _FOREIGN.sub("_", stem).strip("._-")[:_LONGEST_KEY] or "video"
        if name.casefold() not in taken:
            return name
        return f"{name}-{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"


ToArguments = Callable[[dict[str, str]], list[str]]
"""Turns the named cells of a list's line into options. Raises InputError for one that is none, or a wrong value."""


def find_videos(inputs: Iterable[str], to_arguments: ToArguments) -> list[Video]:
    """Return the videos that inputs name, each once, in order.

    inputs: a video, a folder (videos below it; a folder of images is one video), a pattern, an address of one of these
    (of a folder: ending in /), or a list of videos (.csv, .parquet) with a column `video` and others named as options.
    Raises InputError for what is missing or empty, and for a list with its line.
    """
    found: dict[str, Video] = {}
    for given in inputs:
        for video in _in_list(given, to_arguments) if given.lower().endswith(LISTS) else map(Video, _named(given)):
            earlier = found.setdefault(video.source, video)
            if earlier.arguments != video.arguments:
                raise InputError(f"{given} names {video.source} again, with other options; name every video once")
    if not found:
        raise InputError("no videos are named; give files, folders, patterns, addresses or lists")
    return list(found.values())


def with_masks(videos: Iterable[Video], folder: Path) -> list[Video]:
    """Give each video its masks from a folder: NAME.png (of the first frame), or a folder NAME of masks by frame.

    A video without masks gets an error. Raises InputError where the folder is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one with a mask NAME.png, or a folder NAME, for each video")
    paired = []
    for video in videos:
        stem = PurePosixPath(video.source.rstrip("/")).stem
        for place in (folder / f"{stem}.png", folder / stem):
            if place.exists():
                paired.append(replace(video, arguments=[*video.arguments, "--mask", str(place.absolute())]))
                break
        else:
            paired.append(replace(video, error=f"{video.source}: no mask {stem}.png and no folder {stem} in {folder}"))
    return paired


def _named(given: str) -> Iterator[str]:
    from twospeed.pipelines.classify import VIDEO_SUFFIXES, videos_in

    if "://" not in given:
        is_pattern = glob.has_magic(given) and not is_there(Path(given))
        paths = sorted(glob.glob(given, recursive=True)) if is_pattern else []  # noqa: PTH207  # may be absolute
        for video in videos_in(paths or [given]):
            if not is_there(video):
                raise InputError(f"{given}: no such file" + (" matches" if glob.has_magic(given) else ""))
            yield str(video.absolute())
        return
    if not glob.has_magic(given) and not given.endswith("/"):
        yield given
        return
    fs, path = file_system(given)
    paths = tried(lambda: fs.glob(path) if glob.has_magic(given) else fs.find(path), given)
    split = [(each, *each.rpartition("/")[::2]) for each in paths]
    runs = {folder for _, folder, name in split if name == "run.json"}
    own = ((each, name) for each, folder, name in split if folder not in runs and name[:1] != ".")
    videos = sorted(each for each, name in own if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise InputError(f"{given}: no videos are there")
    yield from map(fs.unstrip_protocol, videos)


def _in_list(given: str, to_arguments: ToArguments) -> Iterator[Video]:
    """Read a list. Paths in it are relative to its own folder; several values of an option are separated by `;`."""
    lines: dict[str, int] = {}
    for line, cells in _rows(given):
        where = f"{given}:{line}"
        source = cells.pop("video", "")
        if not source:
            raise InputError(f"{where}: no video; expected a path or an address in the column `video`")
        if "://" not in source:
            base = given.rpartition("/")[0] if "://" in given else ""
            path = Path(given).absolute().parent / source
            source = f"{base}/{source}" if base else str(path)
            if not base and not is_there(path):
                raise InputError(f"{where}: {source[:300]}: no such file")
        if source in lines:
            raise InputError(f"{where}: {source[:300]} is in line {lines[source]} already; name every video once")
        lines[source] = line
        try:
            yield Video(source, to_arguments({name: value for name, value in cells.items() if value}))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def _rows(given: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a table as texts by column, with their numbers in the file (in Parquet that of the row)."""
    content = b""
    if "://" in given:
        fs, path = file_system(given)
        try:
            content = bytes(tried(lambda: fs.cat_file(path), given))
        except FileNotFoundError as error:
            raise InputError(f"{given}: no such file") from error
    if given.lower().endswith(".parquet"):
        yield from _parquet_rows(given, content)
        return
    text = content.decode("utf-8-sig", "replace") if content else read_text(Path(given))
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        _check_columns(given, table.fieldnames or [])
        for cells in table:
            if None in cells or None in cells.values():
                raise InputError(f"{given}:{table.line_num}: expected {len(table.fieldnames or [])} values")
            yield table.line_num, {name.strip(): value.strip() for name, value in cells.items()}
    except csv.Error as error:
        raise InputError(f"{given}:{table.line_num}: no CSV ({error})") from error


def _parquet_rows(given: str, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table: Any = parquet.read_table(io.BytesIO(content) if content else given)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{given}: no Parquet file that can be read ({error})") from error
    _check_columns(given, table.column_names)
    for number, cells in enumerate(table.to_pylist(), 1):
        yield number, {name: "" if value is None else str(value) for name, value in cells.items()}


def _check_columns(given: str, names: Sequence[str]) -> None:
    names = [name.strip() for name in names]
    if "video" not in names or len(set(names)) < len(names):
        found = ", ".join(names)[:300] or "none"
        raise InputError(f"{given}:1: columns are {found}; expected `video`, and options of the job, each once")
