"""Does a fast pathway see motion that a slow one cannot? Train both, at the same cost, on a set of motions.

    python -m experiments.motion_task OUT [--clips 120] [--epochs 9]

writes the set to OUT/set, trains a narrow SlowFast (OUT/slowfast) and a Slow-only network of as many multiply-adds
(OUT/slow) with the recipe that trains on Kinetics, and writes both validation curves to OUT/curves.csv and
OUT/curves.png. Minutes on a CPU; docs/experiments/motion_task.md shows a run.

    python -m experiments.motion_task OUT --lateral-connections

trains SlowFast with each of the three lateral connections instead, and Slow-only beside them; curves go to
OUT/lateral_connections.csv and .png, and a table of the last epochs is printed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from experiments.motion_set import CLASSES, write_motion_set
from twospeed.data.benchmarks.video_lists import find_videos
from twospeed.evaluation.recognition import score_videos
from twospeed.models.slowfast.network import SlowFast
from twospeed.pipelines.classify import Classifier
from twospeed.recipes.slowfast_kinetics import SlowFastKineticsConfig, train
from twospeed.weights.entries import Preprocessing

SIDE = 24  # pixels
SHARED: dict[str, Any] = {
    "num_classes": len(CLASSES),
    "depths": (1, 1, 1, 1),
    "crop_size": None,
    "dropout": 0.0,
    "zero_init_final_bn": False,
}


def networks() -> dict[str, SlowFast]:
    """Both see 16 frames of time: SlowFast all of them, Slow-only the same four that SlowFast's Slow pathway sees."""
    return {
        "slowfast": SlowFast(width=16, beta_inverse=4, alpha=4, frames=16, frame_stride=1, **SHARED),
        "slow": SlowFast(pathways=("slow",), width=26, frames=4, frame_stride=4, **SHARED),
    }


def lateral_connections() -> dict[str, SlowFast]:
    """Return the SlowFast of `networks` with the three lateral connections of the short description, and Slow-only."""
    plain = networks()
    width = {"width": 16, "beta_inverse": 4, "alpha": 4, "frames": 16, "frame_stride": 1}
    return {
        "time-to-channel": SlowFast(fusion="time_to_channel", fusion_merge="sum", **width, **SHARED),
        "time-strided sampling": SlowFast(fusion="time_strided_sample", **width, **SHARED),
        "time-strided convolution": plain["slowfast"],
        "Slow pathway alone": plain["slow"],
    }


def multiply_adds(network: SlowFast) -> int:
    """Of one view, convolutions and the classifier."""
    clip = torch.zeros(1, 3, network.frames, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(clip)
    return counter.get_total_flops() // 2


def config(out: Path, name: str, epochs: int, seed: int) -> SlowFastKineticsConfig:
    """The Kinetics recipe for small images; no flips, as left and right are classes here."""
    return SlowFastKineticsConfig(
        train=out / "set" / "train",
        val=out / "set" / "val",
        num_classes=len(CLASSES),
        workers=0,
        short_side=(SIDE, SIDE),
        crop=SIDE,
        flip_probability=0.0,
        test_short_side=SIDE,
        test_crop=SIDE,
        epochs=epochs,
        batch=16,
        batch_per_forward=16,
        bn_clips=16,
        lr=0.006,
        lr_batch=16,
        warm_up_epochs=1,
        warm_up_lr=0.0006,
        validate_every=1,
        precise_bn_batches=5,
        test_views=(1, 1),
        checkpoint_minutes=1e6,
        device="cpu",
        seed=seed,
        out=out / name,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=120, help="training videos of each of the 8 classes")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lateral-connections", action="store_true", help="compare the three of SlowFast instead")
    chosen = parser.parse_args()
    write_motion_set(chosen.out / "set", clips=chosen.clips, val_clips=25, side=SIDE, seed=chosen.seed)
    curves: dict[str, list[tuple[int, float]]] = {}
    torch.manual_seed(chosen.seed)
    table = []
    kinds, file_name = networks(), "curves"
    if chosen.lateral_connections:
        kinds, file_name = lateral_connections(), "lateral_connections"
    for name, network in kinds.items():
        size = sum(p.numel() for p in network.parameters())
        print(f"{name}: {multiply_adds(network) / 1e6:.1f} M multiply-adds a view, {size / 1e6:.2f} M parameters")
        folder = {"time-strided convolution": "slowfast", "Slow pathway alone": "slow"}.get(name, name)  # the same runs
        run = chosen.out / folder
        if not (run / "weights.safetensors").is_file():  # a finished run is kept
            train(config(chosen.out, folder, chosen.epochs, chosen.seed), network=network)
        network.load_state_dict(load_file(run / "weights.safetensors"))
        correct = by_class(network, config(chosen.out, folder, chosen.epochs, chosen.seed))
        print(f"{name}: " + ", ".join(f"{label} {share:.2f}" for label, share in correct.items()))
        with (run / "validation.csv").open(newline="") as file:
            curves[name] = [(int(row["epoch"]), float(row["top1"])) for row in csv.DictReader(file)]
        table.append(f"{name:25} {100 * curves[name][-1][1]:5.1f} % top-1")
    print("\n".join(table))
    with (chosen.out / f"{file_name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *(f"{name}_top1" for name in curves)])
        writer.writerows([points[0][0], *(top1 for _, top1 in points)] for points in zip(*curves.values(), strict=True))
    draw(curves, chosen.out / f"{file_name}.png")


def by_class(network: SlowFast, settings: SlowFastKineticsConfig) -> dict[str, float]:
    """Return the top-1 accuracy of each class."""
    videos, names = find_videos(settings.val)
    seen = Preprocessing(mean=(0.45,) * 3, std=(0.225,) * 3, short_side=SIDE, crop=SIDE)
    scores = score_videos(Classifier(network, 1, 1, preprocessing=seen, device="cpu"), videos)
    right = [scores.ranks[number].item() == 0 for number in range(len(videos))]
    own = [[hit for hit, video in zip(right, videos, strict=True) if video.label == k] for k in range(len(names))]
    return {name: sum(hits) / len(hits) for name, hits in zip(names, own, strict=True)}


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=name)
    axes.axhline(1 / len(CLASSES), color="grey", linestyle=":", label="chance")
    axes.set(xlabel="epoch", ylabel="validation top-1", ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
