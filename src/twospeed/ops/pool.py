"""Adaptive average pooling, also where a graph is traced whose sizes are not known yet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def adaptive_average(x: Tensor, size: tuple[Any, Any]) -> Tensor:
    """Average over a grid of bins, as `F.adaptive_avg_pool2d`. Shapes: (N, C, H, W) -> (N, C, *size).

    In a traced graph two products with the bins' shares, since ONNX has no pooling to a size.
    """
    if not torch.onnx.is_in_onnx_export():
        return F.adaptive_avg_pool2d(x, size)
    rows, columns = (_shares(length, count) for length, count in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.transpose(-1, -2)


def _shares(length: Any, count: Any) -> Tensor:
    """How much of each value every bin takes: those from floor(i L / n) to ceil((i + 1) L / n). Shapes: -> (n, L)."""
    bins, places = torch.arange(count)[:, None], torch.arange(length)[None]
    inside = ((places + 1) * count > bins * length) & (places * count < (bins + 1) * length)
    shares = inside.float()
    return shares / shares.sum(1, keepdim=True)
