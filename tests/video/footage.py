"""Videos made for the tests: every frame carries its number, so that a decoded image says which one it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
LOSSLESS = {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"qp": "0"}}


def numbered_image(number: int, height: int = 48, width: int = 96) -> np.ndarray:
    """A gradient with the number written as black and white columns over the top half."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns * 255 // width, rows * 255 // height, (rows + columns + 3 * number) % 256], 2)
    for bit in range(BITS):
        image[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = 255 * (number >> bit & 1)
    return image.astype(np.uint8)


def number_of(image: np.ndarray) -> int:
    """Read the number back, whatever the compression."""
    height, width = image.shape[:2]
    columns = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, column in enumerate(columns) if image[height // 4, column].mean() > 127)


def film(
    path: Path,
    images: list[np.ndarray],
    *,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int | None = None,
    hflip: bool = False,
    muxer: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Encode the images; pts in ticks of time_base (one tick per frame of the rate unless given)."""
    time_base = time_base or 1 / Fraction(rate)
    with av.open(str(path), "w", format=format, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=hflip)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pix_fmt not in ("rgb24", "bgr0"):
                frame = frame.reformat(format=pix_fmt)
            frame.pts = number if pts is None else pts[number]
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(path: Path, count: int = 30, *, size: tuple[int, int] = (48, 96), **how: object) -> Path:
    """Film the numbers 0..count-1. size: (H, W)."""
    return film(path, [numbered_image(number, *size) for number in range(count)], **how)  # type: ignore[arg-type]
