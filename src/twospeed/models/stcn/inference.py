"""STCN rearranged to run fast: equal logits up to rounding, no training.

What changes, and why it is faster on a CPU:

- 3x3 convolutions of stride 1 run by Winograd's algorithm (`ops/winograd.py`), with their weights transformed once.
  Nearly all of the decoder's arithmetic is such: a fifth of the multiplications. The key encoder stays direct.
- Where two convolutions are summed (a residual block's second and its skip), they are one with two inputs; where one
  reads a concatenation, nothing is concatenated. Key and thin projection read the same feature: one convolution.
- Batch norm is fused into the convolution before it; ReLU and sums happen in place, while the block of the
  image that was just computed is still in the cache.
- Features lie channels last in memory throughout.

On a GPU only the folding and the memory layout apply.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.fused import FusedBackbone, Maker, fused_backbone, with_fused_layers
from twospeed.models.stcn.network import STCN, Decoder, Fusion, KeyFeatures, ResidualBlock, Up, ValueEncoder
from twospeed.ops.fuse import fuse_batch_norm


def for_inference(
    network: STCN, *, winograd: bool | None = None, dtype: torch.dtype = torch.float32
) -> FusedSTCN | None:
    """Return a network that computes what `network` does in eval mode, faster; `network` is left as it is.

    The two share nothing: training `network` on does not change the returned one. winograd: None chooses it on CPUs.
    Logits agree to 1e-4 of their range. The transformed weights take memory: 1.0 GB for `stcn`. dtype: bfloat16 gives
    the weights of convolutions that type, for a network that runs in `ops.bf16.autocast`; its products are direct,
    since Winograd's transforms would round. None for another dtype than these two.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    return FusedSTCN(network, winograd if dtype == torch.float32 else False, dtype)


class FusedSTCN(nn.Module):
    """What `for_inference` returns: called like `STCN`. Not to be called from two threads at a time."""

    keys_per_object = STCN.keys_per_object
    masks_as_given = STCN.masks_as_given
    checks_convolutions = True  # see `ops.bf16.autocast`
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: STCN, winograd: bool | None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.no_grad():
            # Keys are compared and only the best 20 kept: the smallest rounding flips which is the 20th. So the way to
            # the keys stays direct; Winograd's rounding enters only where nothing is chosen by it.
            device = next(network.parameters()).device
            exact, make = Maker(False, device, dtype), Maker(winograd, device, dtype)
            self.similarity = network.similarity
            self.key_encoder = fused_backbone(network.key_encoder, exact)
            self.aspp = None if network.aspp is None else with_fused_layers(network.aspp, exact)
            self.key_channels = network.key_projection.out_channels
            self.projections = exact.convolution([network.key_projection, network.thin_projection], along=0)
            self.value_encoder = FusedValueEncoder(network.value_encoder, make)
            self.recent = copy.deepcopy(network.recent)
            self.sees_last_frame = network.sees_last_frame
            self.decoder = FusedDecoder(network.decoder, make)
        self.register_buffer("pixel_mean", network.pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", network.pixel_std.clone(), persistent=False)
        self.requires_grad_(False).eval()

    def normalise(self, images: Tensor) -> Tensor:
        """As `STCN.normalise`."""
        return (images - self.pixel_mean) / self.pixel_std

    @torch.no_grad()
    def encode_key(self, frames: Tensor) -> KeyFeatures:
        """As `STCN.encode_key`."""
        f4, f8, f16 = self.key_encoder(frames)
        context = f16 if self.aspp is None else self.aspp(f16)
        both: Tensor = self.projections([context])
        return KeyFeatures(both[:, : self.key_channels], both[:, self.key_channels :], f16, f8, f4)

    @torch.no_grad()
    def encode_value(self, frames: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """As `STCN.encode_value`."""
        value: Tensor = self.value_encoder(frames, f16, masks)
        return value

    def encode_memory(self, frames: Tensor, features: KeyFeatures, masks: Tensor) -> tuple[Tensor, Tensor]:
        """As `STCN.encode_memory`."""
        return features.key, self.encode_value(frames, features.f16, masks)

    @torch.no_grad()
    def recall_recent(self, readout: Tensor, key: Tensor, last_key: Tensor, last_masks: Tensor) -> Tensor:
        """As `STCN.recall_recent`."""
        if self.recent is None:
            return readout
        return torch.cat([readout, self.recent(key, last_key, last_masks)], 2)

    @torch.no_grad()
    def decode(self, readout: Tensor, features: KeyFeatures) -> Tensor:
        """As `STCN.decode`."""
        logits: Tensor = self.decoder(readout, features.thin, features.f8, features.f4)
        return logits


class FusedBlock(nn.Module):
    """`ResidualBlock`, on a feature of each object or on its concatenation with one that all objects share."""

    def __init__(self, block: ResidualBlock, make: Maker) -> None:
        super().__init__()
        self.first = make.convolution([block.conv1])
        self.identity = block.skip is None
        self.second = make.convolution([block.conv2] if block.skip is None else [block.conv2, block.skip], along=1)
        self.width = block.conv2.in_channels

    def forward(
        self, x: Tensor, shared: Tensor | None = None, *, rectify: bool = False, in_place: bool = False
    ) -> Tensor:
        """Shapes: (BK, C, H, W), shared (B, S, H, W) -> (BK, channels_out, H, W).

        rectify: ReLU at the end. in_place: x may be overwritten.
        """
        inputs, common, common_skip = [x], None, None
        own_first = own_second = None  # which of the weights' channels the inputs are; None is all
        if shared is not None and (len(shared) == len(x) or self.identity):
            inputs.append(_for_each(shared, len(x)))
        elif shared is not None:
            # A convolution of a concatenation is the sum of two: that of the shared part is computed once
            C, after = x.shape[1], self.width + x.shape[1]
            own_first, own_second = slice(0, C), slice(0, after)
            common = _for_each(self.first([shared], rectify_inputs=[True], channels=slice(C, None)), len(x))
            common_skip = _for_each(self.second([shared], channels=slice(after, None)), len(x))
        y = self.first(inputs, rectify_inputs=[True] * len(inputs), channels=own_first, add=common, rectify=True)
        if self.identity:
            residual = x if len(inputs) == 1 else torch.cat(inputs, 1)
            result: Tensor = self.second([y], add=residual, in_place=in_place, rectify=rectify)
        else:
            result = self.second([y, *inputs], channels=own_second, add=common_skip, rectify=rectify)
        return result


def _for_each(x: Tensor, count: int) -> Tensor:
    """Repeat an image's feature for each of its objects. Shapes: (B, C, H, W) -> (count, C, H, W)."""
    B = len(x)
    return x.expand(count, -1, -1, -1) if B == 1 else x.repeat_interleave(count // B, 0)


class FusedValueEncoder(nn.Module):
    """`ValueEncoder`."""

    def __init__(self, encoder: ValueEncoder, make: Maker) -> None:
        super().__init__()
        self.images = encoder.images
        self.backbone = FusedBackbone(encoder.backbone, make)
        self.fusion = FusedFusion(encoder.fusion, make)

    def forward(self, frames: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """As `ValueEncoder.forward`."""
        B, K = masks.shape[:2]
        x = self.backbone(self.images(frames, masks).flatten(0, 1))[-1]  # (BK, C, h, w)
        fused: Tensor = self.fusion(x, f16)
        return fused.reshape(B, K, *fused.shape[1:])


class FusedFusion(nn.Module):
    """`Fusion`."""

    def __init__(self, fusion: Fusion, make: Maker) -> None:
        super().__init__()
        self.block1 = FusedBlock(fusion.block1, make)
        self.attention = with_fused_layers(fusion.attention, make)
        self.block2 = FusedBlock(fusion.block2, make)

    def forward(self, x: Tensor, f16: Tensor) -> Tensor:
        """Shapes: (BK, C, h, w), (B, C16, h, w) -> (BK, V, h, w)."""
        y = self.block1(x, f16)
        result: Tensor = self.block2(y + self.attention(y))
        return result


class FusedUp(nn.Module):
    """`Up`."""

    def __init__(self, up: Up, make: Maker) -> None:
        super().__init__()
        self.skip_projection = make.convolution([up.skip_projection])
        self.block = FusedBlock(up.block, make)

    def forward(self, x: Tensor, skip: Tensor, *, rectify: bool = False) -> Tensor:
        """Shapes: (BK, C, h, w), (B, S, 2h, 2w) -> (BK, C', 2h, 2w). rectify: ReLU at the end."""
        up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if len(up) == len(skip):
            up = self.skip_projection([skip], add=up, in_place=True)
        else:
            up += _for_each(self.skip_projection([skip]), len(up))
        result: Tensor = self.block(up, rectify=rectify, in_place=True)
        return result


class FusedDecoder(nn.Module):
    """`Decoder`."""

    taps: Tensor
    bias: Tensor

    def __init__(self, decoder: Decoder, make: Maker) -> None:
        super().__init__()
        self.compress = FusedBlock(decoder.compress, make)
        self.up_16_8 = FusedUp(decoder.up_16_8, make)
        self.up_8_4 = FusedUp(decoder.up_8_4, make)
        weight, bias = fuse_batch_norm(decoder.predict, None)
        # Applied to the other side: what a cell gives to its neighbours, not what it takes from them
        self.register_buffer("taps", weight[0].flip(1, 2).flatten(1).T.contiguous().to(decoder.predict.weight.dtype))
        self.register_buffer("bias", bias.to(decoder.predict.weight.dtype))

    def forward(self, readout: Tensor, thin: Tensor, f8: Tensor, f4: Tensor) -> Tensor:
        """As `Decoder.forward`."""
        B, K = readout.shape[:2]
        x = self.compress(readout.flatten(0, 1), thin)  # (BK, w16, h, w)
        x = self.up_16_8(x, f8)
        x = self.up_8_4(x, f4, rectify=True)
        # A convolution to one channel is a matrix product to its nine taps, and their sum: twice as fast
        given = self.taps @ x.flatten(2)  # (BK, 9, HW)
        logits = F.fold(given, (x.shape[2], x.shape[3]), 3, padding=1) + self.bias
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return logits.view(B, K, *logits.shape[-2:])
