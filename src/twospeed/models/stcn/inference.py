"""STCN rearranged to run fast: equal logits up to rounding, no training.

What changes, and why it is faster on a CPU:

- 3x3 convolutions of stride 1 run by Winograd's algorithm (`ops/winograd.py`), with their weights transformed once.
  Nearly all of the decoder's arithmetic is such: a fifth of the multiplications. The key encoder stays direct.
- Where two convolutions are summed (a residual block's second and its skip), they are one with two inputs; where one
  reads a concatenation, nothing is concatenated. Key and thin projection read the same feature: one convolution.
- Batch norm is folded into the convolution before it; ReLU and sums happen in place, while the block of the
  picture that was just computed is still in the cache.
- Features lie channels last in memory throughout.

On a GPU only the folding and the memory layout apply.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.resnet import BasicBlock, Bottleneck, ResNetFeatures
from twospeed.models.stcn.network import STCN, Decoder, Fusion, KeyFeatures, ResidualBlock, Up, ValueEncoder
from twospeed.ops.fold import fold_batch_norm
from twospeed.ops.winograd import Scratch, Tile, convolve_3x3, transform_kernel

LAST = torch.channels_last

# Which 3x3 convolutions run by Winograd's algorithm, and with which tiles, by their channels. Milliseconds on one AVX2
# core (direct; tiles of 4; of 6), for as many channels in as out:
#    64 at 60x108   5.7   5.3   5.1      64 at 15x27  0.4  0.6  0.8
#    96 at 60x108  12.7   9.4   8.9      96 at 15x27  0.8  0.8  1.3
#   128 at 60x108  22.6  15.5  13.4     128 at 15x27  1.4  1.1  1.8
#   256 at 60x108  92.6  43.7  35.6     256 at 15x27  6.6  4.2  5.7
# Narrower ones gain nothing on small pictures and little on large ones. Tiles of 6 save more multiplications, but their
# transforms cost more, and their weights take 64/9 of the room: above 64 MB, reading those outweighs the rest for
# the few tiles of the features at stride 16 that have such widths.
_MIN_CHANNELS = 96
_WEIGHTS_FOR_6 = (1 << 15, 1 << 18)


def for_inference(network: STCN, *, winograd: bool | None = None) -> FoldedSTCN:
    """Return a network that computes what `network` does in eval mode, faster; `network` is left as it is.

    The two share nothing: training `network` on does not change the returned one. winograd: None chooses it on CPUs.
    Logits agree to 1e-4 of their range in float32. The transformed weights take memory: 1.0 GB for `stcn`.
    """
    device = next(network.parameters()).device
    return FoldedSTCN(network, device.type == "cpu" if winograd is None else winograd)


class FoldedSTCN(nn.Module):
    """What `for_inference` returns: called like `STCN`. Not to be called from two threads at a time."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: STCN, winograd: bool) -> None:
        super().__init__()
        with torch.no_grad():
            # Keys are compared and only the best 20 kept: the smallest rounding flips which is the 20th. So the way to
            # the keys stays direct; Winograd's rounding enters only where nothing is chosen by it.
            exact, make = _Maker(winograd=False), _Maker(winograd)
            self.similarity = network.similarity
            self.key_encoder = FoldedTrunk(network.key_encoder, exact)
            self.aspp = copy.deepcopy(network.aspp)
            self.key_channels = network.key_projection.out_channels
            self.projections = exact.convolution([network.key_projection, network.thin_projection], along=0)
            self.value_encoder = FoldedValueEncoder(network.value_encoder, make)
            self.decoder = FoldedDecoder(network.decoder, make)
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

    @torch.no_grad()
    def decode(self, readout: Tensor, features: KeyFeatures) -> Tensor:
        """As `STCN.decode`."""
        logits: Tensor = self.decoder(readout, features.thin, features.f8, features.f4)
        return logits


class _Maker:
    """Makes the convolutions of one network, which share their scratch memory."""

    def __init__(self, winograd: bool) -> None:
        self.winograd, self.scratch = winograd, Scratch()

    def convolution(
        self, convs: Sequence[nn.Conv2d], norm: nn.BatchNorm2d | None = None, *, along: int = 0
    ) -> FoldedConv | WinogradConv:
        """One convolution that does what several do. along: 0 stacks their outputs, 1 sums them."""
        weights, biases = zip(*(fold_batch_norm(conv, norm) for conv in convs), strict=True)
        dtype = convs[0].weight.dtype
        weight = torch.cat(weights, along).to(dtype)
        bias = (torch.cat(biases) if along == 0 else torch.stack(biases).sum(0)).to(dtype)
        suited = (
            all(
                (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
                == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
                for conv in convs
            )
            and min(weight.shape[:2]) >= _MIN_CHANNELS
        )
        if self.winograd and suited:
            return WinogradConv(weight, bias, self.scratch)
        return FoldedConv(convs[0], weight, bias)


class FoldedConv(nn.Module):
    """Convolution of the concatenated inputs (+ sum) (+ ReLU) by the library."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.stride = (conv.stride[0], conv.stride[1])
        self.padding = (int(conv.padding[0]), int(conv.padding[1]))
        self.dilation = (conv.dilation[0], conv.dilation[1])
        self.register_buffer("weight", weight.contiguous(memory_format=LAST))
        self.register_buffer("bias", bias)

    def forward(
        self,
        inputs: Sequence[Tensor],
        *,
        rectify_inputs: Sequence[bool] = (),
        channels: slice | None = None,
        add: Tensor | None = None,
        in_place: bool = False,
        rectify: bool = False,
    ) -> Tensor:
        """Shapes: (B, C_i, H, W) each -> (B, O, H', W').

        rectify_inputs: which inputs pass a ReLU first. channels: the part of the weights' input channels that the
        inputs are; only the part that starts at 0 adds the bias. add: summed to the result. in_place: `add` may be
        overwritten by the result. rectify: ReLU at the end.
        """
        weight = self.weight if channels is None else self.weight[:, channels]
        bias = self.bias if channels is None or not channels.start else None
        relus = rectify_inputs or (False,) * len(inputs)
        parts = [x.relu() if relu else x for x, relu in zip(inputs, relus, strict=True)]
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        y = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)
        if add is not None:
            y += add
        return y.relu_() if rectify else y


class WinogradConv(nn.Module):
    """The same for 3x3 convolutions of stride 1, by Winograd's algorithm."""

    kernel: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, scratch: Scratch) -> None:
        super().__init__()
        fewest, most = _WEIGHTS_FOR_6
        tile: Tile = 6 if fewest <= weight.shape[0] * weight.shape[1] <= most else 4
        self.scratch = scratch
        self.register_buffer("kernel", transform_kernel(weight, tile))
        self.register_buffer("bias", bias)

    def forward(
        self,
        inputs: Sequence[Tensor],
        *,
        rectify_inputs: Sequence[bool] = (),
        channels: slice | None = None,
        add: Tensor | None = None,
        in_place: bool = False,
        rectify: bool = False,
    ) -> Tensor:
        """As `FoldedConv.forward`."""
        return convolve_3x3(
            inputs,
            self.kernel if channels is None else self.kernel[:, channels],
            self.bias if channels is None or not channels.start else None,
            rectify_inputs=rectify_inputs,
            add=add,
            in_place=in_place,
            rectify=rectify,
            scratch=self.scratch,
        )


class FoldedTrunk(nn.Module):
    """`ResNetFeatures`."""

    def __init__(self, trunk: ResNetFeatures, make: _Maker) -> None:
        super().__init__()
        self.pool = trunk.stem_stride == 2
        self.stem = make.convolution([trunk.conv1], trunk.bn1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(FoldedTrunkBlock(block, make) for block in trunk.get_submodule(stage).children()))
            for stage in trunk.stages
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """As `ResNetFeatures.forward`."""
        x = self.stem([x.contiguous(memory_format=LAST)])
        if self.pool:  # the maximum of rectified values is the rectified maximum, a quarter as many
            x = F.max_pool2d(x, 3, 2, 1)
        x = x.relu_()
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class FoldedTrunkBlock(nn.Module):
    """`BasicBlock` or `Bottleneck`."""

    def __init__(self, block: nn.Module, make: _Maker) -> None:
        super().__init__()
        assert isinstance(block, BasicBlock | Bottleneck)
        layers = [make.convolution([block.conv1], block.bn1), make.convolution([block.conv2], block.bn2)]
        if isinstance(block, Bottleneck):
            layers.append(make.convolution([block.conv3], block.bn3))
        self.layers = nn.ModuleList(layers[:-1])
        self.last = layers[-1]
        self.shortcut: nn.Module | None = None
        if block.downsample is not None:
            conv, norm = block.downsample
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            self.shortcut = make.convolution([conv], norm)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y = x
        for layer in self.layers:
            y = layer([y], rectify=True)
        shortcut = x if self.shortcut is None else self.shortcut([x])
        result: Tensor = self.last([y], add=shortcut, rectify=True)
        return result


class FoldedBlock(nn.Module):
    """`ResidualBlock`, on a feature of each object or on its concatenation with one that all objects share."""

    def __init__(self, block: ResidualBlock, make: _Maker) -> None:
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
    """Repeat a picture's feature for each of its objects. Shapes: (B, C, H, W) -> (count, C, H, W)."""
    B = len(x)
    return x.expand(count, -1, -1, -1) if B == 1 else x.repeat_interleave(count // B, 0)


class FoldedValueEncoder(nn.Module):
    """`ValueEncoder`."""

    def __init__(self, encoder: ValueEncoder, make: _Maker) -> None:
        super().__init__()
        self.pictures = encoder.pictures
        self.trunk = FoldedTrunk(encoder.trunk, make)
        self.fusion = FoldedFusion(encoder.fusion, make)

    def forward(self, frames: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """As `ValueEncoder.forward`."""
        B, K = masks.shape[:2]
        x = self.trunk(self.pictures(frames, masks).flatten(0, 1))[-1]  # (BK, C, h, w)
        fused: Tensor = self.fusion(x, f16)
        return fused.reshape(B, K, *fused.shape[1:])


class FoldedFusion(nn.Module):
    """`Fusion`."""

    def __init__(self, fusion: Fusion, make: _Maker) -> None:
        super().__init__()
        self.block1 = FoldedBlock(fusion.block1, make)
        self.attention = copy.deepcopy(fusion.attention)
        self.block2 = FoldedBlock(fusion.block2, make)

    def forward(self, x: Tensor, f16: Tensor) -> Tensor:
        """Shapes: (BK, C, h, w), (B, C16, h, w) -> (BK, V, h, w)."""
        y = self.block1(x, f16)
        result: Tensor = self.block2(y + self.attention(y))
        return result


class FoldedUp(nn.Module):
    """`Up`."""

    def __init__(self, up: Up, make: _Maker) -> None:
        super().__init__()
        self.skip_projection = make.convolution([up.skip_projection])
        self.block = FoldedBlock(up.block, make)

    def forward(self, x: Tensor, skip: Tensor, *, rectify: bool = False) -> Tensor:
        """Shapes: (BK, C, h, w), (B, S, 2h, 2w) -> (BK, C', 2h, 2w). rectify: ReLU at the end."""
        up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if len(up) == len(skip):
            up = self.skip_projection([skip], add=up, in_place=True)
        else:
            up += _for_each(self.skip_projection([skip]), len(up))
        result: Tensor = self.block(up, rectify=rectify, in_place=True)
        return result


class FoldedDecoder(nn.Module):
    """`Decoder`."""

    taps: Tensor
    bias: Tensor

    def __init__(self, decoder: Decoder, make: _Maker) -> None:
        super().__init__()
        self.compress = FoldedBlock(decoder.compress, make)
        self.up_16_8 = FoldedUp(decoder.up_16_8, make)
        self.up_8_4 = FoldedUp(decoder.up_8_4, make)
        weight, bias = fold_batch_norm(decoder.predict, None)
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
