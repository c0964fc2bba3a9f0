"""The video with people's boxes, numbers and actions, drawn while frames arrive: for files, cameras and pipes alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.output.overlay import draw_boxes
from twospeed.output.palette import object_colours
from twospeed.pipelines.people import between
from twospeed.results import ActionBoxes, Frame
from twospeed.video.writer import VideoWriter

MOST_BYTES = 256_000_000  # of waiting frames: about 600 of 1920x1080
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


class _Waiting(NamedTuple):
    time_s: float
    jpeg: NDArray[np.uint8]


class ActionOverlay(AbstractContextManager["ActionOverlay"]):
    """Draw frames as soon as the keyframes on both sides of them are known.

    Between two keyframes boxes move in straight lines, so that a frame waits for the keyframe after it, compressed.
    When more than `MOST_BYTES` wait, the oldest are drawn by the keyframe before them alone. open_path: called when the
    first frame is written; makes the folder and says where the video goes. texts: what is written at the box of a row
    of a result. hold_s: how long a box is shown where there is no other keyframe. Close it by leaving its `with` block;
    when that is left by an exception what has been drawn is kept.
    """

    def __init__(
        self,
        open_path: Callable[[], Path],
        rate: Any,
        texts: Callable[[ActionBoxes, int], list[str]],
        hold_s: float,
    ) -> None:
        self._open_path, self._rate, self._texts, self._hold_s = open_path, rate, texts, hold_s
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._last: ActionBoxes | None = None
        self._writer: VideoWriter | None = None

    def add_frame(self, frame: Frame) -> None:
        """Take the next frame."""
        # Channels in the wrong order change nothing here: they come out as they went in
        _, jpeg = cv2.imencode(".jpg", frame.image, _JPEG)
        self._waiting.append(_Waiting(frame.time_s, np.asarray(jpeg, np.uint8)))
        self._bytes += jpeg.nbytes
        while self._bytes > MOST_BYTES:
            self._draw(None)

    def add_result(self, result: ActionBoxes) -> None:
        """Take the next keyframe's people, and draw the frames up to it."""
        while self._waiting and self._waiting[0].time_s < result.time_s - 1e-6:
            self._draw(result)
        self._last = result

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            while self._waiting:
                self._draw(None)
        if self._writer is not None:
            self._writer.close()

    def _draw(self, after: ActionBoxes | None) -> None:
        time_s, jpeg = self._waiting.popleft()
        self._bytes -= jpeg.nbytes
        image = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
        boxes, rows = between(self._last, after, time_s, self._hold_s)
        if rows:
            texts = [[f"person {result.track_ids[row]}", *self._texts(result, row)] for result, row in rows]
            colours = object_colours()[[1 + (result.track_ids[row] - 1) % 255 for result, row in rows]]
            image = draw_boxes(image, boxes, texts, colours)
        if self._writer is None:
            self._writer = VideoWriter(self._open_path(), self._rate, keep_partial=True)
        self._writer.write(image, time_s)
