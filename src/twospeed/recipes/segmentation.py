"""Train the image networks that label keyframes, SwiftNet and BiSeNet, on Cityscapes or CamVid.

    twospeed train segmentation --data CITYSCAPES --backbone resnet18.pth
    twospeed train segmentation --preset pyramid --data CITYSCAPES --backbone resnet18.pth
    twospeed train segmentation --preset bisenet --data CITYSCAPES --backbone resnet18.pth
    twospeed train segmentation --preset camvid --data CAMVID --backbone resnet18.pth

The defaults are SwiftNet's published numbers for Cityscapes: Adam, 4e-4 for new layers and 1e-4 for the ImageNet
backbone, cosine to 1e-6 over 250 epochs, batches of 14 crops of 768 pixels. --backbone is torchvision's ResNet-18 (any
file with its names); without it the backbone starts at random. GSVNet's BiSeNet came trained: what its file of losses
says (three heads, hard pixels) with SwiftNet's schedule is ours. So is the crop for CamVid.

Crops are scaled by 0.5 to 2 and mirrored; with --precision bf16 the forward passes are cheaper on GPUs. Several
processes share a batch (torchrun) and the validation. A run resumes exactly. Raises DatasetError for
data sets that are not in their layout, CheckpointError for a backbone that does not fit.
In the run folder: config.json, metrics, checkpoints, best.safetensors (by validation mIoU) and weights.safetensors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from twospeed.data.clips.snippets import LabelledVideos
from twospeed.data.loading import load
from twospeed.errors import CheckpointError, InputError
from twospeed.evaluation.semseg import BENCHMARKS
from twospeed.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy
from twospeed.models.bisenet.builders import bisenet_r18
from twospeed.models.bisenet.loss import bisenet_loss
from twospeed.models.bisenet.network import BiSeNet
from twospeed.models.swiftnet.builders import swiftnet_r18, swiftnet_r18_pyramid
from twospeed.models.swiftnet.convert import norms_for_every_level
from twospeed.models.swiftnet.loss import boundary_focal, cross_entropy
from twospeed.models.swiftnet.network import SwiftNet
from twospeed.models.swiftnet.pyramid import SwiftNetPyramid
from twospeed.ops.bf16 import autocast
from twospeed.results import OnProgress
from twospeed.training.batch_norm import join_statistics
from twospeed.training.distributed import Process, epoch_batches, gather, parallel, shard, total
from twospeed.training.run import RunSettings, start_run
from twospeed.training.schedule import half_cosine
from twospeed.transforms.labels import border_weights
from twospeed.transforms.warp import draw_view
from twospeed.weights.imports import read_state
from twospeed.weights.load import save_model

ImageLabeller = SwiftNet | SwiftNetPyramid | BiSeNet
VOID = 255  # in crops, whatever the set's own number


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(RunSettings):
    """Everything that decides a training."""

    network: Literal["swiftnet_r18", "swiftnet_r18_pyramid", "bisenet_r18"] = "swiftnet_r18"
    dataset: Literal["cityscapes", "camvid"] = "cityscapes"
    data: Path = Path("cityscapes")  # the data set in an official layout
    backbone: Path | None = None  # ImageNet weights of ResNet-18
    crop: int = 768  # pixels
    scales: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5
    epochs: int = 250
    batch: int = 14  # crops a step, over all processes
    lr: float = 4e-4
    backbone_lr: float = 1e-4
    last_lr: float = 1e-6
    weight_decay: float = 1e-4
    backbone_weight_decay: float = 2.5e-5
    betas: tuple[float, float] = (0.9, 0.99)
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = 5  # epochs; the last is always validated
    workers: int = 4
    device: str | None = None  # None: a GPU where there is one
    out: Path = Path("runs/segmentation")
    log_every: int = 10  # steps


def pyramid() -> SegmentationConfig:
    """SwiftNet with the interleaved pyramid, by the boundary-aware focal loss."""
    return SegmentationConfig(network="swiftnet_r18_pyramid")


def bisenet() -> SegmentationConfig:
    """BiSeNet-R18 with its auxiliary heads, by the cross entropy of hard pixels."""
    return SegmentationConfig(network="bisenet_r18")


def camvid() -> SegmentationConfig:
    """SwiftNet on CamVid: 11 classes, smaller crops."""
    return SegmentationConfig(dataset="camvid", data=Path("camvid"), crop=352)


PRESETS = {"swiftnet": SegmentationConfig, "pyramid": pyramid, "bisenet": bisenet, "camvid": camvid}


class TrainCrops(Dataset[tuple[Tensor, ...]]):
    """(epoch, index) -> image uint8 (3, h, w), labels uint8 (h, w) and, if wanted, border weights float (h, w).

    A pure function of the key and the seed.
    """

    def __init__(self, data: LabelledVideos, config: SegmentationConfig) -> None:
        self.data, self.config = data, config

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        config, rng = self.config, np.random.default_rng([self.config.seed, *key])
        frame = self.data[key[1]]
        labels = frame.labels()
        size = (config.crop, config.crop)
        view = draw_view(
            rng, labels.shape, size, scale=config.scales, turn=0.0, aspect=0.0, flip=config.flip_probability
        )
        cut = view.labels(labels, VOID)
        drawn = [torch.from_numpy(view.image(frame.image())).permute(2, 0, 1), torch.from_numpy(cut)]
        if config.network == "swiftnet_r18_pyramid":
            drawn.append(torch.from_numpy(border_weights(cut)))
        return tuple(drawn)


def build(config: SegmentationConfig) -> ImageLabeller:
    """Build the network, its backbone from ImageNet weights if there are any. Raises CheckpointError on a mismatch."""
    classes = len(BENCHMARKS[config.dataset].classes)
    if config.network == "bisenet_r18":
        network: ImageLabeller = bisenet_r18(classes, auxiliary_heads=True)
    else:
        network = (swiftnet_r18 if config.network == "swiftnet_r18" else swiftnet_r18_pyramid)(classes)
    if config.backbone is not None:
        state, _ = read_state(config.backbone)
        state = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
        if isinstance(network, SwiftNetPyramid):
            state = norms_for_every_level(state)
        try:
            backbone_of(network).load_state_dict(
                {name.removeprefix("backbone."): value for name, value in state.items()}
            )
        except RuntimeError as error:
            raise CheckpointError(f"{config.backbone}: not a ResNet-18 in torchvision's names ({error})") from error
    return network


def backbone_of(network: ImageLabeller) -> nn.Module:
    """Return the part that starts from ImageNet weights."""
    return network.context_path if isinstance(network, BiSeNet) else network.backbone


class Training(nn.Module):
    """The network and its loss as one module, so that several processes can share a batch."""

    def __init__(self, network: ImageLabeller) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Shapes: uint8 (N, 3, h, w), uint8 (N, h, w), float (N, h, w) or None -> scalar."""
        images = images.float()
        if isinstance(self.network, BiSeNet):
            return bisenet_loss([scores.float() for scores in self.network.training_scores(images)], labels)
        scores = self.network(images).float()
        return cross_entropy(scores, labels) if weights is None else boundary_focal(scores, labels, weights)


def optimizer_of(network: ImageLabeller, config: SegmentationConfig) -> torch.optim.Adam:
    """Adam with gentler settings for the backbone that knows images already."""
    backbone = list(backbone_of(network).parameters())
    known = {id(parameter) for parameter in backbone}
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in known], "base": config.lr},
        {"params": backbone, "base": config.backbone_lr, "weight_decay": config.backbone_weight_decay},
    ]
    return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, config: SegmentationConfig, epoch: int) -> None:
    """Give every group its rate of an epoch: a cosine from its own base to the common last rate."""
    for group in optimizer.param_groups:
        span = group["base"] - config.last_lr
        group["lr"] = config.last_lr + half_cosine(epoch, base=span, length=config.epochs)


@torch.inference_mode()
def validate(network: ImageLabeller, data: LabelledVideos, process: Process) -> dict[str, float]:
    """Label whole images, shared by all processes: mIoU and pixel accuracy."""
    network.eval()
    matrix = np.zeros((network.num_classes, network.num_classes), np.int64)
    for index in shard(len(data), process):
        frame = data[index]
        pixels = torch.from_numpy(frame.image()).permute(2, 0, 1)[None].float().to(process.device)
        matrix += confusion_matrix(frame.labels(), network(pixels)[0].argmax(0).cpu().numpy(), network.num_classes)
    matrix = np.sum(gather(matrix), 0)
    return {"mIoU": mean_iou(matrix), "pixel_accuracy": pixel_accuracy(matrix)}


def train(config: SegmentationConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train, validate, and return the run folder. Every process of a torchrun calls this."""
    with start_run(config, config.device, resume=resume, on_progress=on_progress) as run:
        process = run.process
        if config.batch % process.world:
            raise InputError(f"batch {config.batch} cannot be shared by {process.world} processes; make it a multiple")
        cv2.setNumThreads(0)
        data, held_out = (BENCHMARKS[config.dataset].open(config.data, split, None) for split in ("train", "val"))
        network = build(config).to(process.device)
        model = parallel(Training(network), process)
        optimizer = optimizer_of(network, config)
        crops = TrainCrops(data, config)
        steps_per_epoch = len(data) // config.batch
        run.total_steps = config.epochs * steps_per_epoch
        saved = run.restore(model=network, optimizer=optimizer)
        step, best = saved.get("step", 0), saved.get("best", -1.0)
        kind = torch.bfloat16 if config.precision == "bf16" else torch.float32

        for epoch in range(step // max(steps_per_epoch, 1), config.epochs):
            set_rates(optimizer, config, epoch)
            model.train()
            started, first_step = time.perf_counter(), step
            for parts in batches(config, crops, process, epoch, skip_steps=step - epoch * steps_per_epoch):
                optimizer.zero_grad(set_to_none=True)
                with autocast(process.device, kind):
                    loss = model(*(part.to(process.device, non_blocking=True) for part in parts))
                loss.backward()
                optimizer.step()
                step += 1
                if step % config.log_every == 0 or step == 1:
                    mean = float(total(loss)) / process.world
                    run.check_finite(step, lr=config.lr, loss=mean)
                    rate = (step - first_step) * config.batch / (time.perf_counter() - started)
                    run.log("train", step, epoch=step / steps_per_epoch, loss=mean, images_per_second=round(rate, 3))
                if step % steps_per_epoch and run.due(step):
                    run.save(step, model=network, optimizer=optimizer, best=best)
                    if run.ended(step):
                        return config.out
            join_statistics(network)
            if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                run.check_weights(network, step)
                scores = validate(network, held_out, process)
                run.log("validation", step, epoch=epoch + 1, **scores)
                run.note(f"epoch {epoch + 1}: mIoU {100 * scores['mIoU']:.1f} %")
                if scores["mIoU"] > best:
                    best = scores["mIoU"]
                    export(network, config, config.out / "best.safetensors", process, epoch + 1, scores)
            run.save(step, model=network, optimizer=optimizer, best=best)
            if run.ended(step):
                return config.out
        run.check_weights(network)
        export(network, config, config.out / "weights.safetensors", process, config.epochs, {})
        return config.out


def batches(
    config: SegmentationConfig, crops: TrainCrops, process: Process, epoch: int, skip_steps: int = 0
) -> Iterator[list[Tensor]]:
    """Iterate over this process's batches of one epoch."""
    keys = epoch_batches(
        len(crops), epoch=epoch, seed=config.seed, batch=config.batch,
        batch_per_forward=config.batch // process.world, process=process, skip_steps=skip_steps,
    )  # fmt: skip
    return load(crops, keys, default_collate, workers=config.workers, pin_memory=process.device.type == "cuda")


def export(
    network: ImageLabeller,
    config: SegmentationConfig,
    path: Path,
    process: Process,
    epoch: int,
    scores: Mapping[str, float],
) -> None:
    """Write weights that `create_model` loads, with where they come from; the auxiliary heads stay behind."""
    if not process.is_main:
        return
    source = {"recipe": "segmentation", "data": config.dataset, "epoch": str(epoch)}
    source |= {name: f"{value:.4f}" for name, value in scores.items()}
    if isinstance(network, BiSeNet):
        plain = bisenet_r18(network.num_classes)
        state = network.state_dict()
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
        save_model(plain, path, model_name=config.network, source=source)
    else:
        save_model(network, path, model_name=config.network, source=source)
