"""The prompts of `twospeed track`: masks, boxes, points and polygons of any object in any frame."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from twospeed.cli.options import check_files, parse_numbers
from twospeed.cli.track_options import PromptOptions
from twospeed.errors import InputError, MaskError
from twospeed.files import visible_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twospeed.results import AnnotatedFrame
    from twospeed.video.sources import Source

    Labels = NDArray[np.uint8]

_PLACED = re.compile(r"(?:([0-9]{1,3})@)?(?:([0-9]{1,9})=)?(.*)", re.DOTALL)
_GONE = re.compile(r"([0-9]{1,3})@([0-9]{1,9})")
_ANNOTATIONS = (".json", ".xml", ".zip", ".db")
PROJECT_FILE = "project.db"  # in the folder of a project of `twospeed app`
MOST_ID = 254


@dataclass
class _Marks:
    """What is drawn of one object in one frame: points (x, y, sign), a box (x0, y0, x1, y1), corners of polygons."""

    points: list[tuple[float, float, int]] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    polygons: list[tuple[float, ...]] = field(default_factory=list)


class Prompts:
    """All prompts as they were typed. A frame of None is the one where tracking begins.

    Raises InputError, MaskError for what cannot be read, before any video is opened.
    """

    def __init__(self, source: Source, given: PromptOptions) -> None:
        self._source = source
        self.files: dict[int | None, Path] = {}
        self.annotations: list[tuple[int | None, Path]] = []
        self._marks: dict[tuple[int | None, int | str], _Marks] = {}
        self._beside: list[tuple[int | None, tuple[float, ...]]] = []  # points of whichever object is in the frame
        for text in given.mask or []:
            self._add_masks(text)
        for text in given.box or []:
            marks, rest = self._place("--box", text)
            x, y, w, h = parse_numbers("--box", rest, "x,y,width,height")
            if marks.box is not None:
                raise InputError(f"--box {text}: a second box for this object and frame; give one that holds all of it")
            marks.box = (x, y, x + w, y + h)
        for text in given.point or []:
            marks, rest = self._place("--point", text)
            marks.points.append((*parse_numbers("--point", rest, "x,y"), 1))  # type: ignore[arg-type]  # two numbers
        for text in given.polygon or []:
            marks, rest = self._place("--polygon", text)
            marks.polygons.append(_corners(text, rest))
        for text in given.background_point or []:
            object_id, frame, rest = _split("--background-point", text)
            x, y = parse_numbers("--background-point", rest, "x,y")
            if object_id is None:
                self._beside.append((frame, (x, y)))
            else:
                self._place("--background-point", text)[0].points.append((x, y, -1))
        self.gone: dict[int, set[int]] = {}
        for text in given.gone or []:
            if not (match := _GONE.fullmatch(text)) or not 1 <= int(match[1]) <= MOST_ID:
                raise InputError(f"--gone is {text!r}; give OBJECT@FRAME, such as 2@120")
            self.gone.setdefault(int(match[2]), set()).add(int(match[1]))

    def __bool__(self) -> bool:
        return bool(self.files or self.annotations or self._marks)

    @property
    def paths(self) -> list[Path]:
        """The files that prompts are read from."""
        return [*self.files.values(), *(path for _, path in self.annotations)]

    def read(self, first: int, size: tuple[int, int], *, snap: bool) -> FramePrompts:
        """Read the masks, and number the objects. first: the frame where tracking begins. size: (H, W) of frames."""
        from twospeed.video.indexed_png import read_label_map

        masks: dict[int, Labels] = {}
        boxed: dict[tuple[int, int], tuple[float, float, float, float]] = {}
        for frame, one, file in self._annotated(size):
            index = first if frame is None else frame
            labels = one.masks.labels.copy()
            for object_id, corners in one.boxes.items():
                boxed[index, object_id] = corners
                labels[labels == object_id] = 0
            if labels.any():
                _put(masks, index, labels, file)
        for frame, file in self.files.items():
            labels = read_label_map(file, snap=snap, expect_size=size)
            _put(masks, first if frame is None else frame, labels, file)
        taken = {number for _, number in (*self._marks, *boxed) if isinstance(number, int)}
        marks: dict[int, dict[int, _Marks]] = {}
        for (frame, number), drawn in self._marks.items():
            index = first if frame is None else frame
            if isinstance(number, str):  # a new object: later masks may correct it, so only earlier ones count
                known = [int(labels[labels <= MOST_ID].max(initial=0)) for at, labels in masks.items() if at <= index]
                number = max([0, *taken, *known]) + 1
                taken.add(number)
                if number > MOST_ID:
                    raise InputError(f"no number up to {MOST_ID} is free for another object; renumber the masks")
            objects = marks.setdefault(index, {})
            if number in objects:  # once by the frame's number, once without
                objects[number].points += drawn.points
                objects[number].polygons += drawn.polygons
                objects[number].box = objects[number].box or drawn.box
            else:
                objects[number] = drawn
        for (index, object_id), corners in boxed.items():
            drawn = marks.setdefault(index, {}).setdefault(object_id, _Marks())
            drawn.box = drawn.box or corners
        for frame, (x, y) in self._beside:
            index = first if frame is None else frame
            objects = marks.get(index, {})
            if len(objects) != 1:
                raise InputError(
                    f"--background-point {x:g},{y:g}: {len(objects)} objects are marked in frame {index}; say which "
                    f"one with OBJECT@, such as 1@{index}={x:g},{y:g}"
                )
            next(iter(objects.values())).points.append((x, y, -1))
        return FramePrompts(masks, marks, self.gone)

    def _place(self, option: str, text: str) -> tuple[_Marks, str]:
        """Find the marks that an option adds to, and what is left of it. Without OBJECT@ each is a new object."""
        object_id, frame, rest = _split(option, text)
        return self._marks.setdefault((frame, object_id or f"new {len(self._marks)}"), _Marks()), rest

    def _add_masks(self, item: str) -> None:
        frame, equals, name = item.partition("=")
        numbered = bool(equals) and frame.isascii() and frame.isdecimal()
        path = Path(name) if numbered else Path(item)
        if numbered and len(frame) > 9:
            raise InputError(f"{path}: is given for a frame whose number has {len(frame)} digits")
        index = int(frame) if numbered else None
        check_files([path])
        if (path / PROJECT_FILE).is_file():
            path = path / PROJECT_FILE
        images = path.is_dir() and visible_files(path, ".png") and not (path / "run.json").is_file()
        if not images and (path.is_dir() or path.suffix.lower() in _ANNOTATIONS):
            self.annotations.append((index, path))
            return
        found = _masks_in(path, self._source) if path.is_dir() else {index: path}
        for index, file in found.items():
            if index in self.files:
                raise InputError(f"{file} is a second mask for frame {index or 0}; give one label image for a frame")
            self.files[index] = file

    def _annotated(self, size: tuple[int, int]) -> Iterator[tuple[int | None, AnnotatedFrame, Path]]:
        """Read masks of COCO, CVAT, labelme and the like; of a folder of images by their names."""
        from twospeed.app.store import read_project
        from twospeed.data.annotations import read_annotations

        places = dict[str, int | None]()
        if self._source.kind == "images":
            places = {image.stem: index for index, image in enumerate(self._source.files)}
        for frame, path in self.annotations:
            if path.name == PROJECT_FILE:
                read = read_project(path.parent, marked=True)
            else:
                read = read_annotations(path, image_size=size, as_prompts=True)
            found = [one for one in read if one.masks.labels.any()]
            if not found:
                raise MaskError(f"{path}: no frame of it has a mask")
            if frame is not None and len(found) > 1:
                raise InputError(
                    f"{path}: has masks of {len(found)} frames, not one for frame {frame}; leave FRAME= out"
                )
            if videos := sorted({one.video for one in found} - {""})[1:]:
                raise InputError(f"{path}: has masks of {1 + len(videos)} videos; give a file of one of them")
            for one in found:
                if one.masks.labels.shape != size:
                    height, width = one.masks.labels.shape
                    raise MaskError(f"{path}: masks are {width}x{height}, the frames {size[1]}x{size[0]}")
                index = frame if frame is not None else places.get(one.name, one.index)
                if frame is None and one.name not in places and not one.name[-1:].isdecimal():
                    if len(found) > 1 or places:
                        raise InputError(
                            f"{path}: {one.name or 'its image'} is no frame of {self._source.name} by name or number; "
                            "choose one with FRAME="
                        )
                    index = None
                yield index, one, path


@dataclass
class FramePrompts:
    """Prompts by frame. masks: labels given as such. marks: by frame and object. gone: ids by frame."""

    masks: Mapping[int, Labels]
    marks: Mapping[int, Mapping[int, _Marks]]
    gone: Mapping[int, set[int]]

    @property
    def indices(self) -> list[int]:
        """The frames that have a mask, or something to make one of."""
        return sorted({*self.masks, *self.marks})

    def labels(self, index: int, image: NDArray[np.uint8]) -> Labels | None:
        """Return the labels of a frame, drawn where that is asked for; None where nothing is known of it.

        What is marked corrects the object of its number in the frame's mask; pixels of other objects stay theirs.
        """
        import numpy as np

        marks, given = self.marks.get(index), self.masks.get(index)
        if marks is None:
            return given
        labels = np.zeros(image.shape[:2], np.uint8) if given is None else given.copy()
        for number, drawn in marks.items():
            mask = _drawn(image, labels == number, drawn)
            labels[labels == number] = 0
            labels[mask & (labels == 0)] = number
            if not (labels == number).any():
                raise MaskError(f"object {number} of frame {index} has no pixel of its own; check its prompts")
        return labels


def _drawn(image: NDArray[np.uint8], before: NDArray[np.bool_], drawn: _Marks) -> NDArray[np.bool_]:
    """Draw the mask of one object. before: bool (H, W), what its mask was."""
    import numpy as np

    from twospeed.ops.polygons import fill_rings
    from twospeed.pipelines.prompts import mask_from_prompts

    start = before
    if drawn.polygons:
        rings = [np.array(corners).reshape(-1, 2) for corners in drawn.polygons]
        start = np.zeros_like(before)
        for ring in rings:
            start |= fill_rings([ring], *image.shape[:2])
        if not drawn.points and drawn.box is None:
            return start
    return mask_from_prompts(image, drawn.points, drawn.box, start if start.any() else None)


def _split(option: str, text: str) -> tuple[int | None, int | None, str]:
    """`[OBJECT@][FRAME=]REST` -> object, frame, rest."""
    match = _PLACED.fullmatch(text)
    assert match is not None
    object_id, frame, rest = match.groups()
    if object_id is not None and not 1 <= int(object_id) <= MOST_ID:
        raise InputError(f"{option} {text}: objects are numbered from 1 to {MOST_ID}")
    return (None if object_id is None else int(object_id)), (None if frame is None else int(frame)), rest


def _corners(text: str, rest: str) -> tuple[float, ...]:
    parts = rest.split(",")
    if len(parts) < 6 or len(parts) % 2:
        raise InputError(
            f"--polygon is {text!r}; give x,y of three corners or more, in pixels, such as 10,10,60,10,30,50"
        )
    pairs = [parse_numbers("--polygon", ",".join(parts[i : i + 2]), "x,y") for i in range(0, len(parts), 2)]
    return tuple(value for pair in pairs for value in pair)


def _put(masks: dict[int, Labels], index: int, labels: Labels, file: Path) -> None:
    if index in masks:
        raise InputError(f"{file} is a second mask for frame {index}; give one label image for a frame")
    masks[index] = labels


def _masks_in(folder: Path, source: Source) -> dict[int | None, Path]:
    """Masks named as the images of the video's folder, where all of them are, or by frame numbers."""
    masks = {file.stem: file for file in visible_files(folder, ".png")}
    if masks and source.kind == "images":
        places = {image.stem: index for index, image in enumerate(source.files)}
        if masks.keys() <= places.keys():
            return {places[stem]: file for stem, file in masks.items()}
    numbered = dict[int | None, Path]()
    for stem, file in masks.items():
        if stem.isascii() and stem.isdecimal():
            if (index := int(stem)) in numbered:
                raise InputError(f"{file} is a second mask for frame {index}, beside {numbered[index].name}")
            numbered[index] = file
    if not numbered:
        raise MaskError(f"{folder} holds no mask named by its frame, such as 00000.png")
    return numbered
