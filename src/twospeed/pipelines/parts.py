"""A long video in parts: each is computed by itself, perhaps elsewhere, and all together give the results of the whole.

The frames of a part are its own, but it reads further ones before and behind where a clip needs them, so that parts
overlap in what is decoded and never in what is computed. What the networks answered is stored in a file for each part;
everything else (tables, drawings, numbers of people) is made from these answers in one pass over the whole video.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.files import atomic_file
from twospeed.video.containers import Damaged
from twospeed.video.reader import frame_range, frame_times
from twospeed.video.sources import PositionLike, SourceLike, find_source

Answer = tuple[dict[str, Any], bytes]
"""What networks gave for one frame, window or keyframe: values that JSON holds, and bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of the parts of a video: frames belong to it by index, windows and keyframes by time.

    number, count: which of how many, from 1. frames, whole: indices of its frames and of all. times_s: of every frame
    of the source.
    """

    number: int
    count: int
    frames: range
    whole: range
    times_s: NDArray[np.float64]

    @property
    def is_last(self) -> bool:
        """Whether it reaches to the end of the whole."""
        return self.number == self.count

    @property
    def begin_s(self) -> float:
        """Time of the first frame of the whole."""
        return float(self.times_s[self.whole.start])

    @property
    def from_s(self) -> float:
        """Time from which on something belongs to this part."""
        return -math.inf if self.number == 1 else float(self.times_s[self.frames.start])

    @property
    def until_s(self) -> float:
        """Time from which on something belongs to the next part."""
        return math.inf if self.is_last else float(self.times_s[self.frames.stop])

    def first_needed(self, time_s: float) -> int:
        """Return the index of a frame a little before the one that is shown at a time."""
        return max(self.whole.start, int(np.searchsorted(self.times_s, time_s, side="right")) - 3)


def split_video(
    source: SourceLike,
    seconds: float,
    *,
    start: PositionLike | None = None,
    end: PositionLike | None = None,
    damaged: Damaged = "error",
    folder_rate: float | None = None,
    multiple: int = 1,
) -> list[Part]:
    """Cut a file or a folder of images into parts of about equal length, of `seconds` or less.

    None where a video is read in one go: a stream, or one whose damaged frames are skipped, so that frames have their
    numbers only while it is read. start, end, damaged: as `open_video` takes them; folder_rate: its rate for folders.
    multiple: the frames of each part but the last are a multiple of this, so that a part may be somewhat longer.
    Raises VideoError as `frame_range` does.
    """
    found = find_source(source)
    if not found.stored or damaged != "error":
        return []
    rate = folder_rate if found.kind == "images" else None
    whole = frame_range(found, start, end, rate=rate)
    times_s = frame_times(found, rate=rate, damaged="skip")
    count = max(1, math.ceil(float(times_s[whole[-1]] - times_s[whole[0]]) / seconds))
    size = math.ceil(len(whole) / count / multiple) * multiple
    cuts = [whole[place : place + size] for place in range(0, len(whole), size)]
    return [Part(number, len(cuts), frames, whole, times_s) for number, frames in enumerate(cuts, 1)]


def part_name(number: int, count: int) -> str:
    """Return the name of the file of a part's answers."""
    return f"{number:05d}-of-{count:05d}.zip"


def write_part(path: Path, answers: Iterable[Answer]) -> None:
    """Write a part's answers, in order, as they come; the file appears whole or not at all."""
    facts = []
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number, (values, content) in enumerate(answers):
            facts.append(values)
            archive.writestr(f"{number:08d}", content)
        archive.writestr("answers.json", json.dumps(facts))


def read_parts(folder: Path) -> Iterator[Answer]:
    """Yield the answers of all parts in a folder, in order. Raises InputError where one is missing or damaged."""
    files = sorted(path.name for path in folder.glob("*-of-*.zip"))
    count = int(files[0].partition("-of-")[2].removesuffix(".zip")) if files else 1
    if files != [part_name(number, count) for number in range(1, count + 1)]:
        raise InputError(f"{folder} holds {len(files)} files of parts, {count} make a whole; compute the others first")
    for name in files:
        try:
            with zipfile.ZipFile(folder / name) as archive:
                facts: list[Mapping[str, Any]] = json.loads(archive.read("answers.json"))
                for number, values in enumerate(facts):
                    yield dict(values), archive.read(f"{number:08d}")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{folder / name} cannot be read as a part's answers ({error}); compute it again"
            ) from None


def misfit(what: str) -> InputError:
    """Return the error for answers that are not those of the video at hand."""
    return InputError(f"stored parts do not fit the video: {what}; compute it whole")
