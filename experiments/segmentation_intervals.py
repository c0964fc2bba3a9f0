"""Are keyframes better spent where propagation drifts than on every n-th frame? Compare both at the same average cost.

    python -m experiments.segmentation_intervals CAMVID OUT [--model segment_nano] [--weights default] [--pieces 11]

streams CamVid's dense run (every frame labelled, 15 a second) through the network: with a keyframe every 1 to 6 frames,
then with keyframes on drift at several thresholds. Every policy streams from several first frames and is scored on the
frames that all of these streams see. The cost of a frame is its multiply-adds; a keyframe that was taken only after a
step had drifted pays for that step too. OUT/intervals.csv has a line for each policy with its mIoU and what the fixed
interval gives at the same cost (between two intervals: on the line that joins them), OUT/intervals.png the curves. The
run is one steady drive; --pieces N plays it in pieces of N frames, the odd ones first, as if it were cut.
docs/experiments/segmentation_intervals.md shows both.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from twospeed.data.benchmarks.camvid import CLASSES, FRAME_RATE, CamVid
from twospeed.data.samples import LabelledFrame
from twospeed.metrics.confusion import Matrix, confusion_matrix, mean_iou
from twospeed.models.gsv.network import GSVNet, Step
from twospeed.output.plots import plot_trade_off
from twospeed.pipelines.segment import Every, Segmenter, on_drift
from twospeed.weights.cost import SegmenterCost, segmenter_cost
from twospeed.weights.load import create_model

Frame = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # image and classes


@dataclass(frozen=True)
class Result:
    """What one policy gives over the scored frames: share of keyframes, multiply-adds a frame (units of 1e9), mIoU."""

    policy: str
    setting: float
    keyframes: float
    gmacs: float
    miou: float


def watch(network: GSVNet) -> list[None]:
    """Return a list that grows with every step; let keyframes seen before be given from memory (all policies ask)."""
    known: dict[bytes, Tensor] = {}
    steps: list[None] = []
    compute, step = network.keyframe, network.step

    def keyframe(image: Tensor) -> Tensor:
        key = hashlib.sha1(image.cpu().numpy().tobytes()).digest()
        if key not in known:
            known[key] = compute(image)
        return known[key]

    def counted(*arguments: Tensor) -> Step:
        steps.append(None)
        return step(*arguments)

    network.keyframe, network.step = keyframe, counted  # type: ignore[method-assign]
    return steps


def in_pieces(frames: list[Frame], length: int) -> list[Frame]:
    """Cut a drive into pieces of so many frames and play every second one first: it jumps back and forth in time."""
    pieces = [frames[at : at + length] for at in range(0, len(frames), length)]
    return [frame for piece in (*pieces[1::2], *pieces[::2]) for frame in piece]


def run(
    segmenter: Segmenter,
    frames: Sequence[Frame],
    name: str,
    setting: float,
    *,
    cost: SegmenterCost,
    steps: list[None],
    starts: int,
    longest: int,
) -> Result:
    """Stream from each of the first `starts` frames and sum up what happens from the last of them on."""
    segmenter.policy = Every(int(setting)) if name == "interval" else on_drift(setting, at_least_every=longest)
    matrix: Matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    scored = keyframes = computed = 0
    for first in range(starts):
        segmenter.reset()
        for number in range(first, len(frames)):
            image, labels = frames[number]
            before = len(steps)
            result = segmenter.step(image)
            if number >= starts - 1:
                matrix += confusion_matrix(labels, result.labels, len(CLASSES))
                scored, keyframes, computed = scored + 1, keyframes + result.is_keyframe, computed + len(steps) - before
    gmacs = (keyframes * cost.keyframe_gmacs + computed * cost.step_gmacs) / scored
    return Result(name, setting, keyframes / scored, gmacs, mean_iou(matrix))


def fixed_at(gmacs: float, fixed: list[Result]) -> float:
    """Return the mIoU of fixed intervals at this cost, between two intervals on the line that joins them."""
    by_cost = sorted(fixed, key=lambda result: result.gmacs)
    if not by_cost[0].gmacs <= gmacs <= by_cost[-1].gmacs:
        return float("nan")
    return float(np.interp(gmacs, [r.gmacs for r in by_cost], [r.miou for r in by_cost]))


def longest_run(frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """Return the most frames that follow each other in one recording, at most a second apart."""
    runs: list[list[LabelledFrame]] = []
    for frame in frames:
        last = runs[-1][-1] if runs else None
        if last is not None and last.sequence == frame.sequence and frame.number - last.number <= FRAME_RATE:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return max(runs, key=len)


def main() -> None:
    """Compare, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="segment_nano")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--split", default="val")
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 8])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.35, 0.5, 0.7, 0.9, 1.2])
    parser.add_argument("--longest", type=int, default=10, help="most frames from keyframe to keyframe, on drift")
    parser.add_argument("--pieces", type=int, default=0, help="cut the drive into pieces of so many frames")
    parser.add_argument("--starts", type=int, default=2, help="first frames that every policy streams from")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    longest = longest_run(CamVid(arguments.camvid, arguments.split).frames)
    frames = [(frame.image(), frame.labels()) for frame in longest]
    frames = in_pieces(frames, arguments.pieces) if arguments.pieces else frames
    model = create_model(arguments.model, arguments.weights)
    segmenter = Segmenter(model, labels=CLASSES)
    cost = segmenter_cost(model, *frames[0][0].shape[:2])
    shared = {"cost": cost, "steps": watch(segmenter.model), "starts": arguments.starts, "longest": arguments.longest}
    fixed = [run(segmenter, frames, "interval", n, **shared) for n in arguments.intervals]
    drifting = [run(segmenter, frames, "drift", at, **shared) for at in arguments.thresholds]
    with (arguments.out / "intervals.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["policy", "setting", "keyframe_share", "gmacs_per_frame", "mIoU", "fixed_mIoU_at_this_cost"])
        for r in [*fixed, *drifting]:
            same = fixed_at(r.gmacs, fixed)
            rows.writerow([r.policy, f"{r.setting:g}", *(f"{v:.4f}" for v in (r.keyframes, r.gmacs, r.miou, same))])
            beside = "" if r in fixed else f", fixed interval at this cost {100 * same:.1f}"
            share, score = f"{100 * r.keyframes:.0f} % keyframes", f"mIoU {100 * r.miou:.1f}"
            print(f"{r.policy} {r.setting:g}: {share}, {r.gmacs:.2f} G a frame, {score}{beside}")
    plot_trade_off(
        arguments.out / "intervals.png",
        [
            ("every n-th frame", [(f"{r.setting:g}", r.gmacs, r.miou) for r in fixed]),
            ("on drift", [(f"{r.setting:g}", r.gmacs, r.miou) for r in sorted(drifting, key=lambda r: r.gmacs)]),
        ],
        title=f"{arguments.model} on CamVid's dense run"
        + (f", cut every {arguments.pieces}" if arguments.pieces else ""),
        x_label="multiply-adds a frame (G)",
    )


if __name__ == "__main__":
    main()
