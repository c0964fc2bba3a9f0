"""Pad to a multiple of a network's stride, and the exact inverse."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

Padding = tuple[int, int, int, int]  # left, right, top, bottom


def padding_for(height: int, width: int, stride: int) -> Padding:
    """How much to add on each side so that both axes divide by stride; the odd pixel goes right and down."""
    down, across = -height % stride, -width % stride
    return across // 2, across - across // 2, down // 2, down - down // 2


def pad(x: Tensor, padding: Padding, value: float = 0.0) -> Tensor:
    """Add a constant border. Shapes: (..., H, W) -> (..., H', W')."""
    return F.pad(x, padding, value=value) if any(padding) else x


def unpad(x: Tensor, padding: Padding) -> Tensor:
    """Cut the border that `pad` added; a view. Shapes: (..., H', W') -> (..., H, W)."""
    left, right, top, bottom = padding
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
