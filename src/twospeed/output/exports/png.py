"""Label images as DAVIS and the `track` command keep them."""

from __future__ import annotations

from typing import ClassVar

from twospeed.output.exports.base import Export
from twospeed.results import AnnotatedFrame
from twospeed.video.indexed_png import write_indexed_png


class PngExport(Export):
    """`VIDEO/00000.png` ...: palette PNGs, a pixel's value is its object's id."""

    patterns: ClassVar[tuple[str, ...]] = ("*/*.png",)
    several_videos = True

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        with self._files(f"{frame.video}/{frame.name}.png" if frame.video else f"{frame.name}.png") as path:
            write_indexed_png(path, frame.masks.labels)

    def _finish(self) -> None:
        pass
