"""STCN by the sizes its paper and this package name."""

from __future__ import annotations

from typing import Literal

from twospeed.models.encoders.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, EfficientNetLite
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.stcn.network import STCN, Similarity


def stcn(
    *,
    backbone: Literal["resnet50", "wide_resnet50"] = "resnet50",
    similarity: Similarity = "l2",
    aspp: bool = False,
    mask_channels: int = 2,
    width: int = 64,
) -> STCN:
    """Build STCN as published: 54,434,180 parameters with ResNet-50.

    backbone: of the key encoder; "wide_resnet50" is one of the supplement's ensemble (Table 3). mask_channels: 2 (this
    object and the sum of the others), or 1 for the network of static-image pretraining (stage 0). width: channels of
    the first stage, which all others but the keys' follow: 64 as published, fewer for trials on a CPU.
    """
    scales = {"resnet50": 1.0, "wide_resnet50": 2.0}
    if backbone not in scales:
        raise ValueError(f"backbone is {backbone!r}; choose one of {', '.join(scales)}")
    return STCN(
        ResNetFeatures("bottleneck", (3, 4, 6), width=width, stem_width=width, bottleneck_scale=scales[backbone]),
        ResNetFeatures("basic", (2, 2, 2), width=width, stem_width=width, channels_in=3 + mask_channels, bias=True),
        value_channels=8 * width,
        thin_channels=8 * width,
        decoder_channels=(8 * width, 4 * width, 4 * width),
        similarity=similarity,
        aspp=aspp,
    )


def track_tiny(*, similarity: Similarity = "l2") -> STCN:
    """Build the smallest STCN whose weights ship with twospeed, trained from scratch.

    The stems stride by 4 instead of pooling: at 480p the first layers would otherwise cost more than all the rest.
    """
    return STCN(
        ResNetFeatures("basic", (1, 2, 2), width=32, stem_width=32, stem_stride=4),
        ResNetFeatures("basic", (1, 1, 1), width=16, stem_width=16, channels_in=5, bias=True, stem_stride=4),
        key_channels=64,
        value_channels=96,
        thin_channels=64,
        decoder_channels=(64, 32, 32),
        similarity=similarity,
    )


def track_nano(*, similarity: Similarity = "l2") -> STCN:
    """Build the fast tracker: `track_small` without the features at stride 32, on images two thirds as large."""
    return _with_lite0(EfficientNetLite(), similarity, input_scale=2 / 3)


def track_small(*, similarity: Similarity = "l2") -> STCN:
    """Build the default tracker: an ImageNet encoder for the keys, and the frame before as a guide to where to look."""
    return _with_lite0(EfficientNetLite(stride=32, context=True), similarity)


def _with_lite0(encoder: EfficientNetLite, similarity: Similarity, *, input_scale: float = 1.0) -> STCN:
    network = STCN(
        encoder,
        ResNetFeatures("basic", (1, 1, 1), width=16, stem_width=16, channels_in=5, bias=True, stem_stride=4),
        key_channels=64,
        value_channels=128,
        thin_channels=64,
        decoder_channels=(96, 32, 32),
        similarity=similarity,
        recent=True,
        input_scale=input_scale,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    network.finder = "find_nano"
    return network
