"""STM by the size its paper names."""

from __future__ import annotations

from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.protocol import Similarity
from twospeed.models.stm.network import STM


def stm(*, similarity: Similarity = "dot", width: int = 64) -> STM:
    """Build STM as published: 38,925,570 parameters, ResNet-50 in both encoders.

    similarity: "dot" as published, "l2" for the comparison in STCN's supplement (Table 1). Published results remember
    every fifth frame and always the last: `Tracker(model, include_last=True, top_k=None)`. width: channels of the first
    stage, which all others follow: 64 as published, fewer for trials on a CPU.
    """
    return STM(
        ResNetFeatures("bottleneck", (3, 4, 6), width=width, stem_width=width),
        ResNetFeatures("bottleneck", (3, 4, 6), width=width, stem_width=width, channels_in=5),
        key_channels=2 * width,
        value_channels=8 * width,
        decoder_channels=4 * width,
        similarity=similarity,
    )
