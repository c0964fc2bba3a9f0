"""Video files: cut off, damaged, odd, and other things with the name of a video."""

from __future__ import annotations

import io
import shutil
import struct
from fractions import Fraction

import numpy as np

from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs.drawing import encode, flip_bits


def videos() -> None:
    import av
    from PIL import Image

    v = A / "video"
    v.mkdir(parents=True)
    clip = encode(v / "clip.mp4", 8)
    encode(v / "long.mp4", 48, options={"g": "12"})
    encode(v / "audio.mp4", 8, audio=True)
    (v / "empty.mp4").touch()
    (v / "text.mp4").write_text("This is no video, it is a text.\n" * 50)
    (v / "html.mp4").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (v / "lfs.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (v / "random.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    whole = (v / "long.mp4").read_bytes()
    for percent in (1, 5, 25, 50, 75, 90, 99):
        (v / f"cut{percent}.mp4").write_bytes(whole[: len(whole) * percent // 100])
    encode(v / "fast.mp4", 48, options={"g": "12"}, container={"movflags": "+faststart"})
    start = (v / "fast.mp4").read_bytes()
    for percent in (40, 80, 99):
        (v / f"fastcut{percent}.mp4").write_bytes(start[: len(start) * percent // 100])
    encode(v / "long.mkv", 48, options={"g": "12"})
    data = (v / "long.mkv").read_bytes()
    (v / "cut50.mkv").write_bytes(data[: len(data) // 2])
    encode(v / "long.ts", 48, fmt="mpegts", options={"g": "12"})
    data = (v / "long.ts").read_bytes()
    (v / "cut50.ts").write_bytes(data[: len(data) // 2])
    for seed in range(6):
        flip_bits(v / "fast.mp4", v / f"flip{seed}.mp4", seed, 0.002)
        flip_bits(v / "long.ts", v / f"flip{seed}.ts", seed, 0.002)
    out = av.open(str(v / "sound.mp4"), "w")
    sound = out.add_stream("aac", rate=44100, layout="mono")
    block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    block.sample_rate = 44100
    out.mux(sound.encode(block))
    out.mux(sound.encode(None))
    out.close()
    out = av.open(str(v / "plain.mp3"), "w")
    sound = out.add_stream("libmp3lame", rate=44100, layout="mono")
    block = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
    block.sample_rate = 44100
    out.mux(sound.encode(block))
    out.mux(sound.encode(None))
    out.close()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG")
    body = b"\0image/jpeg\0\x03\0" + buffer.getvalue()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = len(frame)
    syncsafe = bytes((size >> shift) & 127 for shift in (21, 14, 7, 0))
    (v / "cover.mp3").write_bytes(b"ID3\x03\0\0" + syncsafe + frame + (v / "plain.mp3").read_bytes())
    encode(v / "one.mp4", 1)
    lossless = {"codec": "ffv1", "pix": "bgr0"}
    encode(v / "1x1.mkv", 4, (1, 1), **lossless)
    encode(v / "3x2.mkv", 4, (3, 2), **lossless)
    encode(v / "strip.mkv", 3, (16000, 16), **lossless)
    encode(v / "pole.mkv", 3, (16, 16000), **lossless)
    encode(v / "odd.mkv", 8, (97, 63), **lossless)
    encode(v / "12bit.mkv", 8, codec="ffv1", pix="yuv420p12le")
    encode(v / "grey.mkv", 8, codec="ffv1", pix="gray")
    encode(v / "alpha.mov", 8, codec="qtrle", pix="argb")
    encode(v / "vp9alpha.webm", 8, codec="libvpx-vp9", pix="yuva420p")
    encode(v / "prores.mov", 8, codec="prores_ks", pix="yuva444p10le")
    encode(v / "hevc10.mp4", 8, codec="libx265", pix="yuv420p10le", options={"x265-params": "log-level=none"})
    encode(v / "interlaced.mp4", 8, options={"x264-params": "interlaced=1"})
    encode(v / "bframes.avi", 24, options={"bf": "3"})
    encode(v / "anim.gif", 8, codec="gif", pix="rgb8")
    encode(v / "raw.h264", 8, fmt="h264")
    encode(v / "a.ts", 8, fmt="mpegts")
    encode(v / "b.ts", 8, (64, 96), fmt="mpegts")
    (v / "joined.ts").write_bytes((v / "a.ts").read_bytes() * 2)
    (v / "resized.ts").write_bytes((v / "a.ts").read_bytes() + (v / "b.ts").read_bytes())
    ms = Fraction(1, 1000)
    encode(v / "vfr.mkv", 8, pts=lambda i: int(40 * i**2.2), tb=ms)
    encode(v / "negative.ts", 8, fmt="mpegts", pts=lambda i: 40 * i - 4000, tb=ms)
    encode(v / "late.mkv", 8, pts=lambda i: 40 * i + 10**11, tb=ms)
    encode(v / "gap.mkv", 8, pts=lambda i: 40 * i + (10**9 if i > 3 else 0), tb=ms)
    encode(v / "halfday.mkv", 3, pts=lambda i: i * 43_200_000, tb=ms)
    data = bytearray(clip.read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    (v / "rotated.mp4").write_bytes(data)
    data = bytearray(clip.read_bytes())
    data[at : at + 36] = struct.pack(">9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    (v / "rotated45.mp4").write_bytes(data)
    data = bytearray(clip.read_bytes())
    at = data.find(b"stts") + 12
    data[at : at + 4] = struct.pack(">I", 2**31 - 1)  # a sample table that claims two billion frames
    (v / "billions.mp4").write_bytes(data)
    shutil.copy(clip, v / "tête à tête 100% 日本.mp4")
    shutil.copy(clip, v / "two\nlines.mp4")
    shutil.copy(clip, v / "take:2.mp4")
    shutil.copy(clip, v / "-dash.mp4")
    shutil.copy(clip, v / "noending")
    (v / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    (v / "concat.ffconcat").write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    (v / "x.sdp").write_text("v=0\nm=video 5000 RTP/AVP 96\na=rtpmap:96 H264/90000\nc=IN IP4 127.0.0.1\n")
    (v / "y.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
