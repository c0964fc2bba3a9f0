"""Train a network that follows masks: STCN, STM, or the small ones that ship with twospeed.

    twospeed train stcn --preset static --static static --key-backbone-weights resnet50.pth \
        --value-backbone-weights resnet18.pth                                              stage 0, still images
    twospeed train stcn --preset video --davis DAVIS/2017/trainval --youtube-vos YouTube   stage 3, after stage 0
    twospeed train stcn --preset stage1 --bl30k BL30K                                      stage 1, after stage 0
    twospeed train stcn --preset stage2 --davis ... --youtube-vos ...                      stage 2, after stage 1
    twospeed train stcn --preset tiny --davis DAVIS --minutes 96                           track_tiny, on a CPU
    twospeed train stcn --preset small --davis TRAIN --validation DAVIS --coco COCO --key-backbone-weights lite0.pth
    twospeed train stcn --preset nano --davis TRAIN --validation DAVIS --coco COCO         track_nano, from track_small
    torchrun --nproc-per-node 2 -m twospeed.cli.main train stcn ...

Presets that end in `_stm` train STM (the baseline of the supplement's Table 1), those in `_trial` a narrow STCN for a
minute or two. Which sets are given, is trained on: stills (FSS-1000, DUTS, ECSSD, BIG, HRSOD; COCO's objects) once or
five times an epoch, DAVIS five times, YouTube-VOS and BL30K once, and generated clips. DAVIS-2016 as it is:
`--davis DIR --davis-year 2016`; frames of any size are found (JPEGImages/480p, JPEGImages/288p). Sequences named in
`held_out` are never trained on, only scored.

The defaults are the authors' stage 3: Adam at 1e-5, 8 samples a step, 150K iterations (stage 0: 16 samples, 300K; stage
1: 500K; stage 2: 300K), frames further apart in the course of the training and close again at its end; 85.4 J&F on
DAVIS-2017 val after stages 0 and 3 (85.1 to 85.5 from run to run); about 30 hours on two GPUs of 11 GB. Their finding:
without stage 0 the later ones do not reach their scores. Where their paper and code differ, the code's way is the
default, since it made the released weights; the paper's: `--frame-choice paper --crop-aspect 0.75,1.25 --small-objects
paper`, and in stage 1 `--lr-boundaries 0.9`. What was trained here: docs/papers/stcn.md,
docs/track_tiny.md, docs/track_small.md, docs/track_nano.md.

In the run folder: config.json, origin.json, train.csv, validation.csv, metrics.jsonl, checkpoints, latest.safetensors
after each validation, and weights.safetensors: the best in validation, or the last ones where nothing is held out; the
next stage starts from them, and `create_model` takes them. `--resume` continues from the last checkpoint. With
`iterations` on a CPU the curve is the same to the last digit as without the interruption; with `minutes` the schedule
follows the training time spent.

Source: STCN's supplement (Cheng 2021), section F, and the authors' code, which agree but where it says so.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.data.clips.training_clip import ClipKey, ClipMix, TrainingBatch
from twospeed.data.samples import SequenceSample
from twospeed.errors import CheckpointError, InputError
from twospeed.metrics.regions import score_frame
from twospeed.models.encoders.efficientnet_lite import EfficientNetLite, imagenet_state
from twospeed.models.encoders.imagenet import start_from_imagenet
from twospeed.models.stcn import convert as stcn_names
from twospeed.models.stcn.loss import kept_fraction
from twospeed.models.stcn.network import STCN
from twospeed.models.stm import convert as stm_names
from twospeed.models.stm.network import STM
from twospeed.models.unrolled import UnrolledPropagation, propagation_loss
from twospeed.ops.bf16 import autocast
from twospeed.pipelines.tracker import Tracker
from twospeed.recipes._stcn_data import (
    Position,
    batches,
    find_sources,
    load_clips,
    on_device,
    progress_at,
    validation_sequences,
)
from twospeed.recipes._stcn_settings import PRESETS as PRESETS
from twospeed.recipes._stcn_settings import StcnConfig
from twospeed.results import OnProgress
from twospeed.training.batch_norm import precise_bn
from twospeed.training.distributed import Process, gradients_stay_here, parallel, total
from twospeed.training.optim import gradient_norm, set_learning_rate
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.run import Run, start_run
from twospeed.training.schedule import half_cosine, steps, with_warm_up
from twospeed.training.stage import StepClock
from twospeed.weights.catalog import CATALOG, find
from twospeed.weights.imports import read_state
from twospeed.weights.load import build as build_model
from twospeed.weights.load import create_model, save_model

MAY_CHANGE = ("validate_every", "cache", "half_precision")
"""Settings that may differ when a run is resumed, besides those of every recipe."""

NORM_EPOCH = 1_000_000  # samples for batch-norm statistics come from an epoch that is never trained


# ---------------------------------------------------------------- the network at its start


def build(config: StcnConfig) -> nn.Module:
    """Build the network of a configuration, randomly initialised, ready to be trained."""
    given = {"backbone": config.backbone, "similarity": config.similarity, "aspp": config.aspp, "width": config.width}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if config.network == "stcn" and set(config.objects) == {1}:
        options["mask_channels"] = 1  # there are no other objects for the value encoder
    return build_model(find(config.network), options)


def start(network: nn.Module, config: StcnConfig) -> str:
    """Fill the network with what the configuration names, and say what that was; "" for nothing.

    Raises CheckpointError for files that cannot be read or do not fit.
    """
    if config.weights is not None:
        named = config.network if str(config.weights) == "default" else str(config.weights)
        if named in CATALOG:
            state, what = create_model(named).state_dict(), f"the default weights of {named}"
        else:
            state, metadata = read_state(config.weights)
            what = f"weights of {config.weights} ({metadata.get('stage', 'stage not recorded')})"
        if isinstance(network, STCN):
            state = stcn_names.for_training(state, mask_channels=network.value_encoder.mask_channels)
        else:
            state = stm_names.to_ours(state)
        own = network.state_dict()
        if config.network == "track_nano" and own.keys() < state.keys():
            what += f", without the {len(state) - len(own)} tensors that only the larger network has"
            state = {name: state[name] for name in own}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:500]
            raise CheckpointError(f"{config.weights}: does not fit this {config.network}: {why}") from error
        return what
    files = {"key": config.key_backbone_weights, "value": config.value_backbone_weights}
    if all(path is None for path in files.values()):
        return ""
    if isinstance(network, STM):
        backbones = {"key": network.query_encoder.backbone, "value": network.memory_encoder.backbone}
    else:
        key, value = cast(STCN, network).key_encoder, cast(STCN, network).value_encoder.backbone
        if isinstance(key, EfficientNetLite):  # published without a counterpart for masks
            if config.key_backbone_weights is None:
                raise InputError(f"{config.network} starts from key_backbone_weights alone, an EfficientNet-Lite0")
            try:
                key.load_state_dict(imagenet_state(read_state(config.key_backbone_weights)[0], key))
            except KeyError as error:
                raise CheckpointError(f"{config.key_backbone_weights}: no EfficientNet-Lite0 ({error})") from error
            return f"ImageNet weights of {config.key_backbone_weights}"
        backbones = {"key": key, "value": value}
    for which, path in files.items():
        if path is None:
            raise InputError(f"{which}_backbone_weights is not given, the other is; a network starts from both")
        try:
            start_from_imagenet(backbones[which], read_state(path)[0])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return f"ImageNet weights of {files['key']} and {files['value']}"


def measure_norms(config: StcnConfig, model: UnrolledPropagation, data: ClipMix, process: Process) -> None:
    """Set batch norm's statistics to those of the untrained network on some batches.

    Instead of ImageNet's where there are no ImageNet weights: with the initial 0 and 1, features fade from block to
    block, and statistics are not updated in this training.
    """
    size, batch = config.crop[0], config.batch[0]
    keys = [[ClipKey(NORM_EPOCH, (i * batch + j) % len(data), size, config.objects[0]) for j in range(batch)]
            for i in range(config.norm_batches)]  # fmt: skip

    def forward(samples: TrainingBatch) -> None:
        frames, _, masks, present = on_device(samples, process.device)
        model(frames, masks, present)

    precise_bn(model, load_clips(config, data, keys[process.rank :: process.world], process), forward)


# ---------------------------------------------------------------- schedules


def learning_rate(config: StcnConfig, progress: float) -> float:
    """Return the rate at a point of the run (0..1)."""

    def plain(at: float) -> float:
        if config.schedule == "cosine":
            return half_cosine(at, base=config.lr, length=1.0)
        return steps(at, base=config.lr, boundaries=config.lr_boundaries)

    return with_warm_up(progress, plain, warm_up=config.warm_up, start=0.01 * config.lr)


def kept_pixels(config: StcnConfig, progress: float) -> float:
    """Return the share of pixels in the cross entropy at a point of the run (0..1)."""
    return kept_fraction(progress, start=config.bootstrap_from, end=config.bootstrap_to, final=config.bootstrap_keep)


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


def step_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor], objects: Sequence[int], config: StcnConfig,
    keep: float, spoiling: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Follow the objects of frame 0 through the others (supplement, section F.5); keep: share of pixels that count.

    spoiling: as `UnrolledPropagation` takes it. Returns the loss, the log odds (B, T - 1, K + 1, H, W) and the mean
    region similarity.
    """
    frames, labels, masks, present = batch
    if not (config.overlap_weight or config.match_weight):
        log_odds = model(frames, masks, present, None, spoiling)
        return propagation_loss(log_odds, labels, objects, keep=keep), log_odds, mean_jaccard(log_odds, labels, objects)
    targets = torch.stack([labels == k + 1 for k in range(masks.shape[1])], 2).float()  # (B, T, K, H, W)
    cells = F.avg_pool2d(targets.flatten(0, 1), 16).unflatten(0, targets.shape[:2])  # (B, T, K, h, w)
    log_odds, recalled = model(frames, masks, present, cells, spoiling)
    loss = propagation_loss(log_odds, labels, objects, keep=keep)
    exists, followed = present[:, None], targets[:, 1:]  # (B, 1, K)
    guess = log_odds.softmax(2)[:, :, 1:]
    inside = (guess * followed).sum((3, 4))  # (B, T - 1, K)
    union = (guess + followed).sum((3, 4)) - inside
    # One cell's worth of smoothing: an absent object asks for nothing
    overlap = ((1 - (inside + 16) / (union + 16)) * exists).sum() / exists.sum()
    apart = F.binary_cross_entropy(recalled.clamp(1e-4, 1 - 1e-4), cells[:, 1:], reduction="none").mean((3, 4))
    match = (apart * exists).sum() / exists.sum()
    loss = loss + config.overlap_weight * overlap + config.match_weight * match
    return loss, log_odds, mean_jaccard(log_odds, labels, objects)


def precision_of(config: StcnConfig, device: torch.device) -> torch.dtype:
    """Return what the network computes in: half precision with scaled gradients on CUDA (authors), else single."""
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    wanted = config.precision
    if wanted == "auto":
        wanted = "fp16" if device.type == "cuda" else "fp32"
    return kinds[wanted]


def draw_spoiling(config: StcnConfig, frames: Tensor) -> Tensor | None:
    """Draw which samples see a damaged frame before: (B, T - 1, 4) for `UnrolledPropagation`, None for no damage."""
    if not config.spoil_last:
        return None
    draws = torch.rand(len(frames), frames.shape[1] - 1, 4)
    draws[..., 0] /= config.spoil_last  # 1 and above: none
    return draws


def make_optimizer(config: StcnConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return Adam (authors), or AdamW that leaves biases, norms and parts with a rate of their own undecayed.

    Of several parts that hold a parameter the longest name counts. A rate of 0 freezes its part.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(config.rates)
    longest_first = sorted(config.rates, key=len, reverse=True)
    for name, parameter in network.named_parameters():
        part = next((part for part in longest_first if name.startswith(f"{part}.")), None)
        unused.discard(part or "")
        if part is not None and config.rates[part] == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decays = config.optimizer == "adam" or (part is None and parameter.ndim > 1)
        rate = 1.0 if part is None else config.rates[part]
        groups.setdefault((rate, config.weight_decay if decays else 0.0), []).append(parameter)
    if unused:
        parts = ", ".join(name for name, _ in network.named_children())
        raise InputError(f"rates name {', '.join(sorted(unused))}; the parts of {config.network} are {parts}")
    settings = [{"params": some, "lr_scale": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]
    if config.optimizer == "adam":
        return torch.optim.Adam(settings, lr=config.lr)
    return torch.optim.AdamW(settings, lr=config.lr, betas=(0.9, 0.99))


def validate(network: nn.Module, sequences: Sequence[SequenceSample], config: StcnConfig) -> dict[str, float]:
    """Follow the objects of each sequence's first frame on every few frames, at full size: J&F of each, and the mean.

    A quick look while training; `twospeed evaluate` gives the official numbers.
    """
    every = max(1, round(5 / config.validate_stride))
    tracker = Tracker(network, memory_every=every, size=None, device=next(network.parameters()).device, finder=None)
    scores = {}
    for sample in sequences:
        frames = list(sample.annotations)[: config.validate_frames : config.validate_stride]
        first = np.where(sample.labels(frames[0]) == 255, np.uint8(0), sample.labels(frames[0]))
        tracker.reset()
        tracker.step(sample.image(frames[0]), first)
        per_frame = [
            score_frame(tracker.step(sample.image(frame)).labels, sample.labels(frame), int(first.max()))
            for frame in frames[1:]
        ]
        scores[sample.name] = float(np.mean(per_frame))
    return {**scores, "mean": float(np.mean(list(scores.values())))}


# ---------------------------------------------------------------- the loop


def train(config: StcnConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder. Every process of a torchrun calls this.

    resume: continue from the last checkpoint in config.out. on_progress: called with every row of the log.

    Raises DatasetError, InputError and CheckpointError before the first step for what does not fit together.
    """
    data = ClipMix(find_sources(config), seed=config.seed)
    held_out = validation_sequences(config)
    with start_run(config, config.device, resume=resume, may_change=MAY_CHANGE, on_progress=on_progress) as run:
        if run.process.world > 1 and (config.minutes is not None or config.replicas > 1):
            raise InputError("minutes and replicas are for one process; with several, give iterations and replicas=1")
        _fit(config, data, held_out, run)
    return config.out


def _fit(config: StcnConfig, data: ClipMix, held_out: Sequence[SequenceSample], run: Run) -> None:
    process = run.process
    if config.replicas > 1:
        torch.set_num_threads(1)  # sums are the same in a run that is resumed in another process
    network = build(config)
    source = "a checkpoint" if run.resumes else start(network, config)
    network.to(process.device)
    if process.device.type == "cuda" or config.network in ("track_tiny", "track_nano", "track_small"):
        # Elsewhere not: on CPUs, oneDNN's backward of 4 channels that lie last writes out of bounds
        network.to(memory_format=torch.channels_last)
    # By default the whole network stays in eval mode: batch norm keeps its statistics, while its scale and shift learn.
    # A batch of a few warped crops would spoil what ImageNet's statistics say (supplement, section F.1)
    unrolled = UnrolledPropagation(network).eval()  # type: ignore[arg-type]
    if not source and config.norm_batches and not config.freeze_norm:
        measure_norms(config, unrolled, data, process)
        source = f"random weights, batch norm measured over {config.norm_batches} batches"
    counts = ", ".join(f"{one.name} {len(one)}" for one in data.sources)
    run.note(f"{config.network}: {len(data)} samples an epoch ({counts}), from {source or 'random weights'}")
    run.total_steps = config.iterations
    model = parallel(unrolled, process)
    average = None if config.ema_decay is None else copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = make_optimizer(config, network)
    kind = precision_of(config, process.device)
    scaler = torch.amp.GradScaler(process.device.type, enabled=kind == torch.float16)
    parts: dict[str, Any] = {"model": network, "optimizer": optimizer, "scaler": scaler}
    if average is not None:
        parts["average"] = average
    saved = run.restore(**parts)
    at = Position(**saved["position"]) if saved else Position()
    replicas = None
    if config.replicas > 1:
        replicas = ThreadedReplicas(unrolled, config.replicas, lambda one: one.train(unrolled.training))
    stream, clock = batches(config, data, process, at), StepClock()
    tally = torch.zeros(3, device=process.device)  # sums of loss and jaccard, and how many forwards
    while (progress := progress_at(config, at.step, at.seconds)) < 1:
        clock.begin()
        keep, lr = kept_pixels(config, progress), learning_rate(config, progress)
        set_learning_rate(optimizer, lr)
        model.train(progress < config.freeze_norm)
        if replicas is not None and not model.training:  # from here on, all use the statistics of the first
            replicas.share_statistics()
        batch, plan = next(stream)
        for part in range(plan.forwards):
            if part:
                batch, plan = next(stream)
            tensors = on_device(batch, process.device)
            spoiling = draw_spoiling(config, tensors[0])
            if replicas is not None:
                tally += _shared_backward(replicas, tensors, batch.objects, config, keep, spoiling)
                continue
            with gradients_stay_here(model, unless=part + 1 == plan.forwards), autocast(process.device, kind):
                loss, _, jaccard = step_loss(model, tensors, batch.objects, config, keep, spoiling)
            scaler.scale(loss / plan.forwards).backward()
            tally += torch.stack([loss.detach(), jaccard, loss.new_ones(())])
        scaler.unscale_(optimizer)
        norm = gradient_norm(network, clip=config.clip_gradient)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average is not None and config.ema_decay is not None:
            move_average(average, network, min(config.ema_decay, (1 + at.step) / (10 + at.step)))
        at.step, at.epoch, at.done, at.began = at.step + 1, plan.epoch, plan.done, plan.began
        at.seconds += clock.end()

        if at.step % config.log_every == 0 or at.step == 1:
            loss_sum, jaccard_sum, count = total(tally).tolist()
            run.check_finite(at.step, lr=config.lr, loss=loss_sum)
            run.log(
                "train", at.step, epoch=plan.epoch, lr=lr, loss=loss_sum / count, jaccard=jaccard_sum / count,
                kept_pixels=keep, max_gap=plan.gap, gradient_norm=float(norm),
            )  # fmt: skip
            tally.zero_()
        finished = progress_at(config, at.step, at.seconds) >= 1
        if finished or (config.validate_every and at.step % config.validate_every == 0):
            run.check_weights(network, at.step)
            if process.is_main:
                export(config, run, network if average is None else average, held_out, at, counts, finished=finished)
        if finished or run.due(at.step):
            run.save(at.step, **parts, position=dataclasses.asdict(at))
        if run.ended(at.step):
            break
    if replicas is not None:
        replicas.close()


def export(
    config: StcnConfig, run: Run, network: nn.Module, held_out: Sequence[SequenceSample], at: Position, counts: str, *,
    finished: bool,
) -> None:  # fmt: skip
    """Score the weights, where sequences are held out, and write them."""
    about = {"recipe": "stcn", "stage": counts, "iterations": str(at.step)}
    names = ["weights" if finished and not held_out else "latest"]
    if held_out:
        scores = validate(network, held_out, config)
        run.log("validation", at.step, minutes=round(at.seconds / 60, 2), **scores)
        about["held_out_j_and_f"] = f"{scores['mean']:.4f}"
        if scores["mean"] > at.best:
            at.best = scores["mean"]
            names.append("weights")
    for name in names:
        path = config.out / f"{name}.safetensors"
        save_model(network, path, model_name=config.network, source=about, half_precision=config.half_precision)


def _shared_backward(
    replicas: ThreadedReplicas[UnrolledPropagation], batch: tuple[Tensor, Tensor, Tensor, Tensor],
    objects: Sequence[int], config: StcnConfig, keep: float, spoiling: Tensor | None,
) -> Tensor:  # fmt: skip
    """Let replicas share a batch; returns loss, mean region similarity and 1."""
    count = len(replicas.replicas)

    def work(replica: UnrolledPropagation, number: int) -> tuple[Tensor, dict[str, float]]:
        own = slice(number, None, count)
        frames, labels, masks, present = (tensor[own] for tensor in batch)
        damage = None if spoiling is None else spoiling[own]
        loss, _, jaccard = step_loss(replica, (frames, labels, masks, present), objects[own], config, keep, damage)
        return loss, {"loss": float(loss.detach()), "jaccard": float(jaccard)}

    parts = replicas.backward(work)
    return torch.tensor([parts["loss"], parts["jaccard"], 1.0])
