"""What every format of exported masks offers: frames go in one by one, at constant memory, and files come out whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from twospeed.files import atomic_file, make_folder
from twospeed.results import AnnotatedFrame, ObjectMasks

Files = Callable[[str], AbstractContextManager[Path]]
"""Gives a temporary path for a file's name; the file appears under that name when the block ends without an error."""


class Export(AbstractContextManager["Export"], ABC):
    """Masks of one video after the other in one format.

    files: where files go, by their names. image_suffix: of the images that frames are named after. Leaving the `with`
    block closes; leaving it by an exception leaves no unfinished file behind.
    """

    patterns: ClassVar[tuple[str, ...]]
    """Names of the files that are written; `*` where there are many."""

    several_videos: ClassVar[bool] = False
    """Whether frames of several videos, one after the other, have a place in one export."""

    @classmethod
    def is_one_file(cls) -> bool:
        """Return whether one file holds everything."""
        return len(cls.patterns) == 1 and "*" not in cls.patterns[0]

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        self._files, self._image_suffix = files, image_suffix
        self._open = ExitStack()
        self._closed = False

    @abstractmethod
    def add(self, frame: AnnotatedFrame) -> None:
        """Take the next frame."""

    def _finish(self) -> None:
        """Write what is known only at the end."""
        return

    def close(self) -> None:
        """Finish the files: all frames so far are in them. Closing twice does nothing."""
        if not self._closed:
            self._closed = True
            with self._open:
                self._finish()

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._open.__exit__(kind, *details)

    def _path(self, name: str) -> Path:
        """Return where to write a file that appears at the end."""
        return self._open.enter_context(self._files(name))

    def _text(self, name: str) -> IO[str]:
        """Open a text file that appears at the end."""
        return self._open.enter_context(self._path(name).open("w", encoding="utf-8", newline="\n"))

    def _spool(self, beside: IO[str]) -> IO[str]:
        """Open a nameless file for what comes later in a file that is being written, on the same disk."""
        return self._open.enter_context(
            tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=Path(beside.name).parent)
        )


def files_in(folder: Path) -> Files:
    """Return what puts files into a folder, and makes folders in it for those whose names have them."""

    def file(name: str) -> AbstractContextManager[Path]:
        make_folder((folder / name).parent)
        return atomic_file(folder / name)

    return file


def append(spool: IO[str], to: IO[str]) -> None:
    """Copy what was spooled to the end of a file."""
    spool.seek(0)
    shutil.copyfileobj(spool, to)


def dumps(content: Any) -> str:
    """Return compact JSON."""
    return json.dumps(content, separators=(",", ":"))


def seen(masks: ObjectMasks) -> list[tuple[int, float, NDArray[np.bool_]]]:
    """Return id, confidence and mask (H, W) of every object of which something is seen."""
    counts = np.bincount(masks.labels.ravel(), minlength=256)
    scores = masks.confidence.tolist()
    return [
        (i, round(score, 4), masks.labels == i)
        for i, score in zip(masks.object_ids, scores, strict=True)
        if 0 < i < 255 and counts[i]
    ]


def object_name(object_id: int) -> str:
    """Return the label of an object, from which readers know its id."""
    return f"object {object_id}"
