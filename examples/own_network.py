"""A network of your own in each of the four jobs: tiny ones, without training, to show what a job asks of a network.

What each job asks for is written down in `twospeed.models.protocol`. Run it: python examples/own_network.py
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import twospeed


class Features(NamedTuple):
    key: Tensor  # (B, C, h, w), what is matched with remembered frames


class ColourTracker(nn.Module):
    """Track: the key of a cell of 16 x 16 pixels is its mean colour, the value its share of the object's mask."""

    similarity, keys_per_object, masks_as_given = "l2", False, False

    def normalise(self, images: Tensor) -> Tensor:
        return 30 * (images - 0.5)

    def encode_key(self, frames: Tensor) -> Features:
        return Features(F.avg_pool2d(frames, 16))

    def encode_memory(self, frames: Tensor, features: Features, masks: Tensor) -> tuple[Tensor, Tensor]:
        return features.key, F.avg_pool2d(masks, 16).unsqueeze(2)  # (B, K, 1, h, w)

    def decode(self, readout: Tensor, features: Features) -> Tensor:
        return F.interpolate(20 * readout.squeeze(2) - 10, scale_factor=16)  # logits (B, K, H, W)


class Redness(nn.Module):
    """Segment, classify, detect: scores of the classes "other" and "red" for each pixel, clip or box."""

    frames, frame_stride, num_classes = 4, 2, 2  # of a clip, at 30 frames a second

    def forward(self, x: Tensor, boxes: list[Tensor] | None = None) -> Tensor:
        red = (x[:, 0] - x[:, 1:].mean(1)) / 50
        if boxes is not None:  # a clip (1, 3, T, H, W) and boxes (n, 4) in its pixels -> logits (n, 2)
            middle = red[0, red.shape[1] // 2]
            red = torch.stack([middle[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in boxes[0].long().tolist()])
        elif x.ndim == 5:  # clips (N, 3, T, H, W) -> logits (N, 1, 2)
            red = red.amax((1, 2, 3))[:, None]
        return torch.stack([-red, red], 1 if x.ndim == 4 else -1)  # an image (1, 3, H, W) -> scores (1, 2, H, W)


video, mask = np.full((24, 96, 128, 3), 60, np.uint8), np.zeros((96, 128), np.uint8)
for t, image in enumerate(video):  # a red square moves to the right
    image[32:64, 2 * t : 2 * t + 32] = (220, 40, 40)
mask[32:64, :32] = 1
names = twospeed.LabelMap(("other", "red"), ((0, 0, 0), (255, 0, 0)))
print(list(twospeed.track(video, mask, ColourTracker()))[-1].to_dict()["objects"])
print(list(twospeed.segment(video, Redness(), labels=names))[-1].to_dict()["classes"])
print(twospeed.classify(video, Redness(), labels=names, crops=1).top(1))
print(next(twospeed.detect(video, Redness(), boxes=[[0, 32, 32, 64]], labels=names)).to_dict()["people"])
