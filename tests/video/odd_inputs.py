"""Makes odd inputs, one function a kind, each with its truth: which pictures, when, how large, or which error.

The truth does not come from the reader: every picture has its number drawn in, stamps are chosen here. Used by
test_odd_inputs.py; `python -m tests.video.odd_inputs FOLDER` writes them all, for other tools to be tried on.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.video.footage import film, numbered, numbered_image

COUNT = 24
EVEN = tuple(range(COUNT))
ROUNDING_S = 0.00051  # Matroska and Flash keep milliseconds


@dataclass(frozen=True)
class Case:
    """An input and its truth.

    make: writes it under the given path and returns the source. numbers: those drawn into its pictures, in order.
    times_s: of each picture, None for 25 a second. size: (width, height). error: words of the refusal; numbers are
    then the pictures that may come before it. names: of the frames. plain: PyAV from the start gives the same pictures.
    """

    make: Callable[[Path], Any]
    numbers: tuple[int, ...] = EVEN
    times_s: tuple[float, ...] | None = None
    size: tuple[int, int] = (96, 48)
    error: str | None = None
    names: tuple[str, ...] | None = None
    plain: bool = True


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Undo what SVT-AV1 does where root runs it: it makes the process one of real time, of priority 99, for good.

    All that the process starts later, a browser for one, is so too, and keeps everything else from the processor.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def encoded(count: int = COUNT, **how: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with same_scheduling():
            return numbered(path, count, **how)

    return make


H264 = {"options": {"g": "8", "bf": "2", "sc_threshold": "0", "preset": "ultrafast", "x264-params": "b-adapt=0"}}
HEVC = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:keyint=8:bframes=2"}}
MPEG4 = {"codec": "mpeg4", "options": {"g": "8"}}
MPEG4_B = {"codec": "mpeg4", "options": {"g": "8", "bf": "2"}}
MPEG2 = {"codec": "mpeg2video", "options": {"g": "8", "bf": "2"}}
MPEG1 = {"codec": "mpeg1video", "options": {"g": "8", "bf": "2"}}
VP8 = {"codec": "libvpx", "options": {"g": "8", "deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "9"}}
VP9 = {"codec": "libvpx-vp9", "options": {"g": "8", "deadline": "realtime", "lag-in-frames": "9", "b": "400k"}}
AV1 = {"codec": "libsvtav1", "options": {"preset": "12", "g": "8", "svtav1-params": "lp=1"}}


def intra(codec: str, pix_fmt: str, **options: str) -> dict[str, Any]:
    return {"codec": codec, "pix_fmt": pix_fmt, "options": options}


CONTAINERS: dict[str, dict[str, Any]] = {
    **{f"h264.{suffix}": H264 for suffix in ("mp4", "mov", "mkv", "avi", "ts", "flv", "nut", "h264", "m4v")},
    **{f"hevc.{suffix}": HEVC for suffix in ("mp4", "mkv", "ts", "hevc")},
    **{f"mpeg4.{suffix}": MPEG4 for suffix in ("avi", "mp4", "mkv")},
    **{f"mpeg4-b.{suffix}": MPEG4_B for suffix in ("avi", "mp4", "mkv", "nut")},
    **{f"mpeg2.{suffix}": MPEG2 for suffix in ("mpg", "ts", "mkv", "m2v", "mxf", "avi", "vob")},
    **{f"mpeg1.{suffix}": MPEG1 for suffix in ("mpg", "mkv")},
    **{f"vp8.{suffix}": VP8 for suffix in ("webm", "ivf", "avi")},
    **{f"vp9.{suffix}": VP9 for suffix in ("webm", "mp4", "ivf")},
    **{f"av1.{suffix}": AV1 for suffix in ("mp4", "mkv")},
    **{f"mjpeg.{suffix}": intra("mjpeg", "yuvj420p") for suffix in ("avi", "mov", "mkv")},
    "msmpeg4v3.avi": {"codec": "msmpeg4v3", "options": {"g": "8"}},
    "wmv2.asf": {"codec": "wmv2", "options": {"g": "8"}},
    "flv1.flv": {"codec": "flv", "options": {"g": "8"}},
    "svq1.mov": intra("svq1", "yuv410p", g="8"),
    "png.mov": intra("png", "rgb24"),
    "ffv1.mkv": intra("ffv1", "yuv420p"),
    "ffv1.avi": intra("ffv1", "yuv444p"),
    "huffyuv.avi": intra("huffyuv", "yuv422p"),
    "utvideo.avi": intra("utvideo", "yuv420p"),
    "raw.avi": intra("rawvideo", "yuv420p"),
    "raw.nut": intra("rawvideo", "rgb24"),
    "qtrle.mov": intra("qtrle", "rgb24", g="8"),
    "prores.mov": intra("prores_ks", "yuv422p10le"),
    "jpeg2000.mov": intra("jpeg2000", "yuv420p"),
    "frames.y4m": intra("wrapped_avframe", "yuv420p"),
    "anim.gif": intra("gif", "rgb8"),
    "open-gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0:b-pyramid=normal"}},
    "open-gop.avi": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0"}},
    "refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}},
    "one-gop.mkv": {"options": {"g": "1000", "bf": "3"}},
    "fragments.mp4": {**H264, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "interlaced.ts": {"options": {"flags": "+ilme+ildct", "g": "8", "bf": "2", "x264-params": "tff=1"}},
    "ten-bit.mkv": {**H264, "pix_fmt": "yuv420p10le"},
    "alpha.mov": intra("qtrle", "argb"),
    "alpha-prores.mov": intra("prores_ks", "yuva444p10le", profile="4444"),
}  # fmt: skip


def timed(ticks: list[int], base: Fraction = Fraction(1, 1000), **how: Any) -> dict[str, Any]:
    """Parts of a Case with these stamps."""
    times_s = tuple(float((tick - ticks[0]) * base) for tick in ticks)
    make = encoded(len(ticks), pts=ticks, time_base=base, **how)
    return {"make": make, "numbers": tuple(range(len(ticks))), "times_s": times_s}


JITTER = [40 * i + (i * 7919) % 30 for i in range(COUNT)]
BURSTS = [0, 40, 80, 81, 500, 510, 4000, 4040, 4041, 9000]
STAYS = [*range(0, 1000, 40), 31_000]  # the last but one picture is shown for 30 s
MINUTES = [0, 60_000, 120_000, 180_000, 240_000]

TIMED: dict[str, Case] = {
    f"{name}.{suffix}": Case(**timed(ticks, **how))
    for name, ticks in {"jitter": JITTER, "bursts": BURSTS, "gap": STAYS, "minutes": MINUTES}.items()
    for suffix, how in {"mp4": {}, "mkv": {}, "ts": {}, "webm": VP9}.items()
}


def last_stays(path: Path) -> Path:
    """26 pictures, the last of which is shown for 30 s: written packet by packet, to give it its duration."""
    plain = numbered(path.with_name(f"plain-{path.stem}.mp4"), 26, options={"bf": "0", "g": "8"})
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        packets[-1].duration = int(30 / packets[-1].time_base)
        for packet in packets:
            packet.stream = copy
            target.mux(packet)
    return path


def packed(path: Path) -> Path:
    """MPEG-4 with B-frames as XviD and DivX put it into AVI: a P and a B in one chunk, then an empty one."""
    plain = numbered(path.with_name(f"plain-{path.stem}.avi"), COUNT, codec="mpeg4", options={"g": "9", "bf": "1"})
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream("mpeg4", rate=25)
        copy.width, copy.height, copy.pix_fmt = 96, 48, "yuv420p"
        copy.codec_context.codec_tag = "XVID"
        chunks: list[tuple[bytes, bool]] = []
        waiting: bytes | None = None  # a P that goes with the B behind it
        for packet in source.demux(stream):
            data = bytes(packet)
            if not data:
                continue
            kind = data[data.index(b"\0\0\1\xb6") + 4] >> 6  # 0 I, 1 P, 2 B (ISO 14496-2, 6.3.5)
            if kind == 2 and waiting is not None:
                chunks += [(waiting + data, False), (b"\0\0\1\xb6\x50\x00\x7f", False)]
                waiting = None
                continue
            if waiting is not None:
                chunks.append((waiting, False))
                waiting = None
            if kind == 1:
                waiting = data
            else:
                at = data.index(b"\0\0\1\xb6")
                chunks.append((data[:at] + b"\0\0\1\xb2DivX503b1393p" + data[at:], True))
        if waiting is not None:
            chunks.append((waiting, False))
        for number, (data, is_key) in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.duration = copy, number, number, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 25), is_key
            target.mux(packet)
    return path


def joined(*parts: dict[str, Any], suffix: str = "ts", count: int = 12) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        pieces = [
            numbered(path.with_name(f"part{number}-{path.stem}.{suffix}"), count, **how)
            for number, how in enumerate(parts)
        ]
        path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
        return path

    return make


TWICE = tuple(range(12)) * 2
LATER = {**H264, "pts": [i + 1000 for i in range(12)], "muxer": {"copyts": "1"}}
LARGE = {**H264, "size": (96, 192)}

JOINED = {
    "joined.ts": Case(joined(H264, H264), TWICE),
    "joined-other-order.ts": Case(joined(LATER, H264), TWICE),
    "joined-sizes.ts": Case(joined(H264, LARGE), TWICE, plain=False),
    "joined-sizes-down.ts": Case(joined(LARGE, H264), TWICE, size=(192, 96), plain=False),
    "joined.h264": Case(joined(H264, H264, suffix="h264"), TWICE),
    "joined-sizes.h264": Case(joined(H264, LARGE, suffix="h264"), TWICE, plain=False),
    "joined.mpg": Case(joined(MPEG2, MPEG2, suffix="mpg"), TWICE),
    "joined.mkv": Case(joined(H264, H264, suffix="mkv"), TWICE, plain=False),
    "joined.avi": Case(joined(H264, H264, suffix="avi"), TWICE),
    "joined.mp4": Case(joined(H264, H264, suffix="mp4"), tuple(range(12)), error="another video is joined"),
    "joined.flv": Case(joined(H264, H264, suffix="flv"), tuple(range(12)), error="another video is joined"),
    "joined-codecs.ts": Case(joined(H264, MPEG2), tuple(range(12)), error="joined|keyframe does not decode"),
    "joined-codecs-back.ts": Case(joined(MPEG2, H264), (), error="joined|keyframe does not decode"),
    "joined-hevc.ts": Case(joined(H264, HEVC), tuple(range(12)), error="joined|keyframe does not decode|Invalid data"),
}


def cut(share: float, **how: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        data = numbered(path, 60, **how).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return make


def first_keyframe_lost(path: Path) -> Path:
    data = bytearray(numbered(path, 24, **H264, muxer={"movflags": "faststart"}).read_bytes())
    with av.open(str(path)) as container:
        first = next(packet for packet in container.demux(video=0))
        at, size = first.pos, first.size
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    return path


def text(content: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        numbered(path.with_name("other.mp4"), 4)
        path.write_text(content)
        return path

    return make


def huge(path: Path) -> Path:
    """A PNG that states 60,000 x 60,000 pixels."""
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    return path


FASTSTART = {"muxer": {"movflags": "faststart"}}
NAMES_OTHERS = "names other files"
DAMAGED = {
    "cut.mp4": Case(cut(0.6, **H264, **FASTSTART), tuple(range(60)), error="cut off"),
    "cut.mkv": Case(cut(0.6, **H264), tuple(range(60)), error="cut off"),
    "cut.avi": Case(cut(0.6, **MPEG4), tuple(range(60)), error="cut off"),
    "cut-h264.avi": Case(cut(0.6, **H264), tuple(range(60)), error="cut off"),
    "no-index.mp4": Case(cut(0.6, **H264), error="cannot be opened"),
    "keyframe.mp4": Case(first_keyframe_lost, (), error="frame 0 cannot be decoded"),
    "empty.mp4": Case(lambda path: path.touch() or path, error="empty"),
    "text.mp4": Case(text("hello " * 99), error="cannot be opened"),
    "concat.mp4": Case(text("ffconcat version 1.0\nfile other.mp4\n"), error=NAMES_OTHERS),
    "hls.mp4": Case(text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n"), error=NAMES_OTHERS),
    "sdp.mp4": Case(text("v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"), error=NAMES_OTHERS),
    "huge.png": Case(huge, error="pixels"),
    "nothing*.png": Case(lambda path: path, error="matches nothing"),
    "missing.mp4": Case(lambda path: path, error="no such file"),
    "ftp": Case(lambda path: "ftp://localhost/x.mp4", error="addresses begin with"),
}  # fmt: skip


def folder(names: list[str], extra: tuple[str, ...] = (), pattern: str = "") -> Callable[[Path], Any]:
    def make(path: Path) -> Any:
        path.mkdir()
        for number, name in enumerate(names):
            Image.fromarray(numbered_image(number)).save(path / name, quality=95)
        for name in extra:
            Image.new("L", (96, 48)).save(path / name)
        return str(path / pattern) if pattern else path

    return make


def images(names: list[str], extra: tuple[str, ...] = (), pattern: str = "") -> Case:
    times_s = tuple(i / 24 for i in range(len(names)))
    stems = tuple(Path(name).stem for name in names)
    return Case(folder(names, extra, pattern), tuple(range(len(names))), times_s, names=stems, plain=False)


FOLDERS = {
    "from-one": images([f"{i:05d}.png" for i in range(1, 7)]),
    "gaps": images([f"f{i}.jpg" for i in (3, 9, 10, 100, 1000)]),
    "capitals": images(["a1.PNG", "B2.png", "c3.PnG"]),
    "masks-beside": images([f"{i}.jpg" for i in range(5)], extra=("0.png", "3.png")),
    "formats": images(["1.png", "2.bmp", "3.tif", "4.webp", "5.jpg"]),
    "pattern": images(["a1.png", "a2.png", "a10.png"], extra=("b1.png",), pattern="a*.png"),
    "single": images(["only.png"], pattern="only.png"),
}


def animated(**how: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        first, *others = [Image.fromarray(numbered_image(number)) for number in range(6)]
        first.save(path, save_all=True, append_images=others, **how)
        return path

    return make


SHOWN_MS = [40, 80, 200, 40, 1000, 40]
STARTS_S = tuple(float(ms) / 1000 for ms in np.cumsum([0, *SHOWN_MS[:-1]]))
ANIMATED = {
    name: Case(animated(duration=SHOWN_MS, **how), tuple(range(6)), STARTS_S, plain=False)
    for name, how in {
        "anim.png": {}, "anim.webp": {"lossless": True}, "anim-lossy.webp": {"quality": 95},
        "anim.avif": {"quality": 95}, "anim-pillow.gif": {},
    }.items()
}  # fmt: skip
STILLS = {
    "still.webp": Case(lambda path: Image.fromarray(numbered_image(0)).save(path) or path, (0,), (0.0,), plain=False),
    "still.avif": Case(lambda path: Image.fromarray(numbered_image(0)).save(path) or path, (0,), (0.0,), plain=False),
}


def turned(path: Path) -> Path:
    return film(path, [np.rot90(numbered_image(i)).copy() for i in range(COUNT)], rotation=-90, options={"g": "8"})


def given(kind: str) -> Callable[[Path], Any]:
    def make(path: Path) -> Any:
        data = numbered(path, COUNT, **H264).read_bytes()
        return data if kind == "bytes" else [numbered_image(number) for number in range(COUNT)]

    return make


OTHERS = {
    "odd-size.mkv": Case(encoded(codec="ffv1", size=(49, 97)), size=(97, 49)),
    "turned.mp4": Case(turned, plain=False),
    "one.mp4": Case(encoded(1), (0,)),
    "two.avi": Case(encoded(2, **H264), (0, 1)),
    "late.ts": Case(encoded(**H264, pts=[i + 90_000 for i in range(COUNT)], muxer={"copyts": "1"})),
    "negative.nut": Case(encoded(**H264, pts=[i - 17 for i in range(COUNT)])),
    "ntsc.mp4": Case(encoded(**H264, rate=Fraction(30000, 1001)), times_s=tuple(i * 1001 / 30000 for i in EVEN)),
    "ntsc.avi": Case(encoded(**H264, rate=Fraction(30000, 1001)), times_s=tuple(i * 1001 / 30000 for i in EVEN)),
    "stays.mp4": Case(last_stays, tuple(range(26))),
    "stays.mkv": Case(last_stays, tuple(range(26))),
    "packed.avi": Case(packed),
    "no-suffix": Case(encoded(**H264, format="mp4")),
    "wrong-suffix.avi": Case(encoded(**H264, format="matroska")),
    "bytes.mkv": Case(given("bytes"), plain=False),
    "arrays.mkv": Case(given("arrays"), plain=False),
}

CASES: dict[str, Case] = {
    **{name: Case(encoded(**how)) for name, how in CONTAINERS.items()},
    **TIMED, **JOINED, **DAMAGED, **FOLDERS, **ANIMATED, **STILLS, **OTHERS,
}  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for case_name, case in CASES.items():
        place = target / case_name.replace(".", "_").replace("*", "_")
        place.mkdir(parents=True)
        case.make(place / case_name)
        print(case_name)
