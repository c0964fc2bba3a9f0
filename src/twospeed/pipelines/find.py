"""Find the primary objects of a video without a mark, and follow them: a `FindNetwork` proposes, a tracker's memory
decides.

The video goes by in windows. In each, the network draws a map of every few frames; the surest maps become the tracker's
memory; what the tracker then says of the other frames is weighed against their own maps, so that what was found in one
frame alone does not last. The agreed masks are the memory from which every frame of the window is segmented, and the
best of them are remembered in the next window. Nothing grows with the video.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.models.protocol import PrimaryFinder
from twospeed.ops.cuts import is_cut, small_image
from twospeed.ops.motion import OFFSETS
from twospeed.pipelines.find_frames import AROUND, STEP, Map, SeenFrame, confidence, find_map, log_odds, overlap, seen
from twospeed.pipelines.linking import ObjectLinker
from twospeed.pipelines.tracker import Tracker
from twospeed.results import OnProgress

FOLLOWED_AT = 480  # shorter side in pixels at which it works, unless told otherwise

Labels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class FindSettings:
    """How windows are decided.

    window: frames of one. every: frames from one map to the next. keyframes: most maps that the first memory is made
    of. sure: least confidence of such a map, 0..1. own: weight of a frame's own map against what the memory says of it.
    bias: added to the weighed log odds. kept: agreed masks that the next window remembers. often: share of the maps of
    the most frequent object in which another one is seen at least, unless it is near one that is: within `near` of the
    frame's longer side. least: share of the frame that an object covers at least.
    """

    window: int = 40
    every: int = 4
    keyframes: int = 6
    sure: float = 0.5
    own: float = 0.5
    bias: float = 0.0
    kept: int = 2
    often: float = 0.4
    near: float = 0.02
    least: float = 0.0005


class Found(NamedTuple):
    """Where each object of a frame is. planes: float (K, h, w), 0..1, of any size. ids: their numbers."""

    planes: Tensor
    ids: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Frame:
    """image: uint8 RGB, of the size at which the tracker works. map: of the primary objects, where one was drawn."""

    image: NDArray[np.uint8]
    seen: SeenFrame
    map: Map | None = None
    agreed: Map | None = None  # what map and memory agree on, of the image's size
    trust: float = 0.0  # how far they do, 0..1
    labels: Labels | None = None  # the objects, of the image's size


@dataclass(slots=True, eq=False)
class _State:
    waiting: list[_Frame] = field(default_factory=list)  # not decided yet
    ready: deque[_Frame] = field(default_factory=deque)  # decided, not followed yet
    results: deque[Found] = field(default_factory=deque)  # not handed out yet
    past: deque[SeenFrame] = field(default_factory=lambda: deque(maxlen=AROUND))
    known: list[_Frame] = field(default_factory=list)  # of earlier windows, the last frame last
    small: Tensor | None = None  # the last frame, as cuts are found


class ObjectFinder:
    """One video, frame by frame: `push` returns what is ready, at most one frame at a time, in order.

    follower: a tracker that this finder has to itself, made by `make_follower`. merged: all objects are one.
    """

    def __init__(
        self,
        model: PrimaryFinder,
        follower: Tracker,
        *,
        merged: bool = False,
        max_objects: int = 20,
        settings: FindSettings | None = None,
    ) -> None:
        self.model, self.follower, self.merged = model, follower, merged
        self.settings = settings or FindSettings()
        self._max_objects = max_objects
        self.reset()

    @property
    def delay(self) -> int:
        """How many frames after its frame a result comes at most."""
        return self.settings.window + AROUND - 1

    def reset(self) -> None:
        """Forget the video."""
        self._state = _State()
        self._linker = ObjectLinker(max_objects=self._max_objects, min_score=0.0, min_iou=0.1, reach=3.0)
        self.follower.reset()

    def push(self, pixels: Tensor) -> list[Found]:
        """Take the next frame, uint8 (3, H, W) RGB or float in 0..1; return what is ready."""
        state, window = self._state, self.settings.window
        small = small_image(pixels).cpu()
        if state.small is not None and is_cut(state.small, small):
            self._decide(len(state.waiting))
            state.past.clear()
            state.known = []
            self._linker.forget_places()
        state.small = small
        image = _as_array(pixels)
        state.waiting.append(_Frame(_reduced(image, self.follower.size), seen(image)))
        if len(state.waiting) == window + AROUND:
            self._decide(window)
        if len(state.results) + len(state.ready) + len(state.waiting) <= self.delay:
            return []
        return [state.results.popleft() if state.results else self._follow()]

    def finish(self) -> list[Found]:
        """End the video: return the results that are still missing."""
        self._decide(len(self._state.waiting))
        self._follow_all()
        return list(self._state.results)

    # ------------------------------------------------------------ one window

    def _decide(self, count: int) -> None:
        """Find the objects of the first frames that wait, and make them ready."""
        state = self._state
        frames, state.waiting = state.waiting[:count], state.waiting[count:]
        if not frames:
            return
        self._follow_all()
        self._draw_maps(frames, state.waiting)
        drawn = [frame for frame in frames if frame.map is not None]
        self._agree(drawn)
        self._name_objects(drawn)
        state.past.extend(frame.seen for frame in frames[-AROUND:])
        state.ready.extend(frames)
        self._remember([*state.known, *drawn])

    def _draw_maps(self, frames: Sequence[_Frame], following: Sequence[_Frame]) -> None:
        past = list(self._state.past)
        around = [*past, *(frame.seen for frame in (*frames, *following[:AROUND]))]
        for index in range(0, len(frames), self.settings.every):
            places = [len(past) + index + STEP * offset for offset in OFFSETS]
            others = [around[place] if 0 <= place < len(around) else None for place in places]
            frame = frames[index]
            frame.map = find_map(self.model, frame.seen, others, self.follower.device)

    def _agree(self, drawn: Sequence[_Frame]) -> None:
        """Weigh each frame's map against what the memory of the others says of it."""
        for frame in drawn:
            assert frame.map is not None
            frame.agreed, frame.trust = _resized(frame.map, frame.image), confidence(frame.map)
        sure = self._keyframes(drawn)
        if not sure and not self._state.known:
            for frame in drawn:
                frame.agreed, frame.trust = np.zeros(frame.image.shape[:2], np.float32), 0.0
            return
        # A map must not confirm itself: the two halves of the keyframes are asked about each other
        halves = [sure[0::2], sure[1::2]] if len(sure) > 1 else [sure, []]
        for memory, asked in ((halves[0], 1), (halves[1] or halves[0], 0)):
            if not memory and not self._state.known:
                continue
            self.follower.restart()
            for frame in [*self._state.known, *memory]:
                known = frame.labels if frame.labels is not None else frame.agreed
                assert known is not None
                mask = np.asarray(known >= 0.5).astype(np.uint8)  # labels are whole numbers, maps are 0..1
                if mask.any():
                    self.follower.remember(frame.image, mask)
            other = halves[1 - asked]
            for place, frame in enumerate(drawn):
                mine = any(frame is one for one in halves[asked]) or (
                    place % 2 == asked and not any(frame is one for one in other)
                )
                if mine:
                    self._weigh(frame)

    def _weigh(self, frame: _Frame) -> None:
        said = self.follower.step(frame.image).probabilities
        recalled = said[1] if len(said) > 1 else np.zeros_like(said[0])  # masks of a pixel can vanish
        own, settings = frame.agreed, self.settings
        assert own is not None
        odds = settings.own * log_odds(own) + (1 - settings.own) * log_odds(recalled) + settings.bias
        agreed = np.asarray(1 / (1 + np.exp(-odds)), np.float32)
        frame.agreed = agreed
        frame.trust = overlap(own > 0.5, recalled > 0.5) * confidence(agreed)

    def _keyframes(self, drawn: Sequence[_Frame]) -> list[_Frame]:
        """The surest map of each part of the window, if it is sure enough."""
        parts = min(self.settings.keyframes, len(drawn))
        chosen = []
        for part in range(parts):
            some = drawn[len(drawn) * part // parts : len(drawn) * (part + 1) // parts]
            best = max(some, key=lambda frame: frame.trust)
            if best.trust >= self.settings.sure:
                chosen.append(best)
        return chosen

    def _name_objects(self, drawn: Sequence[_Frame]) -> None:
        """Number the objects of the agreed masks, and leave out what is seen now and then, apart from the others."""
        window: list[tuple[_Frame, NDArray[np.bool_], list[int]]] = []
        for frame in drawn:
            assert frame.agreed is not None
            parts = _parts(frame.agreed > 0.5, self.settings.least)
            window.append((frame, parts, self._linker.link(parts, np.ones(len(parts)))))
        seen_in = Counter(number for _, _, numbers in window for number in numbers if number)
        often = self.settings.often * max(seen_in.values(), default=0)
        for frame, parts, numbers in window:
            frame.labels = np.zeros(frame.image.shape[:2], np.uint8)
            steady = [part for part, number in zip(parts, numbers, strict=True) if seen_in[number] >= often]
            near = _grown(np.any(steady, 0), self.settings.near) if steady else None
            for part, number in zip(parts, numbers, strict=True):
                if number and near is not None and (part & near).any():
                    frame.labels[part] = 1 if self.merged else number

    def _remember(self, frames: Sequence[_Frame]) -> None:
        """Fill the follower's memory for the frames that are ready, and choose what the next window knows."""
        usable = [frame for frame in frames if frame.labels is not None and frame.labels.any()]
        self.follower.restart()
        for frame in reversed(usable):  # the one nearest to the first frame last
            assert frame.labels is not None
            self.follower.remember(frame.image, frame.labels)
        best = sorted(usable, key=lambda frame: -frame.trust)[: self.settings.kept]
        self._state.known = [frame for frame in usable if any(frame is one for one in best)]

    def _follow_all(self) -> None:
        """Segment all frames that are ready, before the follower's memory changes: after a cut, and at the end."""
        while self._state.ready:
            self._state.results.append(self._follow())

    def _follow(self) -> Found:
        """Segment the next frame that is ready."""
        frame = self._state.ready.popleft()
        result = self.follower.step(frame.image)
        ids = (1,) if self.merged else self._linker.object_ids
        planes = torch.zeros(len(ids), *frame.image.shape[:2], dtype=torch.float16)
        for number, plane in zip(result.object_ids, result.probabilities[1:], strict=True):
            planes[ids.index(number)] = torch.from_numpy(plane)
        return Found(planes, ids)


def make_follower(
    model: nn.Module | str, size: int | None, device: torch.device, on_progress: OnProgress | None = None
) -> Tracker:
    """Return a tracker that remembers what it is given, and nothing else."""
    return Tracker(
        model, memory_every=1 << 30, size=size, device=device, cuts=False, finder=None, on_progress=on_progress
    )


def _as_array(pixels: Tensor) -> NDArray[np.uint8]:
    x = pixels if pixels.dtype == torch.uint8 else pixels.mul(255).round().byte()
    return np.ascontiguousarray(x.permute(1, 2, 0).cpu().numpy())


def _reduced(image: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Reduce an image to this shorter side, as the tracker would."""
    height, width = image.shape[:2]
    if size is None or min(height, width) <= size:
        return image
    scale = size / min(height, width)
    wanted = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), np.uint8)


def _resized(found: Map, image: NDArray[np.uint8]) -> Map:
    return np.asarray(cv2.resize(found, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _grown(mask: NDArray[np.bool_], by: float) -> NDArray[np.bool_]:
    """A mask grown by a share of its longer side."""
    side = 2 * max(1, round(by * max(mask.shape))) + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _parts(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """The connected parts of a mask that are large enough, largest first: bool (n, H, W). Small gaps are no gaps."""
    joined = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, numbers, statistics, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    areas = statistics[:, cv2.CC_STAT_AREA]
    large = [n for n in range(1, count) if areas[n] >= max(least * mask.size, 0.1 * areas[1:].max())]
    parts = [(numbers == n) & mask for n in sorted(large, key=lambda n: -areas[n])]
    return np.stack(parts) if parts else np.zeros((0, *mask.shape), np.bool_)
