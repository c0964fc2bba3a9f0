"""GSVNet around networks that are passed in."""

from __future__ import annotations

from typing import TypedDict, Unpack

from torch import nn

from twospeed.models.gsv.filtering import EdgeKind
from twospeed.models.gsv.network import Fusion, GSVNet
from twospeed.models.pixels import InputOrder

Values = tuple[float, float, float]


class Options(TypedDict, total=False):
    """As of `GSVNet`, which explains them."""

    delay_kernel: int
    learned_delay: bool
    intra: bool
    keyframe_scale: float
    edges: EdgeKind
    fusion: Fusion
    pixel_mean: Values
    pixel_std: Values
    input_order: InputOrder
    fine: bool


def gsvnet(
    keyframe_network: nn.Module, flow_network: nn.Module, num_classes: int = 19, **options: Unpack[Options]
) -> GSVNet:
    """Build GSVNet as published: beside the keyframe network 396,406 parameters with the light flow network."""
    return GSVNet(keyframe_network, flow_network, num_classes, **options)
