"""Mask R-CNN whose pyramid passes through the SlowFast module, read top to bottom as the report's figure.

backbone and pyramid of every frame -> region proposals from the frame itself -> SlowFast module over the frames around
it -> box and mask heads on the enhanced pyramid.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report); Mask R-CNN (He et al., ICCV 2017), built
from torchvision's parts. Shape letters: T frames, H/W pixels of a frame, h/w cells of a pyramid level, n detections.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.ops.misc import FrozenBatchNorm2d

from twospeed.models.maskslowfast.pathways import PathwayStream, SlowFastModule

Detections = dict[str, Tensor]
CLASSES = 2  # background and object


class FrameFeatures(NamedTuple):
    """What one frame is, computed once and seen by every window around it."""

    pyramid: dict[str, Tensor]  # levels "0", "1", "2", "3", "pool": (1, 256, h, w)
    proposals: Tensor  # (p, 4) xyxy, pixels of the scaled frame
    scaled_size: tuple[int, int]  # height, width as the network sees it, without padding
    size: tuple[int, int]  # height, width of the frame


class SlowFastMaskRCNN(nn.Module):
    """Detect and segment the objects of each frame, knowing the frames around it.

    slow_frames, fast_frames: m and n, odd, m <= n. min_size, max_size: frames are scaled so that the shorter side is
    min_size, unless the longer one would exceed max_size. detections_per_img: most objects a frame. score_thresh: least
    score of a detection. nms_thresh: boxes that overlap a better one by more (IoU) are dropped. frozen_batch_norm: in
    the backbone; fixed statistics and affine, eps 0, as after loading COCO weights (the report); False for trainable
    ones (a start without COCO weights needs them).
    Call it in eval mode.
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
        frozen_batch_norm: bool = True,
    ):
        super().__init__()
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=FrozenBatchNorm2d if frozen_batch_norm else nn.BatchNorm2d,
            trainable_layers=3 if frozen_batch_norm else 5,  # as torchvision with and without COCO weights
        )
        for module in backbone.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0
        self.detector = MaskRCNN(
            backbone,
            CLASSES,
            min_size=min_size,
            max_size=max_size,
            box_detections_per_img=detections_per_img,
            box_score_thresh=score_thresh,
            box_nms_thresh=nms_thresh,
        )
        self.slow_fast = SlowFastModule(slow_frames, fast_frames, backbone.out_channels)

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

    def detect(self, features: FrameFeatures, enhanced: dict[str, Tensor]) -> Detections:
        """Run the box and mask heads on a frame's enhanced pyramid and its own proposals."""
        sizes = [features.scaled_size]
        found, _ = self.detector.roi_heads(enhanced, [features.proposals], sizes)
        result: Detections = self.detector.transform.postprocess(found, sizes, [features.size])[0]
        return result


class DetectionStream:
    """Feed a video frame by frame; a frame's detections come n // 2 frames later. Holds a window, never the video."""

    def __init__(self, model: SlowFastMaskRCNN):
        self.model = model
        self._levels: dict[str, PathwayStream] = {}
        self._pending: deque[FrameFeatures] = deque()  # encoded, not yet detected

    def push(self, frame: Tensor) -> list[Detections]:
        """Take the next frame, float (3, H, W) in 0..1, of the first one's size; return results that are ready."""
        features = self.model.encode(frame)
        self._pending.append(features._replace(pyramid={}))  # the streams hold what of the pyramid is still needed
        enhanced: dict[str, Tensor] = OrderedDict()
        for name, level in features.pyramid.items():
            if name not in self._levels:
                self._levels[name] = PathwayStream(self.model.slow_fast)
            if (result := self._levels[name].push(level)) is not None:
                enhanced[name] = result
        return [self.model.detect(self._pending.popleft(), enhanced)] if enhanced else []

    def finish(self) -> list[Detections]:
        """End the video: return the results of its last frames."""
        ends = {name: stream.finish() for name, stream in self._levels.items()}
        results = []
        for i in range(len(self._pending)):
            enhanced = OrderedDict((name, levels[i]) for name, levels in ends.items())
            results.append(self.model.detect(self._pending.popleft(), enhanced))
        self._levels = {}
        return results
