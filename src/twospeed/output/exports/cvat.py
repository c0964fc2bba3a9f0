"""CVAT for images 1.1: https://docs.cvat.ai/docs/other/xml_format/."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

from twospeed.ops.rle import run_lengths
from twospeed.output.exports.base import Export, Files, append, object_name, seen
from twospeed.output.palette import object_colours
from twospeed.results import AnnotatedFrame


class CvatExport(Export):
    """One XML file: a mask for each object of each image, as run lengths of its box, row by row, outside first."""

    patterns = ("cvat.xml",)

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        self._file = self._text("cvat.xml")
        self._images = self._spool(self._file)
        self._frames = 0
        self._ids: set[int] = set()

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        height, width = frame.masks.labels.shape
        write = self._images.write
        name = quoteattr(frame.name + self._image_suffix)
        write(f'  <image id="{self._frames}" name={name} width="{width}" height="{height}">\n')
        self._frames += 1
        for object_id, _, mask in seen(frame.masks):
            self._ids.add(object_id)
            left, top, across, down = cv2.boundingRect(mask.view(np.uint8))
            lengths = ", ".join(map(str, run_lengths(mask[top : top + down, left : left + across].T)))
            write(
                f'    <mask label="{object_name(object_id)}" source="auto" occluded="0" rle="{lengths}" '
                f'left="{left}" top="{top}" width="{across}" height="{down}" z_order="0">\n    </mask>\n'
            )
        write("  </image>\n")

    def _finish(self) -> None:
        labels = "".join(
            f"        <label><name>{object_name(i)}</name><color>#{bytes(object_colours()[i]).hex()}</color>"
            "<type>mask</type><attributes></attributes></label>\n"
            for i in sorted(self._ids)
        )
        self._file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <name>twospeed</name>\n      <size>{self._frames}</size>\n      <mode>annotation</mode>\n"
            f"      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n"
        )
        append(self._images, self._file)
        self._file.write("</annotations>\n")
