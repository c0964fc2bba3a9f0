"""A small SwiftNet for the grid of GSVNet: cheap enough for keyframes on a CPU, and small enough to ship.

The parts are SwiftNet's: residual backbone, pyramid pooling, steps up with lateral connections. What differs:

- It stops at an eighth of the image, the grid on which GSVNet's scores travel: what is finer would only be thrown away.
  The quarter-size map enters that last step through a strided convolution instead.
- Its outputs lie exactly on that grid. A grid of h x w cells with aligned corners has its points (H-1)/(h-1) pixels
  apart, strided convolutions have them 8 apart: the image is brought to 8(h-1)+1 pixels first, where both agree.
- Norms follow their convolutions, so that they fold into them, and the first convolution has stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import ConvNorm
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.pixels import SWIFTNET_MEAN, SWIFTNET_STD, InputOrder, hold_pixels, normalise
from twospeed.models.swiftnet.network import resize
from twospeed.ops.grid import rounded
from twospeed.ops.pool import adaptive_average

STRIDE = 8


class SwiftNetNano(nn.Module):
    """Label an image on a grid of an eighth of its size.

    backbone: residual features of four stages whose first convolution has stride 4. num_classes: C. width: of the
    decoder. grids: rows of the pooled grids. pixel_mean, pixel_std, input_order: as in `SwiftNet`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder

    def __init__(
        self,
        backbone: ResNetFeatures,
        num_classes: int,
        *,
        width: int = 96,
        grids: Sequence[int] = (8, 4, 2),
        pixel_mean: Sequence[float] = SWIFTNET_MEAN,
        pixel_std: Sequence[float] = SWIFTNET_STD,
        input_order: InputOrder = "rgb",
    ):
        super().__init__()
        quarter, eighth, sixteenth, deepest = backbone.channels
        self.backbone, self.grids = backbone, tuple(grids)
        level = width // len(grids)
        self.squeeze = ConvNorm(deepest, width, 1)
        self.levels = nn.ModuleList(ConvNorm(width, level, 1) for _ in grids)
        self.fuse = ConvNorm(width + level * len(grids), width, 1)
        self.lateral = nn.ModuleList([ConvNorm(sixteenth, width, 1), ConvNorm(eighth, width, 1)])
        self.detail = ConvNorm(quarter, width, 3, stride=2)
        self.blend = nn.ModuleList([ConvNorm(width, width), ConvNorm(width, width)])
        self.classifier = nn.Conv2d(width, num_classes, 1)
        hold_pixels(self, pixel_mean, pixel_std, input_order)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.classifier.out_channels

    @property
    def recorded_options(self) -> dict[str, object]:
        """What a file of weights must hold beside them."""
        return {"input_order": self.input_order}

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: RGB 0..255 (N, 3, H, W) -> logits (N, C, H, W)."""
        return F.interpolate(self.scores(image), image.shape[-2:], mode="bilinear", align_corners=True)

    def scores(self, image: Tensor) -> Tensor:
        """Return logits whose grid spans the image, corners aligned: (N, 3, H, W) -> (N, C, H // 8, W // 8)."""
        size = [STRIDE * (max(1, length // STRIDE) - 1) + 1 for length in image.shape[-2:]]
        image = F.interpolate(image, size, mode="bilinear", align_corners=True)
        logits: Tensor = self.classifier(self.features(image)[-1])
        return logits

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the decoder's maps, whose points lie on every 32nd, 16th and 8th pixel from the first.

        Shapes: RGB 0..255 (N, 3, 8 (h - 1) + 1, 8 (w - 1) + 1) -> (N, width, ...) each, the last of h x w.
        """
        quarter, eighth, sixteenth, deepest = self.backbone(
            normalise(image, self.pixel_mean, self.pixel_std, self.input_order)
        )
        maps = [self._pooled(deepest)]
        skips = (self.lateral[0](sixteenth), self.lateral[1](eighth) + self.detail(quarter))
        for blend, skip in zip(self.blend, skips, strict=True):
            maps.append(blend(resize(maps[-1], skip.shape[-2:]) + skip))
        return maps

    def _pooled(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        height, width = x.shape[-2:]
        maps = [x]
        for grid, level in zip(self.grids, self.levels, strict=True):
            pooled = adaptive_average(x, (grid, max(1, rounded(width / height * grid))))
            maps.append(resize(level(pooled), (height, width)))
        fused: Tensor = self.fuse(torch.cat(maps, 1))
        return fused
