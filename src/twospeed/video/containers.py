"""The images of video files and streams in order of presentation, each with its time (PyAV, which is FFmpeg).

Times come from presentation timestamps (pts) alone. An index is a frame's place in order of presentation among the
frames that a decoder delivers from the start; nothing here multiplies a time by an average rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import av.error
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.opening import Target, describe, opened, reason, stated_rate
from twospeed.video.pixels import RgbConverter, scaled
from twospeed.video.truncation import ends_early, lists_keyframe, missing_bytes, second_video

Damaged = Literal["error", "stop", "skip"]

ASSUMED_RATE = Fraction(25)
"""Frames per second of sources that state neither times nor a rate."""

MOST_LEADING_PACKETS = 600
"""Compressed images to wait for a first keyframe: broadcasts have one every second or two."""

MOST_REORDERED = 16
"""Images that a decoder may hold back to put others first (H.264 and HEVC allow this many)."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of a source, as `open_video` describes it. start: index of the first frame to deliver."""

    start: int = 0
    format: str | None = None
    rate: Fraction | None = None
    short_side: int | None = None
    small_side: int | None = None
    damaged: Damaged = "error"
    reconnect_s: float | None = None

    def frame(self, index: int, time_s: float, image: NDArray[np.uint8], **facts: Any) -> Frame:
        """Return an image (H, W, 3) that is in memory as a frame of the sides that are wanted. facts: of `Frame`."""
        small = None if self.small_side is None else scaled(image, self.small_side)
        return Frame(index, time_s, scaled(image, self.short_side), small=small, **facts)


class Clock:
    """Seconds from the first frame, from pts; never runs backwards.

    Where pts are missing, frames follow each other at `rate`; also where they lie a few frames back, as stamps of
    decoding do. Where they jump back further (joined recordings, a wrapped counter), time continues from the frame
    before.
    """

    def __init__(self, rate: Fraction, origin: int | None = None) -> None:
        self._step = float(1 / rate)
        self._origin = origin
        self._ahead_s = 0.0  # seconds to add since the last jump
        self._last_s = -self._step

    def seconds(self, pts: int | None, time_base: Fraction | None) -> float:
        """Return the time of the next frame in order of presentation."""
        if pts is None or time_base is None:
            seconds = self._last_s + self._step
        else:
            if self._origin is None:
                self._origin = pts
            seconds = self._ahead_s + (pts - self._origin) * time_base.numerator / time_base.denominator
            if seconds < self._last_s:
                if self._last_s - seconds > MOST_REORDERED * self._step:
                    self._origin, self._ahead_s = pts, self._last_s + self._step
                seconds = self._last_s + self._step
        self._last_s = seconds
        return seconds


def has_decoding_stamps(container: Any) -> bool:
    """True if the container numbers compressed images in the order of decoding, and says nothing of presentation."""
    return bool(container.format.name == "avi")


class _Walk:
    """What went into the decoder and what came out, to notice images that it drops without a word."""

    def __init__(self, container: Any) -> None:
        # The n-th image shown takes the n-th stamp, as stamps of decoding grow evenly.
        self._stamps: deque[int | None] | None = deque() if has_decoding_stamps(container) else None
        self.fed = self.shown = self.end = 0
        self.fed_at_join = -1  # packets before the last place where the stamps begin anew, -1 without
        self.newest: int | None = None  # latest stamps since then
        self.newest_dts: int | None = None
        self.first_keyframe: Any = None
        self.last: Any = None
        self.interlaced = False
        self.forgiven: set[int | None] = set()  # stamps of packets that only look damaged
        self.leading: Any = None  # the first packet, where that is no keyframe

    def feed(self, packet: Any) -> None:
        if not packet.size:
            return
        if packet.dts is not None and self.newest_dts is not None and packet.dts < self.newest_dts:
            self.fed_at_join, self.newest = self.fed, None
        if self.fed == 0 and packet.is_keyframe and not packet.is_discard:
            self.first_keyframe = packet.pts
        if packet.dts is not None:
            self.newest_dts = packet.dts
        self.end = (packet.pos or 0) + packet.size
        if self._stamps is not None:
            self._stamps.append(packet.dts)
        if not packet.is_discard:
            self.fed += 1
            if packet.pts is not None and (self.newest is None or packet.pts > self.newest):
                self.newest = packet.pts

    def show(self, frame: Any) -> None:
        if self._stamps is not None:
            frame.pts = self._stamps.popleft() if self._stamps else None
        self.shown += 1
        self.last = frame
        self.interlaced |= frame.interlaced_frame

    def lost_beginning(self, frame: Any) -> bool:
        """Whether this first image is not of the keyframe that came first."""
        if self._stamps is not None or frame.pts is None or self.first_keyframe is None:
            return False
        return bool(frame.pts > self.first_keyframe)

    def lost(self, step_s: float, *, from_start: bool) -> str:
        """Say what the decoder was given and did not show, at the end."""
        if from_start and self.fed_at_join > 0 and self.shown < self.fed and not self.interlaced:
            return (
                f"{self.fed - self.shown} of {self.fed} images do not decode, recordings of two kinds are joined there"
            )
        if self._stamps is not None or self.newest is None or self.last is None or self.last.pts is None:
            return ""
        missing_s = float((self.newest - self.last.pts) * self.last.time_base)
        return f"its last {missing_s:.2f} s do not decode" if missing_s > 1.5 * step_s else ""


def images(
    container: Any, stream: Any, name: str, *, path: Path | None, damaged: Damaged = "error", first: int = 0
) -> Generator[Any, None, None]:
    """Yield decoded images in order of presentation from where the container stands.

    What comes before the first keyframe is passed over, as a recording may begin between two. From there on,
    damaged="error" raises VideoError with the index of the first image that is missing or incomplete, having
    yielded those before it; "stop" ends there; "skip" continues. A file that is cut off counts as damaged at its end,
    and so do images that the decoder drops, as it does where recordings of two codecs are joined.
    Only damage that FFmpeg notices counts: in Matroska it jumps over a hole to the next cluster without a word.
    first: index of the first image, for messages. path: the file, whose length is checked at the end.
    """
    walk = _Walk(container)
    step_s = float(1 / (stated_rate(stream) or ASSUMED_RATE))
    skipped = False  # incomplete images before the first whole one
    packets = _Packets(_from_keyframe(container.demux(stream), walk))
    while True:
        packet = None
        try:
            packet = packets.take()
            if packet is None:
                break
            if packet.is_corrupt and packets.joined_soon(packet):
                # Where recordings are joined, the counters of the transport do not match: no sign of damage.
                walk.forgiven.add(packet.pts)
            incomplete = packet.is_corrupt and damaged != "skip" and packet.pts not in walk.forgiven
            if walk.leading is not None and first == 0 and damaged != "skip":
                if lists_keyframe(container, stream, walk.leading):
                    raise _damage(name, first, "its first keyframe is damaged")
                walk.leading = None
            walk.feed(packet)
            frames = stream.decode(None) if incomplete and walk.shown else packet.decode()
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError) as error:
            if packet is None:  # the walk broke off, not the decoder: it still has images that are whole
                for frame in _drained(stream):
                    walk.show(frame)
                    yield frame
                if container.size <= 0:  # so every network stream without a length ends
                    break
            if walk.shown and damaged == "stop":
                return
            begins = packet is not None and first == 0 and walk.fed == 1 and packet.is_keyframe
            if damaged != "skip" and (walk.shown or begins):
                raise _damage(name, first + walk.shown, reason(error)) from None
            continue  # to the next packet; where it is the walk that broke off, it says that there is none
        for frame in frames:
            if frame.is_corrupt and damaged != "skip" and frame.pts not in walk.forgiven:
                if not walk.shown:
                    skipped = True
                    continue
                if damaged == "stop":
                    return
                raise _damage(name, first + walk.shown, "its data are damaged")
            if first == 0 and not walk.shown and damaged != "skip" and not skipped and walk.lost_beginning(frame):
                raise _damage(name, first, "its first keyframe does not decode")
            walk.show(frame)
            yield frame
        if incomplete and walk.shown:  # those before it have been drained from the decoder
            if damaged == "stop":
                return
            raise _damage(name, first + walk.shown, cut_off(path, container, stream) or "its data are incomplete")
    if not walk.shown:
        piped = path is None and "mp4" in container.format.name
        hint = "; an mp4 with its index at the end cannot be read from a pipe: give the file" if piped else ""
        raise VideoError(f"{name}: not one image could be decoded from its {stream.codec_context.name} stream{hint}")
    if damaged == "error":
        lost = cut_off(path, container, stream, walk.end) or walk.lost(step_s, from_start=first == 0)
        if not lost and ends_early(path, container, stream, walk.newest, walk.newest_dts):
            lost = "the file's index lists later images that it does not hold"
        if lost:
            raise _damage(name, first + walk.shown, lost)


def _drained(stream: Any) -> Iterator[Any]:
    with suppress(av.error.FFmpegError, OSError):
        for frame in stream.decode(None):
            frame.time_base = frame.time_base or stream.time_base
            yield frame


class _Packets:
    """Packets with a look ahead."""

    def __init__(self, packets: Iterator[Any]) -> None:
        self._packets = packets
        self._upcoming: deque[Any] = deque()

    def take(self) -> Any:
        return self._upcoming.popleft() if self._upcoming else next(self._packets, None)

    def joined_soon(self, packet: Any) -> bool:
        """Whether the stamps of decoding begin anew within the next two packets."""
        with suppress(av.error.FFmpegError, OSError):
            while len(self._upcoming) < 2 and (upcoming := next(self._packets, None)) is not None:
                self._upcoming.append(upcoming)
        stamps = [p.dts for p in (packet, *self._upcoming) if p.dts is not None]
        return any(after < before for before, after in pairwise(stamps))


def _from_keyframe(packets: Iterator[Any], walk: _Walk) -> Iterator[Any]:
    """Pass over packets that come before the first keyframe: decoders make grey smears of them, without a word.

    Where no keyframe comes for long, all of them are let through, as some containers do not mark any.
    """
    lead: list[Any] = []
    for packet in packets:
        if packet.is_keyframe:
            yield packet
            break
        lead.append(packet)
        walk.leading = lead[0]
        if len(lead) == MOST_LEADING_PACKETS or not packet.size:  # the last packet is empty: it empties the decoder
            yield from lead
            break
    yield from packets


def _damage(name: str, index: int, reason: str) -> VideoError:
    return VideoError(
        f"{name}: frame {index} cannot be decoded ({reason}); the {index} frames before it can; "
        f"fetch the file again, or read on behind the damage with damaged='skip'",
        option="damaged",
    )


def cut_off(path: Path | None, container: Any, stream: Any, end: int | None = None) -> str:
    """Say what is wrong with the end of a file: bytes that it lacks, or another video behind it; else nothing.

    end: where the last packet ends, once all are read.
    """
    if path is None:
        return ""
    if missing := missing_bytes(path, container, stream):
        return f"the file is cut off, {missing:,} bytes are missing"
    if end is not None and second_video(path, container, end):
        return "another video is joined behind its end: part them"
    return ""


@dataclass(frozen=True, slots=True)
class Keyframe:
    """An image that decodes without those before it: its index, and its timestamps in the stream's time base."""

    index: int
    pts: int
    dts: int


def shown_at(container: Any, packet: Any) -> int | None:
    """Return the stamp that the image of this packet gets: of presentation, or of decoding where there is no other."""
    return packet.dts if has_decoding_stamps(container) else packet.pts


def seek(container: Any, stream: Any, key: Keyframe) -> None:
    """Go to a keyframe, or to one before it where the container cannot do better.

    Some containers seek by presentation, some by decoding time, and some land behind their goal: the first packet
    is checked, and then the first decoded image (`decodes_alone`).
    """
    for target in (key.pts, key.dts):
        container.seek(target, stream=stream, backward=True)
        packet = next(container.demux(stream))
        stamp = shown_at(container, packet)
        if stamp is not None and stamp <= key.pts:
            container.seek(target, stream=stream, backward=True)
            return


def decodes_alone(image: Any, key: Keyframe) -> bool:
    """True if this first image after a seek is the keyframe, and whole: not the beginning of an intra refresh,
    which some encoders mark like a keyframe although the image builds up over the next dozens."""
    return bool(image.pts == key.pts and image.pict_type == PictureType.I)


def read_container(
    target: Target,
    name: str,
    wanted: Wanted,
    *,
    keyframe: Keyframe | None = None,
    origin_pts: int | None = None,
    convert: RgbConverter | None = None,
    on_length: Callable[[int], object] | None = None,
) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame that is wanted. The container is closed when the generator is.

    keyframe: the last one at or before the first frame, to begin there instead of decoding what lies before; then
    origin_pts is the first frame's pts. convert: in place of one for the wanted sides. on_length: called with the
    length of the opened file or stream in bytes, 0 or less where it has none.
    """
    convert = convert or RgbConverter(wanted.short_side, small_side=wanted.small_side, name=name)
    with opened(target, name, format=wanted.format) as (container, stream):
        stated_size = (stream.codec_context.width, stream.codec_context.height)
        if on_length is not None:
            on_length(container.size)
        index = 0
        if keyframe is not None:
            seek(container, stream, keyframe)
            index = keyframe.index
        clock = Clock(wanted.rate or stated_rate(stream) or ASSUMED_RATE, origin_pts)
        path = target if isinstance(target, Path) else None
        arrived = keyframe is None
        for decoded in images(container, stream, name, path=path, damaged=wanted.damaged, first=index):
            if keyframe is not None and not arrived:
                if decoded.pts is not None and decoded.pts < keyframe.pts:
                    continue
                arrived = decodes_alone(decoded, keyframe) and (decoded.width, decoded.height) == stated_size
                if not arrived:
                    break
            time_s = clock.seconds(decoded.pts, decoded.time_base)
            if index >= wanted.start:
                image = convert.image(decoded)
                if index == wanted.start:
                    yield describe(container, stream, decoded, name, (image.shape[1], image.shape[0]))
                small = convert.small(decoded)
                yield Frame(index, time_s, image, pts=decoded.pts, is_keyframe=bool(decoded.key_frame), small=small)
                del image, small
            elif index == 0 and convert.size is None:
                convert.size = (decoded.width, decoded.height)
            index += 1
    if not arrived:  # count from the start
        yield from read_container(target, name, wanted)
    elif index <= wanted.start:
        raise VideoError(f"{name}: has {index} frames, so none at start={wanted.start}", option="start")
