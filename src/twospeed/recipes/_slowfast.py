"""What the SlowFast recipes share: settings, start weights, and the steps of the loops that they hold themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from twospeed.data.loading import load
from twospeed.data.samples import BrokenSample
from twospeed.errors import CheckpointError, DatasetError
from twospeed.files import csv_text, write_text
from twospeed.models.slowfast.network import SlowFast
from twospeed.models.slowfast.transfer import initialise_from
from twospeed.ops.bf16 import autocast
from twospeed.training.batch_norm import group_batch_norm
from twospeed.training.distributed import epoch_batches, gather, gradients_stay_here, parallel, seed_everything
from twospeed.training.optim import gradient_norm, parameter_groups, set_learning_rate
from twospeed.training.run import Run, RunSettings
from twospeed.video.sampling import ClipShape
from twospeed.weights.catalog import find
from twospeed.weights.imports import read_state
from twospeed.weights.load import save_model
from twospeed.weights.store import default_weights, local_file

Batch = TypeVar("Batch")

PRECISE_BN_EPOCH = 1_000_000  # draws for precise batch norm come from an epoch that is never trained


@dataclass(frozen=True, kw_only=True)
class SlowFastSettings(RunSettings):
    """Settings of every SlowFast training; recipes add their own and set the defaults."""

    # Network
    model: str = ""
    model_options: Mapping[str, Any] = field(default_factory=dict)  # its constructor options, as JSON
    dropout: float = 0.5
    weights: str | None = None  # to start from: a file, "default", a listed address; heads of another size are left out
    # Clips
    short_side: tuple[int, int] = (256, 340)  # scale jitter in pixels; (256, 360) for spans above 64 frames
    flip_probability: float = 0.5  # 0 where left and right are different classes
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    workers: int = 8  # decoding processes for each training process
    # Optimisation
    batch: int = 64  # clips a step, over all processes and accumulated forwards
    batch_per_forward: int = 8  # of one process; smaller than its share of a step: gradients accumulate
    bn_clips: int = 8  # batch-norm statistics within so many clips
    lr: float = 0.1  # for lr_batch clips a step; scaled linearly to batch
    lr_batch: int = 64
    warm_up_lr: float = 0.0  # for lr_batch clips a step
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: float = 0.0
    clip_gradient: float | None = None  # largest L2 norm; None: no clipping
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    precise_bn_batches: int = 0  # forwards of each process before each validation; 0: keep the moving averages
    device: str | None = None  # None: a GPU where there is one
    log_every: int = 10  # steps


def start_from(network: SlowFast, config: SlowFastSettings) -> str:
    """Fill the network with the weights that training starts from, and report what became of them.

    Weights of the same pathways must fit in everything but the head (Kinetics-600 for Kinetics-700): a name or shape
    that differs is an error, not a half-random network. Weights of images or of one pathway fill what they can.
    """
    assert config.weights is not None
    path = default_weights(find(config.model)) if config.weights == "default" else local_file(config.weights)
    state, _ = read_state(path)
    done = initialise_from(network, state)
    both = any("pathway1" in name for name in done.copied)
    wrong = [f"{name} ({why})" for name, why in done.kept.items() if not name.startswith("head.")]
    wrong += [f"{name} (unknown to the network)" for name in done.unused]
    if both and wrong:
        raise CheckpointError(f"{path}: does not fit the network: {', '.join(wrong)}; is it of another model?")
    return f"{path}: {done}"


class SlowFastTraining:
    """A network in training: what the recipes' loops do with it.

    model: the network as processes share it. shape: of its clips. step: the optimizer's steps so far. unreadable: the
    videos that could not be read so far, with the reason.
    """

    def __init__(self, run: Run, config: SlowFastSettings, network: SlowFast) -> None:
        """Give the network its device and optimizer; then bring all back to the run's checkpoint, where it has one."""
        self.run, self.config, self.process = run, config, run.process
        self.network = network.to(self.process.device)
        if config.batch_per_forward > config.bn_clips:
            group_batch_norm(network, config.bn_clips)
        groups = parameter_groups(network, weight_decay=config.weight_decay, norm_weight_decay=config.norm_weight_decay)
        self.optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
        self.scaler = torch.amp.GradScaler(self.process.device.type, enabled=self.dtype == torch.float16)
        self.model = parallel(network, self.process)
        self.shape = ClipShape(frames=network.frames, stride=network.frame_stride, mean=config.mean, std=config.std)
        self._state: dict[str, Any] = {"model": network, "optimizer": self.optimizer, "scaler": self.scaler}
        seed_everything(config.seed, self.process.rank)  # dropout differs between ranks
        saved = run.restore(**self._state)
        self.step: int = saved.get("step", 0)
        self.unreadable: dict[str, str] = saved.get("unreadable", {})

    def batches(
        self, clips: Any, collate: Callable[[list[Any]], Batch], epoch: int, skip_steps: int = 0
    ) -> Iterator[Batch]:
        """Iterate over this process's batches of one epoch. clips: its sample is a function of (epoch, index)."""
        config, process = self.config, self.process
        keys = epoch_batches(
            len(clips), epoch=epoch, seed=config.seed, batch=config.batch, batch_per_forward=config.batch_per_forward,
            process=process, skip_steps=skip_steps,
        )  # fmt: skip
        return load(clips, keys, collate, workers=config.workers, pin_memory=process.device.type == "cuda")

    def accumulate(self, batches: Iterator[Batch], losses: Callable[[Batch], tuple[Tensor, Tensor]]) -> Tensor:
        """Compute one step's gradients over this process's share of the batch; returns the sums of `losses`' numbers.

        losses: batch -> the sum of its losses, and numbers to add up (float64). Gradients are those of that sum over
        all processes divided by `config.batch`.
        """
        config, world = self.config, self.process.world
        forwards = config.batch // (config.batch_per_forward * world)
        self.optimizer.zero_grad(set_to_none=True)
        sums: Tensor | None = None
        for number in range(forwards):
            with gradients_stay_here(self.model, unless=number == forwards - 1):
                with autocast(self.process.device, self.dtype):
                    share, numbers = losses(next(batches))
                # DDP divides by the number of processes, hence the factor
                objective: Tensor = self.scaler.scale(share * (world / config.batch))
                torch.autograd.backward(objective)
            sums = numbers if sums is None else sums + numbers
        assert sums is not None
        return sums

    def update(self, lr: float, *, factor: float = 1.0) -> float:
        """Take the optimizer's step on gradients times `factor`; returns their norm before clipping."""
        set_learning_rate(self.optimizer, lr)
        self.scaler.unscale_(self.optimizer)
        if factor != 1.0:
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        norm = gradient_norm(self.network, clip=self.config.clip_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return float(norm)

    def count_broken(self, broken: Iterable[BrokenSample]) -> None:
        """Remember videos that could not be read."""
        self.unreadable.update({str(one.path): one.reason for one in broken})

    def check_readable(self, clips: float) -> None:
        """Raise DatasetError when the first step could read nothing."""
        if self.step == 1 and not clips:
            last = list(self.unreadable.values())[-1]
            raise DatasetError(f"step 1: not one video could be read; the last: {last}")

    def save(self) -> None:
        """Write a checkpoint, and unreadable.csv: the videos that no process could read so far, with the reason."""
        run, unreadable = self.run, self.unreadable
        unreadable.update({path: why for rank in gather(unreadable) for path, why in rank.items()})
        run.save(self.step, **self._state, unreadable=dict(sorted(unreadable.items())))
        if run.process.is_main and unreadable:
            write_text(run.path / "unreadable.csv", csv_text([("video", "reason"), *sorted(unreadable.items())]))
            run.note(f"step {self.step}: {len(unreadable)} videos could not be read so far")

    def export(self, *, recipe: str, name: str) -> None:
        """Write weights.safetensors, which `create_model(name, weights=..., **options)` takes."""
        self.run.check_weights(self.network)
        if self.process.is_main:
            source = {"recipe": recipe, "options": json.dumps(dict(self.config.model_options))}
            save_model(self.network, self.run.path / "weights.safetensors", model_name=name, source=source)
