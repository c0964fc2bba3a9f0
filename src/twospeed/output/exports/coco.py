"""COCO's JSON of instances: https://cocodataset.org/#format-data."""

from __future__ import annotations

from typing import Any

from twospeed.output.exports.base import Export, Files, append, categories, coco_mask, dumps, seen
from twospeed.results import AnnotatedFrame


class CocoExport(Export):
    """One JSON file: an annotation for each object of each frame, masks as compressed run lengths.

    category_id is the object's id; `score`, `track_id`, `frame_index`, `time_s` and `video` are added to COCO's keys.
    """

    patterns = ("coco.json",)

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        self._file = self._text("coco.json")
        self._images = self._spool(self._file)
        self._file.write('{"info":{"description":"masks of objects, exported by twospeed"},"licenses":[],')
        self._file.write('"annotations":[')
        self._frames = self._annotations = 0
        self._ids: set[int] = set()

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        masks = frame.masks
        height, width = masks.labels.shape
        self._frames += 1
        image: dict[str, Any] = {
            "id": self._frames,
            "file_name": f"{frame.name}{self._image_suffix}",
            "width": width,
            "height": height,
        }
        image |= {"frame_index": frame.index, "time_s": round(masks.time_s, 6), "video": frame.video}
        self._images.write(("" if self._frames == 1 else ",\n") + dumps(image))
        for object_id, score, mask in seen(masks):
            self._ids.add(object_id)
            self._annotations += 1
            annotation: dict[str, Any] = {"id": self._annotations, "image_id": self._frames, "category_id": object_id}
            annotation |= {**coco_mask(mask), "iscrowd": 0, "score": score, "track_id": object_id}
            self._file.write(("" if self._annotations == 1 else ",\n") + dumps(annotation))

    def _finish(self) -> None:
        self._file.write('],\n"images":[')
        append(self._images, self._file)
        self._file.write(f'],\n"categories":{dumps(categories(self._ids))}}}\n')
