"""Train SlowFast in Mask R-CNN to find the objects of a video without masks, on DAVIS: detector first, then video.

    twospeed train slowfast_maskrcnn --davis DAVIS --model slowfast_maskrcnn_3_7 --out runs/slowfast_maskrcnn
    twospeed train slowfast_maskrcnn --preset small --davis DAVIS --out runs/slowfast_maskrcnn_small
    twospeed train slowfast_maskrcnn --preset tiny --davis TRAIN --validation VAL --out runs/slowfast_maskrcnn_tiny

    twospeed train slowfast_maskrcnn --davis DAVIS --epochs 0 --out runs/detector      # once for all configurations:
    twospeed train slowfast_maskrcnn --davis DAVIS --model slowfast_maskrcnn_1_7 \
        --detector-weights runs/detector/detector.safetensors --out runs/slowfast_maskrcnn_1_7

The defaults are the report's ("Applying SlowFast Networks to Video Object Segmentation"): torchvision's COCO weights
(from its cache, fetched, or `--coco FILE`), 15 epochs of single frames, then 20 epochs of sequences in which backbone,
pyramid and proposals are frozen. Its J&F of 0.676 on DAVIS-2016 needs those weights. `small` is for a CPU: a narrow
backbone that starts from track_tiny. `tiny` is smaller still, to compare the five configurations on one core.
docs/papers/slowfast_vos.md says what they reach.

Differs from the authors' code: gradients of a sequence's last odd frame do not leak into the next one; what is frozen
keeps its batch-norm statistics; frames without an object are learned from as background; nothing needs ground truth at
test time; the last weights are kept unless `--select best`, which looks at the validation sequences.

In the run folder: config.json, origin.json, train_detector.csv, train_video.csv, validation.csv, metrics.jsonl,
checkpoints, detector.safetensors (after the detector stage), weights.safetensors (for `twospeed track --model ...
--weights`). `--resume` continues from the last checkpoint; on a CPU the result is that of an uninterrupted run.
Raises DatasetError, InputError and WeightsUnavailable before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from twospeed.data.benchmarks.davis import Davis, Year
from twospeed.data.clips.training_clip import TrainingClip
from twospeed.data.clips.windows import Changes, read_window
from twospeed.data.loading import load
from twospeed.data.samples import SequenceSample
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.metrics.regions import contour_accuracy, outline, region_similarity
from twospeed.models.slowfast_maskrcnn.loss import (
    PARTS,
    Losses,
    encode_stretch,
    image_losses,
    target_of,
    train_parts,
    window_losses,
)
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.pipelines.unsupervised import UnsupervisedTracker
from twospeed.pipelines.video_tracker import needs_masks
from twospeed.results import Frame, OnProgress
from twospeed.training.distributed import alone, seed_everything
from twospeed.training.optim import gradient_norm, parameter_groups, set_learning_rate
from twospeed.training.run import Run, RunSettings
from twospeed.training.schedule import half_cosine, steps, with_warm_up
from twospeed.weights.coco import start_from_coco
from twospeed.weights.imports import read_state
from twospeed.weights.load import create_model, save_model

Stage = Literal["detector", "video"]
Unit = tuple[int, int, int, int]  # epoch, sequence, first frame, frames: what one item of a set is


@dataclass(frozen=True, kw_only=True)
class SlowFastMaskRCNNDavisConfig(RunSettings):
    """Everything that decides a training; the defaults are the report's."""

    # Data
    davis: Path = Path("DAVIS")  # in the official layout
    year: Literal["2016", "2017"] = "2017"  # whose lists and masks: 2016 has one object a sequence, 2017 each its own
    train_sequences: tuple[str, ...] = ()  # none: the train list; without lists, all but every fourth by name
    val_sequences: tuple[str, ...] = ()  # none: the val list of 2016; without lists, every fourth by name
    validation: Path | None = None  # another folder of DAVIS to validate on: its val_sequences, val list, or all
    load_side: int | None = None  # shorter side to which frames are reduced when read, None for their own
    workers: int = 2  # processes that read frames; 0: none, in line

    # Network
    model: str = "slowfast_maskrcnn_3_7"  # or another m_n of the catalogue
    model_options: Mapping[str, Any] = field(default_factory=dict)  # its constructor options, as JSON
    coco: str = "auto"  # start of the detector: torchvision's COCO weights; a file; or none
    weights: Path | None = None  # start of the whole network, instead
    detector_weights: Path | None = None  # a finished detector stage (detector.safetensors of another run): skip it
    nano_start: bool = False  # with backbone "nano": its first stages from track_tiny

    # Detector first: single frames
    detector_epochs: int = 15
    detector_batch: int = 2
    detector_lr: float = 1e-3
    detector_lr_epochs: int = 3  # the rate falls to a tenth every so many
    detector_warm_up_steps: int = 1000  # from a thousandth of the rate
    detector_weight_decay: float = 5e-4
    detector_flip: float = 0.5
    frozen_stages: int = 0  # of the backbone, the stem with the first, that keep what they start with (nano_start)

    # Then video: stretches of consecutive frames
    epochs: int = 20
    frames_per_step: int = 2
    stretch: int = 8  # frames read at once, their features computed once; a multiple of frames_per_step
    stretches: int | None = None  # at most so many an epoch, drawn anew for each; None: all
    lr: float = 1e-3
    weight_decay: float = 1e-4
    flip: float = 0.0
    learning_parts: tuple[str, ...] = ("detector.roi_heads", "slow_fast")
    freeze_norm: float = 1.0  # share of the stage after which batch norm keeps its statistics, those of one stretch

    # Both
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    schedule: Literal["published", "cosine"] = "published"
    clip_gradient: float | None = None  # largest L2 norm
    degrees: float = 0.0  # rotation of training frames either way
    scale: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0  # strength of colour changes, 0 to 1
    paste: float = 0.0  # probability that an object of another frame is put in

    # Validation, by the unsupervised protocol: one foreground, all frames
    validate_every: int = 1  # epochs of video; the last is always validated
    validate_frames: int | None = None  # of each sequence, from its first; None: all
    select: Literal["last", "best"] = "last"  # which weights are exported; best: the report's, by validation

    # Run
    out: Path = Path("runs/slowfast_maskrcnn")
    device: str | None = None  # None: a GPU where there is one

    def __post_init__(self) -> None:
        if self.frames_per_step < 1 or self.stretch % self.frames_per_step:
            raise InputError(f"stretch={self.stretch} is no multiple of frames_per_step={self.frames_per_step}")
        if unknown := [part for part in self.learning_parts if part not in PARTS]:
            raise InputError(
                f"learning_parts: {unknown[0]!r} is not a part of the network; there are {', '.join(PARTS)}"
            )
        if self.stretches is not None and self.stretches < 1:
            raise InputError(f"stretches is {self.stretches}; give 1 or more, or None for all")
        if min(self.detector_epochs, self.epochs) < 0 or self.detector_batch < 1:
            raise InputError("epochs cannot be negative, and a batch has at least 1 frame")
        if self.weights is None and self.nano_start and self.model_options.get("backbone") != "nano":
            raise InputError('nano_start is for the narrow backbone: add {"backbone": "nano"} to model_options')


def small() -> SlowFastMaskRCNNDavisConfig:
    """For two CPU cores: a narrow backbone that starts from track_tiny, frames of 160 pixels, everything varied."""
    backbone = {"backbone": "nano", "min_size": 160, "max_size": 288, "proposals": 150, "sampled_regions": 96}
    return SlowFastMaskRCNNDavisConfig(
        year="2016", load_side=160, workers=1, model_options=backbone, coco="none", nano_start=True, frozen_stages=2,
        detector_epochs=3, detector_batch=4, detector_lr=2e-3, detector_warm_up_steps=40, detector_weight_decay=1e-2,
        epochs=2, frames_per_step=4, lr=2e-3, weight_decay=1e-2, flip=0.5, optimizer="adamw", schedule="cosine",
        clip_gradient=5.0, degrees=10.0, scale=(0.75, 1.4), colour=0.08, paste=0.4, validate_frames=16,
    )  # fmt: skip


def tiny() -> SlowFastMaskRCNNDavisConfig:
    """For a comparison on one CPU core: frames of 128 pixels, some stretches once; minutes for each stage."""
    base = small()
    options = {**base.model_options, "min_size": 128, "max_size": 232, "proposals": 100, "sampled_regions": 64}
    return replace(
        base, load_side=128, workers=0, model_options=options, detector_epochs=1, epochs=1, stretches=60,
        validate_frames=2,
    )  # fmt: skip


PRESETS = {"small": small, "tiny": tiny}


# ---------------------------------------------------------------- data


def split(config: SlowFastMaskRCNNDavisConfig) -> tuple[list[SequenceSample], list[SequenceSample]]:
    """Return the sequences to learn from and those to validate on (their masks are one foreground)."""
    year = cast(Year, int(config.year))
    train, val = list(config.train_sequences), list(config.val_sequences)
    if (not train or not val) and config.validation is None:
        everything = Davis(config.davis, year, "train", sequences=train or None)
        if everything.list_file is None:  # a folder without lists
            names = sorted(Davis(config.davis, year, "train").names)
            val = val or [name for name in names[::4] if name not in train]
            train = train or [name for name in names if name not in val]
    learned = list(Davis(config.davis, year, "train", sequences=train or None))
    held_out = list(Davis(config.validation or config.davis, 2016, "val", sequences=val or None))
    if both := sorted({one.name for one in learned} & {one.name for one in held_out}):
        raise DatasetError(f"{config.davis}: {both[0]} is both trained on and validated on; name other sequences")
    return learned, held_out


class Windows(Dataset[TrainingClip]):
    """Unit -> stretch of frames, a pure function of the seed and the unit."""

    def __init__(
        self, config: SlowFastMaskRCNNDavisConfig, samples: Sequence[SequenceSample], stage: Stage, around: int
    ):
        self.samples, self.around, self.config, self.stage = samples, around, config, stage
        flip = config.detector_flip if stage == "detector" else config.flip
        self.changes = Changes(
            flip=flip, degrees=config.degrees, scale=config.scale, colour=config.colour, paste=config.paste
        )

    def __getitem__(self, unit: Unit) -> TrainingClip:
        _, sequence, first, count = unit
        rng = np.random.default_rng([self.config.seed, self.stage == "video", *unit])
        side = self.config.load_side
        stretch = read_window(self.samples[sequence], first, count, around=self.around, short_side=side)
        return self.changes.apply(stretch, rng, self.samples, short_side=side)


def units(
    config: SlowFastMaskRCNNDavisConfig, samples: Sequence[SequenceSample], stage: Stage, epoch: int
) -> list[Unit]:
    """Return an epoch's units in their order: single frames of the detector, stretches of the video stage."""
    length = 1 if stage == "detector" else config.stretch
    every = [
        (epoch, number, first, min(length, len(sample.frames) - first))
        for number, sample in enumerate(samples)
        for first in range(0, len(sample.frames), length)
    ]
    order = np.random.default_rng([config.seed, stage == "video", epoch]).permutation(len(every))
    if stage == "detector":  # frames that do not fill the last batch are left out of this epoch
        order = order[: len(every) // config.detector_batch * config.detector_batch]
    elif config.stretches is not None:
        order = order[: config.stretches]
    return [every[i] for i in order]


def as_tensor(frames: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device) -> Tensor:
    """Shapes: uint8 (T, H, W, 3) -> float (T, 3, H, W) in 0..1."""
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 255


# ---------------------------------------------------------------- network


def build(config: SlowFastMaskRCNNDavisConfig, note: Callable[[str], object] = lambda line: None) -> SlowFastMaskRCNN:
    """Build the network and give it its start."""
    if needs_masks(config.model):
        raise InputError(f"model={config.model!r} is not a SlowFast Mask R-CNN; `twospeed models` lists their names")
    options = dict(config.model_options)
    if config.weights is not None:
        network = create_model(config.model, config.weights, **options)
    else:
        if config.coco == "none" and options.get("backbone") != "nano":
            options.setdefault("frozen_batch_norm", False)  # fixed statistics of nothing would teach nothing
        network = create_model(config.model, None, **options)
    assert isinstance(network, SlowFastMaskRCNN)
    if config.weights is None and config.coco != "none":
        file = start_from_coco(network, None if config.coco == "auto" else config.coco)
        note(f"detector starts from {file}")
    if config.weights is None and config.nano_start:
        stages = cast(Any, create_model("track_tiny", "default")).key_encoder.state_dict()
        missing, unknown = network.detector.backbone.body.load_state_dict(stages, strict=False)
        if unknown or any(not name.startswith("layer4.") for name in missing):
            raise CheckpointError(f"track_tiny does not fit the backbone: {unknown[:3]}, {missing[:3]}")
    if config.detector_weights is not None:
        state, _ = read_state(config.detector_weights)
        detector = {name.removeprefix("detector."): value for name, value in state.items() if "slow_fast." not in name}
        try:
            network.detector.load_state_dict(detector)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{config.detector_weights}: is no detector of this network ({why})") from error
        note(f"detector of {config.detector_weights}: its stage is skipped")
    return network


def let_learn(
    config: SlowFastMaskRCNNDavisConfig, network: SlowFastMaskRCNN, stage: Stage, *, norm: bool = True
) -> None:
    """Freeze all that does not learn in a stage. norm: whether batch-norm statistics follow the data."""
    if stage == "detector":
        train_parts(network, [part for part in PARTS if part != "slow_fast"])
        network.detector.train()
    else:
        train_parts(network, config.learning_parts, update_norm=norm)
    stages = ("layer1", "layer2", "layer3", "layer4")[: config.frozen_stages]
    for part in ("conv1", "bn1", *stages) if stages else ():
        network.detector.backbone.body.get_submodule(part).eval().requires_grad_(False)


def optimizer_for(
    config: SlowFastMaskRCNNDavisConfig, network: SlowFastMaskRCNN, stage: Stage
) -> torch.optim.Optimizer:
    """Return the optimizer of a stage over what learns in it."""
    if stage == "detector":
        lr, decay = config.detector_lr, config.detector_weight_decay
    else:
        lr, decay = config.lr, config.weight_decay
    let_learn(config, network, stage)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameter_groups(network, weight_decay=decay), lr=lr, betas=(0.9, 0.99))
    groups = parameter_groups(network, weight_decay=decay, norm_weight_decay=decay)  # the report decays all
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)


def learning_rate(config: SlowFastMaskRCNNDavisConfig, stage: Stage, done: int, per_epoch: int) -> float:
    """Return the rate after `done` steps of a stage."""
    epochs, base = (config.detector_epochs, config.detector_lr) if stage == "detector" else (config.epochs, config.lr)

    def plain(at: float) -> float:
        if config.schedule == "cosine":
            return half_cosine(at, base=base, length=epochs * per_epoch)
        if stage == "video":
            return base
        return steps(
            at / per_epoch, base=base, boundaries=range(config.detector_lr_epochs, epochs, config.detector_lr_epochs)
        )

    if stage == "video":
        return plain(done)
    return with_warm_up(done, plain, warm_up=config.detector_warm_up_steps, start=base / 1000)


def stage_losses(
    config: SlowFastMaskRCNNDavisConfig,
    network: SlowFastMaskRCNN,
    batch: list[TrainingClip],
    stage: Stage,
    device: torch.device,
) -> Iterator[Losses]:
    """Yield the losses of each step that a batch of stretches is good for."""
    if stage == "detector":
        images = [as_tensor(one.frames, device)[0] for one in batch]
        targets = [target_of(torch.from_numpy(one.labels[0]).to(device)) for one in batch]
        yield image_losses(network, images, targets)
        return
    around = network.window // 2
    for one in batch:
        targets = [target_of(torch.from_numpy(labels).to(device)) for labels in one.labels]
        frames, inside = as_tensor(one.frames, device), torch.from_numpy(one.inside).to(device)
        frozen = "detector.backbone" not in config.learning_parts
        whole = encode_stretch(network, frames, inside) if frozen else None
        for start in range(0, len(targets) - 2 * around, config.frames_per_step):
            stop = min(start + config.frames_per_step, len(targets) - 2 * around) + 2 * around
            features = (
                encode_stretch(network, frames[start:stop], inside[start:stop])
                if whole is None
                else whole.between(start, stop)
            )
            yield window_losses(network, features, targets[start + around : stop - around])


# ---------------------------------------------------------------- validation


def validate(
    network: SlowFastMaskRCNN, samples: Sequence[SequenceSample], frames: int | None = None
) -> dict[str, float]:
    """Find one foreground in each sequence by itself; J&F of each, and their mean as "mean"."""
    scores = {}
    unsupervised_tracker = UnsupervisedTracker(network, merged=True, device=next(network.parameters()).device)
    for sample in samples:
        chosen = sample.frames[:frames]
        images = (Frame(index, float(index), sample.image(name)) for index, name in enumerate(chosen))
        per_frame = []
        for name, (_, found) in zip(chosen, unsupervised_tracker.run(images), strict=True):
            result, truth = outline(found.labels > 0), outline(sample.labels(name) == 1)
            per_frame.append((region_similarity(result, truth) + contour_accuracy(result, truth)) / 2)
        scores[sample.name] = float(np.mean(per_frame))
    return {**scores, "mean": float(np.mean(list(scores.values())))}


# ---------------------------------------------------------------- the loop


@dataclass(frozen=True)
class Position:
    """Where a run is: stage, epoch, units of the epoch that are done, steps of the stage, steps in all."""

    stage: Stage = "detector"
    epoch: int = 0
    unit: int = 0
    stage_step: int = 0
    step: int = 0


def train(config: SlowFastMaskRCNNDavisConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train both stages, validate, and return the run folder. resume: continue from the last checkpoint."""
    process = alone(config.device, "slowfast_maskrcnn")
    with Run.start_or_resume(config, process, resume=resume, on_progress=on_progress) as run:
        learned, held_out = split(config)
        seed_everything(config.seed)
        network = build(config, run.note).to(process.device)
        saved = run.restore(model=network)
        at, best = Position(**saved.get("position", {})), saved.get("best", -1.0)

        stages: tuple[Stage, ...] = ("detector", "video")
        for stage in stages[stages.index(at.stage) :]:
            epochs = config.detector_epochs if stage == "detector" else config.epochs
            if stage == "detector" and config.detector_weights is not None:
                epochs = 0  # a detector that comes trained is not trained again
            if at.stage != stage:
                at = Position(stage, step=at.step)
            optimizer = optimizer_for(config, network, stage)
            if saved and saved["position"]["stage"] == stage:
                optimizer.load_state_dict(saved["optimizer"])
            stretches = Windows(config, learned, stage, 0 if stage == "detector" else network.window // 2)
            batch = config.detector_batch if stage == "detector" else 1
            for epoch in range(at.epoch, epochs):
                every = units(config, learned, stage, epoch)
                per_epoch = sum(math.ceil(u[3] / config.frames_per_step) for u in every)
                per_epoch = len(every) // batch if stage == "detector" else per_epoch
                recent: list[dict[str, float]] = []
                keys = [every[i : i + batch] for i in range(at.unit, len(every), batch)]
                for stretch_batch in load(stretches, keys, list, workers=config.workers):
                    since = at.step
                    if stage == "video":
                        progress = at.stage_step / (epochs * per_epoch)
                        let_learn(config, network, stage, norm=progress < config.freeze_norm)
                    for losses in stage_losses(config, network, stretch_batch, stage, process.device):
                        lr = learning_rate(config, stage, at.stage_step, per_epoch)
                        set_learning_rate(optimizer, lr)
                        values = take_step(config, network, optimizer, losses)
                        at = replace(at, stage_step=at.stage_step + 1, step=at.step + 1)
                        run.check_finite(at.step, lr=lr, loss=values["loss"])
                        recent.append(values)
                        if at.step % config.log_every == 0:
                            means = {key: float(np.mean([row[key] for row in recent])) for key in recent[0]}
                            run.log(f"train_{stage}", at.step, epoch=epoch, lr=lr, **means)
                            recent.clear()
                    at = replace(at, unit=at.unit + batch)
                    stops = config.stop_after_steps is not None and at.step >= config.stop_after_steps > since
                    if stops or run.due(at.step):
                        run.save(at.step, model=network, optimizer=optimizer, position=vars(at), best=best)
                    if stops:
                        export(run, network, at)
                        return config.out
                at = replace(at, epoch=epoch + 1, unit=0)
                is_last = epoch + 1 == epochs
                if stage == "video" and ((epoch + 1) % config.validate_every == 0 or is_last):
                    run.check_weights(network, at.step)
                    scores = validate(network, held_out, config.validate_frames)
                    run.log("validation", at.step, epoch=epoch + 1, **scores)
                    run.note(f"epoch {epoch + 1}: J&F {scores['mean']:.3f} on {len(held_out)} sequences not trained on")
                    if config.select == "best" and scores["mean"] > best:
                        best = scores["mean"]
                        export(run, network, at)
                if stage == "detector" and is_last:
                    export(run, network, at, "detector.safetensors")
                run.save(at.step, model=network, optimizer=optimizer, position=vars(at), best=best)
        if config.select == "last" or not config.epochs:
            export(run, network, at)
    return config.out


def take_step(
    config: SlowFastMaskRCNNDavisConfig, network: SlowFastMaskRCNN, optimizer: torch.optim.Optimizer, losses: Losses
) -> dict[str, float]:
    """Learn from the sum of a step's losses; return them."""
    total = torch.stack(list(losses.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    gradient_norm(network, clip=config.clip_gradient)
    optimizer.step()
    return {name: float(value.detach()) for name, value in {"loss": total, **losses}.items()}


def export(run: Run, network: SlowFastMaskRCNN, at: Position, name: str = "weights.safetensors") -> None:
    """Write the network, with its size and thresholds in it."""
    run.check_weights(network, at.step)
    about = {"recipe": "slowfast_maskrcnn", "steps": str(at.step)}
    save_model(network, run.path / name, model_name=cast(Any, run.config).model, source=about)
