"""Frames from a camera, as they come.

OpenCV rather than FFmpeg devices: one integer index means the same on Linux (V4L2), macOS (AVFoundation) and Windows
(Media Foundation, DirectShow), and its wheels carry all of them; FFmpeg wants another device name on each system, and
its wheels leave some out.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from fractions import Fraction

import cv2

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.image_files import quiet_opencv
from twospeed.video.pixels import scaled


def read_camera(
    index: int,
    *,
    start: int = 0,
    rate: Fraction | None = None,
    short_side: int | None = None,
    small_side: int | None = None,
) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame until the camera stops; times are those of capture.

    rate: frames per second to ask the camera for; it may give another. Raises VideoError without such a camera.
    """
    name = f"camera {index}"
    with quiet_opencv():
        capture = cv2.VideoCapture(index)
        opened = capture.isOpened()
    if not opened:
        capture.release()
        raise VideoError(f"{name}: cannot be opened; is it connected, free, and readable by this user?")
    try:
        if rate is not None:
            capture.set(cv2.CAP_PROP_FPS, float(rate))
        stated = capture.get(cv2.CAP_PROP_FPS)
        began_s: float | None = None
        number = 0
        while True:
            arrived, bgr = capture.read()
            now_s = time.monotonic()
            if not arrived:
                if began_s is None:
                    raise VideoError(f"{name}: opened, but gave no image")
                return
            if number >= start:
                whole = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                rgb = scaled(whole, short_side)
                small = None if small_side is None else scaled(whole, small_side)
                if began_s is None:
                    began_s = now_s
                    yield VideoInfo(
                        name=name,
                        width=rgb.shape[1],
                        height=rgb.shape[0],
                        frame_rate=Fraction(stated).limit_denominator(1001) if stated > 0 else None,
                    )
                yield Frame(number, now_s - began_s, rgb, small=small)
            number += 1
    finally:
        capture.release()
