"""What lies in a data set's folders, and how to say what is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from twospeed.errors import DatasetError, InputError
from twospeed.files import read_text


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted. Raises DatasetError where that cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"{folder}: the folder cannot be read ({error.strerror})") from error


def subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted, hidden ones left out."""
    return tuple(p.name for p in entries(folder) if p.is_dir() and not p.name.startswith("."))


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return a folder's files of these kinds by name without ending, in order of name.

    Raises DatasetError when the folder is missing or has none.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    files = {p.stem: p for p in entries(folder) if p.suffix.lower() in suffixes and p.name[0] != "."}
    if not files:
        raise DatasetError(f"{folder}: holds no {' or '.join(suffixes)} file")
    return files


def check_no_gaps(folder: Path, frames: Sequence[str]) -> None:
    """Raise DatasetError when numbered frames do not follow each other without a gap."""
    if not all(re.fullmatch("[0-9]+", frame) for frame in frames):
        return
    numbers = {int(frame) for frame in frames}
    width = len(frames[0])
    missing = [f"{n:0{width}d}" for n in range(min(numbers), max(numbers) + 1) if n not in numbers]
    if missing:
        raise DatasetError(f"{folder}: frames {listing(missing)} are missing between {frames[0]} and {frames[-1]}")


def find_resolution(folder: Path) -> str | None:
    """Return the name of the folder of frames of one size: 480p, else the largest; None for none.

    DAVIS has 480p and 1080p; copies in other sizes are named alike, 288p for example.
    """
    if not folder.is_dir():
        return None
    sizes = [name for name in subfolders(folder) if re.fullmatch(r"[0-9]{2,5}p", name)]
    return "480p" if "480p" in sizes else max(sizes, key=lambda name: int(name[:-1]), default=None)


def read_dataset_text(path: Path) -> str:
    """Read a text file of a data set, UTF-8. Raises DatasetError where it is missing or no such text."""
    try:
        return read_text(path)
    except InputError as error:
        raise DatasetError(str(error)) from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a data set's text file that hold something, stripped, with their numbers from 1.

    Raises DatasetError where the file cannot be read or holds nothing.
    """
    lines = [(n, line.strip()) for n, line in enumerate(read_dataset_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise DatasetError(f"{path}: holds no lines")
    return lines


def listing(names: Sequence[str], most: int = 8) -> str:
    """Write names as "a, b, c and 12 more" ("nothing" when there are none)."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
