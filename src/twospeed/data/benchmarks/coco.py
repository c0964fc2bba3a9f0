"""COCO's annotated objects, one at a time with its image, as stills to train on.

    <root>/instances.json, <root>/images/000000000001.jpg           polygons or run lengths, of any size of the image

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.folders import listing
from twospeed.errors import DatasetError
from twospeed.files import read_json
from twospeed.video.folders import read_image


@dataclass(frozen=True, slots=True)
class CocoObject:
    """One annotated object. size: (height, width) of the annotation. polygons: x, y by turns, in its pixels.

    alone: other objects of its image may have no annotation, as the list says ("partial").
    """

    image: Path
    size: tuple[int, int]
    polygons: tuple[tuple[float, ...], ...]
    alone: bool = False

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the image, uint8 RGB (H, W, 3), and the object, uint8 (H, W) of 0 and 255.

        Raises VideoError when the image cannot be decoded.
        """
        image = read_image(self.image)
        return image, self.mask(image.shape[0], image.shape[1])

    def mask(self, height: int, width: int) -> NDArray[np.uint8]:
        """Draw the object at this size: uint8 (height, width) of 0 and 255."""
        drawn = np.zeros((height, width), np.uint8)
        scale = np.array([width / self.size[1], height / self.size[0]])
        shapes = [np.round(np.reshape(polygon, (-1, 2)) * scale).astype(np.int32) for polygon in self.polygons]
        cv2.fillPoly(drawn, shapes, (255, 255, 255))
        return drawn


def find_objects(root: Path | str, *, least: float = 0.01) -> list[CocoObject]:
    """Return the objects that cover at least this share of their image; crowds, which have no polygon, are left out.

    Raises DatasetError when the list cannot be read, an image is missing, or nothing is left.
    """
    root = Path(root)
    listed = root / "instances.json"
    try:
        content = read_json(listed, DatasetError)
        images = {entry["id"]: entry for entry in content["images"]}
        found = [_object(root, images[entry["image_id"]], entry) for entry in content["annotations"]]
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DatasetError(f"{listed}: not a COCO list (images, annotations with polygons): {error!r}") from error
    kept = [item for item, area in found if item.polygons and area >= least * item.size[0] * item.size[1]]
    if not kept:
        raise DatasetError(f"{listed}: none of its {len(found)} objects covers {least:g} of its image")
    if missing := sorted({item.image.name for item in kept if not item.image.is_file()}):
        raise DatasetError(f"{root / 'images'}: has no {listing(missing)}, which {listed.name} names")
    return kept


def _object(root: Path, image: dict[str, Any], entry: dict[str, Any]) -> tuple[CocoObject, float]:
    shapes = entry["segmentation"]
    polygons = tuple(tuple(map(float, shape)) for shape in shapes) if isinstance(shapes, list) else ()
    size = int(image["height"]), int(image["width"])
    file = root / "images" / Path(str(image["file_name"])).name
    return CocoObject(file, size, polygons, bool(image.get("partial", False))), float(entry["area"])
