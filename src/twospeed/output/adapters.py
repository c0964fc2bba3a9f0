"""Results as images, as files, and as what other packages read: the methods of `results.Result`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.files import write_json
from twospeed.ops.on_numpy import image_pixels
from twospeed.ops.rle import coco_mask
from twospeed.output.overlay import draw_boxes, draw_caption, draw_classes, draw_masks
from twospeed.output.palette import class_colours, distinct_colours, object_colours
from twospeed.results import ActionBoxes, ActionScores, ClassMap, ObjectMasks, Result
from twospeed.video.image_files import encoded
from twospeed.video.indexed_png import write_indexed_png

Image = NDArray[np.uint8]

_ACTIONS_SHOWN = 3  # of each person, at least this probable:
_LEAST_SCORE = 0.3


def draw(result: Result, image: Any) -> Image:
    """As `Result.draw`: masks and classes tinted, people in boxes with their actions, or a caption."""
    image = image_pixels(image)
    match result:
        case ObjectMasks():
            return draw_masks(image, result.labels)
        case ClassMap():
            return draw_classes(image, result.labels, _colours(result))
        case ActionBoxes():
            texts = [
                [f"{label} {score:.2f}" for label, score in result.top(row, _ACTIONS_SHOWN) if score >= _LEAST_SCORE]
                for row in range(len(result.boxes_xyxy))
            ]
            colours = object_colours()[np.array(result.track_ids, int) % 256] if result.track_ids else None
            return draw_boxes(image, result.boxes_xyxy, texts, colours)
        case ActionScores():
            return draw_caption(image, [f"{label} {probability:.2f}" for label, probability in result.top()])
    raise InputError(f"{type(result).__name__} cannot be drawn")


def as_png(result: ObjectMasks | ClassMap) -> bytes:
    """Return the labels in their colours as a PNG file, for notebooks."""
    colours = object_colours() if isinstance(result, ObjectMasks) else _colours(result)
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return encoded(table[result.labels], ".png")


def save(result: Result, path: str | os.PathLike[str]) -> None:
    """As `Result.save`."""
    target = Path(path)
    if target.suffix.lower() == ".json":
        write_json(target, result.to_dict())
    elif target.suffix.lower() == ".png" and isinstance(result, ObjectMasks | ClassMap):
        write_indexed_png(target, result.labels)
    else:
        kinds = ".json or .png" if isinstance(result, ObjectMasks | ClassMap) else ".json"
        raise InputError(f"{target}: a result of kind {type(result).__name__} is saved as {kinds}", option="path")


def to_coco(result: Result, image_id: int | None) -> list[dict[str, Any]]:
    """As `Result.to_coco`."""
    match result:
        case ObjectMasks():
            sure = result.confidence.tolist()
            return [
                _annotation(result.labels == i, image_id, result.frame_index, i, number) | {"score": sure[number - 1]}
                for number, i in enumerate(result.object_ids, start=1)
            ]
        case ClassMap():
            found = np.unique(result.labels).tolist()
            return [
                _annotation(result.labels == i, image_id, result.frame_index, i, number)
                for number, i in enumerate(found, start=1)
            ]
        case ActionBoxes():
            rows = enumerate(zip(result.boxes_xyxy.tolist(), result.person_scores.tolist(), strict=True), start=1)
            return [
                {
                    "id": number,
                    "image_id": 0 if image_id is None else image_id,
                    "category_id": 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                    "actions": dict(result.top(number - 1, len(result.labels))),
                }
                for number, ((x1, y1, x2, y2), score) in rows
            ]
    raise InputError(f"{type(result).__name__} holds no objects of an image; COCO has no place for it")


def to_supervision(result: Result) -> Any:
    """As `Result.to_supervision`."""
    try:
        import supervision
    except ImportError as error:
        raise InputError("the package supervision is not installed; install it (pip install supervision)") from error
    match result:
        case ObjectMasks():
            ids = np.array(result.object_ids, int)
            seen = np.isin(ids, result.labels)
            masks = result.labels[None] == ids[seen, None, None]
            return supervision.Detections(
                xyxy=_boxes_of(masks),
                mask=masks,
                confidence=result.confidence[seen],
                class_id=ids[seen],
                tracker_id=ids[seen],
            )
        case ClassMap():
            ids = np.unique(result.labels).astype(int)
            masks = result.labels[None] == ids[:, None, None]
            names = np.array([result.class_name(i) for i in ids.tolist()])
            return supervision.Detections(_boxes_of(masks), mask=masks, class_id=ids, data={"class_name": names})
        case ActionBoxes():
            count = len(result.boxes_xyxy)
            best = result.action_scores.argmax(1) if count else np.zeros(0, int)
            return supervision.Detections(
                xyxy=result.boxes_xyxy,
                confidence=result.person_scores,
                class_id=best,
                tracker_id=np.array(result.track_ids, int) if len(result.track_ids) == count else None,
                data={"class_name": np.array([result.labels[i] for i in best.tolist()])},
            )
        case ActionScores():
            return supervision.Classifications(np.arange(len(result.labels)), confidence=result.probabilities)
    raise InputError(f"supervision has no type for {type(result).__name__}")


def _annotation(
    mask: NDArray[np.bool_], image_id: int | None, frame: int, category: int, number: int
) -> dict[str, Any]:
    image = frame if image_id is None else image_id
    return {"id": number, "image_id": image, "category_id": category, **coco_mask(mask), "iscrowd": 0}


def _boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bounds of masks (n, H, W): xyxy in pixels, (n, 4), zeros for an empty one."""
    rects = [cv2.boundingRect(mask.view(np.uint8)) for mask in masks]
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rects], np.float32).reshape(-1, 4)


def _colours(result: ClassMap) -> NDArray[np.uint8]:
    known = None if result.classes is None else result.classes.colours
    return class_colours(len(result.scores)) if known is None else distinct_colours(known)
