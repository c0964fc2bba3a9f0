"""Video files and streams: opened, walked, timed and closed in one place (PyAV, which is FFmpeg).

Times come from presentation timestamps (pts) alone. An index is a frame's place in order of presentation among the
frames that a decoder delivers from the start; nothing here multiplies a time by an average rate.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import av.error
from av.stream import Disposition
from av.video.frame import PictureType

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.pixels import RgbConverter, orientation_of
from twospeed.video.truncation import missing_bytes

Damaged = Literal["raise", "stop", "skip"]

ASSUMED_RATE = Fraction(25)
"""Frames per second of sources that state neither times nor a rate."""


@contextmanager
def opened(
    source: Path | BinaryIO, name: str, *, format: str | None = None, threads: int = 0
) -> Iterator[tuple[Any, Any]]:
    """Open a file or binary stream and its image stream, as (container, stream); closed whatever happens.

    threads: of the decoder, 0 for one per core.
    Raises VideoError for what is no video, holds no image stream (cover art is none) or has no decoder here.
    """
    if isinstance(source, Path):
        # "file:" keeps FFmpeg from reading a protocol into names such as "take:2.mp4".
        target: Any = f"file:{source}"
    else:
        target = source
    try:
        container = av.open(target, mode="r", format=format, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, EOFError, ValueError) as error:
        raise VideoError(f"{name}: cannot be opened as a video ({_reason(error)}){_hint(source)}") from None
    try:
        images = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not images:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"{name}: has no image stream, only {kinds}")
        best = container.streams.best("video")
        stream = best if best in images else images[0]
        if stream.codec_context is None:
            raise VideoError(f"{name}: no decoder for its image stream; re-encode it, for example to H.264")
        stream.thread_type = "AUTO"
        stream.thread_count = threads
        yield container, stream
    finally:
        container.close()


def _hint(source: Path | BinaryIO) -> str:
    if isinstance(source, Path):
        return "; is it a complete video file?"
    return "; an mp4 can be piped only if its index comes first (faststart), mkv and mpegts always can"


def _reason(error: BaseException) -> str:
    """FFmpeg's words, without the number and the name that PyAV adds."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


MOST_LEADING_PACKETS = 600
"""Compressed images to wait for a first keyframe: broadcasts have one every second or two."""


class Clock:
    """Seconds from the first frame, from pts; never runs backwards.

    Where pts are missing, frames follow each other at `rate`. Where they jump back (joined recordings, a wrapped
    counter), time goes on from the frame before.
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
                self._origin, self._ahead_s = pts, self._last_s + self._step
                seconds = self._ahead_s
        self._last_s = seconds
        return seconds


def stated_rate(stream: Any) -> Fraction | None:
    """Average frames per second as the container states it, else as FFmpeg guesses it, else None."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate:
            return Fraction(rate)
    return None


def describe(container: Any, stream: Any, first: Any, name: str, size: tuple[int, int]) -> VideoInfo:
    """Put together what container, stream and first decoded frame say. size: (width, height) as delivered."""
    duration_s: float | None = None
    if stream.duration is not None and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration_s = container.duration / av.time_base
    return VideoInfo(
        name=name,
        width=size[0],
        height=size[1],
        frame_rate=stated_rate(stream),
        frame_count=stream.frames or None,
        duration_s=duration_s,
        rotation=orientation_of(first).rotation,
        codec=stream.codec_context.name,
    )


def images(
    container: Any, stream: Any, name: str, *, path: Path | None, damaged: Damaged = "raise", first: int = 0
) -> Generator[Any, None, None]:
    """Yield decoded images in order of presentation from where the container stands.

    What cannot be decoded before the first image is passed over, as a recording may begin between keyframes. After
    it, damaged="raise" raises VideoError with the index of the first image that is missing or incomplete, having
    yielded those before it; "stop" ends there; "skip" goes on. A file that is cut off counts as damaged at its end.
    Only damage that FFmpeg notices counts: in Matroska it jumps over a hole to the next cluster without a word.
    first: index of the first image, for messages. path: the file, whose length is checked at the end.
    """
    count = 0
    end_s: float | None = None
    packets = _from_keyframe(container.demux(stream))
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            incomplete = packet.is_corrupt and damaged != "skip"
            frames = stream.decode(None) if incomplete and count else packet.decode()
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError) as error:
            if damaged == "raise" and count:
                raise _damage(name, first + count, _reason(error)) from None
            if damaged == "stop" and count:
                return
            continue  # to the next packet; where it is the walk that broke off, it says that there is none
        for frame in frames:
            if frame.is_corrupt and damaged != "skip":
                if not count:
                    continue
                if damaged == "stop":
                    return
                raise _damage(name, first + count, "its data are damaged")
            count += 1
            if frame.pts is not None and frame.time_base:
                end_s = float(frame.pts * frame.time_base)
            yield frame
        if incomplete and count:  # those before it have been drained from the decoder
            if damaged == "stop":
                return
            raise _damage(name, first + count, _cut_off(path, container, stream) or "its data are incomplete")
    if not count:
        piped = path is None and "mp4" in container.format.name
        hint = "; an mp4 with its index at the end cannot be read from a pipe: give the file" if piped else ""
        raise VideoError(f"{name}: not one image could be decoded from its {stream.codec_context.name} stream{hint}")
    if damaged == "raise":
        cut_off = _cut_off(path, container, stream)
        if cut_off:
            raise _damage(name, first + count, cut_off)
        stated_s = _stated_end(stream)
        if stated_s is not None and end_s is not None and end_s < 0.95 * stated_s - 1.0:
            raise _damage(
                name, first + count, f"images end at {end_s:.1f} s of the {stated_s:.1f} s that the file states"
            )


def _from_keyframe(packets: Iterator[Any]) -> Iterator[Any]:
    """Pass over packets that come before the first keyframe: decoders make grey smears of them, without a word.

    Where no keyframe comes for long, all of them are let through, as some containers do not mark any.
    """
    lead: list[Any] = []
    for packet in packets:
        if packet.is_keyframe:
            yield packet
            break
        lead.append(packet)
        if len(lead) == MOST_LEADING_PACKETS or not packet.size:  # the last packet is empty: it empties the decoder
            yield from lead
            break
    yield from packets


def _damage(name: str, index: int, reason: str) -> VideoError:
    return VideoError(
        f"{name}: frame {index} cannot be decoded ({reason}); the {index} frames before it can; "
        f"fetch the file again, or read on behind the damage with damaged='skip'"
    )


def _cut_off(path: Path | None, container: Any, stream: Any) -> str:
    missing = missing_bytes(path, container, stream) if path is not None else 0
    return f"the file is cut off, {missing:,} bytes are missing" if missing else ""


def _stated_end(stream: Any) -> float | None:
    """Time at which the image stream's own header says that it ends (not the container's, which counts sound)."""
    if stream.duration is not None and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    hours_minutes_seconds = stream.metadata.get("DURATION", "").split(":")  # Matroska, as FFmpeg and mkvmerge tag it
    try:
        hours, minutes, seconds = (float(part) for part in hours_minutes_seconds)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


@dataclass(frozen=True, slots=True)
class Keyframe:
    """An image that decodes without those before it: its index, and its timestamps in the stream's time base."""

    index: int
    pts: int
    dts: int


def seek(container: Any, stream: Any, key: Keyframe) -> None:
    """Go to a keyframe, or to one before it where the container cannot do better.

    Some containers seek by presentation, some by decoding time, and some land behind their goal: the first packet
    tells, and the first decoded image has the last word (`decodes_alone`).
    """
    for target in (key.pts, key.dts):
        container.seek(target, stream=stream, backward=True)
        packet = next(container.demux(stream))
        if packet.pts is not None and packet.pts <= key.pts:
            container.seek(target, stream=stream, backward=True)
            return


def decodes_alone(image: Any, key: Keyframe) -> bool:
    """True if this first image after a seek is the keyframe, and whole: not the beginning of an intra refresh,
    which some encoders mark like a keyframe although the image builds up over the next dozens."""
    return bool(image.pts == key.pts and image.pict_type == PictureType.I)


def read_container(
    source: Path | BinaryIO,
    name: str,
    *,
    start: int = 0,
    keyframe: Keyframe | None = None,
    origin_pts: int | None = None,
    format: str | None = None,
    rate: Fraction | None = None,
    short_side: int | None = None,
    damaged: Damaged = "raise",
) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame from index `start`. The container is closed when the generator is.

    keyframe: the last one at or before `start`, to begin there instead of decoding what lies before; then origin_pts
    is the first frame's pts.
    """
    convert = RgbConverter(short_side)
    with opened(source, name, format=format) as (container, stream):
        index = 0
        if keyframe is not None:
            seek(container, stream, keyframe)
            index = keyframe.index
        clock = Clock(rate or stated_rate(stream) or ASSUMED_RATE, origin_pts)
        path = source if isinstance(source, Path) else None
        described = False
        arrived = keyframe is None
        for decoded in images(container, stream, name, path=path, damaged=damaged, first=index):
            if keyframe is not None and not arrived:
                if decoded.pts is not None and decoded.pts < keyframe.pts:
                    continue
                arrived = decodes_alone(decoded, keyframe)
                if not arrived:
                    break
            time_s = clock.seconds(decoded.pts, decoded.time_base)
            if index >= start:
                image = convert.image(decoded)
                if not described:
                    yield describe(container, stream, decoded, name, (image.shape[1], image.shape[0]))
                    described = True
                yield Frame(index, time_s, image, pts=decoded.pts, is_keyframe=bool(decoded.key_frame))
                del image
            index += 1
    if not arrived:  # count from the start
        options = {"format": format, "rate": rate, "short_side": short_side, "damaged": damaged}
        yield from read_container(source, name, start=start, **options)  # type: ignore[arg-type]
    elif not described:
        raise VideoError(f"{name}: has {index} frames, so none at start={start}")
