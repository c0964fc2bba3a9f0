"""One function for each SlowFast network of the papers.

`TxTau` is the Slow pathway's frames x their stride in a 30 fps video (8x8: 8 frames, one in 8). Without options a
name is the variant that its paper or report measured: ResNet-101 with temporal kernels in the first 6 of 23 res4
blocks ("50_50"), non-local blocks after three blocks of the Slow pathway's res4. Every function takes the options
below; weights decide those that shapes can tell (`twospeed.models.slowfast.convert.options_from`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from torch import nn

from twospeed.errors import InputError
from twospeed.models.slowfast.blocks import Fusion, Merge, NonLocalMode
from twospeed.models.slowfast.network import Average, Pathway, SlowFast, SlowSampling

R50 = (3, 4, 6, 3)
R101 = (3, 4, 23, 3)
NONLOCAL_R50 = (1, 3, 5)  # 0-based blocks of res4 after which a non-local block stands
NONLOCAL_R101 = (6, 13, 20)
R101_50_50 = 6  # leading blocks of res4 with a temporal kernel, as many as a ResNet-50 has


class Options(TypedDict, total=False):
    """Options of every builder; `SlowFast` explains each."""

    num_classes: int
    alpha: int
    beta_inverse: int
    width: int
    fusion: Fusion
    fusion_kernel: int
    fusion_channel_ratio: int
    fusion_merge: Merge
    res4_temporal_blocks: Sequence[int] | int | None
    nonlocal_res3: Sequence[int]
    nonlocal_res4: Sequence[int]
    nonlocal_pool: Sequence[int]
    nonlocal_mode: NonLocalMode
    res5_stride: int
    res5_dilation: int
    dropout: float
    crop_size: int | None
    zero_init_final_bn: bool
    frames: int
    frame_stride: int
    average: Average
    slow_sampling: SlowSampling
    head: nn.Module | None


class _Preset(Options, total=False):
    """What a name fixes beside the options."""

    depths: Sequence[int]
    pathways: Sequence[Pathway]


# Where weights hold non-local blocks, ResNet-50 configurations pool (1, 2, 2) before them, the report (2, 2, 2)
_R50: _Preset = {"depths": R50, "nonlocal_pool": (1, 2, 2)}
_R101: _Preset = {"depths": R101, "nonlocal_pool": (2, 2, 2)}
_R101_50_50: _Preset = {**_R101, "res4_temporal_blocks": R101_50_50}


def _build(preset: _Preset, options: Options) -> SlowFast:
    """Join a name's own numbers with the caller's options, refusing unknown ones by name."""
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        known = ", ".join(Options.__annotations__)
        raise InputError(f"unknown option {', '.join(unknown)}; a SlowFast network takes {known}")
    chosen: _Preset = {**preset, **options}
    return SlowFast(**chosen)


def slowfast_r50_4x16(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 4x16, ResNet-50: 32 Fast frames, alpha 8."""
    return _build({**_R50, "alpha": 8}, options)


def slowfast_r50_4x16_nl(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 4x16, ResNet-50, with non-local blocks in res4."""
    return _build({**_R50, "alpha": 8, "nonlocal_res4": NONLOCAL_R50}, options)


def slowfast_r50_8x8(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 8x8, ResNet-50: 32 Fast frames, alpha 4. The released networks fuse with a kernel of 7, not 5."""
    return _build({**_R50, "fusion_kernel": 7}, options)


def slowfast_r50_8x8_nl(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 8x8, ResNet-50, with non-local blocks in res4."""
    return _build({**_R50, "fusion_kernel": 7, "nonlocal_res4": NONLOCAL_R50}, options)


def slowfast_r101_8x8(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 8x8, ResNet-101 "50_50"."""
    return _build(_R101_50_50, options)


def slowfast_r101_8x8_nl(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 8x8, ResNet-101 "50_50", with non-local blocks: 115 G multiply-adds in the ActivityNet 2019 report."""
    return _build({**_R101_50_50, "nonlocal_res4": NONLOCAL_R101}, options)


def slowfast_r101_16x8(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 16x8, ResNet-101 "50_50": 64 Fast frames, alpha 4."""
    return _build({**_R101_50_50, "frames": 64}, options)


def slowfast_r101_16x8_nl(**options: Unpack[Options]) -> SlowFast:
    """SlowFast 16x8, ResNet-101 "50_50", with non-local blocks: 234 G multiply-adds in the report.

    The configuration shipped for Kinetics pools (1, 2, 2): give `nonlocal_pool=(1, 2, 2)` for weights trained by it.
    """
    return _build({**_R101_50_50, "frames": 64, "nonlocal_res4": NONLOCAL_R101}, options)


def slow_r50_4x16(**options: Unpack[Options]) -> SlowFast:
    """Slow pathway alone, 4 frames, one in 16."""
    return _build({**_R50, "pathways": ("slow",), "frames": 4, "frame_stride": 16}, options)


def slow_r50_8x8(**options: Unpack[Options]) -> SlowFast:
    """Slow pathway alone, 8 frames, one in 8."""
    return _build({**_R50, "pathways": ("slow",), "frames": 8, "frame_stride": 8}, options)


def fast_r101_32x2(**options: Unpack[Options]) -> SlowFast:
    """Fast pathway alone at full width (beta = 1), ResNet-101, temporal kernels in every block, as in the report."""
    return _build({**_R101, "pathways": ("fast",)}, options)


def fast_r101_32x2_nl(**options: Unpack[Options]) -> SlowFast:
    """Fast pathway alone (beta = 1) with non-local blocks in res4: 552 G multiply-adds in the report."""
    return _build({**_R101, "pathways": ("fast",), "nonlocal_res4": NONLOCAL_R101}, options)
