"""Train any SlowFast network on Kinetics, or on any list of labelled videos, as the papers do.

    twospeed train slowfast_kinetics --train kinetics400/train.csv --val kinetics400/val.csv --out runs/k400
    twospeed train slowfast_kinetics --preset kinetics600 ...      torchrun --nproc-per-node 8 -m twospeed.cli.main ...

Presets hold the numbers of the papers: `kinetics400` (8 GPUs, 64 clips per step, 196 epochs: 75.6 % top-1 for
slowfast_r50_4x16), `kinetics600` and `kinetics700` (the ActivityNet 2019 report: 1024 clips per step, 240 epochs).
Those scores are the authors'; what this code measured itself is in docs/experiments/motion_task.md, minutes on a CPU.

In the run folder: config.json, origin.json, train.csv, epoch.csv, validation.csv, metrics.jsonl, tensorboard/,
checkpoints, unreadable.csv (videos that could not be read: they are left out of their step and counted) and
weights.safetensors. `--resume` continues from the last checkpoint; on a CPU the loss curve is the same to the last
digit. Raises DatasetError and InputError before the first step for what does not fit together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twospeed.data.benchmarks.video_lists import LabelledVideo, find_videos, read_class_names
from twospeed.data.clips.actions import TrainClips
from twospeed.data.samples import ClipBatch, collate_clips
from twospeed.errors import InputError
from twospeed.evaluation.recognition import report_videos, score_videos
from twospeed.evaluation.report import Report
from twospeed.evaluation.runner import Clock
from twospeed.models.slowfast import builders
from twospeed.models.slowfast.network import SlowFast
from twospeed.pipelines.classify import Classifier
from twospeed.recipes._slowfast import PRECISE_BN_EPOCH, SlowFastSettings, SlowFastTraining, start_from
from twospeed.results import OnProgress
from twospeed.training.batch_norm import precise_bn
from twospeed.training.distributed import total
from twospeed.training.run import start_run
from twospeed.training.schedule import half_cosine, scaled_lr, steps, with_warm_up
from twospeed.weights.catalog import KINETICS_600
from twospeed.weights.entries import Preprocessing


@dataclass(frozen=True, kw_only=True)
class SlowFastKineticsConfig(SlowFastSettings):
    """Everything that decides a training; the defaults are Kinetics-400 with slowfast_r50_4x16 on 8 GPUs."""

    # Data
    train: Path = Path("kinetics400/train.csv")  # a list, an official csv, or a folder of class folders
    val: Path | None = Path("kinetics400/val.csv")
    root: Path | None = None  # what a list's relative paths are relative to; None: the list's folder
    separator: str | None = None  # between path and label in a list; None: space, tab, comma, ... by line
    class_names: Path | None = None  # class names in order, for lists that name classes
    num_classes: int = 400
    crop: int = 224  # pixels

    # Network
    model: str = "slowfast_r50_4x16"  # a name of the catalogue's classify row

    # Optimisation
    epochs: int = 196
    schedule: Literal["cosine", "steps"] = "cosine"
    lr_boundaries: tuple[int, ...] = (94, 154, 196)  # epochs; for schedule="steps"
    warm_up_epochs: float = 34.0
    warm_up_lr: float = 0.01
    nesterov: bool = True

    # Evaluation
    validate_every: int = 10  # epochs; the last epoch is always validated
    precise_bn_batches: int = 200
    val_views: tuple[int, int] = (1, 1)  # clips x crops while training
    test_views: tuple[int, int] = (10, 3)  # clips x crops after the last epoch
    test_short_side: int = 256
    test_crop: int = 256

    # Run
    out: Path = Path("runs/slowfast_kinetics")


def kinetics400() -> SlowFastKineticsConfig:
    """PySlowFast's SLOWFAST_4x16_R50: 64 clips per step, 196 epochs, 34 of warm-up."""
    return SlowFastKineticsConfig(short_side=(256, 320))


def kinetics400_8x8() -> SlowFastKineticsConfig:
    """PySlowFast's SLOWFAST_8x8_R50, with the fusion kernel of 7 of the released weights."""
    return replace(kinetics400(), model="slowfast_r50_8x8")


def kinetics400_steps() -> SlowFastKineticsConfig:
    """The stepwise schedule of the multigrid paper's baseline: 239 epochs, a tenth at 94, 154 and 196."""
    return replace(kinetics400_8x8(), schedule="steps", epochs=239)


def kinetics600() -> SlowFastKineticsConfig:
    """The ActivityNet 2019 report: 16x8 R101 with non-local blocks, 1024 clips per step on 128 GPUs, 240 epochs.

    The report gives lr 0.8 for 1024 clips, one weight decay, and a warm-up of unstated length; PySlowFast's 34 epochs
    stand in. Its clips span 128 frames, hence the short side.
    """
    return SlowFastKineticsConfig(
        train=Path("kinetics600/train.csv"), val=Path("kinetics600/val.csv"), num_classes=600,
        model="slowfast_r101_16x8_nl", short_side=(256, 360), epochs=240, batch=1024, lr=0.8, lr_batch=1024,
        nesterov=False, norm_weight_decay=1e-4,
    )  # fmt: skip


def kinetics700() -> SlowFastKineticsConfig:
    """The report's Kinetics-700: the same training, from the authors' Kinetics-600 weights, with a new head."""
    return replace(
        kinetics600(), train=Path("kinetics700/train.csv"), val=Path("kinetics700/val.csv"), num_classes=700,
        weights=KINETICS_600["slowfast_r101_16x8_nl"],
    )  # fmt: skip


PRESETS = {
    "kinetics400": kinetics400, "kinetics400_8x8": kinetics400_8x8, "kinetics400_steps": kinetics400_steps,
    "kinetics600": kinetics600, "kinetics700": kinetics700,
}  # fmt: skip


def build(config: SlowFastKineticsConfig) -> SlowFast:
    """Build the network by its name, initialised as the authors do (He normal, zero last norm of each residual)."""
    builder = getattr(builders, config.model, None)
    if config.model.startswith("_") or not callable(builder) or builder.__module__ != builders.__name__:
        raise InputError(f"model={config.model!r} is not a SlowFast network; `twospeed models` lists their names")
    options = {"num_classes": config.num_classes, "dropout": config.dropout, "crop_size": config.crop}
    network: SlowFast = builder(**{**options, **config.model_options})
    return network


def learning_rate(config: SlowFastKineticsConfig, epoch: float) -> float:
    """Return the learning rate at a fractional epoch."""
    base = scaled_lr(config.lr, batch=config.batch, reference_batch=config.lr_batch)
    start = scaled_lr(config.warm_up_lr, batch=config.batch, reference_batch=config.lr_batch)

    def plain(at: float) -> float:
        if config.schedule == "steps":
            return steps(at, base=base, boundaries=config.lr_boundaries)
        return half_cosine(at, base=base, length=config.epochs)

    return with_warm_up(epoch, plain, warm_up=config.warm_up_epochs, start=start)


def train(
    config: SlowFastKineticsConfig,
    *,
    resume: bool = False,
    network: SlowFast | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Train, validate, and return the run folder. Every process of a torchrun calls this.

    resume: continue from the last checkpoint in config.out. network: train this one instead of config.model.
    """
    with start_run(config, config.device, resume=resume, on_progress=on_progress) as run:
        videos, val_videos, class_names = read_lists(config)
        name = config.model if network is None else f"a {type(network).__name__} passed in"
        network = build(config) if network is None else network
        if class_names is not None and len(class_names) == network.num_classes:
            network.class_names = tuple(class_names)  # they are kept with the weights
        if config.weights is not None and not run.resumes:
            run.note(start_from(network, config))
        training = SlowFastTraining(run, config, network)
        clips = TrainClips(
            videos, training.shape, short_side=config.short_side, crop=config.crop,
            flip_probability=config.flip_probability, seed=config.seed,
        )  # fmt: skip
        steps_per_epoch = len(videos) // config.batch
        run.total_steps = config.epochs * steps_per_epoch

        def losses(batch: ClipBatch) -> tuple[Tensor, Tensor]:
            """Sum the losses of a batch; count loss, top-1 hits and clips."""
            training.count_broken(batch.broken)
            logits = forward_clips(training, batch, config.crop)
            targets = batch.labels.to(run.process.device, non_blocking=True)
            loss = F.cross_entropy(logits[: len(batch)], targets, reduction="sum")
            hits = (logits[: len(batch)].argmax(dim=1) == targets).sum()
            # Clips of unreadable videos add nothing, but every process takes part
            return loss + 0.0 * logits.sum(), torch.stack([loss.detach().double(), hits, hits.new_tensor(len(batch))])

        for epoch in range(training.step // max(steps_per_epoch, 1), config.epochs):
            done = training.step - epoch * steps_per_epoch
            batches = training.batches(clips, collate_clips, epoch, skip_steps=done)
            network.train()
            started, first_step = time.perf_counter(), training.step
            while training.step < (epoch + 1) * steps_per_epoch:
                lr = learning_rate(config, training.step / steps_per_epoch)
                tally = training.accumulate(batches, losses)
                norm, step = training.update(lr), training.step
                if step % config.log_every == 0 or step == 1:
                    loss, hits, count = total(tally).tolist()
                    training.check_readable(count)
                    run.check_finite(step, lr=lr, loss=loss)
                    if count:
                        run.log(
                            "train", step, epoch=step / steps_per_epoch, lr=lr, loss=loss / count, top1=hits / count,
                            clips=int(count), gradient_norm=norm,
                        )  # fmt: skip
                if step % steps_per_epoch and run.due(step):  # at the end of an epoch one follows the validation
                    training.save()
                    if run.ended(step):
                        return config.out

            seconds, step = time.perf_counter() - started, training.step
            is_last = epoch + 1 == config.epochs
            if is_last or (epoch + 1) % config.validate_every == 0:
                run.check_weights(network)
                estimate_bn(training, clips, epoch)
                report = validate(
                    training, config, name, val_videos, config.test_views if is_last else config.val_views
                )
                if report is not None:
                    scores = {key: report.scores[key] for key in ("top1", "top5", "average_error", "videos")}
                    run.log("validation", step, epoch=epoch + 1, **scores)
                    if is_last and run.process.is_main:
                        report.write_json(config.out / "test.json")
                    best = f"top-1 {100 * scores['top1']:.1f} %, top-5 {100 * scores['top5']:.1f} %"
                    run.note(f"epoch {epoch + 1}: {best} ({report.coverage})")
            training.save()
            run.log(
                "epoch", step, epoch=epoch + 1, seconds=round(seconds, 3),
                clips_per_second=round((step - first_step) * config.batch / max(seconds, 1e-9), 3),
                unreadable_videos=len(training.unreadable),
            )  # fmt: skip
            if run.ended(step):
                return config.out
        training.export(recipe="slowfast_kinetics", name=name)
        return config.out


def read_lists(config: SlowFastKineticsConfig) -> tuple[list[LabelledVideo], list[LabelledVideo], list[str] | None]:
    """Return the videos to train on, those to validate on, and class names, where they are known.

    A label means the same class in both.
    """
    labels = None if config.class_names is None else read_class_names(config.class_names)
    listing: dict[str, Any] = {"root": config.root, "separator": config.separator, "num_classes": config.num_classes}
    videos, names = find_videos(config.train, part="train", labels=labels, **listing)
    if config.val is None:
        return videos, [], names
    return videos, find_videos(config.val, part="val", labels=names, **listing)[0], names


def forward_clips(training: SlowFastTraining, batch: ClipBatch, crop: int) -> Tensor:
    """Return logits (N, C). Without a readable clip the pass, of an empty one, only keeps the processes in step: no
    statistics.
    """
    network, views = training.network, batch.views
    if views is None:
        network.eval()
    clips = torch.zeros(1, 3, training.shape.frames, crop, crop) if views is None else views[:, 0]  # (N, 3, T, H, W)
    # One position at the training crop
    logits: Tensor = training.model(clips.to(training.process.device, non_blocking=True)).mean(dim=1)
    if views is None:
        network.train()
    return logits


def estimate_bn(training: SlowFastTraining, clips: TrainClips, epoch: int) -> None:
    """Re-estimate batch-norm statistics over training clips, as before each evaluation of the papers."""
    wanted = training.config.precise_bn_batches

    def some() -> Iterator[Tensor]:
        given = 0
        while given < wanted:  # a small set is gone through more than once, with new draws
            for batch in training.batches(clips, collate_clips, PRECISE_BN_EPOCH * (1 + given) + epoch):
                given += 1
                if batch.views is not None:
                    yield batch.views[:, 0].to(training.process.device)
                if given == wanted:
                    return

    if wanted:
        precise_bn(training.network, some())


def validate(
    training: SlowFastTraining, config: SlowFastKineticsConfig, name: str, videos: list[LabelledVideo],
    views: tuple[int, int],
) -> Report | None:  # fmt: skip
    """Score the network on the validation videos, shared by all processes; None when there are none."""
    if not videos:
        return None
    network, shape, process = training.network, training.shape, training.process
    prepared = Preprocessing(
        mean=shape.mean, std=shape.std, input_order=shape.order, short_side=config.test_short_side,
        crop=config.test_crop,
    )  # fmt: skip
    clips, crops = views
    was_training = network.training
    classifier = Classifier(
        network, clips, crops, preprocessing=prepared, workers=max(config.workers, 1), device=process.device
    )
    clock = Clock()
    scores = score_videos(classifier, videos, process=process, clock=clock)
    network.train(was_training)  # the classifier shares the head, which it has put into eval mode
    return report_videos(scores, videos, model=name, views=f"{clips} x {crops} views", clock=clock)
