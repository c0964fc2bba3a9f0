"""BiSeNet with ResNet-18: a spatial path for detail, a context path for meaning, and their fusion.

Source: Yu, Wang, Peng, Gao, Yu, Sang, "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
ECCV 2018, in the version that GSVNet's weights were trained with. All resizing aligns corners.
Shape letters: N batch, C classes, H/W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import ConvNorm
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.pixels import IMAGENET_MEAN, IMAGENET_STD, InputOrder, hold_pixels, normalise


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, corners aligned."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class BiSeNetFeatures(NamedTuple):
    """What the heads read."""

    fused: Tensor  # (N, 256, H/8, W/8), for the head that is used
    refined16: Tensor  # (N, 128, H/16, W/16), for the first auxiliary head
    refined8: Tensor  # (N, 128, H/8, W/8), for the second


class AttentionRefinement(nn.Module):
    """A 3x3 convolution whose channels are weighed by a gate from their global average (section 3.2)."""

    def __init__(self, channels_in: int, width: int):
        super().__init__()
        self.mix = ConvNorm(channels_in, width)
        self.gate = ConvNorm(width, width, 1, slope=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, channels_in, h, w) -> (N, width, h, w)."""
        y: Tensor = self.mix(x)
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))


class FeatureFusion(nn.Module):
    """Both paths together, their channels weighed by a gate (section 3.3)."""

    def __init__(self, channels_in: int, width: int):
        super().__init__()
        self.mix = ConvNorm(channels_in, width, 1)
        self.squeeze = nn.Conv2d(width, width, 1, bias=False)
        self.excite = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Shapes: (N, 128, h, w) twice -> (N, 256, h, w)."""
        f: Tensor = self.mix(torch.cat([spatial, context], 1))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(f.mean((2, 3), keepdim=True)))))
        return f + f * gate


class Head(nn.Module):
    """3x3 convolution and classifier."""

    def __init__(self, channels_in: int, width: int, num_classes: int):
        super().__init__()
        self.mix = ConvNorm(channels_in, width)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, channels_in, h, w) -> logits (N, C, h, w)."""
        logits: Tensor = self.classifier(self.mix(x))
        return logits


class BiSeNet(nn.Module):
    """Label every pixel of an image.

    context_path: residual features of four stages. num_classes: C. width: of each path (the fusion is twice as wide).
    auxiliary_heads: the two heads that training adds; they are not run otherwise. pixel_mean, pixel_std: RGB order,
    units of 0..255; input_order: channel order that the weights expect. align_corners: how its scores are resized.
    """

    align_corners = True
    pixel_mean: Tensor
    pixel_std: Tensor
    input_order: InputOrder

    def __init__(
        self,
        context_path: ResNetFeatures,
        num_classes: int = 19,
        *,
        width: int = 128,
        auxiliary_heads: bool = False,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        input_order: InputOrder = "rgb",
    ):
        super().__init__()
        half = width // 2
        self.spatial_path = nn.Sequential(
            ConvNorm(3, half, 7, stride=2),
            ConvNorm(half, half, stride=2),
            ConvNorm(half, half, stride=2),
            ConvNorm(half, width, 1),
        )
        self.context_path = context_path
        *_, c16, c32 = context_path.channels
        self.global_context = ConvNorm(c32, width, 1)
        self.attention = nn.ModuleList([AttentionRefinement(c32, width), AttentionRefinement(c16, width)])
        self.refine = nn.ModuleList([ConvNorm(width, width), ConvNorm(width, width)])
        self.fusion = FeatureFusion(2 * width, 2 * width)
        self.head = Head(2 * width, half, num_classes)
        self.auxiliary_heads = (
            nn.ModuleList([Head(width, 2 * width, num_classes) for _ in range(2)]) if auxiliary_heads else None
        )
        hold_pixels(self, pixel_mean, pixel_std, input_order)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.head.classifier.out_channels

    @property
    def recorded_options(self) -> dict[str, object]:
        """What a file of weights must hold beside them."""
        return {"input_order": self.input_order}

    def forward(self, image: Tensor) -> Tensor:
        """Shapes: RGB 0..255 (N, 3, H, W) -> logits (N, C, H, W)."""
        return resize(self.scores(image), image.shape[-2:])

    def scores(self, image: Tensor) -> Tensor:
        """Return the logits at the network's own stride of 8. Shapes: RGB 0..255 (N, 3, H, W) -> (N, C, H/8, W/8)."""
        logits: Tensor = self.head(self.features(image).fused)
        return logits

    def training_scores(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of the head and of both auxiliary heads, each (N, C, H, W), for a loss with all three.

        Raises ValueError when the network was built without auxiliary heads.
        """
        if self.auxiliary_heads is None:
            raise ValueError("this BiSeNet has no auxiliary heads; build it with auxiliary_heads=True")
        found = self.features(image)
        size = image.shape[-2:]
        first, second = self.auxiliary_heads
        return (
            resize(self.head(found.fused), size),
            resize(first(found.refined16), size),
            resize(second(found.refined8), size),
        )

    def features(self, image: Tensor) -> BiSeNetFeatures:
        """Run both paths. Shapes: RGB 0..255 (N, 3, H, W) -> BiSeNetFeatures."""
        x = normalise(image, self.pixel_mean, self.pixel_std, self.input_order)
        *_, f8, f16, f32 = self.context_path(x)
        context = self.global_context(f32.mean((2, 3), keepdim=True)).expand(-1, -1, *f32.shape[-2:])
        refined16 = self.refine[0](resize(self.attention[0](f32) + context, f16.shape[-2:]))
        refined8 = self.refine[1](resize(self.attention[1](f16) + refined16, f8.shape[-2:]))
        return BiSeNetFeatures(self.fusion(self.spatial_path(x), refined8), refined16, refined8)
