"""SwiftNet with an interleaved pyramid: one backbone at three image sizes, norms of its own for each (paper section
3.3).

All convolutions are shared by the levels, and so are the norms of the shortcuts; the stem and the blocks have one norm
for each level. The lateral connections take the blocks' sums before their ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import NormReluConv
from twospeed.models.pixels import SWIFTNET_MEAN, SWIFTNET_STD, InputOrder, hold_pixels, normalise
from twospeed.models.swiftnet.network import resize


class LevelBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, with norms for each level of the pyramid."""

    def __init__(self, channels_in: int, width: int, *, stride: int, levels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        self.downsample = None
        if stride != 1 or channels_in != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Return the sum before its ReLU. Shapes: (N, channels_in, H, W) -> (N, width, H/stride, W/stride)."""
        y = F.relu(self.bn1[level](self.conv1(x)))
        y = self.bn2[level](self.conv2(y))
        total: Tensor = y + (x if self.downsample is None else self.downsample(x))
        return total


class PyramidBackbone(nn.Module):
    """A residual network of basic blocks that is run at several image sizes."""

    def __init__(self, depths: Sequence[int] = (2, 2, 2, 2), *, width: int = 64, levels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        self.levels = levels
        self.channels: list[int] = []
        self.stages: list[str] = []
        channels = width
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(LevelBlock(channels, width << stage, stride=stride, levels=levels))
                channels = width << stage
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.ModuleList(blocks))
            self.channels.append(channels)

    def forward(self, x: Tensor, level: int) -> list[Tensor]:
        """Return each stage's sum before its ReLU, strides 4, 8, 16, 32 of this level's image."""
        x = F.max_pool2d(F.relu(self.bn1[level](self.conv1(x))), 3, 2, 1)
        features = []
        for stage in self.stages:
            total = x
            for block in self.get_submodule(stage).children():
                total = block(x, level)
                x = F.relu(total)
            features.append(total)
        return features


class SwiftNetPyramid(nn.Module):
    """Label every pixel of an image from three sizes of it at once.

    Options as of `SwiftNet`; there is no pyramid pooling, as the small images bring the context.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder

    def __init__(
        self,
        backbone: PyramidBackbone,
        num_classes: int = 19,
        *,
        width: int = 128,
        pixel_mean: Sequence[float] = SWIFTNET_MEAN,
        pixel_std: Sequence[float] = SWIFTNET_STD,
        input_order: InputOrder = "rgb",
    ):
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in reversed(backbone.channels))
        groups = len(backbone.channels) + backbone.levels - 1  # strides 4, 8, ... 128
        self.blends = nn.ModuleList(NormReluConv(width, width, 3) for _ in range(groups - 1))
        self.classifier = NormReluConv(width, num_classes, 1, bias=True)
        hold_pixels(self, pixel_mean, pixel_std, input_order)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.classifier.conv.out_channels

    @property
    def recorded_options(self) -> dict[str, object]:
        """What a file of weights must hold beside them."""
        return {"input_order": self.input_order}

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: RGB 0..255 (N, 3, H, W) -> logits (N, C, H, W)."""
        return resize(self.scores(image), image.shape[-2:])

    def scores(self, image: Tensor) -> Tensor:
        """Return the logits at the network's own stride of 4. Shapes: RGB 0..255 (N, 3, H, W) -> (N, C, H/4, W/4)."""
        x = normalise(image, self.pixel_mean, self.pixel_std, self.input_order)
        groups: list[list[Tensor]] = [[] for _ in range(len(self.blends) + 1)]  # by stride: 4, 8, ...
        for level in range(self.backbone.levels):
            # Given as a factor, as in training: for odd sizes the sampling points differ from those of a given size
            scaled = x if level == 0 else F.interpolate(x, scale_factor=0.5**level, mode="bicubic", align_corners=False)
            features = self.backbone(scaled, level)
            for stage, (lateral, feature) in enumerate(zip(self.laterals, reversed(features), strict=True)):
                groups[level + len(features) - 1 - stage].append(lateral(feature))
        y = groups[-1][0]
        for blend, (first, *others) in zip(self.blends, reversed(groups[:-1]), strict=True):
            total = first
            for other in others:
                total = total + _fit(other, first)
            y = blend(resize(y, total.shape[-2:]) + total)
        logits: Tensor = self.classifier(y)
        return logits


def _fit(x: Tensor, like: Tensor) -> Tensor:
    """Bring a map to its group's size where the two rounded an odd size differently (the original stops there)."""
    return x if x.shape == like.shape else resize(x, like.shape[-2:])
