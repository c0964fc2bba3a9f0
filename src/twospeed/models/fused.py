"""Convolutions with all that surrounds them, and the networks made of them: equal results to rounding, no training.

- Batch norm is fused into the convolution before it; ReLU and sums happen in place.
- 3x3 convolutions of stride 1 and enough channels run by Winograd's algorithm on CPUs (`ops/winograd.py`), with their
  weights transformed once.
- Features lie channels last in memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.models.conv_norm import ConvNorm, NormReluConv
from twospeed.models.encoders.efficientnet_lite import EfficientNetLite
from twospeed.models.encoders.resnet import BasicBlock, Bottleneck, ResNetFeatures
from twospeed.ops.fuse import fuse_batch_norm, scale_and_shift
from twospeed.ops.onednn import Orders, convolve
from twospeed.ops.winograd import Kernel, Scratch, Tile, convolve_3x3

LAST = torch.channels_last
Part = TypeVar("Part", bound=nn.Module)

# Which 3x3 convolutions run by Winograd's algorithm, and with which tiles, by their channels. Milliseconds on one AVX2
# core (direct; tiles of 4; of 6), for as many channels in as out:
#    64 at 60x108   5.7   5.3   5.1      64 at 15x27  0.4  0.6  0.8
#    96 at 60x108  12.7   9.4   8.9      96 at 15x27  0.8  0.8  1.3
#   128 at 60x108  22.6  15.5  13.4     128 at 15x27  1.4  1.1  1.8
#   256 at 60x108  92.6  43.7  35.6     256 at 15x27  6.6  4.2  5.7
#   512 at   8x8   5.6   7.1             64 at 192x384   63    47    55
#   512 at  16x16 16.6  10.3
# Narrower ones gain nothing. With AVX-512, where the library's convolutions are twice as fast, those below 256 gain
# only where nothing else runs between them: those of 128 cost `gsvnet_swiftnet_r18` a tenth of a keyframe, since
# their transformed weights are read anew each time (milliseconds on one core, and on two, of one repeated):
#    64 at 121x161   5.7   6.1   6.4     2.9  4.3  3.6
#    96 at  60x108   4.3   3.1   3.5     2.2  2.0  2.0
#   128 at  60x108   7.6   4.5   4.8     3.8  2.7  2.8
#   256 at  60x108  30.3  14.6  13.0    15.3  8.0  7.5
#   512 at  60x108 121.8  45.6  41.2    63.2       22.4
# Tiles of 6 save more multiplications, but their transforms cost more, and their weights take 64/9 of the memory: above
# 64 MB, reading those outweighs the rest for the few tiles of the features at stride 16 that have such widths. Images
# of a few tiles alone do not repay reading the transformed weights at all.
_MIN_CHANNELS = 64
_MIN_CHANNELS_AVX512 = 256
_MIN_TILES = 16
_WEIGHTS_FOR_6 = (1 << 15, 1 << 18)


def for_inference(
    network: nn.Module, *, winograd: bool | None = None, dtype: torch.dtype = torch.float32
) -> nn.Module | None:
    """Return a copy that computes what `network` does in eval mode, its backbones and units replaced by faster ones.

    `network` is left as it is; None for one that has none of them, and for another dtype than float32. winograd: None
    chooses it on CPUs, for the widths that gain there. Results agree to 1e-4 of their range. The transformed weights
    take memory: 0.3 GB for `gsvnet_swiftnet_r18`. Not to be called from two threads at a time.
    """
    known = (ConvNorm, NormReluConv, ResNetFeatures, EfficientNetLite)
    if dtype != torch.float32 or not any(isinstance(module, known) for module in network.modules()):
        return None
    device = next(network.parameters()).device
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    _replace(fast, Maker(winograd, device))
    return fast


@torch.no_grad()
def _replace(module: nn.Module, make: Maker) -> None:
    for name, part in module.named_children():
        if isinstance(part, ConvNorm):
            setattr(module, name, FusedConvNorm(part, make))
        elif isinstance(part, NormReluConv):
            setattr(module, name, FusedNormReluConv(part, make))
        elif isinstance(part, ResNetFeatures | EfficientNetLite):
            setattr(module, name, fused_backbone(part, make))
        else:
            _replace(part, make)


class Maker:
    """Makes the convolutions of one network, which share their scratch memory.

    winograd: None chooses it on CPUs, for the widths that gain there. dtype: of the weights.
    """

    def __init__(self, winograd: bool | None, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.winograd = device.type == "cpu" if winograd is None else winograd
        wide = winograd is None and torch.backends.cpu.get_cpu_capability() == "AVX512"
        self.least_channels = _MIN_CHANNELS_AVX512 if wide else _MIN_CHANNELS
        self.dtype, self.scratch = dtype, Scratch()

    def convolution(
        self, convs: Sequence[nn.Conv2d], norm: nn.BatchNorm2d | None = None, *, along: int = 0
    ) -> FusedConv | WinogradConv:
        """One convolution that does what several do. along: 0 stacks their outputs, 1 sums them."""
        weights, biases = zip(*(fuse_batch_norm(conv, norm) for conv in convs), strict=True)
        dtype = convs[0].weight.dtype if self.dtype == torch.float32 else self.dtype
        weight = torch.cat(weights, along).to(dtype)
        bias = (torch.cat(biases) if along == 0 else torch.stack(biases).sum(0)).to(dtype)
        suited = (
            all(
                (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
                == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
                for conv in convs
            )
            and min(weight.shape[:2]) >= self.least_channels
        )
        if self.winograd and suited:
            return WinogradConv(convs[0], weight, bias, self.scratch)
        return FusedConv(convs[0], weight, bias)


class FusedConv(nn.Module):
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
        self.orders = Orders()

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
        if add is not None and not (in_place and add.is_contiguous(memory_format=LAST)):
            add = add.expand(len(x), -1, -1, -1).clone(memory_format=LAST)
        where = (self.stride, self.padding, self.dilation)
        orders = self.orders if channels is None else None
        return convolve(x, weight, bias, *where, activation="relu" if rectify else "none", add_to=add, orders=orders)


class WinogradConv(nn.Module):
    """The same for 3x3 convolutions of stride 1, by Winograd's algorithm unless the image is tiny."""

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor, scratch: Scratch) -> None:
        super().__init__()
        fewest, most = _WEIGHTS_FOR_6
        self.tile: Tile = 6 if fewest <= weight.shape[0] * weight.shape[1] <= most else 4
        self.scratch = scratch
        self.direct = FusedConv(conv, weight, bias)
        self.kernel = Kernel(self.direct.weight, self.tile)

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
        """As `FusedConv.forward`."""
        B, _, H, W = inputs[0].shape
        few = B * math.ceil(H / self.tile) * math.ceil(W / self.tile) < _MIN_TILES
        if few or torch.is_autocast_enabled("cpu"):  # in bfloat16 the direct one is faster
            result: Tensor = self.direct(
                inputs, rectify_inputs=rectify_inputs, channels=channels, add=add, in_place=in_place, rectify=rectify
            )
            return result
        return convolve_3x3(
            inputs,
            self.kernel if channels is None else self.kernel.part(channels),
            self.direct.bias if channels is None or not channels.start else None,
            rectify_inputs=rectify_inputs,
            add=add,
            in_place=in_place,
            rectify=rectify,
            scratch=self.scratch,
        )


class FusedConvNorm(nn.Module):
    """`ConvNorm`."""

    def __init__(self, unit: ConvNorm, make: Maker) -> None:
        super().__init__()
        self.layer, self.slope = make.convolution([unit.conv], unit.norm), unit.slope

    def forward(self, x: Tensor) -> Tensor:
        """As `ConvNorm.forward`."""
        y: Tensor = self.layer([x], rectify=self.slope == 0.0)
        return y if self.slope in (0.0, 1.0) else F.leaky_relu_(y, self.slope)


class FusedLayer(nn.Module):
    """A convolution by itself."""

    def __init__(self, conv: nn.Conv2d, make: Maker) -> None:
        super().__init__()
        self.layer = make.convolution([conv])

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        y: Tensor = self.layer([x])
        return y


class FusedNormReluConv(nn.Module):
    """`NormReluConv`: what the norm does is one product and one sum a value."""

    gain: Tensor
    shift: Tensor

    def __init__(self, unit: NormReluConv, make: Maker) -> None:
        super().__init__()
        for name, value in zip(("gain", "shift"), scale_and_shift(unit.norm), strict=True):
            self.register_buffer(name, value.to(unit.conv.weight.dtype).view(-1, 1, 1))
        self.layer = make.convolution([unit.conv])

    def forward(self, x: Tensor) -> Tensor:
        """As `NormReluConv.forward`."""
        y: Tensor = self.layer([torch.addcmul(self.shift, x, self.gain).relu_()])
        return y


def with_fused_layers(module: Part, make: Maker) -> Part:
    """Return a copy of a module whose own convolutions run as all others here do."""
    copied = copy.deepcopy(module)
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            parent, _, own = name.rpartition(".")
            setattr(copied.get_submodule(parent), own, FusedLayer(part, make))
    return copied


def fused_backbone(backbone: ResNetFeatures | EfficientNetLite, make: Maker) -> nn.Module:
    """Return the fast form of an image encoder. EfficientNet-Lite is fast as it is, without gradients."""
    if isinstance(backbone, ResNetFeatures):
        return FusedBackbone(backbone, make)
    return copy.deepcopy(backbone).to(memory_format=LAST)


class FusedBackbone(nn.Module):
    """`ResNetFeatures`."""

    def __init__(self, backbone: ResNetFeatures, make: Maker) -> None:
        super().__init__()
        self.pool = backbone.stem_stride == 2
        self.stem = make.convolution([backbone.conv1], backbone.bn1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(FusedBackboneBlock(block, make) for block in backbone.get_submodule(stage).children()))
            for stage in backbone.stages
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


class FusedBackboneBlock(nn.Module):
    """`BasicBlock` or `Bottleneck`."""

    def __init__(self, block: nn.Module, make: Maker) -> None:
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
        result: Tensor = self.last([y], add=shortcut, in_place=shortcut is not x, rectify=True)
        return result
