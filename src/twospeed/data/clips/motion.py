"""Generated clips whose classes differ in motion alone: what the Fast pathway of `slowfast_lite0` learned to see.

A textured surface moves before the camera, or a textured object moves over a surface. Textures, shapes, places, angles
and sizes are drawn in the same way for every class, so that a single frame shows nothing of the class.

    still                       drift right slowly, drift lower left quickly, ...      grow, shrink
    turn clockwise, ...         swing sideways, swing up and down                      beat slowly, beat quickly
    start, stop                 a drift in any direction that begins or ends halfway
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.clips.textures import procedural_texture, random_shape

Video = NDArray[np.uint8]
Image = NDArray[np.uint8]
Path = NDArray[np.float64]
Texture = Callable[[np.random.Generator, int, int], Image]

DIRECTIONS = ("right", "lower right", "down", "lower left", "left", "upper left", "up", "upper right")
_SLOW, _QUICK = (0.012, 0.028), (0.05, 0.09)  # of the image's side in a frame


@dataclass(frozen=True, slots=True)
class Pose:
    """How a surface or an object lies in each frame: float64 (T,) each. x, y: shift in images. turn: radians. size: a
    factor."""

    x: Path
    y: Path
    turn: Path
    size: Path


def _pose(time: Path, *, x: Path | float = 0.0, y: Path | float = 0.0, turn: Path | float = 0.0,
          size: Path | float = 1.0) -> Pose:  # fmt: skip
    return Pose(*(np.broadcast_to(np.asarray(each, np.float64), time.shape) for each in (x, y, turn, size)))


def _shift(rng: np.random.Generator, time: Path, direction: int, speeds: tuple[float, float]) -> Pose:
    angle = 2 * np.pi * (direction + rng.uniform(-0.4, 0.4)) / len(DIRECTIONS)  # clockwise from right, as y grows down
    way = rng.uniform(*speeds) * time
    return _pose(time, x=way * np.cos(angle), y=way * np.sin(angle))


def _drift(direction: int, speeds: tuple[float, float]) -> Callable[[np.random.Generator, Path], Pose]:
    return lambda rng, time: _shift(rng, time, direction, speeds)


def _size(sign: int) -> Callable[[np.random.Generator, Path], Pose]:
    return lambda rng, time: _pose(time, size=np.exp(sign * rng.uniform(0.02, 0.07) * time))


def _turn(sign: int) -> Callable[[np.random.Generator, Path], Pose]:
    return lambda rng, time: _pose(time, turn=sign * rng.uniform(0.04, 0.2) * time)


def _swing(rng: np.random.Generator, time: Path, frames_a_cycle: tuple[float, float]) -> Path:
    return np.sin(2 * np.pi * (time / rng.uniform(*frames_a_cycle) + rng.random()))


def _beat(frames_a_cycle: tuple[float, float]) -> Callable[[np.random.Generator, Path], Pose]:
    return lambda rng, time: _pose(time, size=np.exp(rng.uniform(0.15, 0.4) * _swing(rng, time, frames_a_cycle)))


def _half(first: bool) -> Callable[[np.random.Generator, Path], Pose]:
    """A drift in one half of the time, rest in the other."""

    def pose(rng: np.random.Generator, time: Path) -> Pose:
        moves = np.minimum(time, 0) if first else np.maximum(time, 0)
        return _shift(rng, moves, int(rng.integers(len(DIRECTIONS))), _QUICK)

    return pose


MOTIONS: dict[str, Callable[[np.random.Generator, Path], Pose]] = {
    "still": lambda rng, time: _pose(time),
    **{f"drift {name} slowly": _drift(number, _SLOW) for number, name in enumerate(DIRECTIONS)},
    **{f"drift {name} quickly": _drift(number, _QUICK) for number, name in enumerate(DIRECTIONS)},
    "grow": _size(+1),
    "shrink": _size(-1),
    "turn clockwise": _turn(+1),
    "turn anticlockwise": _turn(-1),
    "swing sideways": lambda rng, time: _pose(time, x=rng.uniform(0.06, 0.2) * _swing(rng, time, (5, 14))),
    "swing up and down": lambda rng, time: _pose(time, y=rng.uniform(0.06, 0.2) * _swing(rng, time, (5, 14))),
    "beat slowly": _beat((8, 14)),
    "beat quickly": _beat((3.5, 5.5)),
    "start": _half(first=False),
    "stop": _half(first=True),
}
CLASSES = tuple(MOTIONS)


def surface_texture(rng: np.random.Generator, height: int, width: int) -> Image:
    """Draw a texture of strong contrast that is coarse against a frame's move: else its motion is ambiguous."""
    drawn = procedural_texture(rng, height, width).astype(np.float32)
    smooth = cv2.GaussianBlur(drawn, (0, 0), max(height, width) * rng.uniform(0.02, 0.05))
    colour = smooth.mean(axis=(0, 1))
    contrast = rng.uniform(40, 60) / max(float((smooth - colour).std()), 1.0)
    surface: Image = np.clip(64 + 0.5 * colour + contrast * (smooth - colour), 0, 255).astype(np.uint8)
    return surface


def motion_clip(
    rng: np.random.Generator, name: str, *, frames: int, side: int, texture: Texture = surface_texture
) -> Video:
    """Draw a clip of a class: uint8 (frames, side, side, 3), RGB. texture: (rng, height, width) -> an image."""
    time: Path = np.arange(frames, dtype=np.float64) - (frames - 1) / 2  # whatever moves passes its place halfway
    pose = MOTIONS[name](rng, time)
    shake = rng.uniform(0, 0.004) * rng.standard_normal((2, frames))  # of the camera
    at = rng.uniform(0.3, 0.7, 2)
    turn, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.4)
    moved = Pose(pose.x + shake[0], pose.y + shake[1], pose.turn, pose.size)
    surface = texture(rng, side, side)
    if rng.random() < 0.5:  # everything moves, as before a moving camera
        video = draw_surface(surface, moved, side, at=at, turn=turn, size=size)
    else:
        rest = Pose(shake[0], shake[1], np.zeros(frames), np.ones(frames))
        video = draw_surface(surface, rest, side, at=at, turn=turn, size=size)
        _draw_object(video, rng, moved, at, texture)
    light = 1 + rng.uniform(0, 0.05) * rng.standard_normal(frames)
    bright: Video = np.clip(video * light[:, None, None, None], 0, 255).astype(np.uint8)
    return bright


def draw_surface(
    canvas: Image, pose: Pose, side: int, *, at: NDArray[np.float64], turn: float = 0.0, size: float = 1.0
) -> Video:
    """Look at a surface that has no end: uint8 (T, side, side, 3).

    at, turn, size: what of the canvas lies in the middle of the image at a pose of zero shift (x, y; in units of the
    canvas' sides), at which angle and size.
    """
    video = np.empty((len(pose.x), side, side, 3), np.uint8)
    begin = at * canvas.shape[1::-1]
    for t in range(len(pose.x)):
        matrix = _to_canvas(pose, t, side, begin, turn, size)
        cv2.warpAffine(
            canvas, matrix, (side, side), dst=video[t], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
    return video


def _draw_object(video: Video, rng: np.random.Generator, pose: Pose, at: NDArray[np.float64], texture: Texture) -> None:
    """Draw an object into a video, its place `at` (x, y; in images) halfway through."""
    side = video.shape[1]
    extent = int(side * rng.uniform(0.25, 0.7))
    painted = np.concatenate([texture(rng, extent, extent), random_shape(rng, extent)[..., None]], axis=-1)
    placed = Pose(pose.x + at[0] - 0.5, pose.y + at[1] - 0.5, pose.turn, pose.size)
    middle = np.array([extent / 2, extent / 2])
    turn = rng.uniform(0, 2 * np.pi)
    for t in range(len(video)):
        matrix = _to_canvas(placed, t, side, middle, turn, 1.0)
        seen = cv2.warpAffine(painted, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        alpha = seen[..., 3:].astype(np.float32) / 255
        video[t] = (alpha * seen[..., :3] + (1 - alpha) * video[t]).astype(np.uint8)


def _to_canvas(
    pose: Pose, t: int, side: int, begin: NDArray[np.float64], turn: float, size: float
) -> NDArray[np.float64]:
    """Map pixels back to the canvas: undo shift, then size, then turn, about the middle of the image; (2, 3)."""
    angle, factor = turn + pose.turn[t], size * pose.size[t]
    cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
    back = np.array([[cos, sin], [-sin, cos]])
    middle = side * (0.5 + np.array([pose.x[t], pose.y[t]]))
    return np.hstack([back, (begin - back @ middle)[:, None]])
