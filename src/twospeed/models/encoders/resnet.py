"""The shared 2-D residual backbone (He et al., CVPR 2016): features at strides 4, 8, 16 (and 32).

Differs from torchvision's class in what the families here need: convolutions may have biases (STCN's value encoder),
any number of input channels and widths, and the features of every stage are returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, *, stride: int, bias: bool, bottleneck_scale: float = 1.0):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels_in, width, stride, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels_in, H, W) -> (B, width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet-50, -101; stride on the 3x3, as torchvision)."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, *, stride: int, bias: bool, bottleneck_scale: float = 1.0):
        super().__init__()
        inner, channels_out = int(width * bottleneck_scale), width * self.expansion
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _shortcut(channels_in, channels_out, stride, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels_in, H, W) -> (B, 4 width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(channels_in: int, channels_out: int, stride: int, bias: bool) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=bias), nn.BatchNorm2d(channels_out))


class ResNetFeatures(nn.Module):
    """A residual network without its classifier: returns the output of each stage.

    block: "basic" or "bottleneck". depths: blocks per stage. width: channels of the first stage's 3x3 convolutions;
    each stage doubles it. bottleneck_scale: 2 for WideResNet-50-2. stem_stride: 2 as published, 4 skips the pooling
    by striding the 7x7 itself (cheap small networks). Module names conv1, bn1, layer1... are torchvision's, so that
    its ImageNet weights load.
    """

    def __init__(
        self,
        block: Literal["basic", "bottleneck"],
        depths: Sequence[int],
        *,
        width: int = 64,
        stem_width: int = 64,
        channels_in: int = 3,
        bottleneck_scale: float = 1.0,
        bias: bool = False,
        stem_stride: int = 2,
    ):
        super().__init__()
        blocks_of: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
        make = blocks_of[block]
        self.stem_stride = stem_stride
        self.conv1 = nn.Conv2d(channels_in, stem_width, 7, stem_stride, 3, bias=bias)
        self.bn1 = nn.BatchNorm2d(stem_width)
        channels = stem_width
        self.channels: list[int] = []  # of each stage's output
        self.stages: list[str] = []
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    make(channels, width << stage, stride=stride, bias=bias, bottleneck_scale=bottleneck_scale)
                )
                channels = (width << stage) * make.expansion
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            self.channels.append(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shapes: (B, channels_in, H, W) -> [(B, C1, H/4, W/4), (B, C2, H/8, W/8), (B, C3, H/16, W/16), ...]."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.stem_stride == 2:
            x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
            features.append(x)
        return features
