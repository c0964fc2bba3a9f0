"""Open files, streams and addresses with FFmpeg (PyAV), and nothing that they point at.

A file may be a playlist in disguise (`ffconcat`, HLS, SDP): FFmpeg would follow it into other files and hosts. Only
containers that hold their images themselves are opened, and only by the protocol that was asked for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
from av.stream import Disposition

from twospeed.errors import VideoError
from twospeed.results import VideoInfo
from twospeed.video.colours import colours_of
from twospeed.video.pixels import MOST_PIXELS, check_pixels, orientation_of

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,mxf,flv,live_flv,nut,asf,ivf,ogg,gif,apng,"
    "h264,hevc,vvc,av1,obu,vc1,mjpeg,dv,yuv4mpegpipe,rm,wtv,smjpeg,ea,film_cpk,bink,smk,flic,swf,gxf,ty,nsv,"
    "image2pipe,jpeg_pipe,png_pipe,bmp_pipe,ppm_pipe,tiff_pipe,webp_pipe,"
    "wav,mp3,aac,flac,aiff,ac3"  # sound alone is recognised, to say so
)
"""FFmpeg's names of the containers that are opened: none of them refers to other files."""

STREAMED = ",hls,rtsp,rtp,sdp"
"""Further formats of network addresses, which live from referring to others on the network."""

PROTOCOLS = {
    "http": "http,https,httpproxy,tcp,tls,crypto",
    "https": "http,https,httpproxy,tcp,tls,crypto",
    "rtsp": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
}
"""What each kind of address may use; a file uses "file" alone, an open stream nothing."""

PLAYLISTS = (b"ffconcat", b"#EXTM3U", b"v=0", b"[playlist]", b"<?xml", b"<MPD")
NETWORK_TIMEOUT_S = 10.0

Target = Path | BinaryIO | str
"""A file, an open binary stream, or a network address."""


@contextmanager
def opened(target: Target, name: str, *, format: str | None = None, threads: int = 0) -> Iterator[tuple[Any, Any]]:
    """Open a file, binary stream or address and its image stream, as (container, stream); closed whatever happens.

    threads: of the decoder, 0 for one per core.
    Raises VideoError for what is no video, refers to other files, holds no image stream (cover art is none), has no
    decoder here, or has larger images than `MOST_PIXELS`.
    """
    process = os.getpid()
    container = _container(target, name, format)
    try:
        images = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not images:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"{name}: has no image stream, only {kinds}; no image can be read")
        best = container.streams.best("video")
        stream = best if best in images else images[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{name}: no decoder for its image stream; re-encode it, for example to H.264")
        check_pixels(name, context.width, context.height)
        context.options = {"max_pixels": str(MOST_PIXELS)}  # where the size changes inside the stream
        stream.thread_type = "AUTO"
        stream.thread_count = threads
        yield container, stream
    finally:
        if os.getpid() == process:
            container.close()
        else:
            # A forked child has none of the decoder's threads and would wait for them for ever.
            for held in (container, *container.streams):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def _container(target: Target, name: str, format: str | None) -> Any:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    timeout: float | None = None
    opening: Any = target
    if isinstance(target, Path):
        opening = f"file:{target}"  # "file:" keeps FFmpeg from reading a protocol into names such as "take:2.mp4"
        options["protocol_whitelist"] = "file"
    elif isinstance(target, str):
        protocol = target.partition("://")[0].lower()
        options = {
            "format_whitelist": CONTAINERS + STREAMED,
            "protocol_whitelist": PROTOCOLS[protocol],
            **(
                {"rtsp_transport": "tcp"}
                if protocol.startswith("rtsp")
                else {"reconnect": "1", "reconnect_delay_max": "8"}
            ),
        }
        timeout = NETWORK_TIMEOUT_S
    try:
        return av.open(
            opening, mode="r", format=format, metadata_errors="replace", container_options=options, timeout=timeout
        )
    except (av.error.FFmpegError, OSError, EOFError, ValueError) as error:
        raise VideoError(f"{name}: cannot be opened as a video ({reason(error)}){_hint(target)}") from None


def _hint(target: Target) -> str:
    if isinstance(target, str):
        return "; is the address right, and does the network reach it?"
    if not isinstance(target, Path):
        return "; an mp4 can be piped only if its index comes first (faststart), mkv and mpegts always can"
    try:
        with target.open("rb") as file:
            head = file.read(16).lstrip(b"\xef\xbb\xbf\r\n\t ")
    except OSError:
        head = b""
    if head.startswith(PLAYLISTS):
        return "; it is a text that names other files or addresses, which are not opened: give the video itself"
    return "; is it a complete video file?"


def reason(error: BaseException) -> str:
    """FFmpeg's words, without the number and the name that PyAV adds."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


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
        colours=colours_of(first),
    )
