"""Train GSVNet's propagation on Cityscapes or CamVid around an image network that is trained already and stays frozen.

From a keyframe 1 to 4 frames ahead of a labelled one, the scores of the image network are carried forward by flow,
intra and guide network; the loss is on the last frame's labels. Defaults are the paper's numbers (GSVNet, ICME 2021,
section 4.1); `--preset released` are those of the released trainer, which weighs classes, has a learning rate for each
network, learns from the image network's own scores of the last frame, and trains the last two steps only.

    twospeed train gsvnet --data CITYSCAPES --keyframe-weights swiftnet.pt --out runs/gsvnet
    twospeed train gsvnet --preset released --model gsvnet_bisenet_r18 --keyframe-weights bisenet.pth --data CITYSCAPES
    twospeed train gsvnet --dataset camvid --data CAMVID --keyframe-weights swiftnet_camvid.safetensors
    twospeed train gsvnet --preset tiny --data CAMVID --out runs/gsvnet_tiny                 # minutes on one CPU core

Ablations of the paper: --no-intra, --learned-delay, --delay-kernel 5, --flow flownet2s (--flow-weights FILE starts it
from its published weights). CamVid needs the frames between its labelled ones (docs/data.md). Without them, train
on its dense run (--train-split val), or on drives made of single labelled frames as `segment_nano` does (--drives N).
`tiny` does that, around `segment_nano`'s shipped image network, to compare ablations in minutes.

What the paper reports for Cityscapes (SwiftNet-R18): average mIoU 73.7, 72.6, 71.8, 70.9 at intervals 2 to 5. Cost:
100 epochs are 148,400 steps of 8 patches of 1536x768. Several processes share steps and validation (torchrun).

In the run folder: config.json, train.csv, validation.csv, checkpoints (to resume from; a resumed run equals an
uninterrupted one), gsvnet.safetensors (the whole network, for `segment` and `evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from twospeed.data.benchmarks import camvid
from twospeed.data.clips.drives import Drives, DriveSnippets
from twospeed.data.clips.snippets import LabelledVideos, SnippetCrop, TrainSnippets, find_snippets
from twospeed.data.loading import load
from twospeed.errors import InputError
from twospeed.evaluation.label_runs import plan_chains, run_chains
from twospeed.evaluation.semseg import BENCHMARKS, MOST_SECONDS_APART
from twospeed.metrics.confusion import mean_iou, over_interval
from twospeed.models.gsv.loss import (
    freeze_keyframe_network,
    propagation_loss,
    roll_out,
    start_from_holding,
    teacher_scores,
)
from twospeed.models.gsv.network import GSVNet
from twospeed.ops.bf16 import autocast
from twospeed.pipelines.segment import NEVER, Segmenter
from twospeed.results import OnProgress
from twospeed.training.batch_norm import join_statistics
from twospeed.training.distributed import Process, gather, parallel, shard, total
from twospeed.training.optim import set_learning_rate
from twospeed.training.run import RunSettings, start_run
from twospeed.weights.load import create_model, save_model

RELEASED_CLASS_WEIGHTS: Mapping[str, tuple[float, ...]] = {
    "cityscapes": (
        3.03871497, 13.01999212, 4.53008444, 38.00898985, 35.35990217, 31.14247824, 45.82106668, 39.44451896,
        6.00002668, 32.64759009, 17.34725897, 31.45715227, 47.0853521, 11.70166965, 44.50966853, 44.80501487,
        45.63057065, 48.21080448, 41.21912833,
    ),
    "camvid": (
        6.08836725, 4.51955576, 33.97442457, 3.89279349, 12.47248835, 8.53161323, 47.70112012, 29.66528556, 18.9981982,
        38.38783951, 40.10590929,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GsvnetConfig(RunSettings):
    """What a run is made of; the paper's numbers. Written to config.json in its folder."""

    data: Path = Path("data/cityscapes")
    dataset: Literal["cityscapes", "camvid"] = "cityscapes"
    train_split: str = "train"
    val_split: str | None = "val"  # none: no validation
    train_list: Path | None = None  # GSVNet's list of frames, for Cityscapes
    frame_step: int | None = None  # frames of the recording between two; none: the finest, at most 0.2 s
    out: Path = Path("runs/gsvnet")
    drives: int = 0  # CamVid without the frames between: so many drives an epoch and distance, of single frames
    model: Literal["gsvnet_swiftnet_r18", "gsvnet_bisenet_r18", "segment_nano"] = "gsvnet_swiftnet_r18"
    keyframe_weights: Path | None = None  # the trained image network; segment_nano has a shipped one
    weights: Path | None = None  # start from this whole GSVNet instead
    flow: Literal["light", "flownet2s"] = "light"
    flow_weights: Path | None = None  # the flow network's, such as FlowNet2S's published ones; none: random
    delay_kernel: int = 3
    learned_delay: bool = False
    intra: bool = True
    fusion: Literal["guided", "accel"] = "guided"  # accel: the paper's baseline A-Lite
    edges: Literal["binary", "sigmoid"] = "binary"  # the guide's map of class borders: the code's, or the paper's
    start: Literal["random", "holding"] = "random"  # holding: no motion, and kernels that keep the keyframe's scores
    distances: tuple[int, ...] = (1, 2, 3, 4)  # from keyframe to label: intervals up to 5
    order: Literal["mixed", "by_distance"] = "mixed"  # of the batches of an epoch; each has one distance
    epochs: int = 100  # each goes through all labelled frames at every distance
    batch: int = 8  # patches a step, over all processes
    patch: float = 0.75  # of the image's sides
    scales: tuple[float, ...] = (1.0,)
    flip_probability: float = 0.5
    lr: float = 0.002
    lr_intra: float | None = None  # of intra network and delays; none: lr
    lr_guide: float | None = None
    lr_flow: float | None = None
    decay: float = 0.992  # of the learning rate, every decay_every steps
    decay_every: int = 100
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    weigh_classes: bool = False  # by the released trainer's weights
    teacher_weight: float = 0.0  # of the divergence from the image network on the last frame
    loss_factor: float = 1.0
    gradient_steps: int | None = None  # only so many last steps are trained
    keyframe_scale: float = 0.75  # in use; in training the image network sees whole patches
    workers: int = 4
    device: str | None = None
    validate_every: int = 5  # epochs
    validate_frames: int | None = None  # at most so many labelled frames
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if not self.distances or min(self.distances) < 1:
            raise InputError(f"distances are {self.distances}; give 1 or more: at 0 nothing is propagated")
        for name in ("epochs", "batch", "decay_every", "validate_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.drives and self.dataset != "camvid":
            raise InputError(f"drives are made of CamVid's frames; dataset is {self.dataset!r}")
        if self.drives and self.frame_step is not None:
            raise InputError("drives have no frames of a recording between theirs: leave frame_step out")
        if self.start == "holding" and self.fusion == "accel":
            raise InputError("start='holding' is for guided fusion; fusion='accel' has a start of its own")


def released() -> GsvnetConfig:
    """The released trainer's numbers, where they differ from the paper's."""
    return GsvnetConfig(
        order="by_distance", scales=(0.75, 1.0, 1.5, 1.75), flip_probability=0.4, lr=0.01, lr_guide=0.04, lr_flow=1e-4,
        nesterov=True, weigh_classes=True, teacher_weight=10.0, loss_factor=10.0, gradient_steps=2,
    )  # fmt: skip


def a_lite() -> GsvnetConfig:
    """The paper's baseline of Figs. 3 and 4: Accel's fusion with GSVNet's flow network and features (section 4.3).

    Differs: the paper trains it end to end, here the keyframe network is frozen as in GSVNet's own training.
    """
    return GsvnetConfig(model="gsvnet_bisenet_r18", fusion="accel")


def tiny() -> GsvnetConfig:
    """For comparing ablations on one CPU core: CamVid, `segment_nano`'s image network, made drives, 240 steps.

    The released trainer's loss, one learning rate for all networks, and a start that holds the keyframe's scores.
    """
    return GsvnetConfig(
        dataset="camvid", data=Path("camvid"), model="segment_nano", keyframe_scale=4 / 3, drives=480, start="holding",
        epochs=1, patch=0.5, lr=0.01, decay=0.98, decay_every=2, nesterov=True, weigh_classes=True, teacher_weight=10.0,
        loss_factor=10.0, workers=0, validate_frames=30,
    )  # fmt: skip


PRESETS = {"paper": GsvnetConfig, "released": released, "a_lite": a_lite, "tiny": tiny}


class Step(nn.Module):
    """What one process does with its share of a batch: frames and labels in, three scalars out (for DDP to wrap)."""

    def __init__(self, model: GSVNet, config: GsvnetConfig, num_classes: int):
        super().__init__()
        self.model, self.config = model, config
        weights = RELEASED_CLASS_WEIGHTS[config.dataset] if config.weigh_classes else (1.0,) * num_classes
        self.register_buffer("class_weights", torch.tensor(weights), persistent=False)

    def forward(self, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: uint8 (N, T, 3, H, W), (N, H, W)."""
        config = self.config
        scores = roll_out(self.model, frames, gradient_steps=config.gradient_steps)[-1]
        return propagation_loss(
            scores,
            labels,
            class_weights=self.get_buffer("class_weights") if config.weigh_classes else None,
            teacher=teacher_scores(self.model, frames[:, -1]) if config.teacher_weight else None,
            teacher_weight=config.teacher_weight,
            factor=config.loss_factor,
        )


def train(
    config: GsvnetConfig, *, resume: bool = False, network: GSVNet | None = None, on_progress: OnProgress | None = None
) -> Path:
    """Train, validate, and return the run folder. Every process of a torchrun calls this.

    resume: continue from the last checkpoint in config.out. network: train this one, built around any image network
    with the data set's classes, instead of config.model.
    """
    with start_run(config, config.device, resume=resume, on_progress=on_progress) as run:
        process = run.process
        if config.batch % process.world:
            raise InputError(f"batch {config.batch} cannot be shared by {process.world} processes; make it a multiple")
        benchmark = BENCHMARKS[config.dataset]
        classes, most = benchmark.classes, int(MOST_SECONDS_APART * benchmark.frame_rate)
        patches, counts = training_set(config, most)
        if short := [d for d, count in counts.items() if count < config.batch]:
            raise InputError(
                f"{counts[short[0]]} snippets at distance {short[0]} do not fill a batch of {config.batch}"
            )
        val = None if config.val_split is None else benchmark.open(config.data, config.val_split, None)
        model = (build(config, len(classes)) if network is None else network).to(process.device)
        if model.num_classes != len(classes):
            raise InputError(f"the network has {model.num_classes} classes, {config.dataset} has {len(classes)}")
        model.keyframe_scale = 1.0  # in training the image network sees whole patches
        step_module = Step(freeze_keyframe_network(model), config, len(classes)).to(process.device)
        optimizer = torch.optim.SGD(
            groups(model, config), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        run_step = parallel(step_module, process)
        saved = run.restore(optimizer=optimizer)
        if saved:
            model.load_state_dict({**model.state_dict(), **saved["model"]})
        step: int = saved.get("step", 0)
        kind = torch.bfloat16 if config.precision == "bf16" else torch.float32
        steps_per_epoch = sum(count // config.batch for count in counts.values())
        run.total_steps = config.epochs * steps_per_epoch
        run.note(f"{len(patches)} snippets, {steps_per_epoch} steps an epoch")
        for epoch in range(step // steps_per_epoch, config.epochs):
            skip = step - epoch * steps_per_epoch
            for frames, labels in batches(config, patches, counts, process, epoch, skip=skip):
                lr = config.lr * config.decay ** (step // config.decay_every)
                set_learning_rate(optimizer, lr)
                optimizer.zero_grad(set_to_none=True)
                with autocast(process.device, kind):
                    losses = run_step(frames.to(process.device), labels.to(process.device))
                losses[0].backward()
                optimizer.step()
                step += 1
                if step % config.log_every == 0 or step == 1:
                    loss, entropy, apart = (total(torch.stack(losses)) / process.world).tolist()
                    run.check_finite(step, lr=lr, loss=loss)
                    run.log(
                        "train", step, epoch=step / steps_per_epoch, lr=lr, distance=frames.shape[1] - 1, loss=loss,
                        cross_entropy=entropy, divergence=apart,
                    )  # fmt: skip
                if step % steps_per_epoch and run.due(step):
                    run.save(step, model=trained_part(model), optimizer=optimizer)
                    if run.ended(step):
                        return config.out
            join_statistics(model)
            if val is not None and ((epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs):
                run.check_weights(model, step)
                scores = validate(model, config, val, most, process)
                run.log("validation", step, epoch=epoch + 1, **scores)
                run.note(f"epoch {epoch + 1}: average mIoU {100 * scores['average_mIoU']:.1f}")
            run.save(step, model=trained_part(model), optimizer=optimizer)
            if run.ended(step):
                return config.out
        run.check_weights(model)
        if process.is_main:
            model.keyframe_scale = config.keyframe_scale
            name = config.model if network is None else "gsvnet"
            save_model(model, config.out / "gsvnet.safetensors", model_name=name, source={"recipe": "gsvnet"})
        return config.out


Patches = TrainSnippets | DriveSnippets


def training_set(config: GsvnetConfig, most: int) -> tuple[Patches, Mapping[int, int]]:
    """Return what is learned from, and how many snippets there are at each distance."""
    videos = BENCHMARKS[config.dataset].open(config.data, config.train_split, config.train_list)
    crop = SnippetCrop(config.patch, config.scales, config.flip_probability)
    if not config.drives:
        snippets = find_snippets(videos, config.distances, step=config.frame_step, most=most)
        counts = {distance: len(some) for distance, some in snippets.items()}
        return TrainSnippets(snippets, crop, seed=config.seed), counts
    frames = [videos[index] for index in range(len(videos))]
    images, labels = [frame.image() for frame in frames], [frame.labels() for frame in frames]
    movers = [camvid.CLASSES.names.index(name) for name in ("car", "pedestrian", "bicyclist")]
    counts = dict.fromkeys(config.distances, config.drives)
    height, width = (int(side * crop.part) // crop.multiple * crop.multiple for side in labels[0].shape)
    drives = Drives(images, labels, void=camvid.VOID, movers=movers)
    return DriveSnippets(drives, counts, (height, width), seed=config.seed), counts


def build(config: GsvnetConfig, num_classes: int) -> GSVNet:
    """Build the network around the trained image network; other convolutions start as released (Xavier, normal)."""
    options: dict[str, Any] = {
        "flow": config.flow, "delay_kernel": config.delay_kernel, "intra": config.intra,
        "learned_delay": config.learned_delay, "num_classes": num_classes, "edges": config.edges,
        "fusion": config.fusion,
    }  # fmt: skip
    keyframe: Any = config.keyframe_weights
    if config.model == "segment_nano":
        options["fine"] = False  # the published propagation around its image network
        if keyframe is None and config.weights is None:
            keyframe = cast(Any, create_model("segment_nano", "default")).keyframe_network.state_dict()
    if config.weights is not None:
        model = create_model(config.model, config.weights, keyframe_weights=keyframe, **options)
    elif keyframe is not None:
        parts = {"keyframe": keyframe, "flow": config.flow_weights, "propagation": None}
        model = create_model(config.model, parts, **options)
        assert isinstance(model, GSVNet)
        for layer in model.flow_network.modules() if config.flow_weights is None else ():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)
    else:
        raise InputError(
            "which image network labels the keyframes? give keyframe_weights, a file of one that is trained (the "
            "authors' or ours), or weights, a whole GSVNet to start from"
        )
    assert isinstance(model, GSVNet)
    if config.start == "holding" and config.weights is None:
        start_from_holding(model)
    return model


def trained_part(model: GSVNet) -> dict[str, Tensor]:
    """Return the state of everything but the frozen image network."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("keyframe_network.")}


def groups(model: GSVNet, config: GsvnetConfig) -> list[dict[str, Any]]:
    """Parameters by network, each with its share of the learning rate."""
    networks: list[tuple[nn.Module | None, float | None]] = [
        (model.intra, config.lr_intra), (model.guide, config.lr_guide), (model.mix, config.lr_guide),
        (model.flow_network, config.lr_flow),
    ]  # fmt: skip
    parts = [(list(network.parameters()), lr) for network, lr in networks if network is not None]
    if config.learned_delay:
        parts.append(([model.delays], config.lr_intra))
    return [{"params": some, "lr_scale": 1.0 if lr is None else lr / config.lr} for some, lr in parts]


def epoch_keys(
    counts: Mapping[int, int], batch: int, *, seed: int, epoch: int, order: str
) -> list[list[tuple[int, int]]]:
    """Return the batches of an epoch as (epoch, index) keys: each of one distance, so that its clips have one length.

    Snippets that do not fill a distance's last batch wait for another epoch.
    """
    random = np.random.default_rng([seed, epoch])
    batches: list[list[tuple[int, int]]] = []
    first = 0
    for count in counts.values():
        chosen = first + random.permutation(count)[: count // batch * batch]
        batches += [[(epoch, int(i)) for i in part] for part in chosen.reshape(-1, batch)]
        first += count
    return [batches[i] for i in random.permutation(len(batches))] if order == "mixed" else batches


def batches(
    config: GsvnetConfig, patches: Patches, counts: Mapping[int, int], process: Process, epoch: int, *, skip: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's share of each batch: uint8 (n, T, 3, h, w), (n, h, w)."""
    keys = epoch_keys(counts, config.batch, seed=config.seed, epoch=epoch, order=config.order)
    own = [batch[process.rank :: process.world] for batch in keys[skip:]]
    return load(patches, own, default_collate, workers=config.workers, pin_memory=process.device.type == "cuda")


def validate(
    model: GSVNet, config: GsvnetConfig, data: LabelledVideos, most: int, process: Process
) -> dict[str, float]:
    """Return average and minimum mIoU up to the longest distance, and mIoU at each; the network as it is in use.

    All processes share the keyframes.
    """
    model.keyframe_scale = config.keyframe_scale
    segmenter = Segmenter(model, NEVER, device=process.device)
    distances = range(max(config.distances) + 1)
    chains = plan_chains(data, distances, step=config.frame_step, most=most, frames=config.validate_frames)
    mine = run_chains(segmenter, [chains[i] for i in shard(len(chains), process)], model.num_classes)
    model.keyframe_scale = 1.0
    freeze_keyframe_network(model)
    matrices: dict[int, Any] = {}
    for part in gather(mine):  # every process scored some of the keyframes
        for distance, matrix in part.items():
            matrices[distance] = matrices.get(distance, 0) + matrix
    matrices = dict(sorted(matrices.items()))
    average, minimum = over_interval(list(matrices.values()))
    by_distance = {f"mIoU_{distance}": mean_iou(matrix) for distance, matrix in matrices.items()}
    return {"average_mIoU": average, "minimum_mIoU": minimum, **by_distance}
