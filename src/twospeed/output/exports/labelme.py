"""labelme's JSON, one file for each image: https://github.com/wkentaro/labelme."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from twospeed.ops.polygons import joined, simple_outlines
from twospeed.output.exports.base import Export, dumps, object_name, seen
from twospeed.results import AnnotatedFrame


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
