"""Train any SlowFast network on Kinetics, or on any list of labelled videos, as the papers do.

    twospeed train slowfast_kinetics --train kinetics400/train.csv --val kinetics400/val.csv --out runs/k400
    twospeed train slowfast_kinetics --preset kinetics600 ...      torchrun --nproc-per-node 8 -m twospeed.cli.main ...

Presets hold the numbers of the papers: `kinetics400` (8 GPUs, 64 clips per step, 196 epochs: 75.6 % top-1 for
slowfast_r50_4x16), `kinetics600` and `kinetics700` (the ActivityNet 2019 report: 1024 clips per step, 240 epochs).
Those scores are the authors'; what this code measured itself is in docs/motion_task.md, minutes on a CPU.

In the run folder: config.json, origin.json, train.csv, epoch.csv, validation.csv, metrics.jsonl, tensorboard/,
checkpoints, unreadable.csv (videos that could not be read: they are left out of their step and counted) and
weights.safetensors. `--resume` continues from the last checkpoint; on a CPU the loss curve is the same to the last
digit. Raises DatasetError and InputError before the first step for what does not fit together.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from twospeed.data.benchmarks.video_lists import LabelledVideo, find_videos, read_class_names
from twospeed.data.clips.actions import ClipShape, CountBroken, TestViews, TrainClips
from twospeed.data.samples import ClipBatch, collate_clips
from twospeed.errors import CheckpointError, DatasetError, InputError, OutputError
from twospeed.evaluation.recognition import report_views, score_views
from twospeed.evaluation.report import Report
from twospeed.models.slowfast import builders
from twospeed.models.slowfast.network import SlowFast
from twospeed.models.slowfast.transfer import initialise_from
from twospeed.ops.bf16 import autocast
from twospeed.training.batch_norm import group_batch_norm, precise_bn
from twospeed.training.distributed import (
    Process,
    epoch_batches,
    gather,
    gradients_stay_here,
    note,
    parallel,
    processes,
    total,
)
from twospeed.training.optim import gradient_norm, parameter_groups, set_learning_rate
from twospeed.training.resume import check_same, last_checkpoint, load_checkpoint, save_checkpoint
from twospeed.training.run_folder import RunFolder, resolved
from twospeed.training.schedule import half_cosine, scaled_lr, steps, with_warm_up
from twospeed.training.seed import seed_everything
from twospeed.weights.imports import read_state


@dataclass(frozen=True, kw_only=True)
class SlowFastKineticsConfig:
    """Everything that decides a training; the defaults are Kinetics-400 with slowfast_r50_4x16 on 8 GPUs."""

    # Data
    train: Path = Path("kinetics400/train.csv")  # a list, an official csv, or a folder of class folders
    val: Path | None = Path("kinetics400/val.csv")
    root: Path | None = None  # what a list's relative paths are relative to; None: the list's folder
    separator: str | None = None  # between path and label in a list; None: space, tab, comma, ... by line
    class_names: Path | None = None  # class names in order, for lists that name classes
    num_classes: int = 400
    workers: int = 8  # decoding processes for each training process

    # Network
    model: str = "slowfast_r50_4x16"  # a name of the catalogue's classify row
    model_options: Mapping[str, Any] = field(default_factory=dict)  # its constructor options, as JSON
    dropout: float = 0.5
    weights: Path | None = None  # start from these (another Kinetics, Slow-only, or an image ResNet, inflated)

    # Clips
    short_side: tuple[int, int] = (256, 340)  # scale jitter in pixels; (256, 360) for spans above 64 frames
    crop: int = 224
    flip_probability: float = 0.5  # 0 where left and right are different classes
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)

    # Optimisation
    epochs: int = 196
    clips_per_step: int = 64  # over all processes and accumulated forwards
    clips_per_forward: int = 8  # of one process; smaller than its share of a step: gradients accumulate
    bn_clips: int = 8  # batch-norm statistics within so many clips
    lr: float = 0.1  # for lr_clips clips per step; scaled linearly to clips_per_step
    lr_clips: int = 64
    schedule: Literal["cosine", "steps"] = "cosine"
    lr_boundaries: tuple[int, ...] = (94, 154, 196)  # epochs; for schedule="steps"
    warm_up_epochs: float = 34.0
    warm_up_lr: float = 0.01  # for lr_clips clips per step
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    bn_weight_decay: float = 0.0
    clip_gradient: float | None = None  # largest L2 norm; None: no clipping
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    # Evaluation
    validate_every: int = 10  # epochs; the last epoch is always validated
    precise_bn_batches: int = 200  # forwards of each process before each validation; 0: keep the moving averages
    val_views: tuple[int, int] = (1, 1)  # clips x crops while training
    test_views: tuple[int, int] = (10, 3)  # clips x crops after the last epoch
    test_short_side: int = 256
    test_crop: int = 256

    # Run
    out: Path = Path("runs/slowfast_kinetics")
    seed: int = 0
    device: str | None = None  # None: a GPU where there is one
    checkpoint_every: int = 1000  # steps; one is written after every epoch, too
    log_every: int = 10  # steps
    stop_after_steps: int | None = None  # end early, as if interrupted after a checkpoint (trials)


def kinetics400() -> SlowFastKineticsConfig:
    """PySlowFast's SLOWFAST_4x16_R50: 64 clips per step, 196 epochs, 34 of warm-up."""
    return SlowFastKineticsConfig(short_side=(256, 320))


def kinetics400_8x8() -> SlowFastKineticsConfig:
    """PySlowFast's SLOWFAST_8x8_R50, with the fusion kernel of 7 of the released weights."""
    return dataclasses.replace(kinetics400(), model="slowfast_r50_8x8")


def kinetics400_steps() -> SlowFastKineticsConfig:
    """The stepwise schedule of the multigrid paper's baseline: 239 epochs, a tenth at 94, 154 and 196."""
    return dataclasses.replace(kinetics400_8x8(), schedule="steps", epochs=239)


def kinetics600() -> SlowFastKineticsConfig:
    """The ActivityNet 2019 report: 16x8 R101 with non-local blocks, 1024 clips per step on 128 GPUs, 240 epochs.

    The report gives lr 0.8 for 1024 clips and a warm-up of unstated length; PySlowFast's 34 epochs stand in.
    """
    return SlowFastKineticsConfig(
        train=Path("kinetics600/train.csv"),
        val=Path("kinetics600/val.csv"),
        num_classes=600,
        model="slowfast_r101_16x8_nl",
        short_side=(256, 360),  # its clips span 128 frames
        epochs=240,
        clips_per_step=1024,
        lr=0.8,
        lr_clips=1024,
        nesterov=False,
        bn_weight_decay=1e-4,  # the report names one weight decay
    )


def kinetics700() -> SlowFastKineticsConfig:
    """The report's Kinetics-700: the same training, from Kinetics-600 weights (`--weights`), with a new head."""
    return dataclasses.replace(
        kinetics600(),
        train=Path("kinetics700/train.csv"),
        val=Path("kinetics700/val.csv"),
        num_classes=700,
        weights=Path("kinetics600.safetensors"),
    )


PRESETS = {
    "kinetics400": kinetics400,
    "kinetics400_8x8": kinetics400_8x8,
    "kinetics400_steps": kinetics400_steps,
    "kinetics600": kinetics600,
    "kinetics700": kinetics700,
}

MAY_CHANGE = ("workers", "device", "out", "checkpoint_every", "log_every", "stop_after_steps")  # in a resumed run
PRECISE_BN_EPOCH = 1_000_000  # draws for precise BN come from an epoch that is never trained


def build(config: SlowFastKineticsConfig) -> SlowFast:
    """Build the network by its name, initialised as the authors do (He normal, zero last norm of each residual)."""
    builder = getattr(builders, config.model, None)
    if config.model.startswith("_") or not callable(builder) or builder.__module__ != builders.__name__:
        raise InputError(f"model={config.model!r} is no SlowFast network; `twospeed models` lists their names")
    options = {"num_classes": config.num_classes, "dropout": config.dropout, "crop_size": config.crop}
    network: SlowFast = builder(**{**options, **config.model_options})
    return network


def start_from(network: SlowFast, path: Path) -> str:
    """Fill the network with other weights and say what became of them.

    Weights of the same pathways must fit in everything but the head (Kinetics-600 for Kinetics-700): a name or shape
    that differs is an error, not a half-random network. Weights of images or of one pathway fill what they can.
    """
    state, _ = read_state(path)
    done = initialise_from(network, state)
    both = any("pathway1" in name for name in done.copied)
    wrong = [f"{name} ({why})" for name, why in done.kept.items() if not name.startswith("head.")]
    wrong += [f"{name} (unknown to the network)" for name in done.unused]
    if both and wrong:
        raise CheckpointError(f"{path}: does not fit the network: {', '.join(wrong)}; is it of another model?")
    return f"{path}: {done}"


def learning_rate(config: SlowFastKineticsConfig, epoch: float) -> float:
    """Return the learning rate at a fractional epoch."""
    base = scaled_lr(config.lr, batch=config.clips_per_step, reference_batch=config.lr_clips)
    start = scaled_lr(config.warm_up_lr, batch=config.clips_per_step, reference_batch=config.lr_clips)

    def plain(at: float) -> float:
        if config.schedule == "steps":
            return steps(at, base=base, boundaries=config.lr_boundaries)
        return half_cosine(at, base=base, length=config.epochs)

    return with_warm_up(epoch, plain, warm_up=config.warm_up_epochs, start=start)


def train(config: SlowFastKineticsConfig, *, resume: bool = False, network: SlowFast | None = None) -> Path:
    """Train, validate, and return the run folder. Every process of a torchrun calls this.

    resume: continue from the last checkpoint in config.out. network: train this one instead of config.model.
    """
    with processes(config.device) as process:
        last = last_checkpoint(config.out) if resume else None
        seed_everything(config.seed)  # alike on all ranks: they start from the same weights
        labels = None if config.class_names is None else read_class_names(config.class_names)
        listing: dict[str, Any] = {"root": config.root, "separator": config.separator, "labels": labels}
        videos, names = find_videos(config.train, part="train", num_classes=config.num_classes, **listing)
        listing["labels"] = names  # validation folders mean the same classes
        val_videos: list[LabelledVideo] = []
        if config.val is not None:
            val_videos, _ = find_videos(config.val, part="val", num_classes=config.num_classes, **listing)

        name = config.model if network is None else f"a {type(network).__name__} passed in"
        network = build(config) if network is None else network
        if config.weights is not None and not resume:
            note(process, start_from(network, config.weights))
        network = network.to(process.device)
        if config.clips_per_forward > config.bn_clips:
            group_batch_norm(network, config.bn_clips)
        model = parallel(network, process)
        optimizer = torch.optim.SGD(
            parameter_groups(network, weight_decay=config.weight_decay, norm_weight_decay=config.bn_weight_decay),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
        )
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
        scaler = torch.amp.GradScaler(process.device.type, enabled=config.precision == "fp16")
        shape = ClipShape(frames=network.frames, stride=network.frame_stride, mean=config.mean, std=config.std)
        clips = TrainClips(
            videos,
            shape,
            short_side=config.short_side,
            crop=config.crop,
            flip_probability=config.flip_probability,
            seed=config.seed,
        )
        steps_per_epoch = len(videos) // config.clips_per_step
        forwards = config.clips_per_step // (config.clips_per_forward * process.world)

        seed_everything(config.seed, process.rank)  # dropout differs between ranks
        step = 0
        unreadable: dict[str, str] = {}
        if last is not None:
            state = load_checkpoint(last, process)
            check_same(config, state["config"], may_change=MAY_CHANGE)
            network.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scaler.load_state_dict(state["scaler"])
            step, unreadable = state["step"], state["unreadable"]

        def checkpoint() -> None:
            unreadable.update({path: why for rank in gather(unreadable) for path, why in rank.items()})
            content = {
                "config": resolved(config),
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "unreadable": dict(sorted(unreadable.items())),
            }
            save_checkpoint(config.out, step, content, process)

        with RunFolder(config.out, config, resume_step=step if resume else None, active=process.is_main) as run:
            for epoch in range(step // max(steps_per_epoch, 1), config.epochs):
                batches = load(config, clips, process, epoch, skip_steps=step - epoch * steps_per_epoch)
                model.train()
                started, first_step = time.perf_counter(), step
                while step < (epoch + 1) * steps_per_epoch:
                    lr = learning_rate(config, step / steps_per_epoch)
                    set_learning_rate(optimizer, lr)
                    optimizer.zero_grad(set_to_none=True)
                    tally = torch.zeros(3, dtype=torch.float64, device=process.device)  # loss, top-1 hits, clips
                    for forward in range(forwards):
                        batch = next(batches)
                        unreadable.update({str(b.path): b.reason for b in batch.broken})
                        is_last = forward == forwards - 1
                        with gradients_stay_here(model, unless=is_last):
                            views, targets = on_device(batch, shape, config.crop, process)
                            with autocast(process.device, kind):
                                logits = forward_clips(model, network, views, len(batch))
                                losses = F.cross_entropy(logits[: len(batch)], targets, reduction="none")
                            # A step is a mean over clips_per_step clips, whoever computes them; clips of unreadable
                            # videos add nothing. DDP divides by the number of processes, hence the factor.
                            share = losses.sum() + 0.0 * logits.sum()
                            objective: Tensor = scaler.scale(share * (process.world / config.clips_per_step))
                            torch.autograd.backward(objective)
                        hits = (logits[: len(batch)].argmax(dim=1) == targets).sum()
                        tally += torch.stack([losses.detach().sum(), hits, hits.new_tensor(len(batch))])
                    scaler.unscale_(optimizer)
                    norm = gradient_norm(network, clip=config.clip_gradient)
                    scaler.step(optimizer)
                    scaler.update()
                    step += 1

                    if step % config.log_every == 0 or step == 1:
                        loss, hit, count = total(tally).tolist()
                        check_loss(step, loss, count, lr, unreadable)
                        if count:
                            run.log(
                                "train", step, epoch=step / steps_per_epoch, lr=lr, loss=loss / count,
                                top1=hit / count, clips=int(count), gradient_norm=float(norm),
                            )  # fmt: skip
                    stops = step == config.stop_after_steps
                    if (stops or step % config.checkpoint_every == 0) and step % steps_per_epoch:
                        checkpoint()  # at the end of an epoch one follows the validation
                        if stops:
                            return config.out

                seconds = time.perf_counter() - started
                if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                    is_last_epoch = epoch + 1 == config.epochs
                    estimate_bn(config, network, clips, process, epoch)
                    views_now = config.test_views if is_last_epoch else config.val_views
                    report = validate(config, network, name, val_videos, shape, process, views_now)
                    if report is not None:
                        scores = {key: report.scores[key] for key in ("top1", "top5", "average_error", "videos")}
                        run.log("validation", step, epoch=epoch + 1, **scores)
                        if is_last_epoch and process.is_main:
                            report.write_json(config.out / "test.json")
                        best = f"top-1 {100 * scores['top1']:.1f} %, top-5 {100 * scores['top5']:.1f} %"
                        note(process, f"epoch {epoch + 1}: {best} ({report.coverage})")
                checkpoint()
                run.log(
                    "epoch", step, epoch=epoch + 1, seconds=round(seconds, 3),
                    clips_per_second=round((step - first_step) * config.clips_per_step / max(seconds, 1e-9), 3),
                    unreadable_videos=len(unreadable),
                )  # fmt: skip
                if process.is_main and unreadable:
                    write_unreadable(config.out / "unreadable.csv", unreadable)
                    note(
                        process,
                        f"epoch {epoch + 1}: {len(unreadable)} of {len(videos)} videos could not be read so far",
                    )
                if step == config.stop_after_steps:
                    return config.out
            if process.is_main:
                target = config.out / "weights.safetensors"
                export(network, target, recipe="slowfast_kinetics", name=name, options=config.model_options)
        return config.out


def load(
    config: SlowFastKineticsConfig, clips: TrainClips, process: Process, epoch: int, skip_steps: int = 0
) -> Iterator[ClipBatch]:
    """Iterate over this process's batches of one epoch."""
    keys = epoch_batches(
        len(clips),
        epoch=epoch,
        seed=config.seed,
        clips_per_step=config.clips_per_step,
        clips_per_forward=config.clips_per_forward,
        process=process,
        skip_steps=skip_steps,
    )
    loader: DataLoader[Any] = DataLoader(
        CountBroken(clips),
        batch_sampler=keys,  # of (epoch, index), which the set takes
        num_workers=config.workers,
        collate_fn=collate_clips,
        generator=torch.Generator(),  # its own: starting an iterator must not move the global generator
        pin_memory=process.device.type == "cuda",
    )
    return iter(loader)


def on_device(batch: ClipBatch, shape: ClipShape, crop: int, process: Process) -> tuple[Tensor, Tensor]:
    """Move a batch's clips (N, 3, T, H, W) and labels to the device; one empty clip where none could be read."""
    views = torch.zeros(1, 3, shape.frames, crop, crop) if batch.views is None else batch.views[:, 0]
    return views.to(process.device, non_blocking=True), batch.labels.to(process.device, non_blocking=True)


def forward_clips(model: nn.Module, network: nn.Module, views: Tensor, clips: int) -> Tensor:
    """Return logits (N, C). Without a readable clip the pass only keeps the processes in step: no statistics."""
    if clips == 0:
        network.eval()
    logits: Tensor = model(views).mean(dim=1)  # one position at the training crop
    if clips == 0:
        network.train()
    return logits


def estimate_bn(
    config: SlowFastKineticsConfig, network: nn.Module, clips: TrainClips, process: Process, epoch: int
) -> None:
    """Re-estimate batch-norm statistics over training clips, as before each evaluation of the papers."""
    wanted = config.precise_bn_batches

    def some() -> Iterator[Tensor]:
        given = 0
        while given < wanted:  # a small set is gone through more than once, with new draws
            for batch in load(config, clips, process, PRECISE_BN_EPOCH * (1 + given) + epoch):
                given += 1
                if batch.views is not None:
                    yield batch.views[:, 0].to(process.device)
                if given == wanted:
                    return

    if wanted:
        precise_bn(network, some())


def validate(
    config: SlowFastKineticsConfig,
    network: SlowFast,
    name: str,
    videos: list[LabelledVideo],
    shape: ClipShape,
    process: Process,
    views: tuple[int, int],
) -> Report | None:
    """Score the network on the validation videos, shared by all processes; None when there are none."""
    if not videos:
        return None
    test = TestViews(
        videos, shape, clips=views[0], crops=views[1], short_side=config.test_short_side, crop=config.test_crop
    )
    started = time.perf_counter()
    was_training = network.training
    scores = score_views(network.eval(), test, process, workers=config.workers, average=network.average)
    network.train(was_training)
    return report_views(scores, videos, model=name, seconds=time.perf_counter() - started)


def check_loss(step: int, loss: float, count: float, lr: float, unreadable: Mapping[str, str]) -> None:
    """Stop a training that has nothing to learn from, or has diverged."""
    if step == 1 and not count:
        raise DatasetError(f"step 1: not one video could be read; the last: {list(unreadable.values())[-1]}")
    if not math.isfinite(loss):
        raise InputError(
            f"step {step}: the loss is {loss}; lower lr (now {lr:g}), lengthen the warm-up or set clip_gradient"
        )


def write_unreadable(path: Path, unreadable: Mapping[str, str]) -> None:
    """List the videos that could not be read, with the reason."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("video", "reason"), *sorted(unreadable.items())])


def export(network: nn.Module, target: Path, *, recipe: str, name: str, options: Mapping[str, Any]) -> None:
    """Write weights that `create_model(name, weights=..., **options)` takes; the file is whole or absent."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    about = {"recipe": recipe, "model": name, "options": json.dumps(dict(options))}
    try:
        save_file(state, target.with_name(".weights.new"), about)
        target.with_name(".weights.new").replace(target)
    except OSError as error:
        raise OutputError(f"{target}: could not be written ({error})") from error
