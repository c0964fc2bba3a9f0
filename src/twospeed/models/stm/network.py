"""STM, read top to bottom as the paper's figure 2: encode memory, encode query, (read the memory), decode masks.

Source: Oh, Lee, Xu and Kim, "Video Object Segmentation Using Space-Time Memory Networks", ICCV 2019. Shape letters:
B batch, K objects, C key channels, V value channels, H/W pixels, h/w cells at stride 16. Names f4, f8, f16 give a
feature's stride.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.protocol import Similarity
from twospeed.ops.masks import split_batch


class QueryFeatures(NamedTuple):
    """What one pass of the query encoder gives."""

    key: Tensor  # (B, C, h, w), what is matched
    value: Tensor  # (B, V, h, w), the query's own value for the decoder
    f8: Tensor  # (B, C8, 2h, 2w)
    f4: Tensor  # (B, C4, 4h, 4w)


class STM(nn.Module):
    """Space-time memory network: masks of a frame from the masks of remembered frames, one affinity for each object.

    query_backbone, memory_backbone: residual features of three stages; the memory's takes 3 + 2 channels, the image,
    this object's mask and all others'. key_channels: C (128). value_channels: V (512). decoder_channels: of the
    decoder's every layer (256). similarity: how keys are compared, "dot" as published, or "l2" (STCN supplement, Table
    1).
    """

    keys_per_object = True
    masks_as_given = True

    def __init__(
        self,
        query_backbone: ResNetFeatures,
        memory_backbone: ResNetFeatures,
        *,
        key_channels: int = 128,
        value_channels: int = 512,
        decoder_channels: int = 256,
        similarity: Similarity = "dot",
    ):
        super().__init__()
        if similarity not in ("l2", "dot"):
            raise ValueError(f"similarity is {similarity!r}; choose 'dot' (as published) or 'l2'")
        self.similarity: Similarity = similarity
        self.recorded_options: dict[str, object] = {"similarity": similarity}  # not determined by the weights
        self.query_encoder = Encoder(query_backbone, key_channels, value_channels)
        self.memory_encoder = Encoder(memory_backbone, key_channels, value_channels)
        c4, c8, _ = query_backbone.channels
        self.decoder = Decoder(2 * value_channels, (c8, c4), decoder_channels)

    def normalise(self, images: Tensor) -> Tensor:
        """Return RGB in 0..1 as it is: the encoders normalise, so a border of zeros is a black one (authors' code)."""
        return images

    def encode_key(self, frames: Tensor) -> QueryFeatures:
        """Encode what a frame looks like. Shapes: (B, 3, H, W) in 0..1, H and W multiples of 16 -> QueryFeatures."""
        key, value, f8, f4 = self.query_encoder(frames)
        return QueryFeatures(key, value, f8, f4)

    def encode_memory(self, frames: Tensor, features: QueryFeatures | None, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a frame together with each object's mask: one pass, one key and one value for each object.

        features: not used; STCN's are. Shapes: frames (B, 3, H, W) in 0..1, soft masks in 0..1 (B, K, H, W) -> keys (B,
        K, C, h, w), values (B, K, V, h, w).
        """
        B, K = masks.shape[:2]
        others = (masks.sum(1, keepdim=True) - masks).clamp(0, 1)
        planes = torch.stack([masks, others], 2).flatten(0, 1)  # (BK, 2, H, W)
        key, value, _, _ = self.memory_encoder(frames.repeat_interleave(K, 0), planes)
        return split_batch(key, B, K), split_batch(value, B, K)

    def decode(self, readout: Tensor, features: QueryFeatures) -> Tensor:
        """Turn what the memory recalled into logits. Shapes: (B, K, V, h, w) -> (B, K, H, W), before the sigmoid."""
        logits: Tensor = self.decoder(readout, features)
        return logits


class Encoder(nn.Module):
    """A residual backbone and two 3x3 convolutions of its f16: a key to match and a value to recall."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: ResNetFeatures, key_channels: int, value_channels: int):
        super().__init__()
        self.backbone = backbone
        self.key = nn.Conv2d(backbone.channels[-1], key_channels, 3, 1, 1)
        self.value = nn.Conv2d(backbone.channels[-1], value_channels, 3, 1, 1)
        # Torchvision's ImageNet statistics, in units of 0..1; the authors keep them in their checkpoint
        self.register_buffer("pixel_mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, frames: Tensor, planes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shapes: (B, 3, H, W), planes (B, 2, H, W) -> key (B, C, h, w), value (B, V, h, w), f8, f4."""
        x = (frames - self.pixel_mean) / self.pixel_std
        f4, f8, f16 = self.backbone(x if planes is None else torch.cat([x, planes], 1))
        return self.key(f16), self.value(f16), f8, f4


class Decoder(nn.Module):
    """From the readout at stride 16 to one logit a pixel, by way of the query's f8 and f4."""

    def __init__(self, channels_in: int, skip_channels: tuple[int, int], width: int):
        super().__init__()
        self.compress = nn.Conv2d(channels_in, width, 3, 1, 1)
        self.block = ResidualBlock(width)
        self.refine_8 = Refine(skip_channels[0], width)
        self.refine_4 = Refine(skip_channels[1], width)
        self.predict = nn.Conv2d(width, 2, 3, 1, 1)

    def forward(self, readout: Tensor, features: QueryFeatures) -> Tensor:
        """Shapes: (B, K, V, h, w) -> (B, K, H, W)."""
        B, K = readout.shape[:2]
        value = features.value.unsqueeze(1).expand_as(readout)
        x = self.block(self.compress(torch.cat([readout, value], 2).flatten(0, 1)))  # (BK, width, h, w)
        x = self.refine_8(split_batch(x, B, K), features.f8)  # (B, K, width, 2h, 2w)
        x = self.refine_4(x, features.f4)  # (B, K, width, 4h, 4w)
        classes = self.predict(F.relu(x.flatten(0, 1)))  # (BK, 2, 4h, 4w): not this object, this object
        # The softmax of two logits is the sigmoid of their difference
        logits = F.interpolate(classes[:, 1:] - classes[:, :1], scale_factor=4, mode="bilinear", align_corners=False)
        return logits.view(B, K, *logits.shape[-2:])


class Refine(nn.Module):
    """One step to twice the resolution: the refined skip feature plus the upsampled incoming one."""

    def __init__(self, skip_channels: int, width: int):
        super().__init__()
        self.skip_projection = nn.Conv2d(skip_channels, width, 3, 1, 1)
        self.skip_block = ResidualBlock(width)
        self.block = ResidualBlock(width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Shapes: (B, K, C, h, w), (B, S, 2h, 2w) -> (B, K, C, 2h, 2w). The skip is refined once for all objects."""
        B, K = x.shape[:2]
        up = F.interpolate(x.flatten(0, 1), scale_factor=2, mode="bilinear", align_corners=False)
        x = split_batch(up, B, K) + self.skip_block(self.skip_projection(skip)).unsqueeze(1)
        out: Tensor = self.block(x.flatten(0, 1))
        return split_batch(out, B, K)


class ResidualBlock(nn.Module):
    """Pre-activation block without norm: x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels, H, W) -> the same."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))
