"""BiSeNet by the names of its paper."""

from __future__ import annotations

from typing import TypedDict, Unpack

from twospeed.models.bisenet.network import BiSeNet
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.pixels import InputOrder

Values = tuple[float, float, float]


class Options(TypedDict, total=False):
    """auxiliary_heads: the two heads of training. pixel_mean, pixel_std: RGB order, units of 0..255."""

    auxiliary_heads: bool
    pixel_mean: Values
    pixel_std: Values
    input_order: InputOrder


def bisenet_r18(num_classes: int = 19, **options: Unpack[Options]) -> BiSeNet:
    """Build BiSeNet-R18: 12,894,163 parameters at 19 classes, 13,494,777 with the auxiliary heads of training."""
    return BiSeNet(ResNetFeatures("basic", (2, 2, 2, 2)), num_classes, **options)
