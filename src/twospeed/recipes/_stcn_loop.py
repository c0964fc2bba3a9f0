"""What the recipes `stcn_static` and `stcn_video` share: the network, the training step, and the loop around it.

Source: Cheng 2021, section 4 and supplement, and the authors' code, which agree but where a recipe says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from twospeed.data.samples import Triplet, TripletBatch, collate_triplets
from twospeed.errors import CheckpointError, InputError
from twospeed.models.encoders.imagenet import start_from_imagenet
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.stcn import convert as stcn_names
from twospeed.models.stcn.builders import stcn
from twospeed.models.stcn.loss import kept_fraction
from twospeed.models.stcn.network import STCN
from twospeed.models.stm import convert as stm_names
from twospeed.models.stm.builders import stm
from twospeed.models.stm.network import STM
from twospeed.models.unrolled import UnrolledPropagation, propagation_loss
from twospeed.ops.bf16 import autocast
from twospeed.training.batch_norm import precise_bn
from twospeed.training.distributed import Process, epoch_batches, gradients_stay_here, note, parallel, processes, total
from twospeed.training.optim import gradient_norm, set_learning_rate
from twospeed.training.resume import check_same, last_checkpoint, load_checkpoint, save_checkpoint
from twospeed.training.run_folder import RunFolder, resolved
from twospeed.training.schedule import steps
from twospeed.training.seed import seed_everything
from twospeed.weights.imports import read_state
from twospeed.weights.load import save_model

if TYPE_CHECKING:
    from twospeed.recipes.stcn_static import StcnStaticConfig
    from twospeed.recipes.stcn_video import StcnVideoConfig

    Config: TypeAlias = StcnStaticConfig | StcnVideoConfig

Network = Literal["stcn", "stm"]
Backbone = Literal["resnet50", "wide_resnet50"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]

MAY_CHANGE = {"workers", "device", "out", "log_every", "checkpoint_every", "stop_after", "samples_per_forward"}
"""Settings that may differ when a run is resumed."""

NORM_EPOCH = 1_000_000  # samples for batch-norm statistics come from an epoch that is never trained


class Triplets(Protocol):
    """What is trained on: a set whose sample is a pure function of (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Triplet: ...


# ---------------------------------------------------------------- one step


@torch.no_grad()
def mean_jaccard(log_odds: Tensor, labels: Tensor, objects: Sequence[int]) -> Tensor:
    """Return the mean region similarity of the objects in the followed frames; 1 where one is rightly absent."""
    guess, truth = log_odds.argmax(2), labels[:, 1:]  # (B, T - 1, H, W)
    scores = []
    for b, count in enumerate(objects):
        for k in range(1, count + 1):
            ours, theirs = guess[b] == k, truth[b] == k
            union = (ours | theirs).sum((1, 2))
            scores.append(torch.where(union > 0, (ours & theirs).sum((1, 2)) / union.clamp(min=1), 1.0))
    return torch.stack(scores).mean()


# ---------------------------------------------------------------- the network at its start


def build(config: Config, mask_channels: int) -> STCN | STM:
    """Build the network of a configuration, randomly initialised, ready to be trained."""
    if config.network == "stm":
        if config.backbone != "resnet50" or config.aspp:
            raise InputError("STM has a ResNet-50 and no ASPP; leave backbone and aspp as they are, or choose stcn")
        return stm(similarity=config.similarity or "dot", width=config.width)
    return stcn(
        backbone=config.backbone,
        similarity=config.similarity or "l2",
        aspp=config.aspp,
        mask_channels=mask_channels,
        width=config.width,
    )


def start(network: STCN | STM, config: Config, mask_channels: int) -> str:
    """Fill the network with what the configuration names, and say what that was; "" for nothing.

    Raises CheckpointError for files that cannot be read or do not fit.
    """
    if config.weights is not None:
        state, metadata = read_state(config.weights)
        if isinstance(network, STCN):
            state = stcn_names.for_training(state, mask_channels=mask_channels)
        else:
            state = stm_names.to_ours(state)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            what = " ".join(str(error).split())[:500]
            raise CheckpointError(f"{config.weights}: does not fit this {config.network}: {what}") from error
        return f"weights of {config.weights} ({metadata.get('stage', 'stage not recorded')})"
    files = {"key": config.key_backbone_weights, "value": config.value_backbone_weights}
    if all(path is None for path in files.values()):
        return ""
    if isinstance(network, STM):
        backbones = {"key": network.query_encoder.backbone, "value": network.memory_encoder.backbone}
    else:
        assert isinstance(network.key_encoder, ResNetFeatures), "these recipes build the published networks"
        backbones = {"key": network.key_encoder, "value": network.value_encoder.backbone}
    for which, path in files.items():
        if path is None:
            raise InputError(f"{which}_backbone_weights is not given, the other is; a network starts from both")
        try:
            start_from_imagenet(backbones[which], read_state(path)[0])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return f"ImageNet weights of {files['key']} and {files['value']}"


# ---------------------------------------------------------------- the loop


def check_settings(config: Config) -> None:
    """Refuse what no training can be made of. Raises InputError."""
    if config.crop % 16 or config.crop < 64:
        raise InputError(f"crop is {config.crop} pixels; it must be a multiple of 16, at least 64")
    if min(config.iterations, config.batch, config.width // 2, config.log_every, config.checkpoint_every) < 1:
        raise InputError(
            f"iterations={config.iterations}, batch={config.batch}, width={config.width}, "
            f"log_every={config.log_every}, checkpoint_every={config.checkpoint_every}: "
            "each must be 1 or more, the width 2 or more"
        )
    if not 0 < config.bootstrap_keep <= 1 or config.bootstrap_from >= config.bootstrap_to:
        raise InputError(
            f"bootstrap_keep={config.bootstrap_keep} from {config.bootstrap_from} to {config.bootstrap_to}: give a "
            "share above 0, at most 1, and a start before the end"
        )


def epochs_of(config: Config, samples: int) -> int:
    """Return how many epochs a plan of iterations spans over `samples` samples; the last may be cut short."""
    return math.ceil(config.iterations / max(1, samples // config.batch))


def fit(config: Config, data: Triplets, *, stage: str, mask_channels: int, resume: bool) -> Path:
    """Train, and return the run folder. Every process of a torchrun calls this.

    In the folder: config.json, origin.json, train.csv, metrics.jsonl, checkpoints, and at the end weights.safetensors,
    which `create_model` and the next stage take. Raises InputError for settings that do not go together.
    """
    with processes(config.device) as process:
        last = last_checkpoint(config.out) if resume else None
        seed_everything(config.seed)  # alike on all ranks: they start from the same weights
        network = build(config, mask_channels)
        source = "a checkpoint" if resume else start(network, config, mask_channels)
        network.to(process.device)
        if process.device.type == "cuda":  # on CPUs, oneDNN's backward of 4 channels that lie last writes out of bounds
            network.to(memory_format=torch.channels_last)
        # The whole network stays in eval mode: batch norm keeps its statistics, while its scale and shift learn. A
        # batch of a few warped crops would spoil what ImageNet's statistics say (authors' code; paper, section 4)
        following = UnrolledPropagation(network).eval()
        if not source and config.norm_batches:
            measure_norms(config, following, data, process)
            source = f"random weights, batch norm measured over {config.norm_batches} batches"
        note(process, f"{stage}: {len(data)} samples an epoch, from {source or 'random weights'}")
        model = parallel(following, process)
        optimizer = torch.optim.Adam(
            [p for p in network.parameters() if p.requires_grad], lr=config.lr, weight_decay=config.weight_decay
        )
        kind = precision_of(config, process.device)
        scaler = torch.amp.GradScaler(process.device.type, enabled=kind == torch.float16)
        per_forward = config.samples_per_forward or max(1, config.batch // process.world)
        forwards = max(1, config.batch // (per_forward * process.world))

        step = 0
        if last is not None:
            state = load_checkpoint(last, process)
            check_same(config, state["config"], may_change=MAY_CHANGE)
            network.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scaler.load_state_dict(state["scaler"])
            step = state["step"]

        def checkpoint() -> None:
            content = {
                "config": resolved(config),
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
            }
            save_checkpoint(config.out, step, content, process)

        with RunFolder(config.out, config, resume_step=step if resume else None, active=process.is_main) as run:
            stream = batches(config, data, process, per_forward, step)
            tally = torch.zeros(3, device=process.device)  # sums of loss and jaccard, and how many forwards
            while step < config.iterations:
                keep = kept_fraction(
                    step, start=config.bootstrap_from, end=config.bootstrap_to, final=config.bootstrap_keep
                )
                lr = steps(step, base=config.lr, boundaries=config.lr_steps)
                set_learning_rate(optimizer, lr)
                for part in range(forwards):
                    batch, epoch = next(stream)
                    frames, labels, masks, present = on_device(batch, process.device)
                    with (
                        gradients_stay_here(model, unless=part + 1 == forwards),
                        autocast(process.device, kind),
                    ):
                        log_odds = model(frames, masks, present)
                        loss = propagation_loss(log_odds, labels, batch.objects, keep=keep)
                    scaler.scale(loss / forwards).backward()
                    tally += torch.stack(
                        [loss.detach(), mean_jaccard(log_odds, labels, batch.objects), loss.new_ones(())]
                    )
                scaler.unscale_(optimizer)
                norm = gradient_norm(network)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                step += 1

                if step % config.log_every == 0 or step == 1:
                    loss_sum, jaccard_sum, count = total(tally).tolist()
                    if not math.isfinite(loss_sum):
                        raise InputError(f"step {step}: the loss is {loss_sum}; lower lr (now {config.lr})")
                    run.log(
                        "train", step, epoch=epoch, lr=lr, loss=loss_sum / count, jaccard=jaccard_sum / count,
                        kept_pixels=keep, max_gap=config.max_gap(epoch, len(data)), gradient_norm=float(norm),
                    )  # fmt: skip
                    tally.zero_()
                stops = step == config.stop_after
                if stops or step % config.checkpoint_every == 0 or step == config.iterations:
                    checkpoint()
                    note(process, f"{stage}: step {step} of {config.iterations}")
                if stops:
                    return config.out
        if process.is_main:
            about = {"recipe": stage, "stage": stage, "iterations": str(step)}
            save_model(network, config.out / "weights.safetensors", model_name=config.network, source=about)
        return config.out


def batches(
    config: Config, data: Triplets, process: Process, per_forward: int, step: int
) -> Iterator[tuple[TripletBatch, int]]:
    """Yield this process's batches from a step on, with their epochs, one epoch after another without a pause."""
    steps_per_epoch = len(data) // config.batch
    first = step // max(1, steps_per_epoch)

    def keys() -> Iterator[list[tuple[int, int]]]:
        for epoch in range(first, epochs_of(config, len(data))):
            yield from epoch_batches(
                len(data),
                epoch=epoch,
                seed=config.seed,
                batch=config.batch,
                batch_per_forward=per_forward,
                process=process,
                skip_steps=step - epoch * steps_per_epoch if epoch == first else 0,
            )

    forwards = config.batch // (per_forward * process.world)
    for number, batch in enumerate(load(config, data, keys(), process)):
        yield batch, (step + number // max(1, forwards)) // steps_per_epoch


def load(config: Config, data: Triplets, keys: Any, process: Process) -> Iterator[TripletBatch]:
    """Load batches of (epoch, index) keys."""
    loader: DataLoader[Any] = DataLoader(
        data,  # type: ignore[arg-type]  # has what is needed of a Dataset
        batch_sampler=keys,
        num_workers=config.workers,
        collate_fn=collate_triplets,
        worker_init_fn=one_thread,
        generator=torch.Generator(),  # its own: starting an iterator must not move the global generator
        pin_memory=process.device.type == "cuda",
    )
    try:
        yield from loader
    except InputError as error:  # from a loading process it comes with that process's traceback before its own line
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.partition(f"{type(error).__name__}: ")[2] or last) from error


def one_thread(_worker: int) -> None:
    """Keep a loading process to one thread: there are as many processes as wanted."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def measure_norms(config: Config, following: UnrolledPropagation, data: Triplets, process: Process) -> None:
    """Set batch norm's statistics to those of the untrained network on some batches.

    Instead of ImageNet's where there are no ImageNet weights: with the initial 0 and 1, features fade from block to
    block, and statistics that learn along are no part of this training.
    """
    keys = [[(NORM_EPOCH, (i * config.batch + j) % len(data)) for j in range(config.batch)]
            for i in range(config.norm_batches)]  # fmt: skip

    def forward(batch: TripletBatch) -> None:
        frames, _, masks, present = on_device(batch, process.device)
        following(frames, masks, present)

    precise_bn(following, load(config, data, keys[process.rank :: process.world], process), forward)


def on_device(batch: TripletBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move a batch: frames and masks float in 0..1, labels, and which objects are present (B, K)."""
    frames, masks = (x.to(device, non_blocking=True).float() / 255 for x in (batch.frames, batch.masks))
    counts = torch.tensor(batch.objects)[:, None]
    present = (torch.arange(masks.shape[1])[None] < counts).float().to(device, non_blocking=True)
    return frames, batch.labels.to(device, non_blocking=True), masks, present


def precision_of(config: Config, device: torch.device) -> torch.dtype:
    """Return what the network computes in: half precision with scaled gradients on CUDA (authors), else single."""
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    wanted = config.precision
    if wanted == "auto":
        wanted = "fp16" if device.type == "cuda" else "fp32"
    return kinds[wanted]
