"""Batch norm as part of the convolution before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Convolution = nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm2d | nn.BatchNorm3d


@torch.no_grad()
def fuse_batch_norm(conv: Convolution, norm: BatchNorm | None) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution that also does what the norm after it does in eval mode.

    weight (out, in, ...) as the convolution's, bias (out,), both float32 copies, computed in float64. norm: None folds
    nothing. Raises ValueError when the norm keeps no running statistics.
    """
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        gain, shift = scale_and_shift(norm)
        weight = weight * gain.view(-1, *[1] * (weight.ndim - 1))
        bias = bias * gain + shift
    return weight.float(), bias.float()


@torch.no_grad()
def scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return what a norm multiplies by, and adds after it, in eval mode: (channels,) each, float64.

    Raises ValueError when the norm keeps no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("batch norm without running statistics cannot be fused")
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -gain * norm.running_mean.double()
    if norm.affine:
        gain = gain * norm.weight.double()
        shift = shift * norm.weight.double() + norm.bias.double()
    return gain, shift
