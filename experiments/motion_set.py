"""A generated set of videos whose classes differ in motion alone: direction, speed, rhythm, order.

    python -m experiments.motion_set OUT --clips 60

writes OUT/{train,val}/<class>/00000.mp4: a textured surface moves before the camera. Texture, place, angle and size are
drawn anew for each video, and the same way for every class, so that no single frame shows the class: only what
happens between frames does.

    drift_left  drift_right      direction of a shift
    rise_slow   rise_fast        speed of a shift upwards
    beat_slow   beat_fast        rhythm of a size that swings
    swell       shrink           order: grows slowly and drops at once, or the same backwards

The moves are quick: in five frames the surface drifts by a third of an image or so, and a beat or a swell comes round
once, so that a network that sees one frame in five has little to go by (wheels that seem to turn backwards on film).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.motion import Pose, draw_surface
from twospeed.data.clips.textures import procedural_texture
from twospeed.errors import InputError, OutputError

Video = NDArray[np.uint8]

RATE = 30  # frames per second


def _still(rng: np.random.Generator, frames: int) -> Pose:
    """A surface at rest: anywhere, at any angle, at a size out of all that the moving ones take."""
    place = [np.full(frames, rng.uniform(low, high)) for low, high in ((0, 1), (0, 1), (0, 2 * np.pi), (0.6, 1.4))]
    return Pose(*place)


def _drift(rng: np.random.Generator, frames: int, sign: int) -> Pose:
    at = _still(rng, frames)
    return Pose(at.x + sign * rng.uniform(0.05, 0.09) * np.arange(frames), at.y, at.turn, at.size)


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


def _surface(rng: np.random.Generator, side: int) -> Video:
    """Draw a texture, uint8 (2 side, 2 side, 3), of strong contrast and coarse against one frame's move.

    With finer grain even the full frame rate would be ambiguous: a stripe must move by less than half its width.
    """
    drawn = procedural_texture(rng, 2 * side, 2 * side).astype(np.float32)
    smooth = cv2.GaussianBlur(drawn, (0, 0), side / 16)
    colour = smooth.mean(axis=(0, 1))
    contrast = 55 / max(float((smooth - colour).std()), 1.0)
    surface: Video = np.clip(64 + 0.5 * colour + contrast * (smooth - colour), 0, 255).astype(np.uint8)
    return surface


def motion_clip(rng: np.random.Generator, name: str, *, frames: int = 20, side: int = 48) -> Video:
    """Draw one video of a class: uint8 (frames, side, side, 3), RGB. Raises InputError for an unknown class."""
    if name not in MOTIONS:
        raise InputError(f"no motion class {name!r}; there are {', '.join(CLASSES)}")
    canvas = _surface(rng, side)
    pose = MOTIONS[name](rng, frames)
    first = np.array([pose.x[0], pose.y[0]])  # what of the canvas lies in the middle at first
    moved = Pose(pose.x - first[0], pose.y - first[1], pose.turn, pose.size)
    return draw_surface(canvas, moved, side, at=(0.5 + first) / 2)


def write_clip(path: Path, video: Video, rate: int = RATE) -> None:
    """Write frames (T, H, W, 3) uint8 RGB as lossless H.264 in RGB. Raises OutputError when that fails."""
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
    out: Path,
    *,
    clips: int = 60,
    val_clips: int = 20,
    seed: int = 0,
    frames: int = 20,
    side: int = 48,
    classes: Sequence[str] = CLASSES,
) -> list[str]:
    """Write the whole set, `clips` training and `val_clips` validation videos for each class; returns the classes.

    Video i of a class depends on (seed, split, class, i) alone, so a larger set contains the smaller one. classes: only
    these. Raises InputError for sizes and classes that make no video.
    """
    unknown = set(classes) - set(CLASSES)
    if unknown:
        raise InputError(f"no motion class {min(unknown)!r}; there are {', '.join(CLASSES)}")
    if side % 2 or side < 16 or frames < 2 or min(clips, val_clips) < 1:
        raise InputError(
            f"needs an even side of at least 16, 2 frames and 1 clip, got {side=}, {frames=}, {clips=}, {val_clips=}"
        )
    for split, (part, count) in enumerate((("train", clips), ("val", val_clips))):
        for name in classes:
            folder = out / part / name
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
            for i in range(count):
                rng = np.random.default_rng([seed, split, CLASSES.index(name), i])
                write_clip(folder / f"{i:05d}.mp4", motion_clip(rng, name, frames=frames, side=side))
    about = {"clips": clips, "val_clips": val_clips, "seed": seed, "frames": frames, "side": side}
    (out / "set.json").write_text(json.dumps({**about, "classes": list(classes)}, indent=2) + "\n")
    return sorted(classes)


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
