"""What all trackers share: frames in, masks out, whether masks are given or not, at once or some frames later."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from twospeed.errors import InputError
from twospeed.models.protocol import FRAME_DETECTOR, MASK_MEMORY, PRIMARY_FINDER, lacks
from twospeed.pipelines.inputs import Image, Model, entry_for
from twospeed.results import Frame, ObjectMasks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Labels: TypeAlias = "NDArray[np.integer[Any]] | Tensor"


class VideoTracker(ABC):
    """Frames of one video in, one after the other; masks of all objects out.

    needs_masks: whether `step` must be given the masks of objects to know of them. device: where the network runs.
    model: the network. precision: the number format in which it computes.
    """

    needs_masks: bool
    device: Any
    model: Any
    precision: Literal["fp32", "bf16"] = "fp32"

    def __init__(self) -> None:
        self._busy = threading.Lock()

    @abstractmethod
    def step(self, image: Image, masks: Labels | None = None, *, time_s: float = 0.0) -> ObjectMasks | None:
        """Take the next frame, and return the next frame's result that is ready.

        Results come in the order of frames, each with its `frame_index`; None while the first is not ready yet.
        """

    def finish(self) -> list[ObjectMasks]:
        """End the video: return the results of its last frames that are still missing. The next frame begins another.

        Every tracker that answers at once has none.
        """
        self.reset()
        return []

    @abstractmethod
    def reset(self) -> None:
        """Forget the video."""

    def run(
        self,
        frames: Iterable[Frame],
        masks: Labels | Mapping[int, Labels] | None = None,
        gone: Mapping[int, Collection[int]] | None = None,
    ) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Track through a whole video of any length, from the beginning, and yield each frame with its result.

        masks: labels of the first frame, or of several by their frames' index. gone: ids by the index of the frame from
        which on they are absent, for trackers that take them. Raises as `step`, and after the last frame InputError
        for an index that none has.
        """
        self.reset()
        waiting: deque[Frame] = deque()
        unmet = {*(masks if isinstance(masks, Mapping) else ()), *(gone or ())}
        for number, (frame, seen) in enumerate(self.seen_ahead(frames)):
            unmet.discard(frame.index)
            by_index = masks if isinstance(masks, Mapping) else {frame.index: masks} if number == 0 else {}
            waiting.append(frame)
            more: Any = seen | ({"gone": gone[frame.index]} if gone and frame.index in gone else {})
            result = self.step(frame.image, by_index.get(frame.index), time_s=frame.time_s, **more)
            if result is not None:
                yield (first := waiting.popleft()), result.numbered(first.index)
        for result in self.finish():
            yield (first := waiting.popleft()), result.numbered(first.index)
        if unmet:
            raise InputError(f"a mask is given for frame {min(unmet)}, which is none of those tracked", option="mask")

    def seen_ahead(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, dict[str, Any]]]:
        """Yield frames, each with what `step` may be given of it: what was computed while the frame before was tracked.

        Nothing, for trackers that compute nothing ahead.
        """
        for frame in frames:
            yield frame, {}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second thread: frames of two videos would mix."""
        if not self._busy.acquire(blocking=False):
            raise InputError(f"this {type(self).__name__} is used by another thread; give each thread its own")
        try:
            yield
        finally:
            self._busy.release()


def needs_masks(model_or_name: Model) -> bool:
    """Return whether a network tracks objects whose masks are given, or finds objects without.

    Raises InputError for a network that does neither, or a name that is not in the catalogue.
    """
    if isinstance(model_or_name, str | Path):
        return entry_for("track", model_or_name).needs_masks
    if not (missing := lacks(model_or_name, MASK_MEMORY)):
        return True
    if not lacks(model_or_name, FRAME_DETECTOR) or not lacks(model_or_name, PRIMARY_FINDER):
        return False
    raise InputError(
        f"{type(model_or_name).__name__} is not a network that tracks objects: it has no `{'`, `'.join(missing)}`; "
        "see twospeed.models.protocol"
    )


def name_of(model_or_name: Model) -> str:
    """Return the name by which messages speak of a model."""
    return str(model_or_name) if isinstance(model_or_name, str | Path) else type(model_or_name).__name__
