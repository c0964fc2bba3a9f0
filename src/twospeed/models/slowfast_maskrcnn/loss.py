"""What the SlowFast Mask R-CNN is trained on: Mask R-CNN's losses, with heads that read the enhanced pyramid.

Source: "Applying SlowFast Networks to Video Object Segmentation" (report), its training; the losses of proposals, boxes
and masks are torchvision's (He et al., ICCV 2017). Shape letters: T frames of a clip, H/W pixels of a frame, h/w
cells of a pyramid level, K objects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN

Target = dict[str, Tensor]  # boxes float (K, 4) xyxy in pixels, labels int64 (K,), all 1, masks uint8 (K, H, W)
Losses = dict[str, Tensor]

PARTS = ("detector.backbone", "detector.rpn", "detector.roi_heads", "slow_fast")


class StretchFeatures(NamedTuple):
    """Pyramids of consecutive frames, computed once for all windows over them."""

    pyramid: dict[str, Tensor]  # levels (T, C, h, w)
    padded_size: tuple[int, int]  # height, width of what the network saw
    scaled_size: tuple[int, int]  # of that, without padding
    size: tuple[int, int]  # of the frames

    def between(self, start: int, stop: int) -> StretchFeatures:
        """Frames start to stop of the clip."""
        return self._replace(pyramid={name: level[start:stop] for name, level in self.pyramid.items()})


def train_parts(model: SlowFastMaskRCNN, parts: Sequence[str], *, update_norm: bool = True) -> None:
    """Let only these of `PARTS` learn. All others stay as they are to the bit, batch-norm statistics included.

    update_norm: whether the learning parts' statistics follow the data; otherwise only their weights change.
    What is always frozen (stem and first stage of a ResNet-50 with frozen batch norm) stays so.
    Differs: the authors' frozen parts went on updating their statistics.
    """
    model.eval().requires_grad_(False)
    for name in parts:
        part = model.get_submodule(name).train().requires_grad_(True)
        if not update_norm:
            for module in part.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
    for name in model.detector.backbone.always_frozen:
        model.detector.backbone.body.get_submodule(name).requires_grad_(False)
    # Losses come from proposals and heads in training mode, which changes nothing else there: no norms, no dropout
    model.detector.roi_heads.train()


def target_of(labels: Tensor) -> Target:
    """Turn a label map into what a detector learns from. labels: uint8 (H, W), 0 background, 255 void.

    Objects whose box has no area (one pixel high or wide) are left out. A frame without objects gives K = 0.
    """
    ids = [int(i) for i in labels.unique() if int(i) not in (0, 255)]
    boxes, masks = [], []
    for i in ids:
        mask = labels == i
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if len(rows) > 1 and len(columns) > 1:
            boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
            masks.append(mask.to(torch.uint8))
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32, device=labels.device).reshape(-1, 4),
        "labels": torch.ones(len(boxes), dtype=torch.int64, device=labels.device),
        "masks": torch.stack(masks) if masks else labels.new_zeros((0, *labels.shape)),
    }


def image_losses(model: SlowFastMaskRCNN, images: Sequence[Tensor], targets: Sequence[Target]) -> Losses:
    """Losses of the detector alone, its heads on the plain pyramid: the stage before any video is seen.

    images: float (3, H, W), RGB, 0..1, of any sizes. The model is in training mode.
    """
    losses: Losses = model.detector(list(images), list(targets))
    return losses


def encode_stretch(model: SlowFastMaskRCNN, frames: Tensor, inside: Tensor | None = None) -> StretchFeatures:
    """Compute the pyramids of consecutive frames. Shapes: frames float (T, 3, H, W) in 0..1, inside bool (T,).

    inside: which of them are part of the video; features of the others are zero, as at the ends of a clip in use.
    """
    images, _ = model.detector.transform(list(frames))
    pyramid: dict[str, Tensor] = model.detector.backbone(images.tensors)
    if inside is not None and not bool(inside.all()):
        pyramid = {name: level * inside.to(level).view(-1, 1, 1, 1) for name, level in pyramid.items()}
    padded, size = images.tensors.shape[-2:], frames.shape[-2:]
    return StretchFeatures(pyramid, (padded[0], padded[1]), images.image_sizes[0], (size[0], size[1]))


def window_losses(model: SlowFastMaskRCNN, features: StretchFeatures, targets: Sequence[Target]) -> Losses:
    """Losses of all windows of a clip: proposals from each middle frame itself, heads on its enhanced pyramid.

    targets: of the T - n + 1 frames that are the middle of a window, in order. Losses are sums over these frames, by
    torchvision's names (the report's training: backward for each frame, a step after two); those of the proposals are
    left out where they do not learn.
    """
    around = model.window // 2
    frames = next(iter(features.pyramid.values())).shape[0] - 2 * around
    if frames != len(targets) or not targets:
        raise ValueError(f"{len(targets)} targets for {frames} windows of {model.window} frames; give one for each")
    plain = OrderedDict((name, level[around : around + frames]) for name, level in features.pyramid.items())
    enhanced = OrderedDict(
        (name, model.slow_fast(level.transpose(0, 1)[None])[0].transpose(0, 1))  # (T, C, h, w) -> (frames, C, h, w)
        for name, level in features.pyramid.items()
    )
    sizes = [features.scaled_size] * frames
    scaled = [_scaled(target, features) for target in targets]
    image = next(iter(plain.values())).new_empty(1, 3, *features.padded_size)
    summed: Losses = {}
    for t in range(frames):
        own, found = (OrderedDict((k, level[t : t + 1]) for k, level in levels.items()) for levels in (plain, enhanced))
        proposals, proposal_losses = model.detector.rpn(ImageList(image, sizes[:1]), own, scaled[t : t + 1])
        _, head_losses = model.detector.roi_heads(found, proposals, sizes[:1], scaled[t : t + 1])
        for name, loss in {**proposal_losses, **head_losses}.items():
            summed[name] = summed[name] + loss if name in summed else loss
    return summed


def _scaled(target: Target, features: StretchFeatures) -> Target:
    """Bring a target from the frame's pixels to those the network saw."""
    (height, width), (h, w) = features.size, features.scaled_size
    ratio = target["boxes"].new_tensor([w / width, h / height] * 2)
    masks = target["masks"]
    if len(masks):
        masks = F.interpolate(masks[:, None].float(), size=(h, w))[:, 0].to(torch.uint8)
    else:
        masks = masks.new_zeros((0, h, w))
    return {"boxes": target["boxes"] * ratio, "labels": target["labels"], "masks": masks}
