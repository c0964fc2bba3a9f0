"""The sound of a source beside newly written images: copied where the container takes its codec, else encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import av.error

from twospeed.video.opening import opened

COPIED: dict[str, frozenset[str] | None] = {
    "mp4": frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}),
    "mov": frozenset({"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le"}),
    "webm": frozenset({"opus", "vorbis"}),
    "matroska": None,
    "page": frozenset({"aac", "mp3", "opus", "flac"}),  # an mp4 that browsers play
}
"""Codecs that players expect in each container; None: any."""


MOST_JITTER_S = 0.1


class AudioTrack:
    """The best sound stream of a video file, added to an output container and cut to what is written.

    Raises VideoError where the source cannot be opened. Without sound, `packets` yields none.
    """

    def __init__(self, source: Path, target: Any, format: str) -> None:
        self._open = ExitStack()
        container, images = self._open.enter_context(opened(source, str(source)))
        stream = container.streams.best("audio")
        self._shift_s: float | None = None
        self._encoder: Any = None
        self._waiting: Any = None
        self._next_pts: int | None = None
        self._items: Iterator[Any] = iter(())
        if stream is None or stream.codec_context is None:
            return
        self._first_image_s = float((images.start_time or 0) * images.time_base)
        allowed = COPIED[format]
        codec = stream.codec_context.name.removesuffix("float")  # FFmpeg has mp3 twice
        if allowed is None or codec in allowed:
            self._stream = target.add_stream_from_template(stream)
            self._stream.codec_context.codec_tag = "\0\0\0\0"  # the other container's tag may not be known here
            self._items = container.demux(stream)
        else:
            self._stream = self._encoder = target.add_stream(
                "libopus" if format == "webm" else "aac", rate=48_000 if format == "webm" else stream.rate
            )
            self._encoder.layout = "mono" if stream.channels == 1 else "stereo"
            self._items = self._resampled(container.decode(stream))

    def _resampled(self, frames: Iterator[Any]) -> Iterator[Any]:
        context = self._encoder.codec_context
        resampler = av.AudioResampler(format=context.format, layout=context.layout, rate=context.sample_rate)
        for frame in frames:
            yield from resampler.resample(frame)

    def packets(self, start_s: float, end_s: float) -> Iterator[Any]:
        """Yield the packets to mux of the source's time from start_s to end_s; later calls continue at end_s.

        Times are seconds from the source's first image; start_s becomes time 0 of the output. Sound that cannot be
        read ends the track.
        """
        if self._shift_s is None:
            self._shift_s = start_s
        while True:
            item = self._waiting if self._waiting is not None else self._next()
            self._waiting = None
            if item is None:
                return
            at_s = float(item.pts * item.time_base) - self._first_image_s
            if at_s >= end_s:
                self._waiting = item
                return
            if at_s < self._shift_s - 1e-6:
                continue
            moved = round((self._shift_s + self._first_image_s) / item.time_base)
            item.pts -= moved
            if self._encoder is not None:
                if self._next_pts is not None and abs(item.pts - self._next_pts) * item.time_base < MOST_JITTER_S:
                    item.pts = self._next_pts  # encoders want frames without overlap
                self._next_pts = item.pts + item.samples
                yield from self._encoder.encode(item)
                continue
            item.dts = item.pts if item.dts is None else item.dts - moved
            item.stream = self._stream
            yield item

    def _next(self) -> Any:
        try:
            for item in self._items:
                if item.pts is not None:
                    return item
        except (av.error.FFmpegError, OSError):
            self._items = iter(())
        return None

    def finish(self) -> Iterator[Any]:
        """Yield what the encoder still holds, and close the source."""
        if self._encoder is not None and self._shift_s is not None:
            yield from self._encoder.encode(None)
        self.close()

    def close(self) -> None:
        """Close the source. Closing twice does nothing."""
        self._open.close()
