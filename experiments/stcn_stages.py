"""Train every stage of STCN for some minutes, each from the one before, and draw their curves.

    python -m experiments.stcn_stages OUT [--davis DIR --sequences a,b,c]

writes generated sets to OUT/demo; trains a narrow STCN on stills (OUT/stage0), rendered videos (stage1), DAVIS and
YouTube-VOS (stage2 after stage1, stage3 after stage0) by the recipe's trial presets, and writes OUT/curves.csv and
OUT/curves.png. --davis: stage 3 on these frames of DAVIS-2016 instead of generated ones. A finished stage is kept.
docs/papers/stcn.md shows a run.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import matplotlib

from experiments.vos_sets import write_demo_sets
from twospeed.recipes import stcn

COLUMNS = ("step", "lr", "kept_pixels", "max_gap", "loss", "jaccard")


def train_stages(out: Path, davis: Path | None, sequences: tuple[str, ...], **options: object) -> dict[str, Path]:
    """Train what is not there yet; options: settings of all stages. Returns the run folders by stage."""
    demo = out / "demo"
    if not demo.is_dir():
        write_demo_sets(demo, side=128, videos=8, frames=30)
    runs = {name: out / name for name in ("stage0", "stage1", "stage2", "stage3")}
    after = {name: run / "weights.safetensors" for name, run in runs.items()}
    still, video = (
        replace(make(), device="cpu", **options) for make in (stcn.PRESETS["static_trial"], stcn.PRESETS["video_trial"])
    )
    generated = {"davis": demo / "DAVIS", "youtube_vos": demo / "YouTube"}
    real = {"davis": davis, "davis_year": 2016, "davis_sequences": sequences}
    earlier = (*video.gap_borders[:-1], 0.8)
    configs = {
        "stage0": replace(still, static=demo / "static"),
        "stage1": replace(video, bl30k=demo / "BL30K", gap_borders=earlier, weights=after["stage0"]),
        "stage2": replace(video, **generated, weights=after["stage1"]),
        "stage3": replace(video, **(real if davis else generated), weights=after["stage0"]),
    }
    for name, config in configs.items():
        if not after[name].is_file():
            stcn.train(replace(config, out=runs[name]))
    return runs


def curves(runs: dict[str, Path], out: Path) -> None:
    """Join the stages' train.csv into one file, and draw loss and region similarity."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    with (out / "curves.csv").open("w", newline="") as joined:
        writer = csv.writer(joined, lineterminator="\n")
        writer.writerow(["stage", *COLUMNS])
        for name, run in runs.items():
            with (run / "train.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            writer.writerows([name, *(f"{float(row[column]):.4g}" for column in COLUMNS)] for row in rows)
            for axis, column in zip(axes, ("loss", "jaccard"), strict=True):
                axis.plot([int(r["step"]) for r in rows], [float(r[column]) for r in rows], label=name)
    for axis, label in zip(axes, ("loss of two frames", "mean J of the followed frames"), strict=True):
        axis.set(xlabel="iteration", ylabel=label)
    axes[0].legend()
    figure.savefig(out / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--davis", type=Path, help="a folder of DAVIS-2016 for stage 3")
    parser.add_argument("--sequences", default="", help="which of its sequences, separated by commas")
    chosen = parser.parse_args()
    runs = train_stages(chosen.out, chosen.davis, tuple(filter(None, chosen.sequences.split(","))))
    curves(runs, chosen.out)


if __name__ == "__main__":
    main()
