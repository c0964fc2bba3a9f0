"""Fine-tune a network on a video's first frame and its masks, then find these objects in all other frames.

One-shot fine-tuning as OSVOS does it (Caelles et al., CVPR 2017), of a SlowFast Mask R-CNN.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report), semi-supervised part: 2,000 iterations a
sequence, flips, rotations to 30 degrees, scaling by 0.25 or 0.4, SlowFast module frozen, the past of the first frame
mirrored from its future.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from twospeed.environment import resolve_device
from twospeed.errors import InputError, MaskError
from twospeed.models.slowfast_maskrcnn.loss import (
    PARTS,
    StretchFeatures,
    encode_stretch,
    target_of,
    train_parts,
    window_losses,
)
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.ops.on_torch import image_array
from twospeed.pipelines.finetune_tracker import iterate
from twospeed.pipelines.unsupervised import UnsupervisedTracker, network_of
from twospeed.pipelines.video_tracker import Labels, VideoTracker, name_of, needs_masks
from twospeed.results import ObjectMasks, OnProgress
from twospeed.transforms.spatial import draw_affine

Image = NDArray[np.uint8]

LEARNING_PARTS = ("detector.backbone", "detector.rpn", "detector.roi_heads")


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a network learns the first frame; the defaults are the report's.

    iterations: draws of the first frame. per_step: draws whose losses are summed for a step of the optimizer. lr,
    momentum, weight_decay: of stochastic gradient descent. flip: probability. degrees: largest rotation either way.
    scale: largest change of size either way (None: 0.25, and 0.4 for networks that see one frame only). clip_gradient:
    largest L2 norm, None for no limit. learning_parts: of the network; all others stay. seed: of all draws. Raises
    InputError for values that make no sense.
    """

    iterations: int = 2000
    per_step: int = 2
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    flip: float = 0.5
    degrees: float = 30.0
    scale: float | None = None
    clip_gradient: float | None = None
    learning_parts: tuple[str, ...] = LEARNING_PARTS
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [part for part in self.learning_parts if part not in PARTS]:
            raise InputError(
                f"learning_parts: {unknown[0]!r} is not a part of the network; there are {', '.join(PARTS)}"
            )
        if self.iterations < 1 or self.per_step < 1:
            raise InputError(f"iterations={self.iterations}, per_step={self.per_step}: give 1 or more of each")
        if self.lr <= 0:
            raise InputError(f"lr is {self.lr}; give a number above 0")
        if self.scale is not None and not 0 <= self.scale < 1:
            raise InputError(f"scale is {self.scale}; give the largest change of size, from 0 to below 1")


def fine_tune(
    network: SlowFastMaskRCNN,
    frames: Sequence[Image],
    labels: Image,
    settings: FineTuning | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> SlowFastMaskRCNN:
    """Return a copy of a network that was fine-tuned on the objects of one frame; `network` stays as it is.

    frames: uint8 (H, W, 3) RGB, the first frame and those after it, n // 2 + 1 of them or as many as there are (n: fast
    frames). labels: uint8 (H, W), the objects of the first frame. Backbone, proposals and heads learn; the SlowFast
    module and all batch-norm statistics stay. on_progress: called after each iteration, with the loss. With a seed, the
    result on one machine is the same; the global random state is left as it was. Raises MaskError for labels without an
    object or of another size, InputError when the loss is not finite.
    """
    settings = settings or FineTuning()
    if labels.shape != frames[0].shape[:2]:
        height, width = frames[0].shape[:2]
        raise MaskError(
            f"the mask is {labels.shape[1]}x{labels.shape[0]}, its frame {width}x{height}; give it that size"
        )
    if not len(target_of(torch.from_numpy(labels))["boxes"]):
        raise MaskError("the first frame's mask marks no object of two pixels or more; there is nothing to learn")
    device = next(network.parameters()).device
    network = copy.deepcopy(network)
    train_parts(network, settings.learning_parts, update_norm=False)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        learning, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    film = torch.from_numpy(np.stack(frames[: network.window // 2 + 1])).to(device).permute(0, 3, 1, 2)
    marked = torch.from_numpy(labels).to(device)
    scale = settings.scale if settings.scale is not None else 0.4 if network.window == 1 else 0.25
    rng = np.random.default_rng(settings.seed)

    def loss() -> torch.Tensor:
        images, target = _varied(film, marked, rng, settings, scale)
        # Each frame is computed once, although it is seen twice; batch norm is frozen, so that nothing changes
        features = _mirrored(encode_stretch(network, images), network.window)
        losses = window_losses(network, features, [target_of(target)])
        return torch.stack(list(losses.values())).sum()

    def step(done: int) -> None:
        if done % settings.per_step == 0 or done == settings.iterations:
            if settings.clip_gradient is not None:
                torch.nn.utils.clip_grad_norm_(learning, settings.clip_gradient)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    # torchvision draws the regions that enter a loss from the global generator
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        iterate(settings.iterations, loss, step, lr=settings.lr, on_progress=on_progress)
    return network.eval().requires_grad_(False)


class OneShotTracker(VideoTracker):
    """Fine-tune a network on the first frame's masks of a video, then find these objects in all its frames.

    A frame's result comes n // 2 frames later (n: fast frames), the first after the fine-tuning: the first
    n // 2 + 1 frames are held until then. model_or_name: a network of the slowfast_maskrcnn family, or its catalogue
    name (then with `weights`). finetune: iterations, or how it learns; None as published, 2,000 iterations. device,
    size, merged, min_score: of `UnsupervisedTracker`; merged takes all detections for the one object there is.
    on_progress: of `fine_tune`, and called while weights are downloaded. Every video begins with the same network.
    Memory does not grow with the video. Raises InputError for options that make no sense, WeightsUnavailable for a name
    without weights. Differs: the report's first frame is predicted and scored, ours is given.
    """

    needs_masks = True

    def __init__(
        self,
        model_or_name: nn.Module | str = "slowfast_maskrcnn_3_7",
        finetune: int | FineTuning | None = None,
        *,
        weights: Any = "default",
        device: str | torch.device | None = None,
        size: int | None = None,
        merged: bool = False,
        min_score: float | None = None,
        on_progress: OnProgress | None = None,
    ):
        super().__init__()
        self.device = resolve_device(device)
        self.settings = FineTuning(iterations=finetune) if isinstance(finetune, int) else finetune or FineTuning()
        self.merged, self.min_score, self._on_progress = merged, min_score, on_progress
        if needs_masks(model_or_name):
            raise InputError(
                f"{name_of(model_or_name)} is fine-tuned by Tracker(..., finetune=...); OneShotTracker is for networks "
                "that find objects without masks"
            )
        network = network_of(model_or_name, weights, size, on_progress).eval().to(self.device)
        if not isinstance(network, SlowFastMaskRCNN):
            raise InputError(f"{type(network).__name__} cannot be fine-tuned; choose slowfast_maskrcnn_3_7")
        self.model = network
        self.reset()

    def reset(self) -> None:
        """Forget the video, and what was learned of it."""
        self._held: list[tuple[Image, float]] = []  # frames that wait for the fine-tuning
        self._masks: Image | None = None
        self._inner: UnsupervisedTracker | None = None

    def step(self, image: Any, masks: Labels | None = None, *, time_s: float = 0.0) -> ObjectMasks | None:
        """Take the next frame; the first one with its masks. Return the next frame's result that is ready, or None.

        masks: integer labels (H, W), 0 = background, 255 = void; results have the same labels, and the first one is
        what was given. Raises MaskError for masks without an object, of another size or of a later frame, InputError
        for merged labels of several objects, and as `fine_tune` and `UnsupervisedTracker.step`.
        """
        with self._alone():
            if self._masks is None:
                self._masks = self._first(masks)
            elif masks is not None:
                raise MaskError(
                    "masks were given for a later frame; this tracker learns those of the first frame alone"
                )
            if self._inner is not None:
                return self._relabelled(self._inner.step(image, time_s=time_s))
            self._held.append((self._pixels(image), time_s))
            return self._learned() if len(self._held) > self.model.window // 2 else None

    def finish(self) -> list[ObjectMasks]:
        """As `VideoTracker.finish`."""
        with self._alone():
            first = self._learned() if self._held else None
            last = [] if self._inner is None else self._inner.finish()
            results = [self._relabelled(result) for result in ([first] if first else []) + last]
            self.reset()
            return [result for result in results if result is not None]

    def _first(self, masks: Labels | None) -> Image:
        if masks is None:
            raise MaskError("the first frame came without masks; this tracker learns them")
        labels = np.asarray(masks.cpu() if isinstance(masks, torch.Tensor) else masks)
        known = np.where(labels == 255, 0, labels).astype(np.uint8)
        ids = np.unique(known[known > 0]).tolist()
        if self.merged and len(ids) > 1:
            raise InputError(
                f"merged, but the mask marks {len(ids)} objects {tuple(ids)}; give one, or leave merged out",
                option="merged",
            )
        return known

    def _pixels(self, image: Any) -> Image:
        x = image_array(image, torch.device("cpu"))
        x = x if x.dtype == torch.uint8 else x.mul(255).round().byte()
        pixels: Image = x.permute(1, 2, 0).contiguous().numpy()
        return pixels

    def _learned(self) -> ObjectMasks | None:
        """Fine-tune on the frames held, then track them: the result of the first one, if it is ready."""
        assert self._masks is not None
        images = [image for image, _ in self._held]
        tuned = fine_tune(self.model, images, self._masks, self.settings, on_progress=self._on_progress)
        self._inner = UnsupervisedTracker(tuned, merged=self.merged, min_score=self.min_score, device=self.device)
        self._inner.reset(None if self.merged else self._masks)
        held, self._held = self._held, []
        results = [self._inner.step(image, time_s=time_s) for image, time_s in held]
        return self._relabelled(results[-1])

    def _relabelled(self, result: ObjectMasks | None) -> ObjectMasks | None:
        """The first frame's result is what was given; merged ones get the label of the one object."""
        if result is None or self._masks is None:
            return result
        ids = tuple(np.unique(self._masks[self._masks > 0]).tolist())
        if result.frame_index == 0:
            planes = np.stack([self._masks == i for i in (0, *ids)]).astype(np.float32)
            return ObjectMasks(self._masks.copy(), planes, ids, 0, result.time_s)
        if self.merged:
            labels = (result.labels > 0) * np.uint8(ids[0])
            return ObjectMasks(**{**vars(result), "labels": labels, "object_ids": ids})  # probabilities stay unmade
        return result


def _mirrored(features: StretchFeatures, length: int) -> StretchFeatures:
    """Put the first frame between its future and the same mirrored in time: features of `length` frames.

    A video that ends too early shows its last frame again.
    """
    known = len(next(iter(features.pyramid.values())))
    places = [min(abs(t), known - 1) for t in range(-(length // 2), length // 2 + 1)]
    return features._replace(pyramid={name: level[places] for name, level in features.pyramid.items()})


def _varied(
    film: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, settings: FineTuning, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one change and make it to all frames and the labels: float (T, 3, H, W) in 0..1, uint8 (H, W)."""
    height, width = labels.shape
    flips = rng.random() < settings.flip
    change = draw_affine(rng, height, width, degrees=settings.degrees, scale=(1 - scale, 1 + scale))
    frames, target = change.frames(film) / 255, change.masks(labels)
    return (frames.flip(-1), target.flip(-1)) if flips else (frames, target)
