"""A network of your own in each of the four jobs. What a job asks of it: see `twospeed.models.protocol`."""

from collections import namedtuple

import numpy as np
import torch
from torch import Tensor, nn

import twospeed

Features = namedtuple("Features", "key")  # (B, C, h, w): what is matched with remembered frames


class ColourTracker(nn.Module):
    """Track: the key of a cell of 16 x 16 pixels is its mean colour, the value its share of the object's mask."""

    similarity, keys_per_object, masks_as_given = "l2", False, False

    def normalise(self, images: Tensor) -> Tensor:
        return 30 * (images - 0.5)

    def encode_key(self, frames: Tensor) -> Features:
        return Features(nn.functional.avg_pool2d(frames, 16))

    def encode_memory(self, frames: Tensor, features: Features, masks: Tensor) -> tuple[Tensor, Tensor]:
        return features.key, nn.functional.avg_pool2d(masks, 16).unsqueeze(2)  # (B, K, 1, h, w)

    def decode(self, readout: Tensor, features: Features) -> Tensor:
        return nn.functional.interpolate(20 * readout.squeeze(2) - 10, scale_factor=16)  # logits (B, K, H, W)


class RedPixels(nn.Module):
    """Segment: scores of "other" and "red". Shapes: an image (1, 3, H, W), RGB in 0..255 -> (1, 2, H, W)."""

    def forward(self, image: Tensor) -> Tensor:
        red = (image[:, 0] - image[:, 1:].mean(1)) / 50
        return torch.stack([-red, red], 1)


class RedClips(nn.Module):
    """Classify and detect: clips (N, 3, T, H, W) -> logits (N, 1, 2); with a box (1, 4) in its pixels -> (1, 2)."""

    frames, frame_stride, num_classes = 4, 2, 2  # of a clip, at 30 frames a second

    def forward(self, clips: Tensor, boxes: list[Tensor] | None = None) -> Tensor:
        x1, y1, x2, y2 = (None,) * 4 if boxes is None else boxes[0][0].long().tolist()
        red = (clips[:, 0] - clips[:, 1:].mean(1))[:, :, y1:y2, x1:x2].amax((1, 2, 3))
        return torch.stack([-red, red], -1).reshape((-1, 1, 2) if boxes is None else (-1, 2))


video, mask = np.full((24, 96, 128, 3), 60, np.uint8), np.zeros((96, 128), np.uint8)
for t, image in enumerate(video):  # a red square moves to the right
    image[32:64, 2 * t : 2 * t + 32] = (220, 40, 40)
mask[32:64, :32] = 1
names = twospeed.LabelMap(("other", "red"), ((0, 0, 0), (255, 0, 0)))
print(list(twospeed.track(video, mask, ColourTracker()))[-1].to_dict()["objects"])
print(list(twospeed.segment(video, RedPixels(), labels=names))[-1].to_dict()["classes"])
print(twospeed.classify(video, RedClips(), labels=names, crops=1).top(1))
print(next(twospeed.detect(video, RedClips(), boxes=[[0, 32, 32, 64]], labels=names)).to_dict()["people"])
