"""A generated set of videos whose classes differ in motion alone: direction, speed, rhythm, order.

    python -m twospeed.data.motion OUT --clips 60

writes OUT/{train,val}/<class>/00000.mp4: a textured shape moves over a textured ground, both drawn anew for
each video, so that no texture, place, size or angle tells the class. Within each pair the frames, taken one
by one, are alike: only their order in time differs.

    drift_left  drift_right      direction of a shift that wraps around the picture
    rise_slow   rise_fast        speed of a shift upwards
    beat_slow   beat_fast        rhythm of a size that swings
    swell       shrink           order: grows slowly and drops at once, or the same backwards

The moves are quick: in five frames a shape drifts about half around the picture, so that a network that sees one
frame in five cannot tell left from right (wheels that seem to turn backwards on film).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.textures import procedural_texture, random_shape
from twospeed.errors import InputError, OutputError

Video = NDArray[np.uint8]

RATE = 30  # frames per second


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a shape is in each frame: float64 (T,) each. x, y in pictures, turn in radians, size as a factor."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    turn: NDArray[np.float64]
    size: NDArray[np.float64]


def _still(rng: np.random.Generator, frames: int) -> Pose:
    """A shape that rests anywhere, at any angle, at a size out of all that the moving ones take."""
    place = [np.full(frames, rng.uniform(low, high)) for low, high in ((0, 1), (0, 1), (0, 2 * np.pi), (0.6, 1.4))]
    return Pose(*place)


def _drift(rng: np.random.Generator, frames: int, sign: int) -> Pose:
    at = _still(rng, frames)
    return Pose(at.x + sign * rng.uniform(0.07, 0.13) * np.arange(frames), at.y, at.turn, at.size)


def _rise(rng: np.random.Generator, frames: int, low: float, high: float) -> Pose:
    at = _still(rng, frames)
    return Pose(at.x, at.y - rng.uniform(low, high) * np.arange(frames), at.turn, at.size)


def _beat(rng: np.random.Generator, frames: int, low: float, high: float) -> Pose:
    at = _still(rng, frames)
    cycles = np.arange(frames) / rng.uniform(low, high) + rng.random()
    return Pose(at.x, at.y, at.turn, 0.6 + 0.8 * np.abs(1 - 2 * (cycles % 1.0)))


def _ramp(rng: np.random.Generator, frames: int, sign: int) -> Pose:
    at = _still(rng, frames)
    cycles = sign * np.arange(frames) / rng.uniform(5, 8) + rng.random()
    return Pose(at.x, at.y, at.turn, 0.6 + 0.8 * (cycles % 1.0))


MOTIONS: dict[str, Callable[[np.random.Generator, int], Pose]] = {
    "beat_fast": lambda rng, frames: _beat(rng, frames, 3.5, 5),
    "beat_slow": lambda rng, frames: _beat(rng, frames, 8, 12),
    "drift_left": lambda rng, frames: _drift(rng, frames, -1),
    "drift_right": lambda rng, frames: _drift(rng, frames, +1),
    "rise_fast": lambda rng, frames: _rise(rng, frames, 0.08, 0.12),
    "rise_slow": lambda rng, frames: _rise(rng, frames, 0.02, 0.04),
    "shrink": lambda rng, frames: _ramp(rng, frames, -1),
    "swell": lambda rng, frames: _ramp(rng, frames, +1),
}
CLASSES = tuple(MOTIONS)  # sorted, as folders are read


def motion_clip(rng: np.random.Generator, name: str, *, frames: int = 20, side: int = 48) -> Video:
    """Draw one video of a class: uint8 (frames, side, side, 3), RGB. Raises InputError for an unknown class."""
    if name not in MOTIONS:
        raise InputError(f"no motion class {name!r}; there are {', '.join(CLASSES)}")
    ground = 64 + 0.5 * procedural_texture(rng, side, side).astype(np.float32)  # duller than what moves on it
    patch_side = 2 * side
    skin = procedural_texture(rng, patch_side, patch_side).astype(np.float32)
    shape = random_shape(rng, patch_side).astype(np.float32)[..., None] / 255
    patch = np.concatenate([skin * shape, shape], axis=-1)  # colours weighted by cover, so that edges blend
    pose = MOTIONS[name](rng, frames)
    scale = 0.6 * side / patch_side  # a shape of size 1 reaches over three fifths of the picture
    video = np.empty((frames, side, side, 3), np.uint8)
    for t in range(frames):
        drawn = _place(patch, side, pose.x[t] % 1.0, pose.y[t] % 1.0, pose.turn[t], scale * pose.size[t])
        video[t] = np.clip(np.rint(ground * (1 - drawn[..., 3:]) + drawn[..., :3]), 0, 255)
    return video


def _place(patch: NDArray[np.float32], side: int, x: float, y: float, turn: float, scale: float) -> NDArray[np.float32]:
    """Turn, scale and shift a patch onto a picture that wraps around: float32 (side, side, 4)."""
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    half = patch.shape[0] / 2
    linear = np.array([[cos, -sin], [sin, cos]])
    total = np.zeros((side, side, 4), np.float32)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            centre = np.array([(x + column) * side, (y + row) * side])
            if np.any(centre < -side / 2) or np.any(centre > 1.5 * side):
                continue  # too far outside to be seen
            matrix = np.hstack([linear, (centre - linear @ [half, half])[:, None]])
            # warpAffine samples points: without the blur of INTER_AREA a small patch would flicker
            total += cv2.warpAffine(patch, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return total


def write_clip(path: Path, video: Video, rate: int = RATE) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as lossless H.264 (RGB, 4:4:4). Raises OutputError when it cannot be written."""
    try:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264rgb", rate=Fraction(rate), options={"qp": "0", "preset": "fast"})
            stream.height, stream.width = video.shape[1:3]
            stream.pix_fmt = "rgb24"
            stream.codec_context.thread_count = 1
            for image in video:
                for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(f"{path}: video could not be written ({error})") from error


def write_motion_set(
    out: Path, *, clips: int = 60, val_clips: int = 20, seed: int = 0, frames: int = 20, side: int = 48
) -> list[str]:
    """Write the whole set, `clips` training and `val_clips` validation videos for each class; returns the classes.

    Video i of a class depends on (seed, split, class, i) alone, so a larger set contains the smaller one.
    """
    if side % 2 or side < 16 or frames < 2 or min(clips, val_clips) < 1:
        raise InputError(
            f"needs an even side of at least 16, 2 frames and 1 clip, got {side=}, {frames=}, {clips=}, {val_clips=}"
        )
    for split, (part, count) in enumerate((("train", clips), ("val", val_clips))):
        for number, name in enumerate(CLASSES):
            folder = out / part / name
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
            for i in range(count):
                rng = np.random.default_rng([seed, split, number, i])
                write_clip(folder / f"{i:05d}.mp4", motion_clip(rng, name, frames=frames, side=side))
    about = {"clips": clips, "val_clips": val_clips, "seed": seed, "frames": frames, "side": side, "classes": CLASSES}
    (out / "set.json").write_text(json.dumps(about, indent=2) + "\n")
    return list(CLASSES)


def main() -> None:
    """Write the set from the command line."""
    parser = argparse.ArgumentParser(description="Write videos whose classes differ in motion alone.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="training videos of each class")
    parser.add_argument("--val-clips", type=int, default=20, help="validation videos of each class")
    parser.add_argument("--frames", type=int, default=20, help="frames of each video")
    parser.add_argument("--side", type=int, default=48, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    names = write_motion_set(
        chosen.out,
        clips=chosen.clips,
        val_clips=chosen.val_clips,
        seed=chosen.seed,
        frames=chosen.frames,
        side=chosen.side,
    )
    print(f"{chosen.out}: {len(names)} classes, {chosen.clips} training and {chosen.val_clips} validation videos each")


if __name__ == "__main__":
    main()
