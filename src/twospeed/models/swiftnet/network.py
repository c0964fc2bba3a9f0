"""SwiftNet with ResNet-18, single scale: backbone, spatial pyramid pooling, three steps up with lateral connections.

Source: Orsic, Kreso, Bevandic, Segvic, "In Defense of Pre-trained ImageNet Architectures for Real-time Semantic
Segmentation of Road-driving Images", CVPR 2019. Shape letters: N batch, C classes, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import NormReluConv
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.pixels import SWIFTNET_MEAN, SWIFTNET_STD, InputOrder, hold_pixels, normalise
from twospeed.ops.grid import rounded
from twospeed.ops.pool import adaptive_average


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, pixel areas aligned (align_corners=False): SwiftNet's one way to change size."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Context from grids of decreasing fineness, beside the map itself (section 3.2)."""

    def __init__(self, channels_in: int, width: int, grids: Sequence[int]):
        super().__init__()
        level = width // len(grids)
        self.grids = tuple(grids)
        self.squeeze = NormReluConv(channels_in, width, 1, momentum=0.005)
        self.levels = nn.ModuleList(NormReluConv(width, level, 1, momentum=0.005) for _ in grids)
        self.fuse = NormReluConv(width + level * len(grids), width, 1, momentum=0.005)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, channels_in, h, w) -> (N, width, h, w)."""
        height, width = x.shape[-2:]
        x = self.squeeze(x)
        maps = [x]
        for grid, level in zip(self.grids, self.levels, strict=True):
            # The grid has the map's aspect; Python's rounding (half to even) is what the weights were trained with
            pooled = adaptive_average(x, (grid, max(1, rounded(width / height * grid))))
            maps.append(resize(level(pooled), (height, width)))
        fused: Tensor = self.fuse(torch.cat(maps, 1))
        return fused


class Upsample(nn.Module):
    """One step to twice the resolution: the lateral map, brought to width, plus the running one (section 3.1)."""

    def __init__(self, lateral_channels: int, width: int):
        super().__init__()
        self.lateral = NormReluConv(lateral_channels, width, 1)
        self.blend = NormReluConv(width, width, 3)

    def forward(self, x: Tensor, lateral: Tensor) -> Tensor:
        """Shapes: (N, width, h, w), (N, L, 2h, 2w) -> (N, width, 2h, 2w)."""
        skip = self.lateral(lateral)
        blended: Tensor = self.blend(resize(x, skip.shape[-2:]) + skip)
        return blended


class SwiftNet(nn.Module):
    """Label every pixel of an image.

    backbone: residual features of four stages. num_classes: C. width: of the decoder. grids: rows of the pooled grids.
    pixel_mean, pixel_std: RGB order, units of 0..255; input_order: channel order that the weights expect.
    Lateral connections take the stages' outputs after their ReLU, as the published weights do (the paper draws them
    before it).
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder

    def __init__(
        self,
        backbone: ResNetFeatures,
        num_classes: int = 19,
        *,
        width: int = 128,
        grids: Sequence[int] = (8, 4, 2),
        pixel_mean: Sequence[float] = SWIFTNET_MEAN,
        pixel_std: Sequence[float] = SWIFTNET_STD,
        input_order: InputOrder = "rgb",
    ):
        super().__init__()
        self.backbone = backbone
        *laterals, deepest = backbone.channels
        self.pyramid_pooling = PyramidPooling(deepest, width, grids)
        self.upsample = nn.ModuleList(Upsample(channels, width) for channels in reversed(laterals))
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
        *laterals, x = self.backbone(normalise(image, self.pixel_mean, self.pixel_std, self.input_order))
        x = self.pyramid_pooling(x)
        for step, lateral in zip(self.upsample, reversed(laterals), strict=True):
            x = step(x, lateral)
        logits: Tensor = self.classifier(x)
        return logits
