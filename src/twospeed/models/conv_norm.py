"""Convolution, batch norm, activation, in either order: the units of BiSeNet, GSVNet and SwiftNet."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """k x k convolution, batch norm, then ReLU, leaky ReLU or nothing.

    slope: of the activation below zero; 0 is ReLU, 1 leaves values as they are. Padding keeps the size (at stride 1).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        slope: float = 0.0,
    ):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=bias)
        self.norm = nn.BatchNorm2d(channels_out)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, channels_in, H, W) -> (N, channels_out, H/stride, W/stride)."""
        y: Tensor = self.norm(self.conv(x))
        if self.slope == 1.0:
            return y
        return F.relu(y, inplace=True) if self.slope == 0.0 else F.leaky_relu(y, self.slope, inplace=True)


class NormReluConv(nn.Module):
    """Pre-activation unit: batch norm, ReLU, convolution."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, bias: bool = False, momentum: float = 0.1):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in, momentum=momentum)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, channels_in, H, W) -> (N, channels_out, H, W)."""
        y: Tensor = self.conv(F.relu(self.norm(x), inplace=True))
        return y
