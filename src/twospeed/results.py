"""The results that cross borders between packages: plain frozen dataclasses over numpy arrays, no tensors, no files.

Shape letters: T frames, H/W pixels, K objects, C classes, n boxes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded image.

    index: position in the source in order of presentation, from 0 whatever the range that is read. time_s:
    presentation time in seconds from the first frame. image: uint8 (H, W, 3), RGB, rotated upright.
    name: of a folder's image, its file name without suffix, which results take over; else None. pts: presentation time
    stamp in ticks of the stream, None where the source states none. is_keyframe: the frame is stored whole, so that
    decoding can begin there. small: the same image at the `small_side` that `open_video` was asked for, else None.
    """

    index: int
    time_s: float
    image: NDArray[np.uint8]
    name: str | None = None
    pts: int | None = None
    is_keyframe: bool = False
    small: NDArray[np.uint8] | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Frame(index={self.index}, time_s={self.time_s:.3f}, image={width}x{height})"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something long is: what every `on_progress` callback receives.

    task: what runs, such as "track", "fine-tune" or "download". done, total: counted in `unit`; total is None where it
    is not known. seconds: since the task began. values: numbers of this moment, such as {"loss": 0.31}. message: a
    short line for people, often empty. done_before: how many of `done` an earlier, resumed run has done; these seconds
    are of the others.
    """

    task: str
    done: int
    total: int | None = None
    unit: str = "frames"
    seconds: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    done_before: int = 0

    @property
    def rate(self) -> float | None:
        """How many are done a second; None where that is not known yet."""
        done = self.done - self.done_before
        return done / self.seconds if done > 0 and self.seconds > 0 else None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class ColourTags:
    """How a video stores colours: matrix, primaries and transfer curve by the numbers of ISO 23091-2, and the range.

    NOT_STATED is its number for what a file does not state. full_range: codes 0 to 255, else 16 to 235.
    """

    NOT_STATED: ClassVar[int] = 2

    matrix: int = 1
    primaries: int = 1
    transfer: int = 1
    full_range: bool = False


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video before its frames are read.

    width, height: pixels after rotation. frame_rate: average frames per second (exact fraction; None for folders
    and cameras that state none). frame_count: as the container states it, None when it states nothing: never rely on
    it for indices. duration_s: seconds, or None. rotation: degrees clockwise that were applied to show it upright.
    colours: how the file stores them, None where its images are RGB.
    """

    name: str
    width: int
    height: int
    frame_rate: Fraction | None = None
    frame_count: int | None = None
    duration_s: float | None = None
    rotation: int = 0
    codec: str = ""
    colours: ColourTags | None = None


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Class names in the order of a network's outputs, with optional colours (RGB, 0..255) for drawing."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.colours is not None and len(self.colours) != len(self.names):
            raise InputError(f"label map has {len(self.names)} names but {len(self.colours)} colours")

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:3]) + (", ..." if len(self.names) > 3 else "")
        return f"LabelMap({len(self.names)} names: {shown})"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]


class Result:
    """What all results share: they leave the program as JSON, as images and files, and for other packages.

    The writers know colours and file formats, which no module of this layer may; they are `twospeed.output.adapters`,
    imported when a method is called.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dictionaries: what JSON can hold."""
        raise NotImplementedError

    def draw(self, image: Any) -> NDArray[np.uint8]:
        """Draw the result on the frame that it belongs to -> a new image, uint8 (H, W, 3) RGB.

        image: the frame, of a kind that `Tracker.step` takes. Raises InputError for one of another kind or size.
        """
        return _adapters().draw(self, image)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whole or not at all: `.json` has `to_dict`, `.png` the labels of masks and class maps.

        Raises InputError for another suffix, OutputError where the file cannot be written.
        """
        _adapters().save(self, path)

    def to_coco(self, *, image_id: int | None = None) -> list[dict[str, Any]]:
        """Return COCO annotations, one for each object, class or person. image_id: the frame's index unless given.

        Masks are compressed run lengths as pycocotools has them. Raises InputError for results of a whole video.
        """
        return _adapters().to_coco(self, image_id)

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections` (`Classifications` for a whole video).

        Raises InputError where the package `supervision` is not installed.
        """
        return _adapters().to_supervision(self)


def _adapters() -> Any:
    from twospeed.output import adapters  # the one import of a higher layer, see `Result`

    return adapters


class _Lazy:
    """A field of an array, given as one or as a function that is called when the field is first read.

    compute: makes the array from the instance where neither is given.
    """

    def __init__(self, compute: Callable[[Any], NDArray[np.float32]] | None = None) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> NDArray[np.float32]:
        if instance is None:  # a dataclass asks for the default
            if self._compute is None:
                raise AttributeError(self._name)
            return None  # type: ignore[return-value]
        value = instance.__dict__[self._name]
        if value is None and self._compute is not None:
            value = self._compute(instance)
        elif callable(value):
            value = value()
        instance.__dict__[self._name] = value
        array: NDArray[np.float32] = value
        return array

    def __set__(self, instance: Any, value: NDArray[np.float32] | Callable[[], NDArray[np.float32]] | None) -> None:
        instance.__dict__[self._name] = value


def _soft_iou(masks: ObjectMasks) -> NDArray[np.float32]:
    planes, found = masks.probabilities[1:], np.stack([masks.labels == i for i in (0, *masks.object_ids)])[1:]
    shared = np.where(found, planes, 0).sum((1, 2), dtype=np.float64)
    either = planes.sum((1, 2), dtype=np.float64) + found.sum((1, 2)) - shared
    return (shared / np.maximum(either, 1e-12)).astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class ObjectMasks(Result):
    """Where every object is in one frame.

    labels: uint8 (H, W), 0 = background, other values are object ids. probabilities: float32 (K+1, H, W), background
    first, summing to one over the first axis (`ops.masks.soft_aggregate`); made when first read, from scores at
    the size at which the network worked. object_ids: the K label values in channel order. frame_index, time_s: which
    frame, as in `Frame`. confidence: float32 (K,), how sure of each object, 0..1, 0 where none of it is seen: the soft
    overlap sum(p [L = k]) / (sum(p) + |L = k| - sum(p [L = k])) of probabilities p and labels L at the network's size.
    It compares frames of one video, not videos.
    """

    labels: NDArray[np.uint8]
    probabilities: _Lazy = _Lazy()  # a descriptor, not a default
    object_ids: tuple[int, ...] = ()
    frame_index: int = 0
    time_s: float = 0.0
    confidence: _Lazy = _Lazy(_soft_iou)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"ObjectMasks(frame_index={self.frame_index}, {width}x{height}, object_ids={self.object_ids})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "probabilities": self.probabilities, "confidence": self.confidence}

    def numbered(self, frame_index: int) -> ObjectMasks:
        """Return the same for a frame of another index; what is made when first read stays so."""
        other = object.__new__(ObjectMasks)
        other.__dict__.update(self.__dict__, frame_index=frame_index)
        return other

    def to_dict(self) -> dict[str, Any]:
        """Return the frame's index, time and size, and for each object its id, confidence, area, box and run lengths.

        area: pixels. box_xywh: left, top, width and height in pixels, zeros where nothing is seen. rle: COCO's run
        lengths, as `to_coco` has them.
        """
        height, width = self.labels.shape
        objects = [
            {
                "id": annotation["category_id"],
                "confidence": annotation["score"],
                "area": annotation["area"],
                "box_xywh": annotation["bbox"],
                "rle": annotation["segmentation"],
            }
            for annotation in self.to_coco()
        ]
        where = {"frame_index": self.frame_index, "time_s": self.time_s, "height": height, "width": width}
        return {**where, "objects": objects}

    def _repr_png_(self) -> bytes:
        png: bytes = _adapters().as_png(self)
        return png


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedFrame:
    """Masks of one frame as files of annotations hold them.

    video: its short name, "" where there is none. name: of the frame, its image's file name without suffix. index: of
    the frame in its source, as far as it is known, else its place in the file. Both become names of files: InputError
    for one that would lead out of its folder. boxes: (x0, y0, x1, y1) in pixels of objects that the file knows by a box
    alone; their masks are all of it.
    """

    video: str
    name: str
    index: int
    masks: ObjectMasks
    boxes: Mapping[int, tuple[float, float, float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.video, self.name):
            if not isinstance(name, str) or set(name) & {"/", os.sep, "\0"} or name in (".", ".."):
                raise InputError(f"{str(name)[:80]!r} is no name of a video or frame: files are named by it")
        if not self.name:
            raise InputError("a frame has no name: files are named by it")


@dataclass(frozen=True, eq=False, repr=False)
class ClassMap(Result):
    """What every pixel of one frame is.

    labels: uint8 (H, W), class ids from 0. scores: float32 (C, h, w), class scores before the softmax, on the
    network's grid.
    is_keyframe: whether the image network saw this frame, or its scores were propagated. frame_index, time_s: which
    frame, as in `Frame`. classes: names and colours of the C classes, where they are known. known_confidence: of a
    result that was read from files, whose scores are empty.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    is_keyframe: bool
    frame_index: int = 0
    time_s: float = 0.0
    classes: LabelMap | None = None
    known_confidence: float | None = None

    @cached_property
    def confidence(self) -> float | None:
        """Mean probability of the likeliest class, 0 to 1; None where it is not known."""
        if not self.scores.size:
            return self.known_confidence
        shifted = np.exp(self.scores - self.scores.max(0))
        return float((1 / shifted.sum(0)).mean())

    def __repr__(self) -> str:
        height, width = self.labels.shape
        kind = "keyframe" if self.is_keyframe else "propagated"
        return f"ClassMap(frame_index={self.frame_index}, {width}x{height}, {len(self.scores)} classes, {kind})"

    def to_dict(self) -> dict[str, Any]:
        """Return the frame's index, time and size, and of each class that occurs its id, name and share of pixels."""
        height, width = self.labels.shape
        counts = np.bincount(self.labels.ravel())
        classes = [
            {"id": i, "name": self.class_name(i), "share": float(counts[i] / self.labels.size)}
            for i in np.flatnonzero(counts).tolist()
        ]
        where = {"frame_index": self.frame_index, "time_s": self.time_s, "height": height, "width": width}
        return {**where, "is_keyframe": self.is_keyframe, "classes": classes}

    def class_name(self, class_id: int) -> str:
        """Return the name of a class; "class 3" where names are not known."""
        known = self.classes is not None and class_id < len(self.classes)
        return self.classes[class_id] if known and self.classes is not None else f"class {class_id}"

    def _repr_png_(self) -> bytes:
        png: bytes = _adapters().as_png(self)
        return png


@dataclass(frozen=True, slots=True)
class ActionSpan:
    """One entry of a timeline: an action that holds from start_s to end_s with this mean probability (0..1)."""

    label: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class ActionScores(Result):
    """What happens in a video.

    probabilities: float32 (C,), averaged over views. labels: the C names. view_times_s: centre of each temporal
    window in seconds (n,). view_probabilities: float32 (n, C), one row for each temporal window (crops averaged).
    timeline: spans of actions in time order.
    """

    probabilities: NDArray[np.float32]
    labels: tuple[str, ...]
    view_times_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    view_probabilities: NDArray[np.float32] | None = None
    timeline: tuple[ActionSpan, ...] = ()

    def __repr__(self) -> str:
        best = "".join(f", top={label[:40]!r} {probability:.3f}" for label, probability in self.top(1))
        return f"ActionScores({len(self.labels)} classes, {len(self.view_times_s)} windows{best})"

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the k most probable actions as (label, probability), best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Return labels, probabilities, the windows' times and probabilities, and the timeline."""
        rows = self.view_probabilities
        return {
            "labels": list(self.labels),
            "probabilities": self.probabilities.tolist(),
            "view_times_s": self.view_times_s.tolist(),
            "view_probabilities": None if rows is None else rows.tolist(),
            "timeline": [asdict(span) for span in self.timeline],
        }


@dataclass(frozen=True, eq=False, repr=False)
class ActionBoxes(Result):
    """Who does what at one keyframe.

    time_s: seconds. boxes_xyxy: float32 (n, 4), pixels of the source frame. person_scores: float32 (n,) in 0..1.
    action_scores: float32 (n, C) in 0..1. labels: the C names. track_ids: (n,) stable ids across keyframes.
    """

    time_s: float
    boxes_xyxy: NDArray[np.float32]
    person_scores: NDArray[np.float32]
    action_scores: NDArray[np.float32]
    labels: tuple[str, ...]
    track_ids: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"ActionBoxes(time_s={self.time_s:.3f}, {len(self.boxes_xyxy)} people, {len(self.labels)} classes)"

    def top(self, row: int, k: int = 5) -> list[tuple[str, float]]:
        """Return the k actions of one person with the highest scores as (label, score), best first."""
        scores = self.action_scores[row]
        return [(self.labels[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]

    def to_dict(self) -> dict[str, Any]:
        """Return the time, and for each person id, box, score, and every action's score, best first."""
        people = [
            {
                "id": self.track_ids[row] if self.track_ids else None,
                "box_xyxy": self.boxes_xyxy[row].tolist(),
                "person_score": float(self.person_scores[row]),
                "actions": [{"label": n, "score": score} for n, score in self.top(row, len(self.labels))],
            }
            for row in range(len(self.boxes_xyxy))
        ]
        return {"time_s": self.time_s, "people": people}
