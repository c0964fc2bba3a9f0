"""Textures and shapes drawn from a random generator alone: what generated clips are made of where no photograph is.

Everything here is a pure function of a numpy Generator, so that one seed gives one image on every machine.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, *, cells: int, octaves: int = 3, roughness: float = 0.5
) -> NDArray[np.float32]:
    """Return value noise, float32 (height, width), roughly 0..1.

    cells: random values along the longer side in the coarsest octave; each further octave has twice as many
    and `roughness` times the amplitude.
    """
    total = np.zeros((height, width), np.float32)
    amplitude, norm = 1.0, 0.0
    longer = max(height, width)
    for octave in range(octaves):
        count = cells * 2**octave
        rows, columns = (max(2, round(count * side / longer)) for side in (height, width))
        if max(rows, columns) > longer:
            break
        grid = rng.random((rows, columns), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        norm += amplitude
        amplitude *= roughness
    return total / max(norm, 1e-6)


def palette(rng: np.random.Generator, colours: int, *, hue: float | None = None) -> NDArray[np.float32]:
    """Return RGB colours that go together, float32 (colours, 3), 0..255: neighbouring hues, varied lightness.

    hue: 0..1, centre of the hues (drawn when None).
    """
    centre = float(rng.random()) if hue is None else hue
    hues = (centre + rng.normal(0, 0.06, colours)) % 1.0
    saturation = rng.uniform(0.25, 0.95, colours)
    value = np.sort(rng.uniform(0.15, 1.0, colours))
    hsv = np.stack([hues * 179, saturation * 255, value * 255], -1).astype(np.uint8)[None]  # (1, colours, 3)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def procedural_texture(
    rng: np.random.Generator, height: int, width: int, *, kind: str | None = None, hue: float | None = None
) -> Image:
    """Return a textured image, uint8 RGB (height, width, 3).

    kind: "cloud" (noise in the colours of a palette), "stripes", "tiles", "dots" or "marble"; drawn when
    None. Every kind carries fine noise, so that a piece of it differs from its neighbours, as matching
    needs.
    """
    kind = kind or str(rng.choice(["cloud", "stripes", "tiles", "dots", "marble"]))
    warp = smooth_noise(rng, height, width, cells=int(rng.integers(2, 6)), octaves=4)
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(0.05, 0.25) * max(height, width)
    y, x = np.ogrid[0:height, 0:width]
    along = ((np.cos(angle) * x + np.sin(angle) * y) / period).astype(np.float32)
    across = ((-np.sin(angle) * x + np.cos(angle) * y) / period).astype(np.float32)
    bend = rng.uniform(0.0, 2.0)
    if kind == "stripes":
        field = 0.5 + 0.5 * np.sin(2 * np.pi * (along + bend * warp))
    elif kind == "tiles":
        cell = np.floor(along + 0.3 * bend * warp) * 7 + np.floor(across) * 13
        field = np.mod(cell * 0.618, 1.0)
    elif kind == "dots":
        wave = np.sin(2 * np.pi * (along + 0.3 * bend * warp)) * np.sin(2 * np.pi * across)
        field = np.clip(0.5 + 1.5 * wave, 0, 1)
    elif kind == "marble":
        field = np.abs(np.sin(np.pi * (along + 4 * warp)))
    else:
        field = np.clip((warp - 0.5) * 2.2 + 0.5, 0, 1)
    field = np.clip(0.75 * field + 0.5 * (warp - 0.25), 0, 1).astype(np.float32)

    colours = palette(rng, int(rng.integers(3, 6)), hue=hue)
    if rng.random() < 0.3:  # a second family of colours, as on painted things
        colours[::2] = palette(rng, len(colours[::2]))
    positions = np.linspace(0, 255, len(colours))
    table = np.stack([np.interp(np.arange(256), positions, colours[:, c]) for c in range(3)], -1)  # (256, 3)
    image = table.astype(np.float32)[(field * 255).astype(np.uint8)]  # (height, width, 3)
    grain = smooth_noise(rng, height, width, cells=max(8, max(height, width) // 16), octaves=3, roughness=0.8)
    image *= (1 + rng.uniform(0.2, 0.8) * (grain - 0.5))[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def contour(rng: np.random.Generator, points: int = 48, *, roughness: float = 0.35) -> NDArray[np.float32]:
    """Return a closed blob outline, float32 (points, 2), x and y inside -1..1, from a few random radial waves."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.ones(points)
    for wave in range(1, 6):
        radius += roughness * rng.normal(0, 1 / wave) * np.cos(wave * turn + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.15, None)
    outline = np.stack([radius * np.cos(turn), radius * np.sin(turn) * rng.uniform(0.35, 1.0)], -1)
    return (outline / np.abs(outline).max()).astype(np.float32)


def random_shape(rng: np.random.Generator, side: int, *, kind: str | None = None) -> Image:
    """Return a filled shape, uint8 (side, side), 0 outside and 255 inside, with some margin to the border.

    kind: "blob", "polygon", "body" (a backbone with limbs, thin parts included) or "ring"; drawn when None.
    """
    kind = kind or str(rng.choice(["blob", "polygon", "body", "ring"], p=[0.35, 0.2, 0.35, 0.1]))
    shape: Any = np.zeros((side, side), np.uint8)
    outline: NDArray[np.floating[Any]]
    half = side / 2
    if kind == "polygon":
        corners = int(rng.integers(3, 8))
        turn = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(0.45, 0.95, corners)
        outline = np.stack([radius * np.cos(turn), radius * np.sin(turn)], -1)
    else:
        outline = contour(rng) * (0.6 if kind == "body" else 0.92)
    cv2.fillPoly(shape, [np.round(half + half * outline).astype(np.int32)], 255)
    if kind == "body":
        for _ in range(int(rng.integers(2, 7))):
            towards, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.6)
            start = 0.3 * np.array([np.cos(towards), np.sin(towards)])
            elbow = start + rng.uniform(0.15, 0.35) * np.array([np.cos(towards), np.sin(towards)])
            end = elbow + rng.uniform(0.15, 0.3) * np.array([np.cos(towards + bend), np.sin(towards + bend)])
            line = np.round(half + half * np.stack([start, elbow, end])).astype(np.int32)
            cv2.polylines(shape, [line], False, 255, thickness=max(2, int(side * rng.uniform(0.03, 0.12))))
    if kind == "ring":
        hole = np.round(half + half * contour(rng) * rng.uniform(0.25, 0.5)).astype(np.int32)
        cv2.fillPoly(shape, [hole], 0)
    return np.asarray(shape, np.uint8)


def region_of(rng: np.random.Generator, image: Image) -> Image:
    """Return a region of an image that follows its edges, uint8 (H, W), 0 or 255, connected, around the middle.

    Pixels near a seed in both colour and place, as a superpixel is, computed on a quarter-size copy.
    """
    height, width = image.shape[:2]
    rows, columns = max(8, height // 4), max(8, width // 4)
    small = cv2.GaussianBlur(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA), (0, 0), 1.2)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    seed_y = int(np.clip(rng.normal(0.5, 0.08), 0.3, 0.7) * rows)
    seed_x = int(np.clip(rng.normal(0.5, 0.08), 0.3, 0.7) * columns)
    y, x = np.ogrid[0:rows, 0:columns]
    away = ((y - seed_y) / rows) ** 2 + ((x - seed_x) / columns) ** 2
    distance = np.linalg.norm(lab - lab[seed_y, seed_x], axis=-1) / rng.uniform(20, 60) + away * rng.uniform(5, 14)
    near = ((distance < 1.0) & (away < 0.2)).astype(np.uint8)
    _, parts = cv2.connectedComponents(near)
    region = (parts == parts[seed_y, seed_x]).astype(np.uint8) * 255
    region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    full = cv2.resize(region, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(full > 127, 255, 0).astype(np.uint8)
