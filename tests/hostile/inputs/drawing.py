"""Small videos, masks and images that inputs are made of."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def encode(path: Path, n=8, size=(96, 64), codec="libx264", pix="yuv420p", fmt=None, rate=25, pts=None, tb=None,
           options=None, container=None, audio=False, picture=None) -> Path:  # fmt: skip
    """Write n frames of a disc that moves over a gradient. pts: function from index to pts in units of tb."""
    import av
    import cv2

    out = av.open(str(path), "w", format=fmt, options=container or {})
    stream = out.add_stream(codec, rate=rate, options=options or {})
    stream.width, stream.height, stream.pix_fmt = *size, pix
    if tb:
        stream.codec_context.time_base = tb
    sound = out.add_stream("aac", rate=44100, layout="mono") if audio else None
    for i in range(n):
        image = np.full((size[1], size[0], 3), 60, np.uint8)
        image[..., 1] = np.arange(size[0])[None] % 255
        cv2.circle(image, (size[0] // 3 + i % 8, size[1] // 2), max(1, min(size) // 5), (220, 40, 40), -1)
        frame = av.VideoFrame.from_ndarray(picture(image, i) if picture else image, "rgb24")
        if pts:
            frame.pts, frame.time_base = pts(i), tb
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
    if sound:
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        block.sample_rate = 44100
        out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    out.close()
    return path


def mask_png(path: Path, size=(96, 64), labels=(1,), palette=True) -> Path:
    """A palette PNG with a block for each label."""
    from PIL import Image

    array = np.zeros((size[1], size[0]), np.uint8)
    width = max(1, size[0] // (len(labels) + 1))
    for k, label in enumerate(labels):
        array[size[1] // 4 : max(size[1] // 4 + 1, 3 * size[1] // 4), k * width : (k + 1) * width] = label
    image = Image.fromarray(array)
    if palette:
        image.putpalette([v for k in range(256) for v in (k * 37 % 256, k * 91 % 256, k * 53 % 256)])
    image.save(path)
    return path


def flip_bits(source: Path, target: Path, seed: int, share: float, skip=0) -> None:
    data = bytearray(source.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(skip, len(data), max(1, int(share * len(data)))):
        data[at] ^= 1 << int(rng.integers(8))
    target.write_bytes(data)


def png_of(width: int, height: int, grey=0) -> bytes:
    """A PNG of one grey, row by row: few bytes, many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + bytes([grey]) * width
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush() if width * height < 3e8 else b"x"
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
