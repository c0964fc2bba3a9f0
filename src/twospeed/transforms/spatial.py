"""Geometry: scale, crop, flip and affine, drawn once and applied to frames, masks and boxes alike.

A drawn transform is a frozen record of numbers. `frames`, `masks` and `boxes` of the same record move every
pixel to the same place: bilinear for frames, nearest for masks, both with half-pixel centres, so that masks
stay aligned.

    source (H, W) --resize--> scaled (h, w) --crop--> (height, width) --flip--> out
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.ops import on_numpy
from twospeed.transforms.warp import linear_map

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class CropTransform:
    """Resize, crop, flip: the geometry of one training or test view.

    source, scaled: (height, width) in pixels before and after the resize. top, left, height, width: the crop
    in the resized image. flip: mirrored left to right, last.
    """

    source: tuple[int, int]
    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def __post_init__(self) -> None:
        if min(*self.source, *self.scaled, self.height, self.width) < 1:
            raise InputError(f"sizes must be at least 1 pixel: {self}")
        inside = 0 <= self.top <= self.scaled[0] - self.height and 0 <= self.left <= self.scaled[1] - self.width
        if not inside:
            raise InputError(
                f"crop {self.width}x{self.height} at ({self.left}, {self.top}) leaves the image of "
                f"{self.scaled[1]}x{self.scaled[0]} pixels"
            )

    def frames(self, frames: Any) -> Any:
        """Apply to images: (..., C, H, W) uint8 or float -> float32 (..., C, height, width), same units.

        Tensors, or for exported models NumPy arrays.
        """
        lead = self._checked(frames, "frames", rank=3)
        if isinstance(frames, np.ndarray):
            return self._cut(on_numpy.resize(frames.astype(np.float32), self.scaled, "bilinear"))
        from torch.nn import functional as F

        moved = frames.reshape(-1, *frames.shape[-3:]).float()
        if self.scaled != self.source:
            moved = F.interpolate(moved, size=self.scaled, mode="bilinear", align_corners=False, antialias=False)
        return self._cut(moved).reshape(*lead[:-1], frames.shape[-3], self.height, self.width)

    def masks(self, masks: Tensor) -> Tensor:
        """Apply to label maps: (..., H, W) of any dtype -> (..., height, width), same dtype and labels."""
        lead = self._checked(masks, "masks", rank=2)
        if self.scaled == self.source:
            return self._cut(masks)
        rows = _nearest(self.source[0], self.scaled[0])[self.top : self.top + self.height]
        columns = _nearest(self.source[1], self.scaled[1])[self.left : self.left + self.width]
        if self.flip:
            columns = columns.flip(0)
        rows, columns = rows.to(masks.device), columns.to(masks.device)
        return masks.index_select(-2, rows).index_select(-1, columns).reshape(*lead, self.height, self.width)

    def boxes(self, boxes_xyxy: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Apply to boxes (n, 4) xyxy of pixel numbers 0..W-1, 0..H-1 -> float32 (n, 4) of the crop's, clipped to it.

        A flip is x -> W - 1 - x, as PySlowFast does for AVA. A box outside the crop comes out with no area; the caller
        decides what that means.
        """
        if boxes_xyxy.ndim != 2 or boxes_xyxy.shape[1] != 4:
            raise InputError(f"boxes must be (n, 4) xyxy, got {tuple(boxes_xyxy.shape)}")
        scale = np.array([self.scaled[1] / self.source[1], self.scaled[0] / self.source[0]] * 2, np.float32)
        limit = np.array([self.width - 1, self.height - 1] * 2, np.float32)
        shift = np.array([self.left, self.top] * 2, np.float32)
        moved = np.minimum((boxes_xyxy.astype(np.float32) * scale - shift).clip(0), limit)
        if self.flip:
            moved[:, [0, 2]] = np.float32(self.width - 1) - moved[:, [2, 0]]
        return moved

    def _cut(self, images: Any) -> Any:
        cut = images[..., self.top : self.top + self.height, self.left : self.left + self.width]  # (..., height, width)
        return cut if not self.flip else cut[..., ::-1] if isinstance(cut, np.ndarray) else cut.flip(-1)

    def _checked(self, images: Any, what: str, rank: int) -> torch.Size:
        if images.ndim < rank or tuple(images.shape[-2:]) != self.source:
            raise InputError(
                f"{what} of shape {tuple(images.shape)} do not fit a transform drawn for "
                f"{self.source[0]}x{self.source[1]} (height x width) images"
            )
        return images.shape[:-2]


def _nearest(source: int, scaled: int) -> Tensor:
    # Half-pixel centres, in integers: floor((2 i + 1) * source / (2 * scaled)); never outside the bilinear
    # footprint.
    import torch

    positions = torch.arange(scaled)
    return ((2 * positions + 1) * source).div(2 * scaled, rounding_mode="floor")


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width), the shorter side at short_side, the longer floor(long * short_side / short)."""
    if min(height, width, short_side) < 1:
        raise InputError(f"cannot scale {width}x{height} to a short side of {short_side}")
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def draw_train_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    short_side: tuple[int, int] = (256, 340),
    crop: int = 224,
    flip_probability: float = 0.5,
    inverse_uniform: bool = False,
) -> CropTransform:
    """Draw scale jitter, a random square crop and a flip for a training clip.

    short_side: smallest and largest length of the shorter side after scaling, both inclusive ([256, 340] in
    the report, [256, 360] for spans above 64 frames). inverse_uniform: draw 1 / size uniformly instead of the
    size (PySlowFast for AVA, SSv2 and Charades). Raises InputError when the crop does not fit the smallest
    scale.
    """
    low, high = short_side
    if not 0 < crop <= low <= high:
        raise InputError(f"need crop <= short_side[0] <= short_side[1], got crop={crop}, short_side={short_side}")
    drawn = 1.0 / rng.uniform(1.0 / high, 1.0 / low) if inverse_uniform else rng.uniform(low, high)
    scaled = short_side_size(height, width, int(min(max(round(drawn), low), high)))
    top = int(rng.integers(0, scaled[0] - crop + 1))
    left = int(rng.integers(0, scaled[1] - crop + 1))
    return CropTransform((height, width), scaled, top, left, crop, crop, flip=bool(rng.random() < flip_probability))


def scale_only(height: int, width: int, short_side: int) -> CropTransform:
    """Return the transform that scales the shorter side and crops nothing (AVA at test time)."""
    scaled = short_side_size(height, width, short_side)
    return CropTransform((height, width), scaled, 0, 0, *scaled)


def view_crops(
    height: int, width: int, *, short_side: int = 256, crop: int = 256, crops: int = 3
) -> tuple[CropTransform, ...]:
    """Return the test crops of an image, left to right (or top to bottom when it is upright).

    Along the longer side the offsets are 0, ceil((L - crop) / 2) and L - crop; across it, ceil((S - crop) /
    2). With crop = short_side, three crops cover an image of up to 3:1. crops: 1 (the centre) or 3.
    """
    if crops not in (1, 3):
        raise InputError(f"crops must be 1 (centre) or 3 (along the longer side), got {crops}")
    if crop > short_side:
        raise InputError(f"a crop of {crop} does not fit a short side of {short_side}")
    scaled = short_side_size(height, width, short_side)
    middle_top, middle_left = -(-(scaled[0] - crop) // 2), -(-(scaled[1] - crop) // 2)
    places = [(middle_top, middle_left)]
    if crops == 3 and height > width:
        places = [(top, middle_left) for top in (0, middle_top, scaled[0] - crop)]
    elif crops == 3:
        places = [(middle_top, left) for left in (0, middle_left, scaled[1] - crop)]
    return tuple(CropTransform((height, width), scaled, top, left, crop, crop) for top, left in places)


@dataclass(frozen=True, slots=True)
class AffineTransform:
    """Rotation, shear, scale and shift about the image's centre, at unchanged size.

    size: (height, width). matrix: 2 x 3 as two rows, maps source pixels (edges at integers, origin at the top
    left corner) to output pixels. Must be invertible.
    """

    size: tuple[int, int]
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]

    def frames(self, frames: Tensor) -> Tensor:
        """Apply to images (..., C, H, W) -> float32, same shape; 0 where nothing was."""
        from torch.nn import functional as F

        grid = self._grid(frames)
        flat = frames.reshape(-1, *frames.shape[-3:]).float()
        moved = F.grid_sample(flat, grid.expand(len(flat), -1, -1, -1), mode="bilinear", align_corners=False)
        return moved.reshape(frames.shape)

    def masks(self, masks: Tensor) -> Tensor:
        """Apply to label maps (..., H, W) -> the same shape, dtype and labels; 0 where nothing was."""
        import torch

        grid = self._grid(masks)[0]
        height, width = self.size
        # One rounding for both axes, away from grid_sample, which cannot carry integer labels exactly.
        column = torch.floor((grid[..., 0].double() + 1) * width / 2).long()
        row = torch.floor((grid[..., 1].double() + 1) * height / 2).long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        picked = masks[..., row.clamp(0, height - 1), column.clamp(0, width - 1)]
        return torch.where(inside, picked, torch.zeros_like(picked))

    def _grid(self, images: Tensor) -> Tensor:
        """Where each output pixel comes from, in [-1, 1] of the source: (1, H, W, 2)."""
        if tuple(images.shape[-2:]) != self.size:
            raise InputError(
                f"images of shape {tuple(images.shape)} do not fit an affine transform "
                f"drawn for {self.size[0]}x{self.size[1]} (height x width)"
            )
        import torch

        height, width = self.size
        full = np.array([*self.matrix, (0.0, 0.0, 1.0)])
        if abs(np.linalg.det(full)) < 1e-9:
            raise InputError(f"affine matrix cannot be inverted: {self.matrix}")
        back = np.linalg.inv(full)
        ys, xs = np.mgrid[0:height, 0:width] + 0.5
        source_x = back[0, 0] * xs + back[0, 1] * ys + back[0, 2]
        source_y = back[1, 0] * xs + back[1, 1] * ys + back[1, 2]
        grid = np.stack([2 * source_x / width - 1, 2 * source_y / height - 1], axis=-1)
        return torch.from_numpy(grid).to(images.device, torch.float32)[None]


def draw_affine(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    degrees: float = 0.0,
    shear_degrees: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
) -> AffineTransform:
    """Draw an affine transform about the centre.

    degrees, shear_degrees: largest turn and shear either way. scale: smallest and largest factor. shift:
    largest move, as a fraction of each side.
    """
    angle = math.radians(rng.uniform(-degrees, degrees))
    shear = math.tan(math.radians(rng.uniform(-shear_degrees, shear_degrees)))
    factor = rng.uniform(*scale)
    move_x, move_y = rng.uniform(-shift, shift) * width, rng.uniform(-shift, shift) * height
    (a, b), (d, e) = linear_map(angle=angle, scale=factor, shear=shear).tolist()
    centre_x, centre_y = width / 2, height / 2
    c = centre_x + move_x - a * centre_x - b * centre_y
    f = centre_y + move_y - d * centre_x - e * centre_y
    return AffineTransform((height, width), ((a, b, c), (d, e, f)))
