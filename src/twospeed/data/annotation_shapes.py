"""Shapes that files of annotations describe, as masks: polygons, run lengths, boxes, circles; and objects' numbers."""

from __future__ import annotations

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.ops.polygons import checked_points, fill_rings
from twospeed.ops.rle import decompress, mask_of
from twospeed.results import ObjectMasks
from twospeed.video.image_files import open_image

MOST_ID = 254  # 255 is void in label maps
Box = tuple[float, float, float, float]
OBJECT = re.compile(r"object (\d{1,3})")


@dataclass(frozen=True)
class Shape:
    """One object, or a part of it, in one frame. number: its id, where the format has one. box: where it is one."""

    label: str
    mask: NDArray[np.bool_]
    number: int | None = None
    score: float = 1.0
    box: Box | None = None


class Numbering:
    """Gives objects their ids in all frames of one file. Raises InputError for more than 254 objects."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: dict[Any, int] = {}
        self._used: set[int] = set()

    def masks(
        self, shapes: Iterable[Shape], size: tuple[int, int], time_s: float = 0.0
    ) -> tuple[ObjectMasks, dict[int, Box]]:
        """Put shapes together to the labels of one frame; also return the boxes of objects that are boxes alone."""
        labels = np.zeros(size, np.uint8)
        boxes: dict[int, Box | None] = {}
        scores: dict[int, float] = {}
        occurrences: Counter[str] = Counter()
        for shape in shapes:
            if shape.number is None:
                occurrences[shape.label] += 1
            named = OBJECT.fullmatch(shape.label)
            number = shape.number if named is None or shape.number is not None else int(named[1])
            second = shape.number is None and occurrences[shape.label] > 1
            key = ("number", number) if number is not None and not second else (shape.label, occurrences[shape.label])
            object_id = self._id(key, number)
            labels[shape.mask] = object_id
            scores[object_id] = shape.score
            boxes[object_id] = shape.box if object_id not in boxes else None
        ids = sorted(scores)
        alone = {i: box for i, box in boxes.items() if box is not None}
        return masks_of(labels, ids, [scores[i] for i in ids], time_s), alone

    def _id(self, key: Any, wanted: int | None) -> int:
        if key not in self._ids:
            free = next((i for i in range(1, MOST_ID + 1) if i not in self._used), None)
            if isinstance(wanted, int) and 0 < wanted <= MOST_ID and wanted not in self._used:
                free = wanted
            if free is None:
                raise InputError(f"{self._path}: more than {MOST_ID} objects, which is the most that labels can hold")
            self._ids[key] = free
            self._used.add(free)
        return self._ids[key]


def masks_of(
    labels: NDArray[np.uint8], ids: Sequence[int], scores: Sequence[float], time_s: float = 0.0
) -> ObjectMasks:
    """Return labels (H, W) as `ObjectMasks`, each object with its score; planes are made when they are read."""

    def planes() -> NDArray[np.float32]:
        return np.stack([~np.isin(labels, ids), *(labels == i for i in ids)]).astype(np.float32)

    return ObjectMasks(labels, planes, tuple(ids), time_s=time_s, confidence=np.array(scores, np.float32))


def box_shape(label: str, box: Box, size: tuple[int, int], number: int | None, score: float = 1.0) -> Shape:
    """A shape that is a box: its mask is all of it."""
    left, top, right, bottom = box
    if not np.isfinite(box).all():
        raise ValueError(f"a box of {box}")
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return Shape(label, fill_rings([corners], *size), number, score, box)


def coco_mask(segmentation: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Return the mask (H, W) of polygons or of run lengths, compressed or not."""
    if not segmentation:
        raise InputError(f"{where} has no segmentation; only masks and polygons are read, not boxes alone")
    if isinstance(segmentation, list):
        found = np.zeros(size, bool)
        for polygon in segmentation:
            found |= fill_rings([np.asarray(polygon, np.float64).reshape(-1, 2)], *size)
        return found
    counts = segmentation["counts"]
    if tuple(segmentation["size"]) != size:
        raise InputError(f"{where} is of {segmentation['size']}, its image of {list(size)} (height, width)")
    return mask_of(decompress(counts) if isinstance(counts, str) else [int(count) for count in counts], *size)


def labelme_shape(shape: dict[str, Any], size: tuple[int, int], path: Path) -> Shape:
    """Return a shape of labelme as a mask. Raises InputError for kinds without an area."""
    if shape.get("shape_type") == "rectangle":
        corners = checked_points(shape["points"])
        (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
        return box_shape(str(shape["label"]), (left, top, right, bottom), size, shape.get("group_id"))
    return Shape(str(shape["label"]), _labelme_mask(shape, size, path), shape.get("group_id"))


def _labelme_mask(shape: dict[str, Any], size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    points = checked_points(shape["points"])
    kind = shape.get("shape_type", "polygon")
    if kind == "polygon":
        return fill_rings([points], *size)
    if kind == "circle":
        turns = np.linspace(0, 2 * math.pi, 180, endpoint=False)
        radius = float(np.linalg.norm(points[1] - points[0]))
        return fill_rings([points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)], *size)
    if kind == "mask":
        with open_image(io.BytesIO(base64.b64decode(shape["mask"])), InputError, name=f"{path}: a mask") as image:
            inside = np.array(image.convert("L")) > 0
        left, top = (math.floor(value) for value in points[0].tolist())
        found = np.zeros(size, bool)
        part = found[max(0, top) : top + inside.shape[0], max(0, left) : left + inside.shape[1]]
        part |= inside[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]]
        return found
    raise InputError(f"{path}: a shape of type {kind!r} has no area; use polygon, rectangle, circle or mask")


def cvat_shape(
    shape: ElementTree.Element, size: tuple[int, int], name: str, label: str | None = None, track: int | None = None
) -> Shape:
    """Return a shape of CVAT as a mask. label, track: of a shape that is part of a track."""
    given = shape.attrib
    text = next((one.text for one in shape.iter("attribute") if one.get("name") == "track_id"), None)
    number = track if text is None else int(text)
    label = given["label"] if label is None else label
    if shape.tag == "mask":
        height, width, top, left = (int(given[key]) for key in ("height", "width", "top", "left"))
        counts = [int(count) for count in given["rle"].split(",")]
        if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
            raise InputError(f"{name}: a mask of {width}x{height} at {left},{top} is not within its image")
        mask = np.zeros(size, bool)
        mask[top : top + height, left : left + width] = mask_of(counts, width, height).T  # row by row
    elif shape.tag == "polygon":
        points = [[float(value) for value in point.split(",")] for point in given["points"].split(";")]
        mask = fill_rings([np.array(points)], *size)
    elif shape.tag == "box":
        x0, y0, x1, y1 = (float(given[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        return box_shape(label, (x0, y0, x1, y1), size, number)
    else:
        raise InputError(f"{name}: a <{shape.tag[:40]}> has no area that is read; use mask, polygon or box")
    return Shape(label, mask, number)
