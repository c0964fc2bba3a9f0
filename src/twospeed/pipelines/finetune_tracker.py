"""Fine-tune a network on synthetic motion of a video's first frame and its masks, before objects are tracked.

One-shot fine-tuning (OSVOS, Caelles et al., CVPR 2017) for networks with a memory of masks, with the clips
of `data.first_frame` and STCN's own training step.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from twospeed.data.clips.first_frame import FirstFrame
from twospeed.errors import InputError
from twospeed.models.protocol import MaskMemoryNetwork
from twospeed.models.unrolled import UnrolledPropagation, propagation_loss
from twospeed.results import OnProgress, Progress

Image = NDArray[np.uint8]

SMALL = 10_000_000  # parameters


@dataclass(frozen=True, kw_only=True)
class TrackerFineTuning:
    """How a network learns the first frame.

    iterations: steps of AdamW. batch: clips a step. crop: their side in pixels, a multiple of 16. lr: falls by half a
    cosine to zero; None is 1e-4, and STCN's own 1e-5 for networks of its size. keep: share of pixels, the hardest, in
    the cross entropy. seed: of all draws. Raises InputError for values that make no sense.
    """

    iterations: int = 30
    batch: int = 4
    crop: int = 224
    lr: float | None = None
    keep: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch) < 1:
            raise InputError(f"iterations={self.iterations}, batch={self.batch}: give 1 or more of each")
        if self.crop < 64 or self.crop % 16:
            raise InputError(f"crop is {self.crop} pixels; give a multiple of 16, at least 64")
        if self.lr is not None and self.lr <= 0:
            raise InputError(f"lr is {self.lr}; give a number above 0")


def fine_tune_tracker(
    network: nn.Module,
    image: Image,
    labels: Image,
    settings: TrackerFineTuning | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> nn.Module:
    """Return a copy of a network that was fine-tuned on one image's objects; `network` stays as it is.

    network: one that offers `models.protocol.MaskMemoryNetwork`. image: uint8 (H, W, 3) RGB at the size at which the
    network will work. labels: uint8 (H, W), 0 is the background. Batch-norm statistics stay. on_progress: called after
    each iteration, with the loss among its values. With a seed, the result on one machine is the same. Raises MaskError
    for labels without an object or of another size, InputError when the loss is not finite.
    """
    settings = settings or TrackerFineTuning()
    samples = FirstFrame(image, labels)
    rng = np.random.default_rng(settings.seed)
    with torch.inference_mode(False), torch.enable_grad():
        device = next(network.parameters()).device
        network = copy.deepcopy(network).to(memory_format=torch.channels_last).eval().requires_grad_(True)
        following = UnrolledPropagation(cast("MaskMemoryNetwork", network))
        lr = settings.lr or (1e-4 if sum(p.numel() for p in network.parameters()) < SMALL else 1e-5)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)

        def loss() -> torch.Tensor:
            drawn = [samples.draw(rng, size=settings.crop) for _ in range(settings.batch)]
            objects = [sample.objects for sample in drawn]
            frames = torch.from_numpy(np.stack([sample.frames for sample in drawn])).to(device)
            maps = torch.from_numpy(np.stack([sample.labels for sample in drawn])).to(device)
            masks = torch.stack([maps[:, 0] == k + 1 for k in range(max(objects))], 1).float()
            present = masks.flatten(2).any(2).float()
            log_odds = following(frames.permute(0, 1, 4, 2, 3).float() / 255, masks, present)
            return propagation_loss(log_odds, maps, objects, keep=settings.keep)

        def step(done: int) -> None:
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)

        iterate(settings.iterations, loss, step, lr=lr, on_progress=on_progress)
    return network.requires_grad_(False)


def iterate(
    iterations: int,
    loss: Callable[[], torch.Tensor],
    step: Callable[[int], None],
    *,
    lr: float,
    on_progress: OnProgress | None,
) -> None:
    """Run a fine-tuning: in each iteration the loss, its gradients, and `step` with the number of iterations done.

    lr: for the message. on_progress: called after each iteration, with the loss. Raises InputError when a loss is not
    finite.
    """
    started = time.perf_counter()
    for done in range(iterations):
        total = loss()
        value = float(total.detach())
        if not np.isfinite(value):
            raise InputError(f"iteration {done}: the loss is {value}; lower lr (now {lr})", option="lr")
        torch.autograd.backward(total)
        step(done + 1)
        if on_progress is not None:
            seconds = time.perf_counter() - started
            on_progress(Progress("fine-tune", done + 1, iterations, "iterations", seconds, {"loss": value}))
