"""SlowFast networks: one pathway sees few frames with many channels, the other many frames with few channels.

Reads like Table 1 of "SlowFast Networks for Video Recognition" (Feichtenhofer 2019); its rows are made of
`blocks.py`. Slow-only and Fast-only networks are the same network with a pathway left out. Module names are those of
PySlowFast, so that its checkpoints need no renaming.

Shape letters: N clips, C channels, T frames, H/W pixels, P pooled positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.errors import InputError
from twospeed.models.slowfast.blocks import (
    BottleneckBranch,
    Fusion,
    Lateral,
    Merge,
    NonLocal,
    NonLocalMode,
    Stage,
    Stem,
)

Pathway = Literal["slow", "fast"]
Average = Literal["probabilities", "logits"]
SlowSampling = Literal["linspace", "stride"]

STEM_KERNEL: Mapping[str, int] = {"slow": 1, "fast": 5}  # frames that the first convolution sees
STAGES = (2, 3, 4, 5)  # res2 .. res5


def slow_frame_indices(frames: int, alpha: int, sampling: SlowSampling = "linspace") -> list[int]:
    """Return which of the Fast pathway's frames the Slow pathway sees, frames / alpha of them.

    sampling: "stride" takes every alpha-th from the first on, as the papers describe. "linspace" spreads them evenly,
    first and last included, floor(i * (frames - 1) / (count - 1)): the released weights were trained and measured so.
    """
    if sampling == "stride":
        return list(range(0, frames, alpha))
    count = frames // alpha
    return [i * (frames - 1) // max(count - 1, 1) for i in range(count)]


def check_clip(clip: Tensor, alpha: int, frames: int) -> None:
    """Refuse a clip that is not (N, 3, T, H, W) with T a multiple of alpha; `frames` is what the network expects."""
    if clip.ndim != 5 or clip.shape[1] != 3:
        raise InputError(f"clip has shape {tuple(clip.shape)}, expected (N, 3, T, H, W)")
    if clip.shape[2] == 0 or clip.shape[2] % alpha:
        raise InputError(
            f"clip has {clip.shape[2]} frames, not a multiple of alpha = {alpha}; this network expects {frames} "
            "(those of the Fast pathway: the Slow ones are picked inside)"
        )


class ClassifyHead(nn.Module):
    """Average each pathway over all of time and a sliding spatial window, concatenate, classify every position.

    window: side of the window in features (training crop / 32), so that a clip of the training crop gives one
    position and a larger one several; None averages over all of space. Features smaller than the window are averaged
    whole.
    """

    def __init__(self, channels: int, num_classes: int, window: int | None, dropout: float) -> None:
        super().__init__()
        self.window = window
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels, num_classes)

    def pool(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C, H', W')."""
        x = x.mean(dim=2)
        window = self.window
        if window is None:
            return x.mean(dim=(2, 3), keepdim=True)
        return F.avg_pool2d(x, (min(window, int(x.shape[2])), min(window, int(x.shape[3]))), stride=1)

    def pooled(self, features: list[Tensor]) -> Tensor:
        """[(N, C, T, H, W) for each pathway] -> (N, P, all C), positions row by row."""
        return torch.cat([self.pool(x) for x in features], dim=1).flatten(2).transpose(1, 2)

    def forward(self, features: list[Tensor]) -> Tensor:
        """[(N, C, T, H, W) for each pathway] -> logits (N, P, num_classes)."""
        logits: Tensor = self.projection(self.dropout(self.pooled(features)))
        return logits


class SlowFast(nn.Module):
    """A Slow and a Fast pathway joined by lateral connections, or one of them alone.

    Call with clip: float (N, 3, T, H, W), normalised, T frames of the fastest pathway; returns logits (N, P,
    num_classes) before softmax, one row for each position of the head's window (one at the training crop). The Slow
    pathway's frames are picked inside. Raises `InputError` for a clip of another shape or with T not a multiple of
    alpha.

    depths: blocks of res2 .. res5. pathways: which exist. width: channels of the first convolution (Slow's, or those
    of the only pathway). alpha: Fast frames for each Slow frame. beta_inverse: Slow channels for each Fast channel.
    res4_temporal_blocks: how many leading blocks of res4 have a temporal kernel of 3, one number for each pathway
    (None: all); res2 and res3 have it in the Fast pathway only, res5 in both. nonlocal_res3/_res4: 0-based blocks of
    the first pathway after which a non-local block stands. res5_stride 1 with res5_dilation 2 gives the features of
    stride 16 that region heads use. crop_size: training crop in pixels, sets the head's window; None pools over all
    of space. head: a module called with the list of features, then with what else `forward` is given; default
    `ClassifyHead`. frames, frame_stride: the sampling that the weights expect, in frames of a 30 fps video; recorded
    for the pipelines, not used here (tau, the Slow stride, is frame_stride * alpha). average: how the weights'
    authors turn logits into scores, also only recorded: "probabilities" (softmax, then mean over positions and views)
    or "logits" (mean over positions, then softmax). slow_sampling: which frames the Slow pathway sees, see
    `slow_frame_indices`; weights must be used as they were trained.
    """

    def __init__(
        self,
        num_classes: int = 400,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        pathways: Sequence[Pathway] = ("slow", "fast"),
        width: int = 64,
        alpha: int = 4,
        beta_inverse: int = 8,
        fusion: Fusion = "time_strided_conv",
        fusion_kernel: int = 5,
        fusion_channel_ratio: int = 2,
        fusion_merge: Merge = "concatenate",
        res4_temporal_blocks: Sequence[int] | int | None = None,
        nonlocal_res3: Sequence[int] = (),
        nonlocal_res4: Sequence[int] = (),
        nonlocal_pool: Sequence[int] = (2, 2, 2),
        nonlocal_mode: NonLocalMode = "dot_product",
        res5_stride: int = 2,
        res5_dilation: int = 1,
        dropout: float = 0.5,
        crop_size: int | None = 224,
        zero_init_final_bn: bool = True,
        frames: int = 32,
        frame_stride: int = 2,
        average: Average = "probabilities",
        slow_sampling: SlowSampling = "linspace",
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pathways: tuple[Pathway, ...] = tuple(pathways)
        self.alpha = alpha if len(self.pathways) == 2 else 1
        self.num_classes = num_classes
        self.class_names: tuple[str, ...] | None = None  # for whoever names classes: in order, kept with the weights
        self.frames = frames
        self.frame_stride = frame_stride
        self.average = average
        if slow_sampling not in get_args(SlowSampling):
            raise InputError(f"slow_sampling={slow_sampling!r}: choose {' or '.join(get_args(SlowSampling))}")
        self.slow_sampling: SlowSampling = slow_sampling
        # What names and shapes of the weights cannot tell; kept beside them when they are saved
        self.recorded_options: dict[str, object] = {
            "alpha": alpha,
            "nonlocal_pool": list(nonlocal_pool),
            "nonlocal_mode": nonlocal_mode,
            "res5_stride": res5_stride,
            "res5_dilation": res5_dilation,
            "frames": frames,
            "frame_stride": frame_stride,
            "average": average,
            "slow_sampling": slow_sampling,
        }
        widths = [width] if len(self.pathways) == 1 else [width, width // beta_inverse]
        temporal_res4 = self._check(
            depths,
            widths,
            width,
            beta_inverse,
            fusion_kernel,
            res4_temporal_blocks,
            nonlocal_res3,
            nonlocal_res4,
        )
        pool_t, pool_h, pool_w = nonlocal_pool

        self.s1 = nn.Module()
        for p, pathway in enumerate(self.pathways):
            self.s1.add_module(f"pathway{p}_stem", Stem(widths[p], STEM_KERNEL[pathway]))

        channels = list(widths)
        for stage, depth in zip(STAGES, depths, strict=True):
            if len(self.pathways) == 2:
                lateral = Lateral(
                    channels[0],
                    channels[1],
                    alpha,
                    fusion,
                    kernel=fusion_kernel,
                    channel_ratio=fusion_channel_ratio,
                    merge=fusion_merge,
                )
                self.add_module(f"s{stage - 1}_fuse", lateral)
                channels[0] = lateral.channels_out
            blocks = Stage()
            for p, pathway in enumerate(self.pathways):
                temporal = {2: 0, 3: 0, 4: temporal_res4[p], 5: depth} if pathway == "slow" else {4: temporal_res4[p]}
                channels_out = widths[p] * 2**stage  # 256, 512, 1024, 2048 for the Slow pathway
                blocks.add_pathway(
                    depth,
                    channels[p],
                    channels_out // 4,
                    channels_out,
                    temporal_blocks=temporal.get(stage, depth),
                    stride={2: 1, 5: res5_stride}.get(stage, 2),
                    dilation=res5_dilation if stage == 5 else 1,
                    nonlocal_after={3: nonlocal_res3, 4: nonlocal_res4}.get(stage, ()) if p == 0 else (),
                    nonlocal_pool=(pool_t, pool_h, pool_w),
                    nonlocal_mode=nonlocal_mode,
                )
                channels[p] = channels_out
            self.add_module(f"s{stage}", blocks)

        self.pathway_channels = tuple(channels)  # of res5's features
        self.feature_channels = sum(channels)
        window = None if crop_size is None else crop_size // 32
        self.head = head if head is not None else ClassifyHead(self.feature_channels, num_classes, window, dropout)
        initialise(self, zero_init_final_bn)

    def _check(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        width: int,
        beta_inverse: int,
        fusion_kernel: int,
        res4_temporal_blocks: Sequence[int] | int | None,
        nonlocal_res3: Sequence[int],
        nonlocal_res4: Sequence[int],
    ) -> list[int]:
        """Refuse numbers that make no network; return the temporal blocks of res4 for each pathway."""
        for name, number in {"frames": self.frames, "frame_stride": self.frame_stride, "alpha": self.alpha}.items():
            if number < 1:
                raise InputError(f"{name}={number}: at least 1")
        if self.pathways not in (("slow", "fast"), ("slow",), ("fast",)):
            raise InputError(f"pathways={self.pathways}: choose ('slow', 'fast'), ('slow',) or ('fast',)")
        if len(depths) != len(STAGES) or min(depths) < 1:
            raise InputError(f"depths={tuple(depths)}: four numbers of blocks, res2 to res5, each at least 1")
        if len(widths) == 2 and (beta_inverse < 1 or width % beta_inverse):
            raise InputError(f"width={width}, beta_inverse={beta_inverse}: width must be a multiple of beta_inverse")
        if fusion_kernel % 2 == 0:
            raise InputError(f"fusion_kernel={fusion_kernel}: an odd number of frames, such as 5 or 7")
        for name, positions, depth in (
            ("res3", nonlocal_res3, depths[1]),
            ("res4", nonlocal_res4, depths[2]),
        ):
            if any(not 0 <= i < depth for i in positions):
                raise InputError(f"nonlocal_{name}={tuple(positions)}: {name} has blocks 0 to {depth - 1}")
        if res4_temporal_blocks is None:
            return [depths[2]] * len(widths)
        if isinstance(res4_temporal_blocks, int):
            return [res4_temporal_blocks] * len(widths)
        if len(res4_temporal_blocks) != len(widths):
            raise InputError(
                f"res4_temporal_blocks={tuple(res4_temporal_blocks)}: one number for each of {len(widths)} pathways"
            )
        return list(res4_temporal_blocks)

    def split(self, clip: Tensor) -> list[Tensor]:
        """Give each pathway its frames: (N, 3, T, H, W) -> [(N, 3, T / alpha, H, W), the clip], or [clip]."""
        check_clip(clip, self.alpha, self.frames)
        if len(self.pathways) == 1:
            return [clip]
        return [clip[:, :, slow_frame_indices(clip.shape[2], self.alpha, self.slow_sampling)], clip]

    def features(self, clip: Tensor) -> list[Tensor]:
        """Return the res5 features of every pathway: (N, C, T, H/32, W/32) each (H/16 with res5_stride 1)."""
        x = [self.s1.get_submodule(f"pathway{p}_stem")(frames) for p, frames in enumerate(self.split(clip))]
        for stage in STAGES:
            if len(self.pathways) == 2:
                x = self.get_submodule(f"s{stage - 1}_fuse")(x)
            x = self.get_submodule(f"s{stage}")(x)
        return x

    def forward(self, clip: Tensor, *for_head: Tensor | Sequence[Tensor]) -> Tensor:
        """Return what the head makes of the features; `for_head` goes to it (boxes, for a region head)."""
        result: Tensor = self.head(self.features(clip), *for_head)
        return result


def initialise(network: nn.Module, zero_init_final_bn: bool = True) -> None:
    """Fill as the authors do: He normal (fan-out) convolutions, last norm of every residual zero, linear 0.01."""
    if next(network.parameters()).is_meta:  # there is nothing to fill, and torch would import its compiler to do so
        return
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    if zero_init_final_bn:
        for module in network.modules():
            if isinstance(module, BottleneckBranch):
                nn.init.zeros_(module.c_bn.weight)
            elif isinstance(module, NonLocal):
                nn.init.zeros_(module.bn.weight)
