"""SwiftNet by the names of its paper."""

from __future__ import annotations

from typing import TypedDict, Unpack

from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.pixels import InputOrder
from twospeed.models.swiftnet.nano import SwiftNetNano
from twospeed.models.swiftnet.network import SwiftNet
from twospeed.models.swiftnet.pyramid import PyramidBackbone, SwiftNetPyramid

Values = tuple[float, float, float]


class Options(TypedDict, total=False):
    """pixel_mean, pixel_std: RGB order, units of 0..255. input_order: the order that the weights expect."""

    pixel_mean: Values
    pixel_std: Values
    input_order: InputOrder


def swiftnet_r18(num_classes: int = 19, **options: Unpack[Options]) -> SwiftNet:
    """Build SwiftNet-R18, single scale: 11,797,071 parameters at 19 classes."""
    return SwiftNet(ResNetFeatures("basic", (2, 2, 2, 2)), num_classes, **options)


def swiftnet_r18_pyramid(num_classes: int = 19, **options: Unpack[Options]) -> SwiftNetPyramid:
    """Build SwiftNet-R18 with the interleaved pyramid of three levels: 12,056,275 parameters at 19 classes."""
    return SwiftNetPyramid(PyramidBackbone(), num_classes, **options)


def swiftnet_nano(num_classes: int = 11, **options: Unpack[Options]) -> SwiftNetNano:
    """Build the keyframe network of `segment_nano`: 4.1 million parameters at 11 classes."""
    return SwiftNetNano(num_classes, **options)
