"""JSON of COCO, https://cocodataset.org/#format-data, and of YouTube-VIS: one annotation for each object of a video."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import IO, Any

from twospeed.ops.rle import coco_mask
from twospeed.output.exports.base import Export, Files, append, dumps, object_name, seen
from twospeed.results import AnnotatedFrame

_HEAD = '{"info":{"description":"masks of objects, exported by twospeed"},"licenses":[],"annotations":['


class CocoExport(Export):
    """One JSON file: an annotation for each object of each frame, masks as compressed run lengths.

    category_id is the object's id; `score`, `track_id`, `frame_index`, `time_s` and `video` are added to COCO's keys.
    """

    patterns = ("coco.json",)

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        self._file = self._text("coco.json")
        self._images = self._spool(self._file)
        self._file.write(_HEAD)
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
        self._file.write(_categories(self._ids))


@dataclass
class _Video:
    """The video at hand: frames so far, and for each object a spool of lines, one a frame, and its scores' sum."""

    name: str
    size: tuple[int, int]
    length: int = 0
    objects: dict[int, tuple[IO[str], list[float]]] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)


class YouTubeVisExport(Export):
    """One JSON file. What belongs to one object lies on disk until its video ends, so that memory does not grow.

    category_id is the object's id, `score` its mean confidence in the frames where it is seen.
    """

    patterns = ("youtube-vis.json",)
    several_videos = True

    def __init__(self, files: Files, image_suffix: str = ".jpg") -> None:
        super().__init__(files, image_suffix)
        self._file = self._text("youtube-vis.json")
        self._videos, self._names = self._spool(self._file), self._spool(self._file)
        self._file.write(_HEAD)
        self._current: _Video | None = None
        self._ended = self._annotations = 0
        self._ids: set[int] = set()

    def add(self, frame: AnnotatedFrame) -> None:
        """As `Export.add`."""
        if self._current is None or self._current.name != frame.video:
            self._end_video()
            height, width = frame.masks.labels.shape
            self._current = _Video(frame.video, (height, width))
        current = self._current
        self._names.write(
            ("" if current.length == 0 else ",") + dumps(f"{frame.video}/{frame.name}{self._image_suffix}")
        )
        for object_id, score, mask in seen(frame.masks):
            self._ids.add(object_id)
            if object_id not in current.objects:
                current.objects[object_id] = (self._spool(self._file), [])
                current.lines[object_id] = 0
            spool, total = current.objects[object_id]
            self._fill(object_id, spool)
            spool.write(dumps(coco_mask(mask)) + "\n")
            current.lines[object_id] += 1
            total[:] = [sum(total[:1]) + score, (total[1] if total else 0) + 1]
        current.length += 1

    def _fill(self, object_id: int, spool: IO[str]) -> None:
        """Note the frames in which an object was not seen."""
        assert self._current is not None
        spool.write("null\n" * (self._current.length - self._current.lines[object_id]))
        self._current.lines[object_id] = self._current.length

    def _end_video(self) -> None:
        current = self._current
        if current is None:
            return
        self._ended += 1
        height, width = current.size
        facts = {"id": self._ended, "width": width, "height": height, "length": current.length, "name": current.name}
        self._videos.write(("" if self._ended == 1 else ",\n") + dumps(facts)[:-1] + ',"file_names":[')
        append(self._names, self._videos)
        self._videos.write("]}")
        self._names.seek(0)
        self._names.truncate()
        for object_id, (spool, (total, frames)) in sorted(current.objects.items()):
            self._fill(object_id, spool)
            self._annotations += 1
            annotation: dict[str, Any] = {"id": self._annotations, "video_id": self._ended, "category_id": object_id}
            annotation |= {"iscrowd": 0, "width": width, "height": height, "length": current.length}
            annotation["score"] = round(total / frames, 4)
            self._file.write(("" if self._annotations == 1 else ",\n") + dumps(annotation)[:-1])
            for key, part in (("segmentations", "segmentation"), ("bboxes", "bbox"), ("areas", "area")):
                self._file.write(f',"{key}":[')
                spool.seek(0)
                for number, line in enumerate(spool):
                    seen_in = json.loads(line)
                    self._file.write(("," if number else "") + dumps(None if seen_in is None else seen_in[part]))
                self._file.write("]")
            self._file.write("}")
            spool.close()
        self._current = None

    def _finish(self) -> None:
        self._end_video()
        self._file.write('],\n"videos":[')
        append(self._videos, self._file)
        self._file.write(_categories(self._ids))


def _categories(ids: set[int]) -> str:
    """Return the end of the JSON: each object is a category, as masks of given objects have no class."""
    known = [{"id": i, "name": object_name(i), "supercategory": "object"} for i in sorted(ids)]
    return f'],\n"categories":{dumps(known)}}}\n'
