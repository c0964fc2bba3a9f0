"""Warps of images and label maps in one resampling: affine, thin-plate spline, crop to a size, drawn once for both.

For training on masks, where each frame moves on its own: what `spatial` does for clips on tensors, `Warp` does for
single uint8 images on a CPU. Coordinates: x right, y down, pixel edges at integers, origin at the top left corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

Image = NDArray[np.uint8]
Array = NDArray[np.float64]

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean, RGB: what STCN's training shows where a warp finds nothing."""

GREY = (114, 114, 114)
"""What views of labelled images show there."""

_SPLINE_STEP = 8  # output pixels between those at which a spline is evaluated; see `ThinPlateSpline.grid`
_SHIFT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])  # pixel centres (OpenCV) -> pixel edges


@dataclass(frozen=True, slots=True, eq=False)
class ThinPlateSpline:
    """The smoothest map that moves some points as given (Bookstein 1989): output places -> where they come from.

    centres: (n, 2) x, y in 0..1 of the output's width and height. weights: (n + 3, 2), of the radial functions and of
    the affine part (1, x, y) of the displacement.
    """

    centres: Array
    weights: Array

    def displacement(self, places: Array) -> Array:
        """Return by how much places (m, 2), in 0..1, are displaced: (m, 2), in the same units."""
        affine = np.column_stack([np.ones(len(places)), places])
        return _radial(places, self.centres) @ self.weights[:-3] + affine @ self.weights[-3:]

    def grid(self, height: int, width: int) -> NDArray[np.float32]:
        """Return the displacement of every pixel's centre, float32 (height, width, 2), x and y in pixels.

        The spline is evaluated at every eighth pixel along each axis, one step beyond the border too, and interpolated
        bicubically: a small part of the time of evaluating it everywhere, and the same to a fraction of a pixel.
        """
        rows, columns = -(-height // _SPLINE_STEP) + 2, -(-width // _SPLINE_STEP) + 2
        # Node i of the coarse grid is the centre of the i-th block of pixels, so that `resize` brings it back there
        x = (np.arange(columns) - 0.5) * _SPLINE_STEP / width
        y = (np.arange(rows) - 0.5) * _SPLINE_STEP / height
        places = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        coarse = (self.displacement(places) * (width, height)).astype(np.float32).reshape(rows, columns, 2)
        fine = cv2.resize(coarse, (columns * _SPLINE_STEP, rows * _SPLINE_STEP), interpolation=cv2.INTER_CUBIC)
        return fine[_SPLINE_STEP : _SPLINE_STEP + height, _SPLINE_STEP : _SPLINE_STEP + width]


def _radial(places: Array, centres: Array) -> Array:
    """r^2 log r^2 of all distances: (m, 2), (n, 2) -> (m, n)."""
    squares = np.square(places[:, None] - centres).sum(-1)
    return np.asarray(squares * np.log(np.maximum(squares, 1e-12)))


def fit_spline(centres: Array, displacements: Array) -> ThinPlateSpline:
    """Return the spline that displaces each centre (n, 2), in 0..1, by its row of displacements (n, 2) exactly.

    Raises InputError for fewer than three centres, for two in one place, and for centres that all lie on a line.
    """
    n = len(centres)
    affine = np.column_stack([np.ones(n), centres])  # (n, 3)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n], system[:n, n:], system[n:, :n] = _radial(centres, centres), affine, affine.T
    if n < 3 or np.linalg.matrix_rank(system) < n + 3:
        raise InputError(f"a spline through {n} points needs three or more, all apart, that are not on one line")
    weights = np.linalg.solve(system, np.vstack([displacements, np.zeros((3, 2))]))
    return ThinPlateSpline(centres, np.asarray(weights, np.float64))


def draw_spline(rng: np.random.Generator, *, points: int = 12, spread: float = 0.02) -> ThinPlateSpline:
    """Draw a spline: `points` places uniform in the image, each displaced by a normal deviate.

    spread: its standard deviation along each axis, as a fraction of the image's side.
    """
    return fit_spline(rng.random((points, 2)), rng.normal(0, spread, (points, 2)))


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """Where every pixel of the output comes from.

    matrix: 2 x 3, maps source coordinates to output coordinates; must be invertible. height, width: of the output.
    spline: applied to the output, before the matrix's inverse leads back to the source; None for none. smooth: how
    images are interpolated. fill: of images where nothing was, a value for each channel; None: the source mirrored at
    its border, in labels, too.
    """

    matrix: Array
    height: int
    width: int
    spline: ThinPlateSpline | None = None
    smooth: Literal["bicubic", "bilinear"] = "bicubic"
    fill: tuple[int, ...] | None = (0, 0, 0)

    @property
    def back(self) -> Array:
        """The 2 x 3 matrix from pixel centres of the output to those of the source, as OpenCV counts them."""
        whole = np.vstack([self.matrix, (0.0, 0.0, 1.0)])
        if abs(np.linalg.det(whole)) < 1e-9:
            raise InputError(f"a warp's matrix cannot be inverted: {self.matrix.tolist()}")
        return np.asarray((np.linalg.inv(_SHIFT) @ np.linalg.inv(whole) @ _SHIFT)[:2])

    def image(self, image: Image) -> Image:
        """Apply to an image (H, W, C) -> uint8 (height, width, C)."""
        return self._sample(image, cv2.INTER_CUBIC if self.smooth == "bicubic" else cv2.INTER_LINEAR, self.fill or ())

    def labels(self, labels: Image, fill: int = 0) -> Image:
        """Apply to a label map (H, W) -> uint8 (height, width), nearest: no label that was not there, but `fill`."""
        return self._sample(labels, cv2.INTER_NEAREST, (fill,))

    def _sample(self, source: Image, how: int, fill: tuple[int, ...]) -> Image:
        size, border = (self.width, self.height), cv2.BORDER_REFLECT_101 if self.fill is None else cv2.BORDER_CONSTANT
        if self.spline is None:
            flags = how | cv2.WARP_INVERSE_MAP
            moved = cv2.warpAffine(source, self.back, size, flags=flags, borderMode=border, borderValue=fill)
            return np.asarray(moved, np.uint8)
        places = self.spline.grid(self.height, self.width)
        places[..., 0] += np.arange(self.width, dtype=np.float32)
        places[..., 1] += np.arange(self.height, dtype=np.float32)[:, None]
        places = cv2.transform(places, self.back)
        if how == cv2.INTER_NEAREST:  # OpenCV's own rounding differs between its versions
            places = np.rint(places)
        return np.asarray(cv2.remap(source, places, None, how, borderMode=border, borderValue=fill), np.uint8)


def linear_map(
    *, angle: float = 0.0, scale: float = 1.0, shear: float = 0.0, stretch: float = 1.0, flip: bool = False
) -> Array:
    """Return the 2 x 2 matrix of a flip and a stretch (x times, y by it), then a shear along x, a turn, a scaling.

    angle: radians, from x towards y. shear: x moved by so much of y.
    """
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cos, cos * shear - sin], [sin, sin * shear + cos]])
    return turn @ np.diag([-stretch if flip else stretch, 1.0 / stretch])


def placed(linear: Array, point: Array, target: Array) -> Array:
    """Return the 2 x 3 matrix of a linear map that brings a point (x, y) to a target."""
    return np.column_stack([linear, target - linear @ point])


def crop_matrix(
    top: float, left: float, height: float, width: float, size: tuple[int, int], *, flip: bool = False
) -> Array:
    """Return the 2 x 3 matrix that brings a box of the source to an output of `size` (height, width).

    flip: mirrored left to right, too.
    """
    across, down = size[1] / width, size[0] / height
    if flip:
        return np.array([[-across, 0.0, (left + width) * across], [0.0, down, -top * down]])
    return np.array([[across, 0.0, -left * across], [0.0, down, -top * down]])


def compose(later: Array, earlier: Array) -> Array:
    """Return the 2 x 3 matrix of `earlier`, then `later`."""
    return np.asarray((np.vstack([later, (0, 0, 1)]) @ np.vstack([earlier, (0, 0, 1)]))[:2])


def draw_resized_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw a box (top, left, height, width) inside an image.

    area: smallest and largest share of the image. aspect: smallest and largest width / height, drawn uniformly in
    its logarithm. After ten boxes that do not fit, the largest central one with an aspect in range (as torchvision).
    """
    if not 0 < area[0] <= area[1] or not 0 < aspect[0] <= aspect[1]:
        raise InputError(f"a crop needs 0 < low <= high, got area={area}, aspect={aspect}")
    for _ in range(10):
        target = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    if width / height < aspect[0]:
        w, h = width, min(height, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w, h = min(width, round(height * aspect[1])), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def draw_view(
    rng: np.random.Generator,
    source: tuple[int, int],
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.6, 1.8),
    turn: float = 4.0,
    aspect: float = 0.1,
    flip: float = 0.5,
    focus: tuple[int, int] | None = None,
) -> Warp:
    """Draw a view of an image: zoomed, turned, mirrored, cut; bilinear, grey where it reaches beyond the image.

    source, size: (height, width) of image and view. scale: smallest and largest zoom, drawn evenly on a logarithmic
    scale. turn: standard deviation in degrees. aspect: largest change of one axis against the other. flip: probability
    of a mirror image. focus: (row, column) of the image that shall lie in the view. A view lies inside the image,
    or the image inside it where it is the larger, but for a rim of a twentieth.
    Raises InputError for sizes and scales that make no view.
    """
    if min(*source, *size) < 1 or not 0 < scale[0] <= scale[1]:
        raise InputError(f"no view of {size} from {source} at a zoom of {scale}; give positive numbers in order")
    zoom = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    stretch = float(np.exp(rng.uniform(-aspect, aspect)))
    angle = math.radians(rng.normal(0, turn)) if turn else 0.0
    linear = linear_map(angle=angle, scale=zoom, stretch=stretch, flip=bool(rng.random() < flip))
    whole, extent = np.array(source[::-1], float), np.array(size[::-1], float)  # (x, y)
    room = np.maximum(np.abs(whole * zoom - extent), 0.1 * extent) / 2
    place = extent / 2 + rng.uniform(-room, room)  # of the image's centre
    if focus is not None:
        wanted = rng.uniform(0.1, 0.9, 2) * extent - linear @ (np.array(focus[::-1]) + 0.5 - whole / 2)
        place = np.clip(wanted, extent / 2 - room, extent / 2 + room)
    return Warp(placed(linear, whole / 2, place), *size, smooth="bilinear", fill=GREY)


def cut_box(image: Image, box: tuple[int, int, int, int], size: int) -> Image:
    """Cut a box (top, left, height, width) out of an image and resize it: uint8 (size, size, 3).

    Averaging over pixels when it shrinks along both axes, bicubic otherwise.
    """
    top, left, height, width = box
    piece = image[top : top + height, left : left + width]
    shrinks = height > size and width > size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(piece, (size, size), interpolation=how), np.uint8)


def cut_labels(labels: Image, box: tuple[int, int, int, int], size: int) -> Image:
    """Cut a box out of a label map and resize it by nearest pixel centres: uint8 (size, size)."""
    top, left, height, width = box
    piece = labels[top : top + height, left : left + width]
    return np.asarray(cv2.resize(piece, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
