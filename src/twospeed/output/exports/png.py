"""Label images as DAVIS and the `track` command keep them, and zips of them as the servers of benchmarks take them."""

from __future__ import annotations

import io
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from os import PathLike
from typing import Any, ClassVar

from PIL import Image

from twospeed.output.exports.base import Export, Files
from twospeed.results import AnnotatedFrame
from twospeed.video.indexed_png import COMPRESSION_LEVEL, davis_palette, write_indexed_png


class PngExport(Export):
    """`VIDEO/00000.png` ...: palette PNGs, a pixel's value is its object's id."""

    patterns = ("*/*.png",)
    several_videos = True

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        with self._files(f"{frame.video}/{frame.name}.png" if frame.video else f"{frame.name}.png") as path:
            write_indexed_png(path, frame.masks.labels)


class DavisExport(Export):
    """`VIDEO/00000.png` in a zip: DAVIS' server wants the folders of the sequences directly in it."""

    patterns = ("davis.zip",)
    several_videos = True
    _inside: ClassVar[str] = ""

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        path = self._path(self.patterns[0])
        # What zipfile keeps of each entry is 400 bytes: 40 MB for an hour of video, if it stayed in memory
        entries = self._open.enter_context(_EntriesOnDisk(path.parent))
        self._zip = self._open.enter_context(zipfile.ZipFile(path, "w"))  # PNGs are compressed already
        self._zip.filelist, self._zip.NameToInfo = entries, _Forgetful()  # type: ignore[assignment]

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        image = Image.fromarray(frame.masks.labels)
        image.putpalette(davis_palette().tobytes())
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=COMPRESSION_LEVEL, bits=8)
        entry = zipfile.ZipInfo(
            f"{self._inside}{frame.video}/{frame.name}.png"
        )  # with a fixed date: equal masks, equal files
        entry.external_attr = 0o644 << 16
        self._zip.writestr(entry, buffer.getvalue())


class YouTubeVosExport(DavisExport):
    """`Annotations/VIDEO/00000.png` in a zip, as YouTube-VOS' server wants it."""

    patterns = ("youtube-vos.zip",)
    _inside = "Annotations/"


class _EntriesOnDisk:
    """The list of a zip's entries, kept in a temporary file of a folder until the zip's own list is written."""

    def __init__(self, folder: PathLike[str]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._count = 0

    def __enter__(self) -> _EntriesOnDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        self._file.seek(0)
        for _ in range(self._count):
            yield pickle.load(self._file)  # written by this object

    def append(self, entry: zipfile.ZipInfo) -> None:
        pickle.dump(entry, self._file, pickle.HIGHEST_PROTOCOL)
        self._count += 1


class _Forgetful(dict[str, Any]):
    """Entries by name, which are only ever looked up in archives that are read."""

    def __setitem__(self, name: str, entry: Any) -> None:
        pass
