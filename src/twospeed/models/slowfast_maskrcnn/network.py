"""Mask R-CNN whose pyramid passes through the SlowFast module, read top to bottom as the report's figure.

backbone and pyramid of every frame -> region proposals from the frame itself -> SlowFast module over the frames around
it -> box and mask heads on the enhanced pyramid.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report); Mask R-CNN (He et al., ICCV 2017), built
from torchvision's parts. Shape letters: T frames, H/W pixels of a frame, h/w cells of a pyramid level, n detections.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from twospeed.models.slowfast_maskrcnn.backbone import Pyramid, nano_pyramid, resnet50_pyramid
from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream, SlowFastModule
from twospeed.models.slowfast_maskrcnn.stream import Detections, DetectionStream, FrameFeatures

CLASSES = 2  # background and object
ANCHOR_SIDES = (32, 64, 128, 256, 512)  # pixels, one for each level (torchvision's)


class SlowFastMaskRCNN(nn.Module):
    """Detect and segment the objects of each frame, knowing the frames around it.

    slow_frames, fast_frames: m and n, odd, m <= n. min_size, max_size: frames are scaled so that the shorter side is
    min_size, unless the longer one would exceed max_size. detections_per_img: most objects a frame. score_thresh: least
    score of a detection. nms_thresh: boxes that overlap a better one by more (IoU) are dropped. proposals: regions of a
    frame that the heads look at, at most (None: 1000, and 2000 in training, as torchvision). sampled_regions: of these,
    how many enter the heads' losses. backbone: "resnet50" as published, or "nano", a narrow one for small machines.
    pyramid_channels: width of the pyramid (None: 256, with "nano" 64); module and heads widen with it.
    frozen_batch_norm: of the ResNet-50; fixed statistics and affine, eps 0, as after loading COCO weights (the report,
    and what None means for it); False for trainable ones, which a start without COCO weights needs. "nano" has
    trainable ones only.
    Call it in eval mode; `loss.window_losses` trains it. Raises ValueError for options that make no sense.
    """

    def __init__(
        self,
        slow_frames: int,
        fast_frames: int,
        *,
        min_size: int = 800,
        max_size: int = 1333,
        detections_per_img: int = 10,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        proposals: int | None = None,
        sampled_regions: int = 512,
        backbone: Literal["resnet50", "nano"] = "resnet50",
        pyramid_channels: int | None = None,
        frozen_batch_norm: bool | None = None,
    ):
        super().__init__()
        pyramid: Pyramid
        if backbone == "resnet50":
            pyramid = resnet50_pyramid(pyramid_channels or 256, frozen_batch_norm=frozen_batch_norm is not False)
        elif backbone == "nano":
            if frozen_batch_norm:
                raise ValueError("backbone 'nano' has trainable batch norm only; leave frozen_batch_norm out")
            pyramid = nano_pyramid(pyramid_channels or 64)
        else:
            raise ValueError(f"backbone is {backbone!r}; choose resnet50 or nano")
        channels = pyramid.out_channels
        anchors = AnchorGenerator(tuple((side,) for side in ANCHOR_SIDES), ((0.5, 1.0, 2.0),) * len(ANCHOR_SIDES))
        self.detector = MaskRCNN(
            pyramid,
            min_size=min_size,
            max_size=max_size,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0]),
            rpn_pre_nms_top_n_train=proposals or 2000,
            rpn_pre_nms_top_n_test=proposals or 1000,
            rpn_post_nms_top_n_train=proposals or 2000,
            rpn_post_nms_top_n_test=proposals or 1000,
            box_detections_per_img=detections_per_img,
            box_score_thresh=score_thresh,
            box_nms_thresh=nms_thresh,
            box_batch_size_per_image=sampled_regions,
            box_head=TwoMLPHead(channels * 7**2, 4 * channels),
            box_predictor=FastRCNNPredictor(4 * channels, CLASSES),
            mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, CLASSES),
        )
        self.slow_fast = SlowFastModule(slow_frames, fast_frames, channels)
        self.recorded_options: dict[str, Any] = {  # what the shapes of weights do not determine, kept in their file
            "min_size": min_size,
            "max_size": max_size,
            "detections_per_img": detections_per_img,
            "score_thresh": score_thresh,
            "nms_thresh": nms_thresh,
            "proposals": proposals,
            "sampled_regions": sampled_regions,
        }

    @property
    def window(self) -> int:
        """How many frames one result depends on: n."""
        return self.slow_fast.fast_frames

    @property
    def min_size(self) -> int:
        """Shorter side in pixels at which the network works."""
        size: int = self.detector.transform.min_size[-1]
        return size

    def forward(self, frames: Tensor) -> list[Detections]:
        """Detect the objects of consecutive frames of one video.

        Shapes: float (T, 3, H, W), RGB, 0..1 -> T dictionaries: `boxes` (n, 4) xyxy in pixels of the frame, `labels`
        int64 (n,), all 1, `scores` (n,) in 0..1, best first, `masks` (n, 1, H, W) in 0..1. Any T >= 1: outside the
        video, features are zero.
        """
        stream = DetectionStream(self)
        results = [found for frame in frames for found in stream.push(frame)]
        return results + stream.finish()

    def encode(self, frame: Tensor) -> FrameFeatures:
        """Compute a frame's pyramid and region proposals. Shapes: float (3, H, W), RGB, 0..1."""
        images, _ = self.detector.transform([frame])
        pyramid = self.detector.backbone(images.tensors)
        proposals, _ = self.detector.rpn(images, pyramid)
        return FrameFeatures(pyramid, proposals[0], images.image_sizes[0], (frame.shape[-2], frame.shape[-1]))

    def enhance(self, window: list[FrameFeatures | None]) -> dict[str, Tensor]:
        """Let a frame's pyramid know the frames around it: n frames, the middle one is meant, None is outside.

        Shapes: -> levels (1, 256, h, w), as of `FrameFeatures.pyramid`.
        """
        middle = window[len(window) // 2]
        if middle is None or len(window) != self.window:
            raise ValueError(f"a window of {len(window)} frames; give {self.window}, the middle one not None")
        return OrderedDict(
            (
                name,
                self.slow_fast(
                    torch.stack([torch.zeros_like(level) if f is None else f.pyramid[name] for f in window], 2)
                )[:, :, 0],
            )
            for name, level in middle.pyramid.items()
        )

    def pathways(self) -> PathwayStream:
        """Begin one level of a video: its features frame by frame, as `enhance` makes them of whole windows."""
        return PathwayStream(self.slow_fast)

    def detect(self, features: FrameFeatures, enhanced: dict[str, Tensor]) -> Detections:
        """Run the box and mask heads on a frame's enhanced pyramid and its own proposals."""
        sizes = [features.scaled_size]
        found, _ = self.detector.roi_heads(enhanced, [features.proposals], sizes)
        result: Detections = self.detector.transform.postprocess(found, sizes, [features.size])[0]
        return result
