"""The video with actions, or people and their actions, drawn while frames arrive: of files, cameras and pipes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.output.overlay import draw_boxes, draw_caption
from twospeed.output.palette import object_colours
from twospeed.results import ActionBoxes, Frame

MOST_BYTES = 256_000_000  # of waiting frames: about 600 of 1920x1080
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


Image = NDArray[np.uint8]


class TimedOverlay(AbstractContextManager["TimedOverlay"]):
    """Draw frames as soon as the results on both sides of them are known; until then they wait, compressed.

    When more than `MOST_BYTES` wait, the oldest are drawn by the result before them alone, so that memory is bounded
    however far results are apart. write: called with each image, uint8 (H, W, 3), and its time in seconds. draw: makes
    the image of an image, its time, and the results before and after it, None where there is none. Leaving the `with`
    block without an error draws what still waits.
    """

    def __init__(self, write: Callable[[Image, float], None], draw: Callable[[Image, float, Any, Any], Image]) -> None:
        self._write, self._draw = write, draw
        self._waiting: deque[tuple[float, Image]] = deque()  # time in seconds, JPEG
        self._bytes = 0
        self._last: Any = None

    def add_frame(self, frame: Frame) -> None:
        """Take the next frame."""
        # Channels in the wrong order change nothing here: they come out as they went in
        _, jpeg = cv2.imencode(".jpg", frame.image, _JPEG)
        self._waiting.append((frame.time_s, np.asarray(jpeg, np.uint8)))
        self._bytes += jpeg.nbytes
        while self._bytes > MOST_BYTES:
            self._write_first(None)

    def add_result(self, result: ActionBoxes | Caption) -> None:
        """Take the next result, and draw the frames before it."""
        while self._waiting and self._waiting[0][0] < result.time_s - 1e-6:
            self._write_first(result)
        self._last = result

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            while self._waiting:
                self._write_first(None)

    def _write_first(self, after: Any) -> None:
        time_s, jpeg = self._waiting.popleft()
        self._bytes -= jpeg.nbytes
        image = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
        self._write(self._draw(image, time_s, self._last, after), time_s)


class Caption(NamedTuple):
    """What is written from the middle of the time before it to the middle of the time behind it."""

    time_s: float
    lines: list[str]


def draw_nearest(image: Image, time_s: float, before: Caption | None, after: Caption | None) -> Image:
    """Write the caption that is nearest in time."""
    known = [caption for caption in (before, after) if caption is not None]
    if not known:
        return image
    return draw_caption(image, min(known, key=lambda caption: abs(caption.time_s - time_s)).lines)


def draw_people(
    image: Image,
    time_s: float,
    before: ActionBoxes | None,
    after: ActionBoxes | None,
    texts: Callable[[ActionBoxes, int], list[str]],
    hold_s: float,
) -> Image:
    """Draw people's boxes where they are between two keyframes, with their numbers and actions.

    texts: what is written at the box of a row of a result. hold_s: how long a box is shown where there is no other
    keyframe.
    """
    boxes, rows = between(before, after, time_s, hold_s)
    if not rows:
        return image
    written = [[f"person {result.track_ids[row]}", *texts(result, row)] for result, row in rows]
    colours = object_colours()[[1 + (result.track_ids[row] - 1) % 255 for result, row in rows]]
    return draw_boxes(image, boxes, written, colours)


def between(
    before: ActionBoxes | None, after: ActionBoxes | None, time_s: float, hold_s: float
) -> tuple[NDArray[np.floating], Sequence[tuple[ActionBoxes, int]]]:
    """Return where people are between two keyframes: boxes (n, 4) in pixels, and whose rows (result, row) they are.

    A person of both keyframes moves in a straight line; one of a single keyframe is shown until half way to the other,
    or for hold_s where there is none. The row is that of the nearer keyframe.
    """
    boxes: list[Any] = []
    rows: list[tuple[ActionBoxes, int]] = []
    if before is not None and after is not None and after.time_s > before.time_s:
        share = (time_s - before.time_s) / (after.time_s - before.time_s)
        later = {number: row for row, number in enumerate(after.track_ids)}
        for row, number in enumerate(before.track_ids):
            other = later.pop(number, None)
            if other is not None:
                boxes.append((1 - share) * before.boxes_xyxy[row] + share * after.boxes_xyxy[other])
                rows.append((before, row) if share < 0.5 else (after, other))
            elif share < 0.5:
                boxes.append(before.boxes_xyxy[row])
                rows.append((before, row))
        if share >= 0.5:
            boxes += [after.boxes_xyxy[row] for row in later.values()]
            rows += [(after, row) for row in later.values()]
    else:
        only = before if before is not None else after
        if only is not None and abs(time_s - only.time_s) <= hold_s:
            boxes = list(only.boxes_xyxy)
            rows = [(only, row) for row in range(len(boxes))]
    return np.array(boxes).reshape(-1, 4), rows
