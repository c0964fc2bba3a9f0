"""A small SwiftNet on an ImageNet encoder: cheap enough for keyframes on a CPU, and small enough to ship.

The parts are SwiftNet's: an encoder, pyramid pooling, steps up with lateral connections. What differs:

- The encoder is EfficientNet-Lite0, and the steps up end at a quarter of the image.
- All features share their corners. With sides of 32n + 1 pixels the points of strided convolutions lie on every 2nd,
  4th, ... 32nd pixel from the first to the last, which is what resizing with aligned corners expects. The image is
  brought to such sides, so that the scores span it as GSVNet's grid does.
- Norms follow their convolutions, so that they can be fused with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import ConvNorm
from twospeed.models.encoders.efficientnet_lite import EfficientNetLite
from twospeed.models.pixels import InputOrder, hold_pixels, normalise
from twospeed.ops.grid import rounded
from twospeed.ops.pool import adaptive_average

STRIDE = 32  # of the coarsest features
NANO_MEAN, NANO_STD = (127.0,) * 3, (128.0,) * 3  # what the encoder was trained with


class SwiftNetNano(nn.Module):
    """Label an image on a grid of a quarter of its size.

    num_classes: C. widths: of the features at strides 32, 16, 8 and 4. grids: rows of the pooled grids. pixel_mean,
    pixel_std, input_order: as in `SwiftNet`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder

    def __init__(
        self,
        num_classes: int,
        *,
        widths: tuple[int, int, int, int] = (128, 128, 64, 64),
        grids: Sequence[int] = (8, 4, 2),
        pixel_mean: Sequence[float] = NANO_MEAN,
        pixel_std: Sequence[float] = NANO_STD,
        input_order: InputOrder = "rgb",
    ):
        super().__init__()
        self.encoder = EfficientNetLite(stride=STRIDE)
        c4, c8, c16, c32 = self.encoder.channels
        w32, w16, w8, w4 = widths
        self.widths, self.grids = widths, tuple(grids)
        level = w32 // len(grids)
        self.squeeze = ConvNorm(c32, w32, 1)
        self.levels = nn.ModuleList(ConvNorm(w32, level, 1) for _ in grids)
        self.fuse = ConvNorm(w32 + level * len(grids), w32, 1)
        self.lateral = nn.ModuleList([ConvNorm(c16, w32, 1), ConvNorm(c8, w16, 1), ConvNorm(c4, w8)])
        self.blend = nn.ModuleList([ConvNorm(w32, w16), ConvNorm(w16, w8), ConvNorm(w8, w4)])
        self.refine = ConvNorm(w4, w4)
        self.classifier = nn.Conv2d(w4, num_classes, 1)
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
        return _resize(self.scores(image), image.shape[-2:])

    def scores(self, image: Tensor) -> Tensor:
        """Return logits whose grid spans the image, corners aligned: (N, 3, H, W) -> (N, C, 8 n + 1, 8 m + 1)."""
        size = [STRIDE * max(1, rounded(length / STRIDE)) + 1 for length in image.shape[-2:]]
        image = _resize(image, size)
        logits: Tensor = self.classifier(self.features(image)[-1])
        return logits

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the decoder's maps, whose points lie on every 32nd, 16th, 8th and 4th pixel from the first.

        Shapes: RGB 0..255 (N, 3, 32 n + 1, 32 m + 1) -> (N, width, ...) each, the last of (8 n + 1, 8 m + 1) cells.
        """
        image = normalise(image, self.pixel_mean, self.pixel_std, self.input_order)
        f4, f8, f16, f32 = self.encoder(image.contiguous(memory_format=torch.channels_last))
        maps = [self._pooled(f32)]
        for lateral, blend, feature in zip(self.lateral, self.blend, (f16, f8, f4), strict=True):
            skip = lateral(feature)
            maps.append(blend(_resize(maps[-1], skip.shape[-2:]) + skip))
        maps[-1] = self.refine(maps[-1])
        return maps

    def _pooled(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        height, width = x.shape[-2:]
        maps = [x]
        for grid, level in zip(self.grids, self.levels, strict=True):
            pooled = adaptive_average(x, (grid, max(1, rounded(width / height * grid))))
            maps.append(_resize(level(pooled), (height, width)))
        fused: Tensor = self.fuse(torch.cat(maps, 1))
        return fused


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, list(size), mode="bilinear", align_corners=True)
