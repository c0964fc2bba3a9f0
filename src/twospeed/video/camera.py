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
import numpy as np

from twospeed.errors import VideoError
from twospeed.results import Frame, VideoInfo
from twospeed.video.containers import Wanted
from twospeed.video.image_files import quiet_opencv


def read_camera(index: int, wanted: Wanted) -> Generator[Frame | VideoInfo, None, None]:
    """Yield the VideoInfo, then every Frame until the camera stops; times are those of capture.

    The camera is asked for the rate; it may give another. Raises VideoError without such a camera.
    """
    name = f"camera {index}"
    with quiet_opencv():
        capture = cv2.VideoCapture(index)
        opened = capture.isOpened()
    if not opened:
        capture.release()
        raise VideoError(f"{name}: cannot be opened; is it connected, free, and readable by this user?")
    try:
        if wanted.rate is not None:
            capture.set(cv2.CAP_PROP_FPS, float(wanted.rate))
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
            if number >= wanted.start:
                began_s = now_s if began_s is None else began_s
                frame = wanted.frame(
                    number, now_s - began_s, np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
                )
                if number == wanted.start:
                    rate = Fraction(stated).limit_denominator(1001) if stated > 0 else None
                    yield VideoInfo(name, frame.image.shape[1], frame.image.shape[0], frame_rate=rate)
                yield frame
            number += 1
    finally:
        capture.release()
