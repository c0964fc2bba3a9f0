"""Videos that come from the page, in chunks, so that a broken connection costs one chunk."""

from __future__ import annotations

import os
import shutil
import time
import unicodedata
from pathlib import Path

from twospeed.app.library import SUFFIXES
from twospeed.errors import InputError, OutputError
from twospeed.files import disk_errors, make_folder

KEPT_FREE = 1 << 30
MOST_AT_ONCE = 3
_OLD_S = 86400
LONGEST_NAME = 120  # bytes


class Offset(InputError):
    """The chunk does not begin where the part ends. offset: where that is."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload holds {offset} bytes so far; continue there")
        self.offset = offset


def clean_name(name: str) -> str:
    """Return a file name that is safe to create. Raises InputError where nothing is left, or for other suffixes."""
    base = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    base = "".join(c for c in base if unicodedata.category(c)[0] != "C").strip().lstrip(".")
    stem, suffix = os.path.splitext(base)  # noqa: PTH122  # no path yet
    if suffix.lower() not in SUFFIXES or not stem:
        raise InputError(f"{name[:80]!r}: give a video file, such as .mp4, .mov, .mkv or .webm")
    while len((stem + suffix).encode()) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + suffix


def add_chunk(folder: Path, name: str, offset: int, size: int, data: bytes, most: int) -> Path | None:
    """Append a chunk; returns the finished file, which overwrites none, or None while more is to come.

    Raises Offset, InputError for a size that is too large, OutputError for a full disk.
    """
    base = clean_name(name)
    if not 0 < size <= most:
        raise InputError(f"{base}: {size} bytes; {most} is the most that is taken")
    if shutil.disk_usage(folder).free - (size - offset) < KEPT_FREE:
        raise OutputError(f"{base}: {size} bytes do not fit on the disk, of which 1 GB stays free")
    parts = make_folder(folder / ".twospeed" / "uploads")
    part = parts / f"{base}.{size}.part"
    for old in parts.glob("*.part"):
        if time.time() - old.stat().st_mtime > _OLD_S:
            old.unlink()
    if not part.exists() and len(list(parts.glob("*.part"))) >= MOST_AT_ONCE:
        raise InputError(f"{MOST_AT_ONCE} uploads are under way; finish one of them first")
    with disk_errors(folder / base), part.open("ab") as file:
        if file.tell() != offset:
            raise Offset(file.tell())
        if offset + len(data) > size:
            raise InputError(f"{base}: more bytes came than the {size} that were announced")
        file.write(data)
    if offset + len(data) < size:
        return None
    target = folder / base
    number = 1
    while target.exists() or target.is_symlink():
        number += 1
        stem, suffix = os.path.splitext(base)  # noqa: PTH122
        target = folder / f"{stem} ({number}){suffix}"
    os.link(part, target)  # refuses where a file of that name has come meanwhile
    part.unlink()
    return target
