"""Which frames of a video a network sees: random, uniform and keyframe clips, thinning.

Indices are int64 arrays into the decoding order, sorted, always inside the video; a video shorter than a clip
repeats its last frame, as the authors' loaders do. Pure numpy, so that a plan can be made before anything is
decoded.

    video   0 ........................................ n-1
    clip            start |---- span source frames ----|      `frames` of them, evenly spaced

Source: the SlowFast papers' sampling as PySlowFast implements it (a clip is frames * stride at 30 frames per
second).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

Indices = NDArray[np.int64]

TRAINED_RATE = 30.0  # frames per second to which T x tau of the papers refers

LONGEST_PAUSE_S = 60.0
"""Seconds without a new frame through which the last one counts as shown; nothing is computed in the rest of a gap."""

LEAST_STEP_S = 0.001
"""Least seconds from one result to the next: closer together than frames are, results only repeat."""


LARGE = 1.5  # above this multiple of the wanted short side, images are scaled down while they are decoded


@dataclass(frozen=True, slots=True)
class ClipShape:
    """What a network wants to see: frames of its fastest pathway, `stride` frames of 30 a second apart, and pixels.

    mean, std: for 0..1 values, RGB. order: of the channels. short_side, crop: pixels of test views.
    """

    frames: int
    stride: int
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    order: Literal["rgb", "bgr"] = "rgb"
    short_side: int = 256
    crop: int = 256

    @property
    def span_s(self) -> float:
        """Seconds that a clip covers."""
        return self.frames * self.stride / TRAINED_RATE


def decoded_short_side(short_side: int, wanted: int) -> int | None:
    """Return to which short side images are scaled while they are decoded; None: as they are, to be scaled once."""
    return wanted if short_side > LARGE * wanted else None


def clip_span(frames: int, stride: int, frame_rate: float | None = None) -> float:
    """Return how many source frames a clip of `frames` at `stride` covers, at least 1.

    frame_rate: frames per second of the video; None takes the 30 of the papers. A 15-fps video therefore
    gives half as many source frames for the same seconds. Raises InputError for counts or rates that are not
    positive.
    """
    if frames < 1 or stride < 1:
        raise InputError(f"a clip needs at least 1 frame at stride 1, got frames={frames}, stride={stride}")
    rate = TRAINED_RATE if frame_rate is None else float(frame_rate)
    if not rate > 0 or not np.isfinite(rate):
        raise InputError(f"frame rate must be a positive number of frames per second, got {frame_rate}")
    return max(1.0, frames * stride * rate / TRAINED_RATE)


def spread(start: float, span: float, frames: int, video_frames: int) -> Indices:
    """Return `frames` evenly spaced indices from start to start + span - 1, clamped and truncated."""
    if video_frames < 1:
        raise InputError(f"a video of {video_frames} frames has nothing to sample")
    points = np.linspace(start, start + span - 1, frames)
    return np.clip(points, 0, video_frames - 1).astype(np.int64)


def random_clip(
    rng: np.random.Generator, video_frames: int, frames: int, stride: int, frame_rate: float | None = None
) -> Indices:
    """Draw a training clip: its start is uniform (a real number) in [0, max(video_frames - span, 0)]."""
    span = clip_span(frames, stride, frame_rate)
    return spread(rng.uniform(0.0, max(video_frames - span, 0.0)), span, frames, video_frames)


def uniform_clip(
    number: int, clips: int, video_frames: int, frames: int, stride: int, frame_rate: float | None = None
) -> Indices:
    """Return test clip `number` of `clips`, spread uniformly over the video.

    PySlowFast starts clip k of K at max(n - span, 0) * k / K, so that the last clip stops short of the end.
    """
    if not 0 <= number < clips:
        raise InputError(f"test clip {number} does not exist among {clips} clips")
    span = clip_span(frames, stride, frame_rate)
    return spread(max(video_frames - span, 0.0) * number / clips, span, frames, video_frames)


def keyframe_clip(centre: int, frames: int, stride: int, video_frames: int) -> Indices:
    """Return the clip around a keyframe: from centre - span // 2 on, every `stride`-th frame (AVA).

    Indices before the first or after the last frame repeat that frame.
    """
    if frames < 1 or stride < 1 or video_frames < 1:
        raise InputError(
            f"no clip around a keyframe with frames={frames}, stride={stride} in a video of {video_frames} frames"
        )
    first = centre - frames * stride // 2
    return np.clip(first + stride * np.arange(frames, dtype=np.int64), 0, video_frames - 1)


def thin(frames: int, count: int) -> Indices:
    """Return which of `frames` sampled frames the Slow pathway takes: floor(i * (frames - 1) / (count - 1)).

    Not every alpha-th frame: the published weights were trained and evaluated with this linspace.
    """
    if not 1 <= count <= frames:
        raise InputError(f"cannot thin {frames} frames to {count}")
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(count, dtype=np.int64) * (frames - 1) // (count - 1)
