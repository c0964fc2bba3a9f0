"""What each person of a clip does: the head that looks at boxes, and one function for each detector of the papers.

A detector is a recognition network of `builders.py` whose res5 keeps its resolution (spatial stride 1, dilation 2:
features of stride 16) and whose head classifies boxes instead of positions. Source: SlowFast (Feichtenhofer 2019)
section 5; the context branch is the ActivityNet 2019 report's.

Shape letters: N clips, C channels, T frames, H/W pixels, n boxes of one clip, K boxes of all clips, Q positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from twospeed.errors import InputError
from twospeed.models.slowfast import builders
from twospeed.models.slowfast.builders import Options
from twospeed.models.slowfast.network import SlowFast, initialise

FEATURE_STRIDE = 16  # pixels of the clip for each position of the features
RESOLUTION = 7  # bins of RoIAlign along each side
CLASSES = 80
CONTEXT_CHANNELS = 512


class ContextAttention(nn.Module):
    """What a box's features find in the whole scene: attention from boxes to positions of the pooled features.

    The report describes self-attention between globally pooled and RoI features whose result is concatenated to the
    RoI features, and no more. Here: features pooled over all of time and over 2x2 positions are the keys and values,
    a box's features the query; softmax of the scaled products, as in the non-local block's embedded Gaussian.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.theta = nn.Linear(channels, inner)
        self.phi = nn.Linear(channels, inner)
        self.g = nn.Linear(channels, inner)
        self.out = nn.Linear(inner, inner)

    def forward(self, regions: Sequence[Tensor], scene: Tensor) -> Tensor:
        """[(n, C) for each clip], (N, C, H, W) -> (K, inner), rows in the order of the boxes."""
        if min(scene.shape[-2:]) > 1:
            scene = nn.functional.max_pool2d(scene, 2)
        positions = scene.flatten(2).transpose(1, 2)  # (N, Q, C)
        phi, g = self.phi(positions), self.g(positions)  # (N, Q, inner)
        gathered = [
            nn.functional.scaled_dot_product_attention(self.theta(query)[None], phi[i : i + 1], g[i : i + 1])[0]
            for i, query in enumerate(regions)
        ]
        result: Tensor = self.out(torch.cat(gathered)).relu()
        return result


class RegionHead(nn.Module):
    """Classify boxes: average over all of time, RoIAlign, spatial maximum, concatenate pathways, one linear layer.

    A box holds for the whole clip (2-D boxes replicated along time), so that averaging features over time before
    RoIAlign is the same as after it. roi_aligned: True shifts boxes by half a feature, as networks that PySlowFast
    trained itself expect; False is what the released weights learned. context: also look at the rest of the scene,
    see `ContextAttention`. Logits are per class (sigmoid, not softmax: people do several things at once).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int = CLASSES,
        *,
        roi_aligned: bool = False,
        context: bool = False,
        context_channels: int = CONTEXT_CHANNELS,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.roi_aligned = roi_aligned
        self.context = ContextAttention(channels, context_channels) if context else None
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels + (context_channels if context else 0), num_classes)

    def pool(self, features: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, C, T, H, W), N times (n, 4) -> (N, C, H, W) averaged over time, and (K, C) for the boxes."""
        from torchvision.ops import roi_align  # slow to import: not before boxes come

        averaged = features.mean(dim=2)
        regions = roi_align(
            averaged,
            [box.to(averaged) for box in boxes],
            output_size=RESOLUTION,
            spatial_scale=1 / FEATURE_STRIDE,
            sampling_ratio=0,  # as many points in each bin as it has features
            aligned=self.roi_aligned,
        )
        return averaged, regions.amax(dim=(2, 3))

    def forward(self, features: list[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """[(N, C, T, H, W) for each pathway], N times (n, 4) xyxy in pixels of the clip -> logits (K, num_classes)."""
        check_boxes(boxes, len(features[0]))
        pooled = [self.pool(pathway, boxes) for pathway in features]
        regions = torch.cat([region for _, region in pooled], dim=1)  # (K, C)
        if self.context is not None:
            scene = torch.cat([averaged for averaged, _ in pooled], dim=1)
            found = self.context(torch.split(regions, [len(box) for box in boxes]), scene)
            regions = torch.cat([regions, found], dim=1)
        logits: Tensor = self.projection(self.dropout(regions))
        return logits


def check_boxes(boxes: Sequence[Tensor] | Tensor, clips: int) -> None:
    """Refuse boxes that are not one tensor (n, 4) for each clip."""
    if isinstance(boxes, Tensor) or len(boxes) != clips:
        found = f"a tensor of shape {tuple(boxes.shape)}" if isinstance(boxes, Tensor) else f"{len(boxes)} tensors"
        raise InputError(f"boxes are {found}; give a list of {clips} tensors (n, 4), one for each clip")
    for number, box in enumerate(boxes):
        if box.ndim != 2 or box.shape[1] != 4:
            raise InputError(f"boxes of clip {number} have shape {tuple(box.shape)}; give (n, 4) xyxy in pixels")


class DetectOptions(Options, total=False):
    """Options of every detector, beside those of its backbone; `RegionHead` explains each.

    roi_aligned: None takes what the weights' authors had (`weights_from`: False for PyTorchVideo and Caffe2), else
    what the name's published configuration has. weights_from: who wrote the weights, found by `convert.options_from`.
    """

    roi_aligned: bool | None
    context: bool
    context_channels: int
    weights_from: str | None


def _detector(backbone: Callable[..., SlowFast], options: DetectOptions, *, aligned: bool = False) -> SlowFast:
    """Build a recognition network for regions. aligned: RoIAlign of the name's published configuration."""
    chosen: dict[str, Any] = {"num_classes": CLASSES, "res5_stride": 1, "res5_dilation": 2, **options}
    if chosen.pop("head", None) is not None:
        raise InputError("a detector brings its own head; options roi_aligned and context change it")
    if (chosen["res5_stride"], chosen["res5_dilation"]) != (1, 2):
        raise InputError(
            f"res5_stride={chosen['res5_stride']}, res5_dilation={chosen['res5_dilation']}: the region head needs "
            "features of stride 16, res5_stride=1 and res5_dilation=2"
        )
    roi_aligned = chosen.pop("roi_aligned", None)
    weights_from = chosen.pop("weights_from", None)
    if roi_aligned is None:
        roi_aligned = aligned and weights_from not in ("pytorchvideo", "caffe2")
    context = chosen.pop("context", False)
    context_channels = chosen.pop("context_channels", CONTEXT_CHANNELS)
    network = backbone(**chosen)
    network.head = RegionHead(
        network.feature_channels,
        network.num_classes,
        roi_aligned=roi_aligned,
        context=context,
        context_channels=context_channels,
        dropout=chosen.get("dropout", 0.5),
    )
    initialise(network.head)
    network.recorded_options["roi_aligned"] = roi_aligned
    return network


def slowfast_r50_4x16_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 4x16, ResNet-50, for boxes."""
    return _detector(builders.slowfast_r50_4x16, options, aligned=True)


def slowfast_r50_4x16_nl_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 4x16, ResNet-50, with non-local blocks in res4, for boxes."""
    return _detector(builders.slowfast_r50_4x16_nl, options, aligned=True)


def slowfast_r50_8x8_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 8x8, ResNet-50, for boxes: PySlowFast's "32x2 SHORT", PyTorchVideo's hub detector (not aligned)."""
    return _detector(builders.slowfast_r50_8x8, options, aligned=True)


def slowfast_r50_8x8_nl_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 8x8, ResNet-50, with non-local blocks in res4, for boxes."""
    return _detector(builders.slowfast_r50_8x8_nl, options, aligned=True)


def slowfast_r101_8x8_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 8x8, ResNet-101 "50_50", for boxes."""
    return _detector(builders.slowfast_r101_8x8, options)


def slowfast_r101_8x8_nl_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 8x8, ResNet-101 "50_50", with non-local blocks pooled (2, 2, 2), for boxes: the released "32x2"."""
    return _detector(builders.slowfast_r101_8x8_nl, options)


def slowfast_r101_16x8_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 16x8, ResNet-101 "50_50", for boxes."""
    return _detector(builders.slowfast_r101_16x8, options)


def slowfast_r101_16x8_nl_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """SlowFast 16x8, ResNet-101 "50_50", with non-local blocks pooled (2, 2, 2), for boxes: the released "64x2"."""
    return _detector(builders.slowfast_r101_16x8_nl, options)


def slow_r50_4x16_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """Slow pathway alone, 4 frames, for boxes."""
    return _detector(builders.slow_r50_4x16, options, aligned=True)


def slow_r50_8x8_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """Slow pathway alone, 8 frames, for boxes."""
    return _detector(builders.slow_r50_8x8, options, aligned=True)


def fast_r101_32x2_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """Fast pathway alone (beta = 1), ResNet-101, for boxes."""
    return _detector(builders.fast_r101_32x2, options)


def fast_r101_32x2_nl_ava(**options: Unpack[DetectOptions]) -> SlowFast:
    """Fast pathway alone (beta = 1) with non-local blocks in res4, for boxes: 27.4 mAP in the report."""
    return _detector(builders.fast_r101_32x2_nl, options)
