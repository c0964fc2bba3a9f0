"""Layers of texture that move, deform and hide each other: what generated clips, and pasted objects, are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.transforms.warp import compose, linear_map, placed

Image = NDArray[np.uint8]
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Where a layer is at any time: drift, sway, spin, change of size, and a smooth deformation.

    Lengths in pixels, angles in radians, time in frames. `scale` turns layer pixels into image pixels.
    """

    centre: Array  # (2,) x, y at time 0
    velocity: Array  # (2,) per frame
    sway: Array  # (2,) amplitude
    rate: float  # radians per frame of every periodic part
    phase: float
    scale: float
    growth: float  # log scale per frame
    pulse: float  # log scale amplitude
    angle: float
    spin: float  # per frame
    swing: float  # amplitude
    shear: float
    still: Array  # (4, 4, 2) deformation that stays, in layer pixels
    bending: Array  # (2, 4, 4, 2) sine and cosine part of the deformation

    def matrix(self, t: float, layer_height: int, layer_width: int) -> NDArray[np.float64]:
        """Return the 2x3 matrix from layer pixels to image pixels at time t."""
        wave = np.sin(self.rate * t + self.phase) - np.sin(self.phase)
        angle = self.angle + self.spin * t + self.swing * wave
        size = self.scale * np.exp(self.growth * t + self.pulse * wave)
        turn = linear_map(angle=float(angle), scale=float(size), shear=self.shear)
        other = np.cos(self.rate * t + self.phase) - np.cos(self.phase)
        place = self.centre + self.velocity * t + self.sway * np.array([wave, other])
        return placed(turn, np.array([layer_width / 2, layer_height / 2]), place)

    def deformation(self, t: float) -> Array:
        """Return the displacement of a coarse grid over the layer at time t, (4, 4, 2), layer pixels."""
        phase = self.rate * t
        shape = self.still + self.bending[0] * np.sin(phase) + self.bending[1] * np.cos(phase)
        return np.asarray(shape, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A cut-out: uint8 RGBA (h, w, 4), how it moves, and its label (0: seen, but not to be followed)."""

    rgba: Image
    motion: Motion
    label: int = 0
    shadow: float = 0.0
    blur: float = 0.0


def place_layer(canvas: Image, labels: Image, layer: Layer, t: float, gain: float = 1.0) -> None:
    """Draw a layer over canvas (H, W, 3) and labels (H, W) at time t, in place.

    gain: brightness of the layer at this moment. Only the box that the layer covers is touched.
    """
    height, width = labels.shape
    h, w = layer.rgba.shape[:2]
    matrix = layer.motion.matrix(t, h, w)
    corners = np.array([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]]) @ matrix.T  # (4, 2)
    low = np.floor(corners.min(0)).astype(int)
    span = np.maximum(np.ceil(corners.max(0)).astype(int) - low, 2)
    x0, y0 = max(low[0], 0), max(low[1], 0)
    x1, y1 = min(low[0] + span[0], width), min(low[1] + span[1], height)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return

    # The box's pixels in layer coordinates: the inverse of the matrix, then the deformation, which is
    # stretched over the whole box by interpolating its 4x4 grid.
    inverse = cv2.invertAffineTransform(matrix)
    xs = np.arange(x0, x1, dtype=np.float32)[None]
    ys = np.arange(y0, y1, dtype=np.float32)[:, None]
    grid_x = np.arange(x0 - low[0], x1 - low[0], dtype=np.float32) * np.float32(3 / span[0])
    grid_y = np.arange(y0 - low[1], y1 - low[1], dtype=np.float32) * np.float32(3 / span[1])
    grid = _bicubic(layer.motion.deformation(t), grid_y, grid_x)  # (y, x, 2)
    map_x = np.float32(inverse[0, 0]) * xs + np.float32(inverse[0, 1]) * ys + np.float32(inverse[0, 2]) + grid[..., 0]
    map_y = np.float32(inverse[1, 0]) * xs + np.float32(inverse[1, 1]) * ys + np.float32(inverse[1, 2]) + grid[..., 1]
    piece = cv2.remap(layer.rgba, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    if layer.blur > 1:
        piece = _motion_blur(piece, layer.blur, layer.motion)
    alpha = piece[..., 3]
    if layer.shadow:
        _cast_shadow(canvas, alpha, x0, y0, layer.shadow)
    box = canvas[y0:y1, x0:x1]
    weight = alpha.astype(np.float32)[..., None] * np.float32(1 / 255)
    colour = piece[..., :3].astype(np.float32)
    if gain != 1.0:
        colour = np.clip(colour * np.float32(gain), 0, 255)
    box[:] = (box + (colour - box) * weight).astype(np.uint8)
    labels[y0:y1, x0:x1][alpha > 127] = layer.label


def draw_layers(
    rng: np.random.Generator, film: Image, labels: Image, layers: Sequence[Layer], missing: Sequence[int] = ()
) -> None:
    """Draw layers, back to front, over every frame of a film (T, H, W, 3) and its labels (T, H, W), in place.

    The light on each changes a little from frame to frame. missing: for each layer the frame that it is left out of,
    0 for none.
    """
    tints = 1 + rng.normal(0, 0.03, (len(film), len(layers)))
    for t in range(len(film)):
        for number, layer in enumerate(layers):
            if not missing or t == 0 or t != missing[number]:
                place_layer(film[t], labels[t], layer, t, float(tints[t, number]))


def filmed(
    image: Image, camera: Motion, middle: NDArray[np.floating[Any]], size: int, length: int, *, flip: bool = False
) -> Image:
    """Film an image with a moving camera that looks at `middle` (x, y) at first: uint8 (T, size, size[, 3]).

    flip: mirrored. Beyond its border the image continues mirrored.
    """
    frames = []
    for t in range(length):
        matrix = camera.matrix(t, 0, 0)
        matrix[:, 2] += size / 2 - matrix[:, :2] @ middle
        if flip:
            matrix = compose(np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]), matrix)
        frames.append(cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101))
    return np.asarray(np.stack(frames), np.uint8)


def _bicubic(grid: Array, rows: Array, columns: Array) -> Array:
    """Evaluate a (4, 4, 2) grid at fractional rows and columns (0..3) by Catmull-Rom weights: (y, x, 2), smooth."""

    def weights(at: Array) -> Array:
        cell = np.clip(np.floor(at), 0, 2).astype(int)
        f = at - cell
        taps = np.stack([-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2], 1) / 2
        matrix = np.zeros((len(at), 4), np.float32)
        for tap in range(4):
            np.add.at(matrix, (np.arange(len(at)), np.clip(cell + tap - 1, 0, 3)), taps[:, tap])
        return matrix

    left, right = weights(rows), weights(columns)
    return np.stack([left @ grid[..., axis] @ right.T for axis in range(2)], -1)


def _motion_blur(piece: Image, length: float, motion: Motion) -> Image:
    """Blur along the layer's drift; `length` pixels."""
    side = int(length) | 1
    kernel = np.zeros((side, side), np.float32)
    direction = motion.velocity / max(float(np.linalg.norm(motion.velocity)), 1e-6)
    reach = np.round(side // 2 * direction).astype(int)
    middle = side // 2
    start = (int(middle - reach[0]), int(middle - reach[1]))
    cv2.line(kernel, start, (int(middle + reach[0]), int(middle + reach[1])), 1.0)
    return np.asarray(cv2.filter2D(piece, -1, kernel / kernel.sum()), np.uint8)


def _cast_shadow(canvas: Image, alpha: Image, x0: int, y0: int, strength: float) -> None:
    """Darken the canvas beneath and beside a layer whose alpha sits at (x0, y0)."""
    height, width = canvas.shape[:2]
    shift = max(2, alpha.shape[0] // 14)
    top, left = y0 + shift, x0 + shift
    h, w = min(alpha.shape[0], height - top), min(alpha.shape[1], width - left)
    if h < 2 or w < 2:
        return
    soft = cv2.blur(alpha[:h, :w], (2 * shift + 1, 2 * shift + 1), borderType=cv2.BORDER_CONSTANT)
    keep = 1 - np.float32(strength / 255) * soft.astype(np.float32)[..., None]
    box = canvas[top : top + h, left : left + w]
    box[:] = (box * keep).astype(np.uint8)


def random_motion(
    rng: np.random.Generator,
    *,
    centre: NDArray[np.floating[Any]],
    scale: float,
    layer_side: int,
    reach: float,
    strength: float = 1.0,
) -> Motion:
    """Draw a motion for a training sample.

    reach: typical displacement per frame in pixels (heavy-tailed: most layers are slow, a few are fast).
    strength: how much the layer turns and deforms, 1 = as usual.
    """
    speed = reach * min(4.0, float(rng.exponential(1.0)))
    heading = rng.uniform(0, 2 * np.pi)
    bend = strength * layer_side * float(rng.choice([0.0, 0.03, 0.07], p=[0.2, 0.5, 0.3]))
    return Motion(
        centre=np.asarray(centre, np.float32),
        velocity=np.array([speed * np.cos(heading), speed * np.sin(heading)], np.float32),
        sway=rng.normal(0, 0.3 * reach, 2).astype(np.float32),
        rate=rng.uniform(0.3, 2.0),
        phase=rng.uniform(0, 2 * np.pi),
        scale=scale,
        growth=strength * rng.normal(0, 0.06),
        pulse=strength * rng.normal(0, 0.03),
        angle=strength * rng.normal(0, 0.25),
        spin=strength * rng.normal(0, 0.12),
        swing=strength * rng.normal(0, 0.06),
        shear=strength * rng.normal(0, 0.08),
        still=rng.normal(0, bend, (4, 4, 2)).astype(np.float32),
        bending=rng.normal(0, 0.7 * bend, (2, 4, 4, 2)).astype(np.float32),
    )
