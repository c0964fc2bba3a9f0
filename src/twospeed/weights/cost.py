"""What a model costs: parameters and multiply-adds, counted on the meta device, where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from twospeed.models.protocol import input_scale, sees_last_frame
from twospeed.ops.clicks import PLANES
from twospeed.ops.motion import OFFSETS
from twospeed.ops.motion import PLANES as MOTION_PLANES
from twospeed.weights.catalog import find
from twospeed.weights.load import build


@dataclass(frozen=True)
class Cost:
    """parameters: of the whole network. gmacs: multiply-adds of `what`, in units of 1e9.

    Convention: a multiply-add is one; convolutions, linear layers and matrix products count, normalisation, activation,
    pooling and resampling do not.
    """

    parameters: int
    gmacs: float
    what: str


def cost_of(name: str) -> Cost:
    """Count one model, in the variant of its default weights: a clip, or for track a 480p frame."""
    entry = find(name)
    with torch.device("meta"), torch.inference_mode():
        model = build(entry, entry.weights.options if entry.weights else {}).eval()
        parameters = sum(p.numel() for p in model.parameters())
        with FlopCounterMode(display=False) as counter:
            if entry.finder:
                model(torch.empty(1, 3, 256, 448), torch.empty(1, len(OFFSETS) * MOTION_PLANES, 128, 224))
                what = "one 480x854 frame at 256x448, and its motion"
            elif entry.task == "track":
                what = _run_unsupervised_tracker(model) if hasattr(model, "slow_fast") else _run_tracker(model)
            elif entry.task == "click":
                model(torch.empty(1, 3, 320, 320), torch.empty(1, PLANES, 320, 320))
                what = "one 320x320 window"
            elif entry.task == "segment":
                is_video = segmenter_cost(model, 1024, 2048).step_gmacs > 0
                what = "two 2048x1024 frames, a keyframe and the next" if is_video else "one 2048x1024 frame"
            else:
                pre = entry.preprocessing
                side, frames = pre.crop or 256, pre.frames or 32
                boxes = [[torch.empty(1, 4)]] if entry.task == "detect" else []
                model(torch.empty(1, 3, frames, side, side), *boxes)
                what = f"one view of {frames} x {side} x {side}" + (" with one box" if boxes else "")
    return Cost(parameters, counter.get_total_flops() / 2e9, what)


@dataclass(frozen=True)
class SegmenterCost:
    """What labelling a video costs: parameters by part, and multiply-adds of a keyframe and of a frame between.

    keyframe_parameters, step_parameters: counts (delays that are not learned left out). bytes_each: of a parameter.
    keyframe_gmacs, step_gmacs: in units of 1e9, by the convention of `Cost`; an image network has no step (0).
    """

    keyframe_parameters: int
    step_parameters: int
    bytes_each: int
    keyframe_gmacs: float
    step_gmacs: float

    def gmacs_per_frame(self, interval: int) -> float:
        """Return the average with every so many frames a keyframe (GSVNet's Table 2)."""
        return (self.keyframe_gmacs + (interval - 1) * self.step_gmacs) / interval


def segmenter_cost(model: nn.Module, height: int, width: int) -> SegmenterCost:
    """Count a network that labels frames of one size: an image network, or a video network as `GSVNet`.

    It is run once where it is; on the meta device nothing is computed.
    """
    own: Any = model
    is_video = hasattr(own, "propagate")
    device = next(own.parameters(), torch.empty(0)).device
    with torch.inference_mode():
        image = torch.zeros(1, 3, height, width, device=device)
        with FlopCounterMode(display=False) as keyframe:
            scores = own.keyframe(image) if is_video else getattr(own, "scores", own)(image)
        with FlopCounterMode(display=False) as step:
            if is_video:
                own.propagate(scores, image, image)
    of_keyframe = list((own.keyframe_network if is_video else own).parameters())
    first = {id(p) for p in of_keyframe}
    others = [p for name, p in own.named_parameters() if id(p) not in first and (p.requires_grad or name != "delays")]
    return SegmenterCost(
        sum(p.numel() for p in of_keyframe),
        sum(p.numel() for p in others),
        of_keyframe[0].element_size() if of_keyframe else 4,
        keyframe.get_total_flops() / 2e9,
        step.get_total_flops() / 2e9,
    )


def _run_tracker(model: Any) -> str:
    """Run a network that is given masks on one frame and object: STCN, or STM, which has a key for each object."""
    height, width = round(480 * input_scale(model)), round(864 * input_scale(model))
    frame, mask = torch.empty(1, 3, height, width), torch.empty(1, 1, height, width)
    features = model.encode_key(frame)
    _, value = model.encode_memory(frame, features, mask)
    if sees_last_frame(model):
        value = model.recall_recent(value, features.key, features.key, mask)
    model.decode(value, features)
    return "one 480x854 frame and object: key, value and decoder (the memory read is apart)"


def _run_unsupervised_tracker(model: Any) -> str:
    """Run the parts of a SlowFast Mask R-CNN as often as one frame of a stream does: every layer sees a frame once."""
    detector = model.detector
    pyramid = detector.backbone(torch.empty(1, 3, 768, 1344))  # 749x1333, padded
    detector.rpn.head(list(pyramid.values()))
    for level in pyramid.values():
        for layer in model.slow_fast.children():
            layer(level.new_empty(1, layer.conv.in_channels, layer.frames, *level.shape[-2:]))
    heads = detector.roi_heads
    heads.box_predictor(heads.box_head(torch.empty(1000, 256, 7, 7)))
    heads.mask_predictor(heads.mask_head(torch.empty(10, 256, 14, 14)))
    return "one 480x854 frame at 749x1333: backbone, pathways, 1,000 proposals, 10 masks"
