"""STCN, read top to bottom as the paper's figure 2: encode keys, encode values, (read the memory), decode masks.

Source: Cheng, Tai and Tang, "Rethinking Space-Time Networks with Improved Memory Coverage for Efficient Video Object
Segmentation", NeurIPS 2021. Shape letters: B batch, K objects, H/W pixels, h/w cells at stride 16. Names f4, f8, f16
give a feature's stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.encoders.efficientnet_lite import EfficientNetLite
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.protocol import Similarity as Similarity
from twospeed.ops.masks import split_batch

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's statistics, in units of 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


class KeyFeatures(NamedTuple):
    """What one pass of the key encoder gives; computed once a frame, for the query and for the memory alike."""

    key: Tensor  # (B, C, h, w), what is matched
    thin: Tensor  # (B, V', h, w), the query's own value for the decoder
    f16: Tensor  # (B, C16, h, w)
    f8: Tensor  # (B, C8, 2h, 2w)
    f4: Tensor  # (B, C4, 4h, 4w)


class STCN(nn.Module):
    """Space-time correspondence network: masks of a frame from the masks of remembered frames.

    key_backbone, value_backbone: residual features of three stages. key_channels: C of the keys (64). value_channels:
    V of the values (512). thin_channels: V' (512). decoder_channels: widths at strides 16, 8, 4 (the last two equal, as
    published). similarity: how keys are compared, used by `read_memory`. aspp: atrous spatial pyramid pooling on f16
    before the key and the thin feature. recent: the decoder also sees what the frame before shows near each cell
    (`RecentMasks`). input_scale: as `MaskMemoryNetwork`. pixel_mean, pixel_std: of RGB in
    0..1, what the key encoder expects.
    """

    keys_per_object = False
    masks_as_given = False
    finder: str | None = None  # what `Tracker` corrects its masks by, unless told otherwise: a name of the catalogue
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        key_backbone: ResNetFeatures | EfficientNetLite,
        value_backbone: ResNetFeatures,
        *,
        key_channels: int = 64,
        value_channels: int = 512,
        thin_channels: int = 512,
        decoder_channels: tuple[int, int, int] = (512, 256, 256),
        similarity: Similarity = "l2",
        aspp: bool = False,
        recent: bool = False,
        input_scale: float = 1.0,
        pixel_mean: tuple[float, float, float] = IMAGENET_MEAN,
        pixel_std: tuple[float, float, float] = IMAGENET_STD,
    ):
        super().__init__()
        if similarity not in ("l2", "dot"):
            raise ValueError(f"similarity is {similarity!r}; choose 'l2' (STCN) or 'dot' (STM)")
        c4, c8, c16 = key_backbone.channels
        self.similarity: Similarity = similarity
        self.input_scale = input_scale
        self.recorded_options: dict[str, object] = {"similarity": similarity}  # not determined by the weights
        self.key_encoder = key_backbone
        self.aspp = ASPP(c16) if aspp else None
        self.key_projection = nn.Conv2d(c16, key_channels, 3, 1, 1)
        self.thin_projection = nn.Conv2d(c16, thin_channels, 3, 1, 1)
        self.value_encoder = ValueEncoder(value_backbone, c16, value_channels)
        self.recent = RecentMasks() if recent else None
        self.sees_last_frame = recent
        readout_channels = value_channels + (RecentMasks.channels if recent else 0)
        self.decoder = Decoder(readout_channels + thin_channels, (c8, c4), decoder_channels)
        nn.init.orthogonal_(self.key_projection.weight)
        nn.init.zeros_(self.key_projection.bias)  # type: ignore[arg-type]
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Bring RGB in 0..1, (..., 3, H, W), to the range the encoders expect."""
        return (images - self.pixel_mean) / self.pixel_std

    def encode_key(self, frames: Tensor) -> KeyFeatures:
        """Encode what a frame looks like. Shapes: normalised (B, 3, H, W), H and W multiples of 16 -> KeyFeatures."""
        f4, f8, f16 = self.key_encoder(frames)
        context = f16 if self.aspp is None else self.aspp(f16)
        return KeyFeatures(self.key_projection(context), self.thin_projection(context), f16, f8, f4)

    def encode_value(self, frames: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """Encode which cells belong to which object.

        Shapes: normalised frames (B, 3, H, W), f16 of the same frames, soft masks in 0..1 (B, K, H, W)
        -> (B, K, V, h, w).
        """
        value: Tensor = self.value_encoder(frames, f16, masks)
        return value

    def encode_memory(self, frames: Tensor, features: KeyFeatures, masks: Tensor) -> tuple[Tensor, Tensor]:
        """As `MaskMemoryNetwork.encode_memory`: the frame's own key, and `encode_value`."""
        return features.key, self.encode_value(frames, features.f16, masks)

    def recall_recent(self, readout: Tensor, key: Tensor, last_key: Tensor, last_masks: Tensor) -> Tensor:
        """As `LastFrameNetwork.recall_recent`; a network without `recent` returns the readout as it is."""
        if self.recent is None:
            return readout
        return torch.cat([readout, self.recent(key, last_key, last_masks)], 2)

    def decode(self, readout: Tensor, features: KeyFeatures) -> Tensor:
        """Turn what the memory recalled into logits. Shapes: (B, K, V, h, w) -> (B, K, H, W), before the sigmoid."""
        logits: Tensor = self.decoder(readout, features.thin, features.f8, features.f4)
        return logits


class RecentMasks(nn.Module):
    """What the frame before shows near each cell: its masks, carried along by keys that match close by.

    The memory is matched over the whole image, so that it confuses objects that look alike;
    this read prefers cells close to where the query is. How sharply, and how far it reaches, is learned. A cell's mask
    travels as its 4x4 parts, so that outlines finer than the stride arrive. In the spirit of AOT's short-term memory
    (Yang, Wei and Yang, NeurIPS 2021), without its value encoder.
    """

    parts = 4
    channels = parts * parts + 1  # the object's own mask in parts, and all others' as a whole

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.zeros(()))  # logarithm of the factor on similarities
        self.reach = nn.Parameter(torch.tensor(math.log(3.0)))  # logarithm of the Gaussian's deviation in cells

    def forward(self, key: Tensor, last_key: Tensor, last_masks: Tensor) -> Tensor:
        """Shapes: (B, C, h, w), (B, C, h, w), (B, K, H, W) -> (B, K, 17, h, w)."""
        height, width = key.shape[-2:]
        scale = self.sharpness.exp() * key.shape[1] ** -0.5
        spread = (2 * self.reach).exp()  # the Gaussian's variance
        rows = torch.arange(height, device=key.device, dtype=key.dtype) - (height - 1) / 2
        columns = torch.arange(width, device=key.device, dtype=key.dtype) - (width - 1) / 2
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)[None].expand(len(key), -1, -1)
        # Places are two more channels of keys: -|a - b|^2 / 2 is a.b less squares, and the query's own square cancels
        queries = torch.cat([2 * scale * key.flatten(2), place / spread], 1).transpose(-1, -2)  # (B, P, C + 2)
        keys = torch.cat([last_key.flatten(2), place], 1)  # (B, C + 2, N)
        bias = -scale * last_key.flatten(2).square().sum(1) - place.square().sum(1) / (2 * spread)
        # In half precision, places would be rounded to cells. The meta device, where costs are counted, has no autocast
        with nullcontext() if key.is_meta else torch.autocast(key.device.type, enabled=False):
            affinity = torch.baddbmm(bias[:, None].float(), queries.float(), keys.float()).softmax(-1)  # (B, P, N)
        own = F.pixel_unshuffle(F.avg_pool2d(last_masks, 16 // self.parts).flatten(0, 1).unsqueeze(1), self.parts)
        own = split_batch(own, *last_masks.shape[:2])  # (B, K, 16, h, w)
        whole = own.mean(2, keepdim=True)
        planes = torch.cat([own, whole.sum(1, keepdim=True) - whole], 2)
        carried = planes.flatten(1, 2).flatten(2) @ affinity.to(planes.dtype).transpose(-1, -2)  # (B, K 17, P)
        return carried.reshape(*planes.shape[:3], height, width)


class ValueEncoder(nn.Module):
    """A light backbone on image and masks, fused with the key encoder's f16 (supplement, section F.2)."""

    def __init__(self, backbone: ResNetFeatures, f16_channels: int, value_channels: int):
        super().__init__()
        self.backbone = backbone
        self.mask_channels = backbone.conv1.in_channels - 3  # 2: this object, all others; 1: static pretraining
        self.fusion = Fusion(backbone.channels[-1], f16_channels, value_channels)

    def forward(self, frames: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W), (B, C16, h, w), (B, K, H, W) -> (B, K, V, h, w)."""
        B, K = masks.shape[:2]
        x = self.backbone(self.images(frames, masks).flatten(0, 1))[-1]  # (BK, C, h, w)
        fused: Tensor = self.fusion(split_batch(x, B, K), f16)
        return fused

    def images(self, frames: Tensor, masks: Tensor) -> Tensor:
        """What the backbone sees for each object: RGB, its mask, the others'. Shapes: -> (B, K, 3 + masks, H, W)."""
        B, K, H, W = masks.shape
        planes = masks.unsqueeze(2)  # (B, K, 1, H, W)
        if self.mask_channels == 2:
            # Differs from STM, as the authors' code does: the others' sum is not clamped to 1.
            others = masks.sum(1, keepdim=True) - masks if K > 1 else torch.zeros_like(masks)
            planes = torch.cat([planes, others.unsqueeze(2)], 2)
        return torch.cat([frames.unsqueeze(1).expand(B, K, 3, H, W), planes], 2)


class Fusion(nn.Module):
    """Residual block, attention, residual block: value features meet the image's f16."""

    def __init__(self, value_in: int, f16_channels: int, value_channels: int):
        super().__init__()
        self.block1 = ResidualBlock(value_in + f16_channels, value_channels)
        self.attention = CBAM(value_channels)
        self.block2 = ResidualBlock(value_channels, value_channels)

    def forward(self, x: Tensor, f16: Tensor) -> Tensor:
        """Shapes: (B, K, C, h, w), (B, C16, h, w) -> (B, K, V, h, w)."""
        B, K = x.shape[:2]
        y = self.block1.per_object(x, f16).flatten(0, 1)  # (BK, V, h, w)
        y = self.block2(y + self.attention(y))
        return split_batch(y, B, K)


class Decoder(nn.Module):
    """From the readout at stride 16 to one logit a pixel, by way of the query's f8 and f4."""

    def __init__(self, channels_in: int, skip_channels: tuple[int, int], widths: tuple[int, int, int]):
        super().__init__()
        w16, w8, w4 = widths
        self.compress = ResidualBlock(channels_in, w16)
        self.up_16_8 = Up(skip_channels[0], w16, w8)
        self.up_8_4 = Up(skip_channels[1], w8, w4)
        self.predict = nn.Conv2d(w4, 1, 3, 1, 1)

    def forward(self, readout: Tensor, thin: Tensor, f8: Tensor, f4: Tensor) -> Tensor:
        """Shapes: (B, K, V, h, w), (B, V', h, w), (B, C8, 2h, 2w), (B, C4, 4h, 4w) -> (B, K, 16h, 16w) logits."""
        x = self.compress.per_object(readout, thin)  # (B, K, w16, h, w)
        x = self.up_16_8(x, f8)  # (B, K, w8, 2h, 2w)
        x = self.up_8_4(x, f4)  # (B, K, w4, 4h, 4w)
        logits = self.predict(F.relu(x.flatten(0, 1)))
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return logits.view(x.shape[0], x.shape[1], *logits.shape[-2:])


class Up(nn.Module):
    """One step to twice the resolution: the skip feature, brought to width, plus the upsampled incoming one."""

    def __init__(self, skip_channels: int, channels_in: int, channels_out: int):
        super().__init__()
        self.skip_projection = nn.Conv2d(skip_channels, channels_in, 3, 1, 1)
        self.block = ResidualBlock(channels_in, channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Shapes: (B, K, C, h, w), (B, S, 2h, 2w) -> (B, K, C', 2h, 2w); the skip is projected once."""
        B, K = x.shape[:2]
        up = F.interpolate(x.flatten(0, 1), scale_factor=2, mode="bilinear", align_corners=False)
        x = split_batch(up, B, K) + self.skip_projection(skip).unsqueeze(1)
        out: Tensor = self.block(x.flatten(0, 1))
        return split_batch(out, B, K)


class ResidualBlock(nn.Module):
    """Pre-activation block without norm: skip(x) + conv(relu(conv(relu(x)))); the skip is a 3x3 of x, not relu(x)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1)
        self.skip = nn.Conv2d(channels_in, channels_out, 3, 1, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels_in, H, W) -> (B, channels_out, H, W)."""
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        return y + (x if self.skip is None else self.skip(x))

    def per_object(self, x: Tensor, shared: Tensor) -> Tensor:
        """Run on concat(x, shared), where every object has its own x and all see the same image feature.

        A convolution of a concatenation is the sum of two convolutions, so with several objects the shared part is
        computed once. Shapes: (B, K, C, h, w), (B, S, h, w) -> (B, K, channels_out, h, w).
        """
        B, K, C = x.shape[:3]
        if K == 1 or self.skip is None:
            joined = torch.cat([x.flatten(0, 1), shared.repeat_interleave(K, 0)], 1)
            out: Tensor = self(joined)
            return split_batch(out, B, K)
        y = _convolve_shared(self.conv1, F.relu(x), F.relu(shared), C)
        y = split_batch(self.conv2(F.relu(y.flatten(0, 1))), B, K)
        return y + _convolve_shared(self.skip, x, shared, C)


def _convolve_shared(conv: nn.Conv2d, x: Tensor, shared: Tensor, split: int) -> Tensor:
    own = F.conv2d(x.flatten(0, 1), conv.weight[:, :split], conv.bias, padding=1)
    common = F.conv2d(shared, conv.weight[:, split:], padding=1)
    return split_batch(own, *x.shape[:2]) + common.unsqueeze(1)


class CBAM(nn.Module):
    """Channel gate, then spatial gate (Woo et al., ECCV 2018)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)
        self.spatial = nn.Conv2d(2, 1, 7, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> the same."""
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))])  # (2, B, C)
        gate = self.excite(F.relu(self.squeeze(pooled))).sum(0).sigmoid()
        x = x * gate[:, :, None, None]
        where = torch.stack([x.amax(1), x.mean(1)], 1)  # (B, 2, h, w)
        return x * self.spatial(where).sigmoid()


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017) as a residual on f16: context at several reaches.

    Differs: the STCN supplement names ASPP for one network of its ensemble, but neither its weights nor its layers are
    published; rates are DeepLab v3's for stride 16.
    """

    def __init__(self, channels: int, rates: Sequence[int] = (6, 12, 18)):
        super().__init__()
        width = channels // 4
        self.point = nn.Conv2d(channels, width, 1)
        self.atrous = nn.ModuleList(nn.Conv2d(channels, width, 3, 1, rate, rate) for rate in rates)
        self.image = nn.Conv2d(channels, width, 1)
        self.project = nn.Conv2d(width * (len(rates) + 2), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> the same."""
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        branches = [self.point(x), *(branch(x) for branch in self.atrous), image]
        return x + self.project(F.relu(torch.cat(branches, 1)))
