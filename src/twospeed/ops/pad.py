"""Pad to a multiple of a network's stride, and the exact inverse; `on_torch.pad` and `on_numpy.pad` pad."""

from __future__ import annotations

from typing import Any

Padding = tuple[int, int, int, int]  # left, right, top, bottom


def padding_for(height: int, width: int, stride: int) -> Padding:
    """How much to add on each side so that both axes divide by stride; the odd pixel goes right and down."""
    down, across = -height % stride, -width % stride
    return across // 2, across - across // 2, down // 2, down - down // 2


def unpad(x: Any, padding: Padding) -> Any:
    """Cut the border that `pad` added; a view. Shapes: array (..., H', W') -> (..., H, W)."""
    left, right, top, bottom = padding
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
