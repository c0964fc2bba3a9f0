"""The grid on which class scores travel from frame to frame: an eighth of the image."""

from __future__ import annotations

from typing import Any

from twospeed.errors import InputError

GRID = 8  # frame pixels per cell


def grid_size(image: Any) -> tuple[int, int]:
    """Size of the grid of an image (..., H, W): (H // 8, W // 8). Raises InputError for frames under 8 pixels."""
    height, width = image.shape[-2:]
    if height < GRID or width < GRID:
        raise InputError(f"a frame of {width}x{height} is too small; {GRID} pixels a side is the least")
    return height // GRID, width // GRID


def rounded(value: Any) -> Any:
    """Round to a whole number, half to even; of a number, or of the tensor that stands for one in a traced graph."""
    return value.round().long() if hasattr(value, "long") else round(value)
