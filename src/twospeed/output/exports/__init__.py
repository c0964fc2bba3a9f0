"""Masks in the formats that annotation tools, trainers and benchmarks read, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from twospeed.errors import InputError
from twospeed.output.exports.base import Export, Files, files_in
from twospeed.output.exports.coco import CocoExport, YouTubeVisExport
from twospeed.output.exports.cvat import CvatExport
from twospeed.output.exports.png import DavisExport, PngExport, YouTubeVosExport
from twospeed.output.exports.polygons import LabelmeExport, YoloExport

__all__ = ["EXPORTS", "Export", "Files", "check_formats", "files_in"]

EXPORTS: dict[str, type[Export]] = {
    "coco": CocoExport,
    "youtube-vis": YouTubeVisExport,
    "davis": DavisExport,
    "youtube-vos": YouTubeVosExport,
    "yolo-seg": YoloExport,
    "cvat": CvatExport,
    "labelme": LabelmeExport,
    "png": PngExport,
}


def check_formats(names: Sequence[str], option: str = "export") -> tuple[str, ...]:
    """Return the names of formats without doubles. Raises InputError for one that is not known."""
    for name in names:
        if name not in EXPORTS:
            raise InputError(f"{name!r} is not a format; choose from {', '.join(EXPORTS)}", option=option)
    return tuple(dict.fromkeys(names))
