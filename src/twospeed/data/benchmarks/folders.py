"""What lies in a data set's folders, and how to say what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twospeed.errors import DatasetError


def subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted, hidden ones left out."""
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return a folder's files of these kinds by name without ending, in order of name.

    Raises DatasetError when the folder is missing or has none.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes and p.name[0] != "."}
    if not files:
        raise DatasetError(f"{folder}: holds no {' or '.join(suffixes)} file")
    return files


def check_no_gaps(folder: Path, frames: Sequence[str]) -> None:
    """Raise DatasetError when numbered frames do not follow each other without a gap."""
    if not all(frame.isdigit() for frame in frames):
        return
    numbers = {int(frame) for frame in frames}
    width = len(frames[0])
    missing = [f"{n:0{width}d}" for n in range(min(numbers), max(numbers) + 1) if n not in numbers]
    if missing:
        raise DatasetError(f"{folder}: frames {listing(missing)} are missing between {frames[0]} and {frames[-1]}")


def listing(names: Sequence[str], most: int = 8) -> str:
    """Write names as "a, b, c and 12 more" ("nothing" when there are none)."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
