"""What SlowFast networks are made of: stem, bottleneck block, non-local block, stage, lateral connection.

Shape letters: N clips, C channels, T frames, H/W pixels, Q pooled positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.errors import InputError

Fusion = Literal["time_strided_conv", "time_to_channel", "time_strided_sample"]
Merge = Literal["concatenate", "sum"]
NonLocalMode = Literal["dot_product", "softmax"]


class Stem(nn.Module):
    """First convolution of one pathway: (N, 3, T, H, W) -> (N, C, T, H/4, W/4)."""

    def __init__(self, channels: int, temporal_kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            3,
            channels,
            (temporal_kernel, 7, 7),
            stride=(1, 2, 2),
            padding=(temporal_kernel // 2, 3, 3),
            bias=False,
        )
        self.bn = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify, pool."""
        pooled: Tensor = self.pool(self.relu(self.bn(self.conv(x))))
        return pooled


class BottleneckBranch(nn.Module):
    """The residual: a looks along time, b along space (and strides there, not in a), c restores the channels."""

    def __init__(
        self,
        channels_in: int,
        inner: int,
        channels_out: int,
        temporal_kernel: int,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.a = nn.Conv3d(
            channels_in, inner, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False
        )
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = nn.Conv3d(
            inner,
            inner,
            (1, 3, 3),
            stride=(1, stride, stride),
            padding=(0, dilation, dilation),
            dilation=(1, dilation, dilation),
            bias=False,
        )
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = nn.Conv3d(inner, channels_out, 1, bias=False)
        self.c_bn = nn.BatchNorm3d(channels_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual, before it is added to the shortcut."""
        x = self.relu(self.a_bn(self.a(x)))
        x = self.relu(self.b_bn(self.b(x)))
        residual: Tensor = self.c_bn(self.c(x))
        return residual


class Bottleneck(nn.Module):
    """Residual block: shortcut + branch, then ReLU. The shortcut is a projection only where shapes change."""

    def __init__(
        self,
        channels_in: int,
        inner: int,
        channels_out: int,
        temporal_kernel: int,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.branch1: nn.Conv3d | None = None
        self.branch1_bn: nn.BatchNorm3d | None = None
        if channels_in != channels_out or stride != 1:
            self.branch1 = nn.Conv3d(channels_in, channels_out, 1, stride=(1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(channels_out)
        self.branch2 = BottleneckBranch(channels_in, inner, channels_out, temporal_kernel, stride, dilation)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, T, H, W) -> (N, C_out, T, H/stride, W/stride)."""
        residual = self.branch2(x)
        if self.branch1 is not None and self.branch1_bn is not None:
            x = self.branch1_bn(self.branch1(x))
        summed: Tensor = self.relu(x + residual)
        return summed


class NonLocal(nn.Module):
    """Non-local block (Wang 2018): every position gathers from all others, x + BN(out(affinity(x) g(x))).

    pool: window and stride (t, h, w) of the max-pool before phi and g; it has no parameters, so weights cannot tell
    it. mode: "dot_product" divides the affinity by the number of pooled positions, "softmax" scales it by (C/2)^-0.5
    and normalises over pooled positions.
    """

    def __init__(self, channels: int, pool: tuple[int, int, int], mode: NonLocalMode) -> None:
        super().__init__()
        if mode not in ("dot_product", "softmax"):
            raise InputError(f"nonlocal_mode={mode!r}: choose 'dot_product' or 'softmax'")
        inner = channels // 2
        self.mode = mode
        self.pool = pool
        self.conv_theta = nn.Conv3d(channels, inner, 1)
        self.conv_phi = nn.Conv3d(channels, inner, 1)
        self.conv_g = nn.Conv3d(channels, inner, 1)
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> the same shape."""
        pooled = pool_positions(x, self.pool)
        theta = self.conv_theta(x).flatten(2)  # (N, C/2, THW)
        phi = self.conv_phi(pooled).flatten(2)  # (N, C/2, Q)
        g = self.conv_g(pooled).flatten(2)  # (N, C/2, Q)
        affinity = theta.transpose(1, 2) @ phi  # (N, THW, Q)
        if self.mode == "softmax":
            affinity = (affinity * theta.shape[1] ** -0.5).softmax(dim=2)
        else:
            affinity = affinity / phi.shape[2]
        gathered = (g @ affinity.transpose(-1, -2)).view(*theta.shape[:2], *x.shape[2:])  # (N, C/2, T, H, W)
        updated: Tensor = x + self.bn(self.conv_out(gathered))
        return updated


def pool_positions(x: Tensor, pool: tuple[int, int, int]) -> Tensor:
    """Max-pool the positions that a non-local block attends to; an input smaller than the window is refused."""
    if any(size < window for size, window in zip(x.shape[2:], pool, strict=True)):
        raise InputError(
            f"clip too small for the non-local blocks: features (T, H, W) = {tuple(x.shape[2:])} there, "
            f"nonlocal_pool={pool}; use a larger clip or a smaller nonlocal_pool"
        )
    return x if pool == (1, 1, 1) else F.max_pool3d(x, pool, stride=pool)


class Stage(nn.Module):
    """One residual stage (res2 .. res5) of all pathways: a list of features in, a list out."""

    def __init__(self) -> None:
        super().__init__()
        self.pathway_layers: list[list[str]] = []

    def add_pathway(
        self,
        depth: int,
        channels_in: int,
        inner: int,
        channels_out: int,
        *,
        temporal_blocks: int,
        stride: int,
        dilation: int,
        nonlocal_after: Sequence[int] = (),
        nonlocal_pool: tuple[int, int, int] = (1, 2, 2),
        nonlocal_mode: NonLocalMode = "dot_product",
    ) -> None:
        """Append a pathway of `depth` blocks, the first `temporal_blocks` of which look along time (kernel 3)."""
        pathway = len(self.pathway_layers)
        layers: list[str] = []
        for i in range(depth):
            block = Bottleneck(
                channels_in if i == 0 else channels_out,
                inner,
                channels_out,
                temporal_kernel=3 if i < temporal_blocks else 1,
                stride=stride if i == 0 else 1,
                dilation=dilation,
            )
            self.add_module(f"pathway{pathway}_res{i}", block)
            layers.append(f"pathway{pathway}_res{i}")
            if i in nonlocal_after:
                self.add_module(f"pathway{pathway}_nonlocal{i}", NonLocal(channels_out, nonlocal_pool, nonlocal_mode))
                layers.append(f"pathway{pathway}_nonlocal{i}")
        self.pathway_layers.append(layers)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Run every pathway through its blocks."""
        results = []
        for x, layers in zip(features, self.pathway_layers, strict=True):
            for layer in layers:
                x = self.get_submodule(layer)(x)
            results.append(x)
        return results


class Lateral(nn.Module):
    """Lateral connection: give the Slow pathway what the Fast one saw (section 3.3 of the paper).

    time_strided_conv: a (kernel, 1, 1) convolution with stride alpha to `channel_ratio` times the Fast channels.
    time_to_channel: alpha Fast frames become the channels of one Slow frame. time_strided_sample: one Fast frame in
    alpha. The result is concatenated after the Slow channels, or summed where the channel counts agree.
    """

    def __init__(
        self,
        slow_channels: int,
        fast_channels: int,
        alpha: int,
        fusion: Fusion,
        *,
        kernel: int,
        channel_ratio: int,
        merge: Merge,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.fusion = fusion
        self.merge = merge
        if fusion == "time_strided_conv":
            lateral_channels = fast_channels * channel_ratio
            self.conv_f2s = nn.Conv3d(
                fast_channels,
                lateral_channels,
                (kernel, 1, 1),
                stride=(alpha, 1, 1),
                padding=(kernel // 2, 0, 0),
                bias=False,
            )
            self.bn = nn.BatchNorm3d(lateral_channels)
            self.relu = nn.ReLU(inplace=True)
        elif fusion == "time_to_channel":
            lateral_channels = fast_channels * alpha
        elif fusion == "time_strided_sample":
            lateral_channels = fast_channels
        else:
            raise InputError(
                f"fusion={fusion!r}: choose 'time_strided_conv', 'time_to_channel' or 'time_strided_sample'"
            )
        if merge == "sum":
            if lateral_channels != slow_channels:
                raise InputError(
                    f"fusion_merge='sum' needs as many lateral as Slow channels, {fusion} gives "
                    f"{lateral_channels} for {slow_channels}; with time_to_channel this holds for "
                    "alpha = beta_inverse"
                )
            self.channels_out = slow_channels
        elif merge == "concatenate":
            self.channels_out = slow_channels + lateral_channels
        else:
            raise InputError(f"fusion_merge={merge!r}: choose 'concatenate' or 'sum'")

    def lateral(self, fast: Tensor) -> Tensor:
        """(N, C, alpha T, H, W) of the Fast pathway -> (N, C', T, H, W)."""
        if self.fusion == "time_strided_conv":
            convolved: Tensor = self.relu(self.bn(self.conv_f2s(fast)))
            return convolved
        n, c, t, h, w = fast.shape
        grouped = fast.reshape(n, c, t // self.alpha, self.alpha, h, w)
        if self.fusion == "time_strided_sample":
            return grouped[:, :, :, 0]
        return grouped.permute(0, 3, 1, 2, 4, 5).flatten(1, 2)  # (N, alpha C, T, H, W)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[slow, fast] -> [slow with what fast saw, fast untouched]."""
        slow, fast = features
        lateral = self.lateral(fast)
        merged = slow + lateral if self.merge == "sum" else torch.cat([slow, lateral], dim=1)
        return [merged, fast]
