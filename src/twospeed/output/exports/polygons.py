"""Polygons: Ultralytics' segmentation labels, a text file for each image with a line of relative coordinates for each
object; and labelme's JSON, one file for each image (https://github.com/wkentaro/labelme)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.ops.polygons import joined, simple_outlines
from twospeed.output.exports.base import Export, Files, dumps, object_name, seen
from twospeed.results import AnnotatedFrame

_TOLERANCES = (0.7, 0.4)  # pixels
_LEAST_IOU = 0.985
_WITHIN = 0.1  # of a pixel, added to its number: readers that cut decimals off and those that round both find it


class YoloExport(Export):
    """`labels/00000.txt` ... and `yolo-seg.yaml`; images belong into `images/` beside `labels/`.

    Class k is the object with id k + 1. The format has one polygon for each object, whose corners are pixels of its
    border: parts and holes are joined by lines.
    """

    patterns = ("yolo-seg.yaml", "labels/*.txt")

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        self._most = 0
        self._size = (0, 0)

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        height, width = self._size = frame.masks.labels.shape
        lines = []
        for object_id, _, mask in seen(frame.masks):
            self._most = max(self._most, object_id)
            polygon = (_polygon(mask) + _WITHIN) / (width, height)
            corners = " ".join(f"{value:.6f}" for value in polygon.ravel().tolist())
            lines.append(f"{object_id - 1} {corners}\n")
        with self._files(f"labels/{frame.name}.txt") as path:
            path.write_text("".join(lines), encoding="utf-8", newline="\n")

    def _finish(self) -> None:
        height, width = self._size
        names = {i - 1: object_name(i) for i in range(1, self._most + 1)}
        lines = [
            "# Images belong into images/, beside labels/",
            "train: images",
            "val: images",
            f"image_width: {width}",
            f"image_height: {height}",
            f"names: {dumps(names)}",  # JSON is YAML
        ]
        with self._files("yolo-seg.yaml") as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


class LabelmeExport(Export):
    """`labelme/00000.json` ...: polygons, those of one object with its id as their group_id."""

    patterns = ("labelme/*.json",)

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        height, width = frame.masks.labels.shape
        shapes: list[dict[str, Any]] = []
        for object_id, score, mask in seen(frame.masks):
            left, top, across, down = cv2.boundingRect(mask.view(np.uint8))
            inside = np.ascontiguousarray(mask[top : top + down, left : left + across]).view(np.uint8)
            count, parts = cv2.connectedComponents(inside, connectivity=4)
            for part in range(1, count):
                polygon = joined(simple_outlines(parts == part)) + np.array([left, top])
                shapes.append(
                    {
                        "label": object_name(object_id),
                        "points": polygon.tolist(),
                        "group_id": object_id,
                        "description": f"confidence {score}",
                        "shape_type": "polygon",
                        "flags": {},
                        "mask": None,
                    }
                )
        document: dict[str, Any] = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"../images/{frame.name}{self._image_suffix}",
        }
        document |= {"imageData": None, "imageHeight": height, "imageWidth": width}
        with self._files(f"labelme/{frame.name}.json") as path:
            path.write_text(dumps(document) + "\n", encoding="utf-8", newline="\n")


def _polygon(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return one polygon (n, 2) of border pixels, with as few corners as describe the mask well."""
    pixels = mask.view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    part = pixels[top : top + height, left : left + width]
    contours, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for tolerance in (*_TOLERANCES, 0.0):
        rings: list[Any] = [cv2.approxPolyDP(ring, tolerance, closed=True) if tolerance else ring for ring in contours]
        polygon = joined([ring[:, 0] for ring in rings])
        while len(polygon) < 3:  # one pixel, or a line
            polygon = np.concatenate([polygon, polygon[-1:]])
        filled = cv2.fillPoly(np.zeros_like(part), [polygon.astype(np.int32)], 1)
        if (filled & part).sum() >= _LEAST_IOU * (filled | part).sum():
            break
    shifted: NDArray[np.float64] = polygon + np.array([left, top])
    return shifted
