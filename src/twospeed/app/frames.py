"""Frames as JPEGs by index: the same index that the tracker counts, from any codec."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from twospeed.errors import VideoError
from twospeed.results import Frame
from twospeed.video.image_files import encoded_jpeg
from twospeed.video.reader import VideoReader, open_video, read_frames
from twospeed.video.seeking import index_packets

QUALITY = 85
MOST_BYTES = 16 << 20  # about 300 frames; a browser itself keeps what it was sent
BACKWARDS = 16  # frames that are decoded together when somebody steps back


class JpegCache:
    """The last JPEGs, by (project, index, height). Safe to use from several threads."""

    def __init__(self) -> None:
        self._held = 0
        self._items: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int]) -> bytes | None:
        """Return a JPEG, or None."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def nearest(self, project: str, index: int, height: int) -> int | None:
        """Return the frame nearest to `index` of which there is a JPEG of this height, or None."""
        with self._lock:
            known = [at for name, at, high in self._items if name == project and high == height]
        return min(known, key=lambda at: abs(at - index), default=None)

    def put(self, key: tuple[str, int, int], data: bytes) -> None:
        """Keep a JPEG; the ones not used for longest go."""
        with self._lock:
            self._held += len(data) - len(self._items.pop(key, b""))
            self._items[key] = data
            while self._held > MOST_BYTES:
                self._held -= len(self._items.popitem(last=False)[1])


class FrameSource:
    """The frames of one video. One decoder stays open, so that the next frame costs no seek; use it from any thread."""

    def __init__(self, project: str, path: Path, frames: int, cache: JpegCache) -> None:
        self._project, self.path, self._frames, self._cache = project, path, frames, cache
        self._lock = threading.Lock()
        self._key_lock = threading.Lock()
        self._proxy: FrameSource | None = None
        self._reader: VideoReader | None = None
        self._next, self._height = 0, 0
        self._last: Frame | None = None  # the one before `_next`, at its own size
        self._side: int | None = None  # the images' own shorter side, once one has been opened

    def jpeg(self, index: int, height: int) -> bytes:
        """Return frame `index`, its shorter side at most `height` pixels. Raises VideoError."""
        self._check(index)
        if (known := self._cache.get((self._project, index, height))) is not None:
            return known
        with self._lock:
            if (known := self._cache.get((self._project, index, height))) is not None:
                return known
            if self._side is None:
                with open_video(self.path, ahead=0, damaged="stop") as first:
                    self._side = min(first.info.width, first.info.height)
            whole = height >= self._side
            # Somebody who rests on a frame has seen it small: it is not decoded once more to be shown at its own size
            if not (whole and self._last is not None and self._last.index == index):
                self._decode(index, height, whole)
            assert self._last is not None
            if whole:
                self._cache.put((self._project, index, height), _encoded(self._last, small=False))
            found = self._cache.get((self._project, index, height))
            assert found is not None
            return found

    def near(self, index: int, height: int) -> tuple[int, bytes]:
        """Return (its index, JPEG) of the frame at or near `index` that is there soonest. Raises VideoError.

        That is the frame itself where it is known, or there is a copy to jump in (`use_proxy`); else the nearer of the
        nearest known one and the nearest keyframe, which decodes alone. Another thread may decode the exact frame
        meanwhile: this does not wait for it.
        """
        self._check(index)
        if self._proxy is not None:
            return index, self._proxy.jpeg(index, height)
        known = self._cache.nearest(self._project, index, height)
        if known != index:
            key = self._key_near(index)
            if key is None and known is None:
                return index, self.jpeg(index, height)
            if known is None or (key is not None and abs(key - index) < abs(known - index)):
                assert key is not None
                with self._key_lock:
                    if (found := self._cache.get((self._project, key, height))) is None:
                        (image,) = read_frames(self.path, [key], short_side=self._shrunk(height), threads=1)
                        found = _encoded(Frame(key, 0.0, image))
                        self._cache.put((self._project, key, height), found)
                return key, found
            index = known
        found = self._cache.get((self._project, index, height))
        return index, found if found is not None else self.jpeg(index, height)

    def use_proxy(self, path: Path) -> None:
        """Take near frames from a copy of the video, whose image i is frame i. Raises VideoError where it is none."""
        if len(index_packets(path)) != self._frames:
            raise VideoError(f"{path.name}: has not the {self._frames} frames of the video")
        self._proxy = FrameSource(f"{self._project} proxy", path, self._frames, self._cache)

    @property
    def has_proxy(self) -> bool:
        """Whether every frame is there soon."""
        return self._proxy is not None

    @property
    def is_open(self) -> bool:
        """Whether a decoder is open, which takes tens of megabytes."""
        return self._reader is not None or (self._proxy is not None and self._proxy.is_open)

    def rest(self) -> None:
        """Close the decoder until the next frame is asked for, unless it is at work."""
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()
        if self._proxy is not None:
            self._proxy.rest()

    def close(self) -> None:
        """Close the decoder."""
        with self._lock:
            self._close()
        if self._proxy is not None:
            self._proxy.close()

    def _check(self, index: int) -> None:
        if not 0 <= index < self._frames:
            raise VideoError(f"frame {index} was asked for; the video has frames 0 to {self._frames - 1}")

    def _key_near(self, index: int) -> int | None:
        """Return the keyframe nearest to a frame; None where no seek finds one."""
        if not self.path.is_file():
            return None
        keys = [key.index for key in index_packets(self.path).keyframes if key.index < self._frames]
        return min(keys, key=lambda key: abs(key - index), default=None)

    def _shrunk(self, height: int) -> int | None:
        """Return the side to scale to, None for images that are no larger."""
        width, high = index_packets(self.path).size
        return height if height < min(width, high) else None

    def _decode(self, index: int, height: int, whole: bool) -> None:
        """Decode up to frame `index`, and keep small JPEGs of all frames on the way; of small videos, whole ones."""
        begin, small = self._next, self._height if whole else height  # 0: none smaller has been asked for
        if small != self._height or not self._next <= index <= self._next + 8 or self._reader is None:
            step_back = small == self._height and self._next - BACKWARDS <= index < self._next
            begin = max(0, index - BACKWARDS + 1) if step_back else index
            self._open(begin, small)
        for at in range(begin, index + 1):
            self._last = self._read(at)
            self._cache.put((self._project, at, small or height), _encoded(self._last))

    def _open(self, index: int, height: int) -> None:
        self._close()
        self._reader = open_video(self.path, index, ahead=0, damaged="stop", small_side=height or None)
        self._next, self._height = index, height

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._last = None

    def _read(self, index: int) -> Frame:
        assert self._reader is not None
        try:
            frame = next(self._reader)
        except StopIteration:
            frame = None
        if frame is None or frame.index != index:
            self._close()
            raise VideoError(f"{self.path.name}: frame {index} cannot be decoded; re-encode the video")
        self._next = index + 1
        return frame


def _encoded(frame: Frame, *, small: bool = True) -> bytes:
    return encoded_jpeg(frame.small if small and frame.small is not None else frame.image, QUALITY)
