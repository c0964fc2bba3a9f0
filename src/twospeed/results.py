"""The results that cross borders between packages: plain frozen dataclasses over numpy arrays, no tensors, no files.

Shape letters: T frames, H/W pixels, K objects, C classes, n boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

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
    decoding can begin there.
    """

    index: int
    time_s: float
    image: NDArray[np.uint8]
    name: str | None = None
    pts: int | None = None
    is_keyframe: bool = False

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"Frame(index={self.index}, time_s={self.time_s:.3f}, image={width}x{height})"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something long is: what every `on_progress` callback receives.

    task: what runs, such as "track", "fine-tune" or "download". done, total: counted in `unit`; total is None where it
    is not known. seconds: since the task began. values: numbers of this moment, such as {"loss": 0.31}. message: a
    short line for people, often empty.
    """

    task: str
    done: int
    total: int | None = None
    unit: str = "frames"
    seconds: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video before its frames are read.

    width, height: pixels after rotation. frame_rate: average frames per second (exact fraction; None for folders
    and cameras that state none). frame_count: as the container states it, None when it states nothing: never rely on
    it for indices. duration_s: seconds, or None. rotation: degrees clockwise that were applied to show it upright.
    """

    name: str
    width: int
    height: int
    frame_rate: Fraction | None = None
    frame_count: int | None = None
    duration_s: float | None = None
    rotation: int = 0
    codec: str = ""


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Class names in the order of a network's outputs, with optional colours (RGB, 0..255) for drawing."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.colours is not None and len(self.colours) != len(self.names):
            raise InputError(f"label map has {len(self.names)} names but {len(self.colours)} colours")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMasks:
    """Where every object is in one frame.

    labels: uint8 (H, W), 0 = background, other values are object ids. probabilities: float32 (K+1, H, W), background
    first, summing to one over the first axis (soft aggregation, STCN section 3.3). object_ids: the K label values in
    channel order. frame_index, time_s: which frame, as in `Frame`.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    object_ids: tuple[int, ...]
    frame_index: int = 0
    time_s: float = 0.0

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"ObjectMasks(frame_index={self.frame_index}, {width}x{height}, object_ids={self.object_ids})"


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """What every pixel of one frame is.

    labels: uint8 (H, W), class ids from 0. scores: float32 (C, H // 8, W // 8), class scores before the softmax.
    is_keyframe: whether the image network saw this frame, or its scores were propagated. frame_index, time_s: which
    frame, as in `Frame`.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    is_keyframe: bool
    frame_index: int = 0
    time_s: float = 0.0

    def __repr__(self) -> str:
        height, width = self.labels.shape
        kind = "keyframe" if self.is_keyframe else "propagated"
        return f"ClassMap(frame_index={self.frame_index}, {width}x{height}, {len(self.scores)} classes, {kind})"


@dataclass(frozen=True, slots=True)
class ActionSpan:
    """One entry of a timeline: an action that holds from start_s to end_s with this mean probability (0..1)."""

    label: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class ActionScores:
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

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the k most probable actions as (label, probability), best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


@dataclass(frozen=True, slots=True, eq=False)
class ActionBoxes:
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


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What `run.json` says of a finished or interrupted job. Fractions and seconds, no percentages."""

    command: str
    model: str
    weights_sha256: str | None
    options: Mapping[str, object]
    versions: Mapping[str, str]
    frames: int
    seconds: float
    frames_per_second: float
    finished: bool
