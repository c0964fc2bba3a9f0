"""The step of a decoder with skip connections that click and find networks share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Refine(nn.Module):
    """Two 3x3 convolutions, the first with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels_in, channels_in, 3, 1, 1)
        self.out = nn.Conv2d(channels_in, channels_out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels_in, h, w) -> (B, channels_out, h, w)."""
        y = x + self.mix(F.relu(x))
        return F.relu(self.out(F.relu(y)))


def doubled(x: Tensor) -> Tensor:
    """Enlarge bilinearly. Shapes: (B, C, h, w) -> (B, C, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
