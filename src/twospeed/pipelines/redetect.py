"""Find marked objects again that a tracker is about to lose: by the maps of a network that finds primary objects.

A tracker's memory fails where an object turns, or something beside it looks alike, and then confirms its own mistakes.
A `PrimaryFinder` remembers nothing: each of its maps is made afresh. It is asked about one frame in five at most, and
only where the marked objects are what it finds in the frame that was marked. Where its map is surer of itself than the
tracker's masks are, it decides on the parts that one has and the other has not, but for thin ones: outlines are drawn
finer by the tracker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.models.protocol import PRIMARY_FINDER, PrimaryFinder
from twospeed.ops.motion import OFFSETS
from twospeed.pipelines.find_frames import (
    AROUND,
    STEP,
    Map,
    SeenFrame,
    confidence,
    find_map,
    log_odds,
    overlap,
    seen,
    seen_again,
)
from twospeed.pipelines.inputs import Model, entry_for, network_for, optimised
from twospeed.weights.catalog import DEFAULT_FINDER

EVERY = 5  # frames from one map to the next at least
SAME = (0.5, 0.7)  # IoU of marked objects and map below which they are not the same, and from which on they are
MOST = 0.7  # weight of the map at most, of 1
PER_CONFIDENCE = 5  # weight for each unit by which the map is surer
THIN = 1 / 60  # of the shorter side: parts less wide than twice this stay as the tracker has them

Mask = NDArray[np.bool_]


class _Marked(NamedTuple):
    """A frame whose objects are known, by number, and they: bool, of the size at which the finder sees frames."""

    frame: int
    objects: Mask


@dataclass(slots=True, eq=False)
class _State:
    """agreement: IoU of marked objects and map in the last marked frame that was looked at, None before the first."""

    recent: deque[SeenFrame] = field(default_factory=lambda: deque(maxlen=2 * AROUND + 1))
    frames: int = 0
    last_map: int = -EVERY  # number of the frame that it is of
    marked: _Marked | None = None  # not looked at yet: the frames after it are to come
    agreement: float | None = None


class Redetector:
    """One video, frame by frame: `see` each frame; `mark` where objects are known; `correct` what a tracker says.

    A map is drawn by what `drawing` returns, by one thread at a time.

    finder: the network that draws maps. device: where it runs.
    """

    def __init__(self, finder: PrimaryFinder, device: Any) -> None:
        self.finder, self.device = finder, device
        self.reset()

    def reset(self) -> None:
        """Forget the video, or what was before a cut."""
        self._state = _State()

    def see(self, frame: SeenFrame) -> None:
        """Take the next frame."""
        state = self._state
        state.recent.append(frame)
        state.frames += 1
        if state.marked is not None and state.marked.frame == state.frames - 1 - AROUND:
            found = self._drawing(AROUND)() > 0.5
            objects = np.asarray(cv2.resize(state.marked.objects.astype(np.float32), found.shape[::-1]) > 0.5)
            state.agreement = overlap(found, objects)
            state.marked = None

    scaled = staticmethod(seen)
    """Return a frame, uint8 (H, W, 3) RGB, as `see` takes it."""

    def mark(self, objects: Mask) -> None:
        """Say where all objects of the frame seen last are: bool (H, W). They are compared with its map later."""
        state = self._state
        size = state.recent[-1].image.shape[1::-1]
        shares = cv2.resize(objects.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        state.marked = _Marked(state.frames - 1, np.asarray(shares > 0.5))

    def drawing(self) -> Callable[[], Map] | None:
        """Return what draws the map of the frame seen last, on any thread, for `correct`.

        None where masks are to stay as the tracker has them: where marked objects were not what the finder finds, and
        for frames that follow a map too soon.
        """
        state = self._state
        return self._drawing(0) if self._same > 0 and state.frames - 1 - state.last_map >= EVERY else None

    def correct(self, followed: Map, draw: Callable[[], Map]) -> Map | None:
        """Return how likely each place of the frame seen last belongs to an object, where that is to be changed.

        followed: float (h, w), 0..1: what the tracker says of all objects together. draw: returns the frame's map. None
        where masks are to stay, also where they are empty: an object that is out of sight is not replaced by another
        thing.
        """
        inside = followed > 0.5
        if not inside.any():
            return None
        self._state.last_map = self._state.frames - 1
        found = np.asarray(cv2.resize(draw(), followed.shape[::-1]), np.float32)
        weight = min(self._same, 1.0) * min(MOST, PER_CONFIDENCE * (confidence(found) - confidence(followed)))
        wide = _without_thin_parts(inside ^ (found > 0.5))
        if weight <= 0 or not wide.any():
            return None
        odds = weight * log_odds(found) + (1 - weight) * log_odds(followed)
        return np.where(wide, 1 / (1 + np.exp(-odds)), followed).astype(np.float32)

    @property
    def _same(self) -> float:
        """How far marked objects were what the finder finds: 0 or less, up to 1 and more."""
        agreement = self._state.agreement
        return 0.0 if agreement is None else (agreement - SAME[0]) / (SAME[1] - SAME[0])

    def _drawing(self, ago: int) -> Callable[[], Map]:
        """Return what draws the map of a frame that was seen so many frames ago."""
        recent = self._state.recent
        places = [len(recent) - 1 - ago + STEP * offset for offset in OFFSETS]
        others = [recent[place] if 0 <= place < len(recent) else None for place in places]
        return partial(find_map, self.finder, recent[-1 - ago], others, self.device)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return all that is known: arrays, and plain values, from which `restore` continues exactly."""
        state = self._state
        arrays = {"recent": np.stack([frame.image for frame in state.recent])} if state.recent else {}
        if state.marked is not None:
            arrays["objects"] = state.marked.objects.astype(np.uint8)
        marked = None if state.marked is None else state.marked.frame
        return arrays, {
            "frames": state.frames, "last_map": state.last_map, "agreement": state.agreement, "marked": marked
        }  # fmt: skip

    def restore(self, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        state = _State(frames=values["frames"], last_map=values["last_map"], agreement=values["agreement"])
        state.recent.extend(seen_again(image) for image in arrays.get("recent", ()))
        if values["marked"] is not None:
            state.marked = _Marked(values["marked"], arrays["objects"] > 0)
        self._state = state


def _without_thin_parts(mask: Mask) -> Mask:
    """The parts of a mask that are wide somewhere."""
    side = 2 * round(THIN * min(mask.shape)) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    wide = cv2.dilate(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk), disk)
    return np.asarray(wide > 0) & mask


def redetector(model_or_name: Model, device: torch.device) -> Redetector:
    """Return what finds objects again by a network, or by one of the catalogue with its weights.

    Raises InputError for a network that is no `PrimaryFinder`.
    """
    if isinstance(model_or_name, str | Path) and not entry_for("track", model_or_name).finder:
        raise InputError(
            f"finder is {model_or_name}, which does not find primary objects; choose {DEFAULT_FINDER}, or None",
            option="finder",
        )
    network, _ = network_for("track", model_or_name, "default", PRIMARY_FINDER)
    return Redetector(optimised(network.eval().to(device)), device)
