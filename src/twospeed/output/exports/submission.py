"""Zip files of palette PNGs as the servers of DAVIS (test-dev, challenge) and YouTube-VOS take them."""

from __future__ import annotations

import io
import zipfile
from typing import ClassVar

from PIL import Image

from twospeed.output.exports.base import Export, Files
from twospeed.results import AnnotatedFrame
from twospeed.video.indexed_png import COMPRESSION_LEVEL, davis_palette


class DavisExport(Export):
    """`VIDEO/00000.png` in a zip: DAVIS' server wants the folders of the sequences directly in it."""

    patterns = ("davis.zip",)
    several_videos = True
    _inside: ClassVar[str] = ""

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        path = self._path(self.patterns[0])
        self._zip = self._open.enter_context(zipfile.ZipFile(path, "w"))  # PNGs are compressed already

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

    def _finish(self) -> None:
        pass


class YouTubeVosExport(DavisExport):
    """`Annotations/VIDEO/00000.png` in a zip, as YouTube-VOS' server wants it."""

    patterns = ("youtube-vos.zip",)
    _inside = "Annotations/"
