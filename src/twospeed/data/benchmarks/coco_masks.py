"""Object masks of a COCO-style folder: `instances.json` with polygons beside `images/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import DatasetError

Image = NDArray[np.uint8]


def read_objects(root: Path, *, least: float = 0.01) -> list[tuple[Image, list[Image]]]:
    """Read all images with their annotated objects: uint8 RGB (h, w, 3), and for each object uint8 (h, w), 0 or 1.

    least: share of the image that an object covers; smaller ones, crowds and images without any are left out. Images may
    be smaller than the list says, as they are where a set was reduced: the polygons are scaled.
    Raises DatasetError when the folder lacks what the list names.
    """
    try:
        listed = json.loads((root / "instances.json").read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{root / 'instances.json'}: cannot be read ({error})") from error
    by_image: dict[int, list[dict[str, Any]]] = {}
    for item in listed["annotations"]:
        if not item.get("iscrowd") and isinstance(item["segmentation"], list):
            by_image.setdefault(item["image_id"], []).append(item)
    found = []
    for entry in listed["images"]:
        path = root / "images" / entry["file_name"]
        image = cv2.imread(str(path))
        if image is None:
            raise DatasetError(f"{path}: cannot be read as an image, but {root / 'instances.json'} names it")
        scale = np.array([image.shape[1] / entry["width"], image.shape[0] / entry["height"]])
        masks = []
        for item in by_image.get(entry["id"], ()):
            mask = np.zeros(image.shape[:2], np.uint8)
            cv2.fillPoly(mask, [np.round(np.reshape(p, (-1, 2)) * scale).astype(np.int32) for p in item["segmentation"]], 1)
            if mask.mean() >= least:
                masks.append(mask)
        if masks:
            found.append((np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), masks))
    return found
