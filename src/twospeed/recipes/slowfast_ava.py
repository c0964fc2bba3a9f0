"""Train any SlowFast detector on AVA, or on any set in AVA's layout, as the ActivityNet 2019 report does.

    twospeed train slowfast_ava --preset report_8x8 --data ava --out runs/ava
    torchrun --nproc-per-node 8 -m twospeed.cli.main train slowfast_ava ...

`--data` is a folder with AVA's `annotations`, and `frames` (with `frame_lists`) or `videos`. Presets hold the numbers
of the report (`report_8x8`: 29.0 mAP on AVA v2.2; `report_fast` 27.4; `report_16x8` 29.8; `report_member` and
`report_trainval` for its ensemble) and of PySlowFast (`pyslowfast_r50`). Those scores are the authors'; what this code
measured itself is in docs/experiments/figures_task.md, minutes on a CPU.

In the run folder: config.json, origin.json, train.csv, validation.csv, metrics.jsonl, tensorboard/, checkpoints,
unreadable.csv (clips that could not be read: they are left out of their step and counted), detections.csv and test.json
of the last validation, and weights.safetensors. `--resume` continues from the last checkpoint; on a CPU the loss curve
is the same to the last digit. Raises DatasetError and InputError before the first step for what does not fit together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.data.benchmarks.ava import (
    CLASSES,
    Version,
    default_label_map,
    find_annotations,
    find_predicted_boxes,
    read_exclusions,
    read_ground_truth,
    read_label_map,
    read_predicted_boxes,
    write_detections,
)
from twospeed.data.benchmarks.ava_frames import AvaFrames
from twospeed.data.benchmarks.ava_keyframes import PERSON_SCORE, Keyframe, keyframes_of, with_labelled, with_proposals
from twospeed.data.clips.keyframes import TrainKeyframes
from twospeed.data.samples import KeyframeBatch, collate_keyframes
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.ava import evaluate_ava, keyframe_ap
from twospeed.evaluation.ava_runs import score_keyframes
from twospeed.evaluation.report import Report
from twospeed.files import atomic_file
from twospeed.models.slowfast import detection
from twospeed.models.slowfast.network import SlowFast
from twospeed.pipelines.box_actions import BoxActions
from twospeed.recipes._slowfast import PRECISE_BN_EPOCH, SlowFastSettings, SlowFastTraining, start_from
from twospeed.results import OnProgress
from twospeed.training.batch_norm import precise_bn
from twospeed.training.distributed import Process, gather, shard, total
from twospeed.training.run import start_run
from twospeed.training.schedule import scaled_lr, steps, with_warm_up
from twospeed.weights.catalog import KINETICS_600, find
from twospeed.weights.entries import Preprocessing


@dataclass(frozen=True, kw_only=True)
class SlowFastAvaConfig(SlowFastSettings):
    """Everything that decides a training; the defaults are the report's slowfast_r101_8x8_nl_ava."""

    # Data
    data: Path = Path("ava")  # holds annotations, and frames or videos
    version: Version | None = None  # of the annotations; None: the newest in data
    splits: tuple[str, ...] = ("train",)  # to train on; ("train", "val") for what is sent to the server
    val: str | None = "val"  # to validate on; None: not at all
    num_classes: int = CLASSES
    first_second: float | None = None  # of the film, where frames and videos begin; None: 900, or 0 for whole films
    proposals: Path | None = None  # detected boxes of all splits; None: those in annotations, by their usual names
    proposal_iou: float | None = 0.9  # with an annotated box, whose actions a proposal takes over; None: no proposals
    proposal_actions: Literal["overlap", "file"] = "overlap"  # "file": those that the csv gives, or none: a negative
    val_people: Literal["detected", "annotated"] = "detected"
    val_boxes: Path | None = None  # detected boxes; None: those in annotations
    person_score: float = PERSON_SCORE  # of proposals and validation boxes, at least

    # Network
    model: str = "slowfast_r101_8x8_nl_ava"  # a name of the catalogue's detect row
    weights: str | None = KINETICS_600["slowfast_r101_8x8_nl"]  # start from these, without their head

    # Clips
    inverse_uniform: bool = False  # PySlowFast draws 1 / size uniformly
    crop: int | None = 224  # pixels; None: the whole image, of one size
    box_jitter: float = 0.0  # each edge of a box, in parts of its width or height

    # Optimisation; positions are iterations (steps)
    iterations: int = 12_000
    batch: int = 1024
    freeze_bn: bool = False  # keep the statistics of the weights that training starts from
    lr: float = 0.8
    lr_batch: int = 1024
    lr_boundaries: tuple[int, ...] = (8_000, 10_700)  # a tenth from there on
    warm_up_steps: int = 1_000
    weight_decay: float = 1e-7
    norm_weight_decay: float = 1e-7

    # Evaluation
    validate_every: int = 1_000  # iterations; the last one is always validated, on every keyframe
    val_every_s: int = 4  # before that on keyframes whose second is a multiple of this
    test_short_side: int = 256

    # Run
    out: Path = Path("runs/slowfast_ava")


def report_8x8() -> SlowFastAvaConfig:
    """The report's SlowFast 8x8 R101 with non-local blocks: 12k iterations from Kinetics-600 weights.

    The report lowers the learning rate when the validation error saturates and gives neither its value nor its
    boundaries: 0.8 is its Kinetics training's, two thirds and eight ninths of the way stand in for saturation.
    """
    return SlowFastAvaConfig()


def report_fast() -> SlowFastAvaConfig:
    """The report's Fast pathway alone, at full width. Its Kinetics-600 weights are not published: train them first."""
    return replace(report_8x8(), model="fast_r101_32x2_nl_ava", weights="kinetics600.safetensors")


def report_16x8() -> SlowFastAvaConfig:
    """The report's SlowFast 16x8 R101 with non-local blocks and context branch, whose clips span 128 frames."""
    return replace(
        report_8x8(), model="slowfast_r101_16x8_nl_ava", model_options={"context": True},
        weights=KINETICS_600["slowfast_r101_16x8_nl"], short_side=(256, 360),
    )  # fmt: skip


def report_member() -> SlowFastAvaConfig:
    """A member of the report's ensemble: proposals from IoU 0.75 on, 16k iterations.

    The report varies these and the context branch between members without stating which member has which; without the
    branch: model_options={}.
    """
    return replace(report_16x8(), proposal_iou=0.75, iterations=16_000, lr_boundaries=(10_700, 14_200))


def report_trainval() -> SlowFastAvaConfig:
    """The report's training on train and val together, for the server's test set: half as many iterations more."""
    return replace(report_16x8(), splits=("train", "val"), val=None, iterations=18_000, lr_boundaries=(12_000, 16_000))


def pyslowfast_r50() -> SlowFastAvaConfig:
    """PySlowFast's SLOWFAST_32x2_R50_SHORT: 20 epochs of 3,300 iterations from Kinetics-400 weights, 8 GPUs."""
    epoch = 3_300  # 211k keyframes, 64 clips per step
    start = find("slowfast_r50_8x8").weights
    assert start is not None
    return SlowFastAvaConfig(
        model="slowfast_r50_8x8_ava", weights=start.url, short_side=(256, 320), inverse_uniform=True,
        proposals=Path(
            "annotations/person_box_67091280_iou90/ava_detection_train_boxes_and_labels_include_negative_v2.2.csv"
        ),
        proposal_actions="file", iterations=20 * epoch, batch=64, lr=0.1, lr_batch=64,
        lr_boundaries=(10 * epoch, 15 * epoch), warm_up_steps=5 * epoch, warm_up_lr=0.000125, nesterov=True,
        norm_weight_decay=0.0, validate_every=epoch, test_short_side=224,
    )  # fmt: skip


PRESETS = {
    "report_8x8": report_8x8, "report_fast": report_fast, "report_16x8": report_16x8, "report_member": report_member,
    "report_trainval": report_trainval, "pyslowfast_r50": pyslowfast_r50,
}  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """What validation needs: the keyframes with their boxes, the annotated ones, and where their files lie."""

    keyframes: list[Keyframe]
    truth: list[Keyframe]
    files: Mapping[str, Path]
    labels: Mapping[int, str]


def build(config: SlowFastAvaConfig) -> SlowFast:
    """Build the detector by its name, initialised as the authors do (He normal, zero last norm of each residual)."""
    builder = getattr(detection, config.model, None)
    if not config.model.endswith("_ava") or not callable(builder):
        raise InputError(f"model={config.model!r} is no detector; `twospeed models --task detect` lists their names")
    network: SlowFast = builder(
        **{"num_classes": config.num_classes, "dropout": config.dropout, **config.model_options}
    )
    return network


def learning_rate(config: SlowFastAvaConfig, iteration: int) -> float:
    """Return the learning rate of an iteration, counted from 0."""
    base = scaled_lr(config.lr, batch=config.batch, reference_batch=config.lr_batch)
    start = scaled_lr(config.warm_up_lr, batch=config.batch, reference_batch=config.lr_batch)

    def plain(at: float) -> float:
        return steps(at, base=base, boundaries=config.lr_boundaries)

    return with_warm_up(iteration, plain, warm_up=config.warm_up_steps, start=start)


def read_training(config: SlowFastAvaConfig) -> list[Keyframe]:
    """Read who is in the keyframes to train on: annotated boxes, and proposals where there are any."""
    found: list[Keyframe] = []
    excluded: list[tuple[str, float]] = []
    for split in config.splits:
        files = find_annotations(config.data, split, version=config.version)
        excluded += read_exclusions(files["exclusions"]) if "exclusions" in files else []
        labels = read_label_map(files["labels"]) if "labels" in files else None
        found += keyframes_of(read_ground_truth(files["ground_truth"], labels=labels), excluded=excluded)
    if config.proposal_iou is None:
        return found
    proposals: list[Keyframe] = []
    paths = [_detected(config, split, config.proposals) for split in config.splits]
    for path in dict.fromkeys(paths):
        proposals += keyframes_of(read_predicted_boxes(path), threshold=config.person_score, excluded=excluded)
        if not {keyframe.video for keyframe in proposals} & {keyframe.video for keyframe in found}:
            raise DatasetError(f"{path}: none of its videos is in {', '.join(config.splits)}; is it the right file?")
    if config.proposal_actions == "file":
        return with_labelled(found, proposals)
    return with_proposals(found, proposals, iou=config.proposal_iou)


def _detected(config: SlowFastAvaConfig, split: str, given: Path | None) -> Path:
    """Return the csv of detected boxes: the given one, also from within the data's folder, or a split's usual one."""
    if given is not None:
        return config.data / given if (config.data / given).is_file() else given
    try:
        return find_predicted_boxes(config.data, split)
    except DatasetError as error:
        advice = "proposal_iou=None and val_people='annotated' do without"
        raise DatasetError(f"{str(error).partition('; give')[0]}; {advice}") from error


def read_validation(config: SlowFastAvaConfig) -> Validation | None:
    """Read what to validate on; None when the settings name no split."""
    if config.val is None:
        return None
    files = find_annotations(config.data, config.val, version=config.version)
    labels = read_label_map(files["labels"]) if "labels" in files else default_label_map()
    excluded = read_exclusions(files["exclusions"]) if "exclusions" in files else []
    truth = keyframes_of(read_ground_truth(files["ground_truth"], labels=labels), excluded=excluded)
    keyframes = truth
    if config.val_people == "detected":
        rows = read_predicted_boxes(_detected(config, config.val, config.val_boxes), labels=labels)
        keyframes = keyframes_of(rows, threshold=config.person_score, excluded=excluded)
    return Validation(keyframes, truth, files, labels)


def train(
    config: SlowFastAvaConfig,
    *,
    resume: bool = False,
    network: SlowFast | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Train, validate, and return the run folder. Every process of a torchrun calls this.

    resume: continue from the last checkpoint in config.out. network: train this one instead of config.model.
    """
    with start_run(config, config.device, resume=resume, on_progress=on_progress) as run:
        process = run.process
        keyframes, validation = read_training(config), read_validation(config)
        opened = AvaFrames(
            config.data,
            tuple(dict.fromkeys([*config.splits, *([config.val] if config.val else [])])),
            first_second=config.first_second,
        )
        opened.check([*keyframes, *(validation.keyframes if validation else [])])

        name = config.model if network is None else f"a {type(network).__name__} passed in"
        network = build(config) if network is None else network
        if config.weights is not None and not run.resumes:
            run.note(start_from(network, config))
        if validation is not None:
            scorer(config, network.to(process.device), validation, process)  # refuses now what does not fit
        training = SlowFastTraining(run, config, network)
        clips = TrainKeyframes(
            keyframes, opened, training.shape, num_classes=config.num_classes, short_side=config.short_side,
            crop=config.crop, flip_probability=config.flip_probability, inverse_uniform=config.inverse_uniform,
            box_jitter=config.box_jitter, seed=config.seed,
        )  # fmt: skip
        run.total_steps = config.iterations

        def losses(batch: KeyframeBatch) -> tuple[Tensor, Tensor]:
            """Sum the losses of a batch's boxes; count loss, boxes, clips, clips without boxes."""
            training.count_broken(batch.broken)
            logits, targets = forward_boxes(training, batch, config)
            found = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
            loss = found.mean(dim=1)[: len(batch.targets) if batch.targets is not None else 0].sum()
            boxes = sum(len(box) for box in batch.boxes_xyxy)
            numbers = [float(loss.detach()), boxes, len(batch), batch.empty]
            return loss + 0.0 * logits.sum(), torch.tensor(numbers, dtype=torch.float64, device=process.device)

        batches = endless(training, clips, training.step)
        training_mode(network, config)
        while training.step < config.iterations:
            lr = learning_rate(config, training.step)
            tally = training.accumulate(batches, losses)
            loss, boxes, seen, empty = total(tally).tolist()
            # A step is the mean over its boxes, whoever computes them; how many there are is only known at its end
            norm, step = training.update(lr, factor=config.batch / max(boxes, 1)), training.step
            if step % config.log_every == 0 or step == 1:
                training.check_readable(seen + empty)
                run.check_finite(step, lr=lr, loss=loss)
                if boxes:
                    run.log(
                        "train", step, lr=lr, loss=loss / boxes, boxes=int(boxes), clips=int(seen),
                        clips_without_boxes=int(empty), gradient_norm=norm,
                    )  # fmt: skip
            is_last = step == config.iterations
            if validation is not None and (is_last or step % config.validate_every == 0):
                run.check_weights(network)
                estimate_bn(training, clips)
                mean = validate(training, config, name, validation, opened)
                run.note(f"iteration {step}: {100 * mean:.2f} mAP")
                training_mode(network, config)
            if run.due(step) or is_last:
                training.save()
            if run.ended(step):
                return config.out
        training.export(recipe="slowfast_ava", name=name)
        return config.out


def endless(training: SlowFastTraining, clips: TrainKeyframes, step: int) -> Iterator[KeyframeBatch]:
    """Iterate over this process's batches from an iteration on, epoch after epoch, without end."""
    epoch, skip = divmod(step, max(len(clips) // training.config.batch, 1))
    while True:
        yield from training.batches(clips, collate_keyframes, epoch, skip)
        epoch, skip = epoch + 1, 0


def training_mode(network: nn.Module, config: SlowFastAvaConfig) -> None:
    """Go back to training; with freeze_bn batch norm keeps its statistics (its weights still learn)."""
    network.train()
    if config.freeze_bn:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def forward_boxes(training: SlowFastTraining, batch: KeyframeBatch, config: SlowFastAvaConfig) -> tuple[Tensor, Tensor]:
    """Return logits and targets (K, C). Without anybody to look at, a pass over an empty clip keeps the processes in
    step; it leaves no statistics.
    """
    device = training.process.device
    if batch.clips is not None and batch.targets is not None:
        boxes = [box.to(device, non_blocking=True) for box in batch.boxes_xyxy]
        logits: Tensor = training.model(batch.clips.to(device, non_blocking=True), boxes)
        return logits, batch.targets.to(device, non_blocking=True)
    side = config.crop or config.short_side[0]
    nothing = torch.zeros(1, 3, training.shape.frames, side, side, device=device)
    training.network.eval()
    logits = training.model(nothing, [nothing.new_tensor([[0.0, 0.0, side - 1.0, side - 1.0]])])
    training_mode(training.network, config)
    return logits, torch.zeros_like(logits, dtype=torch.float32)


def estimate_bn(training: SlowFastTraining, clips: TrainKeyframes) -> None:
    """Re-estimate batch-norm statistics over training clips, where the settings want it."""
    config, network, device = training.config, training.network, training.process.device
    if not config.precise_bn_batches:
        return

    steps_per_epoch = max(len(clips) // config.batch, 1)
    batches = endless(training, clips, (PRECISE_BN_EPOCH + training.step) * steps_per_epoch)
    some: Any = islice((batch for batch in batches if len(batch)), config.precise_bn_batches)
    precise_bn(
        network, some, lambda batch: network(batch.clips.to(device), [box.to(device) for box in batch.boxes_xyxy])
    )


def scorer(config: SlowFastAvaConfig, network: SlowFast, validation: Validation, process: Process) -> BoxActions:
    """Return what scores keyframes as `twospeed detect` does. Raises InputError for a size that makes no sense."""
    return BoxActions(
        network,
        scales=(config.test_short_side,),
        labels=[validation.labels.get(action, f"class {action}") for action in range(1, config.num_classes + 1)],
        device=process.device,
        preprocessing=Preprocessing(mean=config.mean, std=config.std),
    )


def validate(
    training: SlowFastTraining, config: SlowFastAvaConfig, name: str, validation: Validation, opened: AvaFrames
) -> float:
    """Score the network on some of the keyframes, after the last iteration on all; returns the mAP."""
    process, step = training.process, training.step
    is_last = step == config.iterations

    def counts(keyframe: Keyframe) -> bool:
        return is_last or round(keyframe.second) % config.val_every_s == 0

    people = [keyframe for keyframe in validation.keyframes if counts(keyframe)]
    actions = scorer(config, training.network, validation, process)
    mine = [people[i] for i in shard(len(people), process)]
    scores = [found for _, found in score_keyframes(mine, opened, actions, workers=max(config.workers, 1))]
    parts = gather(scores)
    everyone = [parts[i % process.world][i // process.world] for i in range(len(people))]  # in order again
    truth = [keyframe for keyframe in validation.truth if counts(keyframe)]
    result = keyframe_ap(truth, people, everyone, list(validation.labels))
    by_class = {f"AP_{action}": result.by_class.get(action, math.nan) for action in validation.labels}
    training.run.log("validation", step, mAP=result.mean, keyframes=len(people), **by_class)
    if is_last and process.is_main:
        write_and_score(config, validation, everyone, name).write_json(config.out / "test.json")
    return result.mean


def write_and_score(
    config: SlowFastAvaConfig, validation: Validation, scores: Sequence[NDArray[np.float32]], name: str
) -> Report:
    """Write detections.csv as the server takes it, and score that file as `twospeed evaluate ava` does."""
    path = config.out / "detections.csv"
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for keyframe, found in zip(validation.keyframes, scores, strict=True):
            write_detections(file, keyframe.video, keyframe.second, keyframe.boxes_xyxy, found)
    report = evaluate_ava(path, validation.files["ground_truth"], labels=validation.files.get("labels"))
    return replace(report, model=name)
