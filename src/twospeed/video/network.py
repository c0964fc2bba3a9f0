"""Frames from network addresses: opened again when the connection breaks, for a bounded time."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.containers import ASSUMED_RATE, Wanted, read_container
from twospeed.video.pixels import RgbConverter

logger = logging.getLogger(__name__)

RECONNECT_S = 30.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0


def read_network(address: str, name: str, wanted: Wanted) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame of an address; indices and times continue over a lost connection.

    What has a length (a file on a web server) is read once. Other streams are opened again after 0.5 s, then 1, 2, 4
    and 8 s, until `reconnect_s` have passed without a frame (None: 30): then VideoError. Over http that is done only
    where `reconnect_s` is given, as FFmpeg does not tell the end of such a stream from a connection that breaks.
    Raises VideoError at once where the first opening fails.
    """
    patience_s = RECONNECT_S if wanted.reconnect_s is None else wanted.reconnect_s
    opens_again = wanted.reconnect_s is not None or address.lower().startswith("rtsp")
    convert = RgbConverter(wanted.short_side, small_side=wanted.small_side, name=name)
    lengths: list[int] = []
    first: VideoInfo | None = None
    index, time_s = -1, 0.0
    last_seen, delay_s = time.monotonic(), FIRST_DELAY_S
    while True:
        base, base_s, problem = index + 1, 0.0, ""
        items = read_container(address, name, replace(wanted, start=0), convert=convert, on_length=lengths.append)
        try:
            with closing(items):
                for item in items:
                    if isinstance(item, VideoInfo):
                        base_s = time_s + float(1 / (item.frame_rate or ASSUMED_RATE)) if base else 0.0
                        if first is None:
                            first = item
                            yield item
                        continue
                    index, time_s = base + item.index, base_s + item.time_s
                    last_seen, delay_s = time.monotonic(), FIRST_DELAY_S
                    if index >= wanted.start:
                        yield replace(item, index=index, time_s=time_s)
                    del item
        except VideoError as error:
            if first is None or lengths[0] > 0 or not opens_again:
                raise
            problem = str(error)
        if lengths[0] > 0 or not opens_again:
            break
        waited_s = time.monotonic() - last_seen
        if waited_s + delay_s > patience_s:
            raise VideoError(
                f"{name}: no frame for {waited_s:.1f} s after frame {index} ({problem or 'the stream ended'}); check "
                "the camera and the network, or wait longer for it",
                option="reconnect_s",
            )
        logger.warning(
            "%s: %s after frame %d; opening it again in %.1f s", name, problem or "the stream ended", index, delay_s
        )
        time.sleep(delay_s)
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)
    if index < wanted.start:
        raise VideoError(f"{name}: has {index + 1} frames, so none at start={wanted.start}", option="start")
