"""Learn the objects of a video from its first frame's masks, then find them in all other frames.

One-shot fine-tuning as OSVOS does it (Caelles et al., CVPR 2017), of a SlowFast Mask R-CNN.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report), semi-supervised part: 2,000 iterations a
sequence, flips, rotations to 30 degrees, scaling by 0.25 or 0.4, SlowFast module frozen, the past of the first frame
mirrored from its future.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from twospeed.pipelines.unsupervised import UnsupervisedTracker, finds_objects, network_of
from twospeed.results import Frame, ObjectMasks
from twospeed.transforms.spatial import draw_affine

Image = NDArray[np.uint8]
OnIteration = Callable[[int, float], None]

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
            raise InputError(f"learning_parts: {unknown[0]!r} is no part of the network; there are {', '.join(PARTS)}")
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
    on_iteration: OnIteration = lambda done, loss: None,
) -> SlowFastMaskRCNN:
    """Return a copy of a network that has learned the objects of one frame; `network` stays as it is.

    frames: uint8 (H, W, 3) RGB, the first frame and those after it, n // 2 + 1 of them or as many as there are (n: fast
    frames). labels: uint8 (H, W), the objects of the first frame. Backbone, proposals and heads learn; the SlowFast
    module and all batch-norm statistics stay. on_iteration: told how many iterations are done, and the loss. With a
    seed, the result on one machine is the same; the global random state is left as it was.
    Raises MaskError for labels without an object or of another size, InputError when the loss is not finite.
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
    # torchvision draws the regions that enter a loss from the global generator
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        for done in range(settings.iterations):
            images, target = _varied(film, marked, rng, settings, scale)
            # Each frame is computed once, although it is seen twice; batch norm is frozen, so that nothing changes
            features = _mirrored(encode_stretch(network, images), network.window)
            losses = window_losses(network, features, [target_of(target)])
            total = torch.stack(list(losses.values())).sum()
            value = float(total.detach())
            if not np.isfinite(value):
                raise InputError(f"iteration {done}: the loss is {value}; lower lr (now {settings.lr})")
            total.backward()
            if (done + 1) % settings.per_step == 0 or done + 1 == settings.iterations:
                if settings.clip_gradient is not None:
                    torch.nn.utils.clip_grad_norm_(learning, settings.clip_gradient)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            on_iteration(done + 1, value)
    return network.eval().requires_grad_(False)


class OneShotTracker:
    """Fine-tune a network on the first frame's masks of a video, then follow these objects.

    model_or_name: a network of the slowfast_maskrcnn family, or its catalogue name (then with `weights`). settings: how
    it learns. device, size, merged, min_score: of `UnsupervisedTracker`; merged takes all detections for the one object
    there is. on_iteration: of `fine_tune`. Every video begins with the same network.
    Raises InputError for options that make no sense, WeightsUnavailable for a name without weights.
    """

    def __init__(
        self,
        model_or_name: nn.Module | str = "slowfast_maskrcnn_3_7",
        settings: FineTuning | None = None,
        *,
        weights: Any = "default",
        device: str | torch.device | None = None,
        size: int | None = None,
        merged: bool = False,
        min_score: float | None = None,
        on_iteration: OnIteration = lambda done, loss: None,
    ):
        self.device = resolve_device(device)
        self.settings, self.merged, self.min_score = settings or FineTuning(), merged, min_score
        self.on_iteration = on_iteration
        if not finds_objects(model_or_name):
            name = model_or_name if isinstance(model_or_name, str) else type(model_or_name).__name__
            raise InputError(f"{name} is not fine-tuned; choose slowfast_maskrcnn_3_7, or leave the fine-tuning out")
        self.model = network_of(model_or_name, weights, size).eval().to(self.device)

    def run(self, frames: Iterable[Frame], first_masks: Image) -> Iterator[tuple[Frame, ObjectMasks]]:
        """Learn, then yield each frame of the video with its result.

        first_masks: uint8 (H, W) labels of the first frame, 0 background; results have the same labels, and the first
        one is what was given. The first n // 2 + 1 frames are held while the network learns, then a window of frames:
        memory does not grow with the video. Raises MaskError and InputError, as `fine_tune`, and for merged labels of
        several objects.
        Differs: the report's first frame is predicted and scored, ours is given.
        """
        ids = tuple(int(i) for i in np.unique(first_masks) if i not in (0, 255))
        if self.merged and len(ids) > 1:
            raise InputError(f"merged, but the mask marks {len(ids)} objects {ids}; give one, or leave merged out")
        every = iter(frames)
        first = list(itertools.islice(every, self.model.window // 2 + 1))
        if not first:
            return
        known = np.where(first_masks == 255, np.uint8(0), first_masks)
        images = [frame.image for frame in first]
        tuned = fine_tune(self.model, images, known, self.settings, on_iteration=self.on_iteration)
        unsupervised_tracker = UnsupervisedTracker(
            tuned, merged=self.merged, min_score=self.min_score, device=self.device
        )
        for frame, result in unsupervised_tracker.run(itertools.chain(first, every), None if self.merged else known):
            if result.frame_index == 0:
                result = _given(result, known, ids)
            elif self.merged:
                result = replace(result, labels=result.labels * np.uint8(ids[0]), object_ids=ids)
            yield frame, result


def _given(result: ObjectMasks, labels: Image, ids: tuple[int, ...]) -> ObjectMasks:
    """The first frame's result: what was given."""
    planes = np.stack([labels == i for i in (0, *ids)]).astype(np.float32)
    return replace(result, labels=labels.copy(), probabilities=planes, object_ids=ids)


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
