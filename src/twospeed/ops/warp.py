"""Backward warping by a flow field, and sampling of a few pixels of a large image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def backward_warp(x: Tensor, flow: Tensor) -> Tensor:
    """Fetch for every pixel what its flow vector points to, bilinearly; zeros from outside.

    Shapes: x (N, C, H, W), flow (N, 2, H, W) as (x, y) in pixels -> (N, C, H, W). Zero flow is the identity.
    Pixel centres lie at the corners of the sampling grid (align_corners=True). Differs: the released GSVNet leaves that
    argument to torch, whose default has since turned; with it every map shrinks by (W - 1) / W at each step.
    """
    height, width = x.shape[-2:]
    columns = torch.arange(width, device=x.device, dtype=flow.dtype)
    rows = torch.arange(height, device=x.device, dtype=flow.dtype).unsqueeze(1)
    grid = torch.stack(
        [
            (columns + flow[:, 0]) * (2 / max(width - 1, 1)) - 1,
            (rows + flow[:, 1]) * (2 / max(height - 1, 1)) - 1,
        ],
        dim=-1,
    )  # (N, H, W, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def shrink(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with aligned corners that reads only the pixels it needs.

    Shapes: (N, C, H, W), any number type and memory order -> float32 (N, C, *size). What `F.interpolate` gives for the
    float image, without turning the whole image to float first: at an eighth of the size, 1 pixel in 16 is read.
    """
    y, fy = _source(images.shape[-2], size[0], images.device)
    x, fx = _source(images.shape[-1], size[1], images.device)
    y_next, x_next = (y + 1).clamp(max=images.shape[-2] - 1), (x + 1).clamp(max=images.shape[-1] - 1)

    def row(index: Tensor) -> Tensor:
        line = images.index_select(-2, index)
        left = line.index_select(-1, x).float()
        return left + (line.index_select(-1, x_next).float() - left) * fx

    top = row(y)
    return torch.add(top, (row(y_next) - top) * fy.unsqueeze(1))


def _source(length: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each of `wanted` samples lies between pixels: index of the left one, and how far to the right (0..1)."""
    scale = (length - 1) / (wanted - 1) if wanted > 1 else 0.0
    position = torch.arange(wanted, device=device, dtype=torch.float32) * scale
    index = position.long()
    return index, position - index
