"""Train `track_nano`, the small STCN that ships with twospeed, from scratch on a CPU.

Stage 1 follows generated objects (`data.clips.synthetic.MovingObjects`: cut-outs of real and procedural texture over
moving backgrounds); stage 2 mixes in triplets of annotated DAVIS frames with growing distance in time, as STCN's main
training does. Every fourth sequence by name is held out: never trained on, only scored.

    python -m twospeed.recipes.track_nano --davis DAVIS --minutes 90
    python -m twospeed.recipes.track_nano --davis DAVIS --minutes 90 --resume
    python -m twospeed.recipes.track_nano --davis DAVIS --minutes 90 --weights default --stage-1 0 --lr 6e-4

DAVIS is a folder with JPEGImages/480p and Annotations/480p. What it costs and scores: docs/track_nano.md.
In the run folder: config.json, metrics.csv (training), validation.csv, checkpoint.pt (to resume from),
track_nano.safetensors (averaged weights after the best validation so far) and latest.safetensors (after the last).
Stopped at any moment, it resumes from the last checkpoint; with `iterations` the resumed run equals an uninterrupted
one, with `minutes` the schedule follows the training time spent.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from twospeed.data.clips.synthetic import MovingObjects, Sample
from twospeed.data.clips.triplets import VideoTriplets
from twospeed.errors import DatasetError, InputError
from twospeed.metrics.regions import contour_accuracy, outline, region_similarity
from twospeed.models.memory import read_memory
from twospeed.models.stcn.loss import bootstrapped_cross_entropy
from twospeed.models.stcn.network import STCN, KeyFeatures
from twospeed.ops.masks import soft_aggregate
from twospeed.ops.pad import pad, padding_for, unpad
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.resume import write_atomically
from twospeed.training.run_folder import resolved
from twospeed.training.schedule import half_cosine
from twospeed.weights.load import create_model

Sequence = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # frames (T, H, W, 3), labels (T, H, W)


@dataclass(frozen=True, kw_only=True)
class TrackNanoConfig:
    """What a run is made of; written to config.json in its folder."""

    davis: Path | None = None  # None: procedural textures only, nothing to validate on
    out: Path = Path("runs/track_nano")
    weights: str | None = None  # a track_nano file to begin from, or "default": the shipped one; None: from scratch
    seed: int = 0
    minutes: float | None = 90.0  # training time; the schedule spans it
    iterations: int | None = None  # instead of minutes: exactly reproducible
    batch: int = 8
    crop_1: int = 192  # pixels in stage 1: cheap samples first; multiples of 16
    crop_2: int = 224  # pixels in stage 2
    lr: float = 1e-3
    warmup: float = 0.02  # share of the run in which the rate rises
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_decay: float = 0.998  # of the averaged weights that are validated and exported
    stage_1: float = 0.35  # share of the run on generated samples alone
    video_share: float = 0.5  # of real triplets in stage 2
    bootstrap_from: float = 0.2  # share of the run after which the hardest pixels count more and more
    bootstrap_to: float = 0.7
    bootstrap_keep: float = 0.25
    overlap_weight: float = 0.5  # of the soft Jaccard loss, which small objects need: cross entropy hardly sees them
    match_weight: float = 0.3  # of the auxiliary loss on what the keys alone recall
    freeze_norm: float = 0.85  # share of the run after which batch norm keeps its statistics
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 12.0
    validate_stride: int = 4  # frames between those that validation looks at
    validate_frames: int = 60  # of each sequence, before the stride
    replicas: int = 2  # replicas that share each batch, one thread each
    workers: int = 1  # processes that draw samples; 0: none, in line
    log_every: int = 20

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.iterations is None):
            raise InputError(
                f"minutes={self.minutes} and iterations={self.iterations}: give one and set the other to None"
            )
        if self.batch % self.replicas:
            raise InputError(f"batch {self.batch} cannot be shared by {self.replicas} replicas: make it a multiple")
        for crop in (self.crop_1, self.crop_2):
            if crop % 16 or crop < 64:
                raise InputError(f"a crop is {crop} pixels; it must be a multiple of 16, at least 64")


# ---------------------------------------------------------------- data


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Return (trained on, held out): every fourth sequence by name, from the first, is held out."""
    names = sorted(names)
    return [n for i, n in enumerate(names) if i % 4], names[::4]


def load_sequence(davis: Path, name: str, cache: Path) -> Sequence:
    """Decode a sequence once into two .npy files of `cache` and map them into memory."""
    frames_file, labels_file = cache / f"{name}.frames.npy", cache / f"{name}.labels.npy"
    if not labels_file.exists():
        images = sorted((davis / "JPEGImages" / "480p" / name).glob("*.jpg"))
        if not images:
            raise DatasetError(f"no .jpg in {davis / 'JPEGImages' / '480p' / name}: is {davis} a DAVIS folder?")
        frames, labels = [], []
        for image in images:
            annotation = davis / "Annotations" / "480p" / name / f"{image.stem}.png"
            frame, mask = cv2.imread(str(image)), cv2.imread(str(annotation), cv2.IMREAD_GRAYSCALE)
            if frame is None or mask is None:
                raise DatasetError(f"cannot read {image if frame is None else annotation}")
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            labels.append((mask > 127).astype(np.uint8))  # DAVIS-2016: one object, 255
        cache.mkdir(parents=True, exist_ok=True)
        for file, array in ((frames_file, frames), (labels_file, labels)):
            partial = file.with_suffix(".partial.npy")
            np.save(partial, np.stack(array))
            partial.replace(file)
    return np.load(frames_file, mmap_mode="r"), np.load(labels_file, mmap_mode="r")


class Samples(Dataset[Sample]):
    """Sample number -> sample, a pure function of (seed, number, progress of the run)."""

    def __init__(self, config: TrackNanoConfig, sequences: list[Sequence]) -> None:
        frames = [np.asarray(frame) for images, _ in sequences for frame in images]
        masks = [np.asarray(mask) for _, labels in sequences for mask in labels]
        self.config = config
        self.objects = MovingObjects(frames or None, masks or None)
        self.triplets = VideoTriplets(sequences, objects=self.objects) if sequences else None

    def __getitem__(self, at: tuple[int, float]) -> Sample:
        number, progress = at
        rng = np.random.default_rng([self.config.seed, number])
        config = self.config
        in_stage_1 = progress < config.stage_1
        # All samples of a batch have the same size and, every other batch, a single object: without empty places
        # for second objects a batch costs a third less.
        size = config.crop_1 if in_stage_1 else config.crop_2
        most = 1 + number // config.batch % 2
        if self.triplets is not None and not in_stage_1 and rng.random() < config.video_share:
            return self.triplets.draw(rng, max_gap=max_gap(progress, config.stage_1), size=size, max_objects=most)
        return self.objects.draw(rng, size=size, max_objects=most)


def max_gap(progress: float, stage_1: float) -> int:
    """Return the largest distance between neighbouring frames: STCN's curriculum over stage 2 (paper, appendix)."""
    done = (progress - stage_1) / max(1e-9, 1 - stage_1)
    steps = [(0.1, 5), (0.2, 10), (0.3, 15), (0.4, 20), (0.9, 25)]
    return next((gap for until, gap in steps if done < until), 5)


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor, list[int]]:
    """Stack samples: frames uint8 (B, T, 3, H, W), labels uint8 (B, T, H, W), objects in each."""
    frames = np.stack([sample.frames for sample in samples]).transpose(0, 1, 4, 2, 3)
    labels = np.stack([sample.labels for sample in samples])
    return (
        torch.from_numpy(np.ascontiguousarray(frames)),
        torch.from_numpy(labels),
        [s.objects for s in samples],
    )


def single_threaded(_worker: int) -> None:
    """Keep a sample process to one thread: the network needs the others."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


# ---------------------------------------------------------------- one step


def step_loss(
    model: STCN, frames: Tensor, labels: Tensor, objects: list[int], config: TrackNanoConfig, keep: float
) -> tuple[Tensor, dict[str, float]]:
    """Follow up to two objects from frame 0 to frames 1 and 2, as STCN trains (paper section 3.4).

    Shapes: frames float (B, 3, 3, H, W) in 0..1, labels (B, 3, H, W). keep: share of pixels in the cross entropy.
    Returns the loss and its parts.
    """
    B, T = frames.shape[:2]
    K = max(objects)
    present = torch.arange(K) < torch.tensor(objects)[:, None]
    present = present.float()[:, :, None, None]  # (B, K, 1, 1)
    images = model.normalise(frames.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
    together = model.encode_key(images)  # one batch for the three frames
    images = images.view(B, T, *images.shape[1:])
    features = [KeyFeatures(*(f.view(B, T, *f.shape[1:])[:, t] for f in together)) for t in range(T)]
    targets = torch.stack([labels == k + 1 for k in range(K)], 2).float()  # (B, T, K, H, W)

    masks = targets[:, 0]
    keys: list[Tensor] = []
    values: list[Tensor] = []
    cross_entropy, overlap, match = (frames.new_zeros(()) for _ in range(3))
    jaccard = 0.0
    for t in range(1, T):
        value = model.encode_value(images[:, t - 1], features[t - 1].f16, masks)
        # The mask itself, at stride 16, travels as one more value channel: what it recalls trains the keys directly.
        # As a memory the true mask serves, so that matching is learned even while the decoder is still poor.
        plane = F.avg_pool2d(targets[:, t - 1], 16).unsqueeze(2)  # (B, K, 1, h, w)
        keys.append(features[t - 1].key.flatten(2))
        values.append(torch.cat([value, plane], 2).flatten(3))
        recalled = read_memory(features[t].key, torch.cat(keys, 2), torch.cat(values, 3))  # (B, K, V + 1, h, w)
        logits = model.decode(recalled[:, :, :-1], features[t])
        log_odds = soft_aggregate(logits.sigmoid() * present)
        masks = log_odds.softmax(1)[:, 1:]

        cross_entropy = cross_entropy + bootstrapped_cross_entropy(log_odds, labels[:, t], objects, keep=keep)
        inside = (masks * targets[:, t]).sum((2, 3))  # (B, K)
        union = (masks + targets[:, t]).sum((2, 3)) - inside
        exists = present.flatten(1)
        soft_jaccard = (inside + 16) / (union + 16)  # one cell's worth of smoothing: an absent object asks for nothing
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


def learning_rate(config: TrackNanoConfig, progress: float) -> float:
    """Return the rate at a point of the run (0..1): linear warm-up, then half a cosine to zero."""
    if progress < config.warmup:
        return config.lr * (progress + 1e-4) / config.warmup
    return half_cosine(min(1.0, progress), base=config.lr, length=1.0)


def kept_pixels(config: TrackNanoConfig, progress: float) -> float:
    """Return the share of pixels in the cross entropy: STCN's bootstrapping, laid over the length of this run."""
    ramp = (progress - config.bootstrap_from) / (config.bootstrap_to - config.bootstrap_from)
    return 1 - (1 - config.bootstrap_keep) * min(1.0, max(0.0, ramp))


# ---------------------------------------------------------------- validation


@torch.inference_mode()
def follow(
    model: STCN, frames: NDArray[np.uint8], first: NDArray[np.uint8], memory_every: int
) -> Iterator[NDArray[Any]]:
    """Yield the mask (bool, H, W) of the object in every frame after the first, given its mask there."""
    padding = padding_for(first.shape[0], first.shape[1], 16)
    mask = pad(torch.from_numpy(first > 0).float()[None, None], padding)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for t, frame in enumerate(frames):
        image = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255
        image = pad(model.normalise(image), padding).contiguous(memory_format=torch.channels_last)
        features = model.encode_key(image)
        if t > 0:
            recalled = read_memory(features.key, torch.cat(keys, 2), torch.cat(values, 3), top_k=20)
            mask = soft_aggregate(model.decode(recalled, features).sigmoid()).softmax(1)[:, 1:]
            yield unpad(mask, padding)[0, 0].numpy() > 0.5
        if t % memory_every == 0:
            keys.append(features.key.flatten(2))
            values.append(model.encode_value(image, features.f16, mask).flatten(3))


def validate(model: STCN, sequences: Mapping[str, Sequence], config: TrackNanoConfig) -> dict[str, float]:
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


# ---------------------------------------------------------------- the run folder


@dataclass
class Progress:
    """How far a run is."""

    iteration: int = 0
    seconds: float = 0.0  # of training, validation excluded
    best: float = -1.0
    recent: list[dict[str, float]] = field(default_factory=list)


def export(model: STCN, path: Path, about: Mapping[str, str]) -> None:
    """Write the weights in half precision; the loader brings them back to single."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value.clone()
        for name, value in model.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"model": "track_nano", **about})
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


# ---------------------------------------------------------------- the loop


def train(config: TrackNanoConfig, *, resume: bool = False) -> Path:
    """Train and return the exported weights' path.

    Raises InputError when the folder holds a run already and `resume` is False, DatasetError for a bad data folder.
    """
    out = config.out
    checkpoint_file = out / "checkpoint.pt"
    if checkpoint_file.exists() and not resume:
        raise InputError(f"{out} holds a run already: pass --resume to continue it, or choose another --out")
    training: list[Sequence] = []
    held_out: dict[str, Sequence] = {}
    if config.davis is not None:
        names = [p.name for p in (config.davis / "JPEGImages" / "480p").glob("*") if p.is_dir()]
        if not names:
            raise DatasetError(f"no sequences in {config.davis / 'JPEGImages' / '480p'}: is it a DAVIS folder?")
        trained_names, held_names = split(names)
        training = [load_sequence(config.davis, name, out / "cache") for name in trained_names]
        held_out = {name: load_sequence(config.davis, name, out / "cache") for name in held_names}

    torch.set_num_threads(1)  # also here, so that sums are the same in a run that is resumed in another process
    torch.manual_seed(config.seed)
    resume = resume and checkpoint_file.exists()
    model = cast(STCN, create_model("track_nano", None if resume else config.weights))
    model = model.to(memory_format=torch.channels_last)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(resolved(config), indent=2) + "\n")
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]  # biases and norms are not decayed
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.lr,
        betas=(0.9, 0.99),
    )
    state = Progress()
    if resume:
        saved = torch.load(checkpoint_file, weights_only=True)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        state = Progress(saved["iteration"], saved["seconds"], saved["best"])

    def progress_at(iteration: int) -> float:
        if config.iterations is not None:
            return iteration / config.iterations
        return state.seconds / (60 * (config.minutes or 1.0))

    def batches() -> Iterator[list[tuple[int, float]]]:
        iteration = state.iteration
        while True:
            progress = progress_at(iteration)
            yield [(iteration * config.batch + i, progress) for i in range(config.batch)]
            iteration += 1

    def save() -> None:
        content = {
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
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
            append_row(
                out / "validation.csv",
                {"iteration": state.iteration, "minutes": state.seconds / 60, **scores},
            )
            print("validation", {k: round(v, 3) for k, v in scores.items()}, flush=True)
            about["held_out_j_and_f"] = f"{scores['mean']:.4f}"
        export(ema, out / "latest.safetensors", about)
        if not held_out or scores["mean"] > state.best:
            state.best = scores["mean"] if held_out else state.best
            export(ema, out / "track_nano.safetensors", about)

    replicas = ThreadedReplicas(model, config.replicas, lambda replica: replica.train(progress < config.freeze_norm))

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
        own = slice(lane, None, config.replicas)
        return step_loss(replica, frames[own].float() / 255, labels[own], objects[own], config, keep)

    while (progress := progress_at(state.iteration)) < 1:
        started = time.perf_counter()
        frames, labels, objects = next(stream)
        keep = kept_pixels(config, progress)
        if progress >= config.freeze_norm:  # from here on, all replicas use the statistics of the first
            replicas.share_statistics()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, progress)

        parts = replicas.backward(share)
        if not math.isfinite(parts["loss"]):
            raise FloatingPointError(f"the loss is {parts['loss']} at iteration {state.iteration}: lower --lr")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        move_average(ema, model, min(config.ema_decay, (1 + state.iteration) / (10 + state.iteration)))

        spent = time.perf_counter() - started
        state.iteration += 1
        state.seconds += spent
        since_save += spent
        since_check += spent
        state.recent.append({**parts, "seconds_per_step": spent})
        if state.iteration % config.log_every == 0:
            means = {key: float(np.mean([row[key] for row in state.recent])) for key in state.recent[0]}
            row = {"iteration": state.iteration, "minutes": state.seconds / 60, "progress": progress, **means}
            append_row(out / "metrics.csv", {**row, "lr": learning_rate(config, progress)})
            print(" ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
            state.recent.clear()
        if since_check > 60 * config.validate_minutes:
            check()
            since_check = 0.0
        if since_save > 60 * config.checkpoint_minutes:
            save()
            since_save = 0.0
    replicas.close()
    check()
    save()
    return out / "track_nano.safetensors"


def main() -> None:
    """Read the configuration from the command line and train."""
    parser = argparse.ArgumentParser(description="Train track_nano.")
    for entry in dataclasses.fields(TrackNanoConfig):
        kind: Any = {"davis": Path, "out": Path, "weights": str, "minutes": float, "iterations": int}.get(
            entry.name, type(entry.default)
        )
        parser.add_argument(f"--{entry.name.replace('_', '-')}", type=kind, default=entry.default)
    parser.add_argument("--resume", action="store_true")
    options = vars(parser.parse_args())
    resume = options.pop("resume")
    if options["iterations"] is not None:
        options["minutes"] = None
    train(TrackNanoConfig(**options), resume=resume)


if __name__ == "__main__":
    main()
