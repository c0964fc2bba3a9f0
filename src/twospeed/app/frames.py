"""Frames as JPEGs by index: the same index that the tracker counts, from any codec."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import cv2

from twospeed.errors import OutputError, VideoError
from twospeed.results import Frame
from twospeed.video.reader import VideoReader, open_video

QUALITY = 85
MOST_BYTES = 64 << 20
BACKWARDS = 16  # frames that are decoded together when somebody steps back


class JpegCache:
    """The last JPEGs, by (project, index, height). Safe to use from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._held = most_bytes, 0
        self._items: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int]) -> bytes | None:
        """Return a JPEG, or None."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: tuple[str, int, int], data: bytes) -> None:
        """Keep a JPEG; the ones not used for longest go."""
        with self._lock:
            self._held += len(data) - len(self._items.pop(key, b""))
            self._items[key] = data
            while self._held > self._most:
                self._held -= len(self._items.popitem(last=False)[1])


class FrameSource:
    """The frames of one video. One decoder stays open, so that the next frame costs no seek; use it from any thread."""

    def __init__(self, project: str, path: Path, frames: int, cache: JpegCache) -> None:
        self._project, self.path, self._frames, self._cache = project, path, frames, cache
        self._lock = threading.Lock()
        self._reader: VideoReader | None = None
        self._next, self._height = 0, 0
        self._side: int | None = None  # the images' own shorter side, once one has been opened

    def jpeg(self, index: int, height: int) -> bytes:
        """Return frame `index`, its shorter side at most `height` pixels. Raises VideoError."""
        if not 0 <= index < self._frames:
            raise VideoError(f"frame {index} was asked for; the video has frames 0 to {self._frames - 1}")
        if (known := self._cache.get((self._project, index, height))) is not None:
            return known
        with self._lock:
            if (known := self._cache.get((self._project, index, height))) is not None:
                return known
            begin = self._next
            if height != self._height or not self._next <= index <= self._next + 8 or self._reader is None:
                step_back = height == self._height and self._next - BACKWARDS <= index < self._next
                begin = max(0, index - BACKWARDS + 1) if step_back else index
                self._open(begin, height)
            for at in range(begin, index + 1):
                self._cache.put((self._project, at, height), _encoded(self._read(at)))
            found = self._cache.get((self._project, index, height))
            assert found is not None
            return found

    def close(self) -> None:
        """Close the decoder."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _open(self, index: int, height: int) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        if self._side is None:
            with open_video(self.path, ahead=0, damaged="stop") as first:
                self._side = min(first.info.width, first.info.height)
        short_side = height if height < self._side else None
        self._reader = open_video(self.path, index, ahead=0, damaged="stop", short_side=short_side)
        self._next, self._height = index, height

    def _read(self, index: int) -> Frame:
        assert self._reader is not None
        try:
            frame = next(self._reader)
        except StopIteration:
            frame = None
        if frame is None or frame.index != index:
            self._reader.close()
            self._reader = None
            raise VideoError(f"{self.path.name}: frame {index} cannot be decoded; re-encode the video")
        self._next = index + 1
        return frame


def _encoded(frame: Frame) -> bytes:
    done, data = cv2.imencode(".jpg", frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise OutputError(f"frame {frame.index} cannot be encoded as JPEG")
    return data.tobytes()
