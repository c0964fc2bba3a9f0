"""Frames per second of STM and STCN by number of objects, with what the clock counts.

    python -m experiments.stcn_speed DAVIS/2017/trainval --objects 1 2 5

The tables of STCN's supplement are printed by `twospeed papers stcn`; its section D re-times STM. Here the first mask
of each sequence is cut into a number of strips, so that rows differ in nothing else. Without weights a network is timed
with random ones, which takes as long.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.samples import SequenceSample
from twospeed.environment import machine_name
from twospeed.errors import InputError, TwospeedError
from twospeed.evaluation.report import Kind, Table
from twospeed.pipelines.inputs import Precision
from twospeed.pipelines.tracker import Tracker
from twospeed.weights.load import create_model

NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "stm-dot": ("stm", {"similarity": "dot"}),
    "stcn-l2": ("stcn", {"similarity": "l2"}),
    "wide": ("stcn", {"backbone": "wide_resnet50"}),
    "aspp": ("stcn", {"backbone": "wide_resnet50", "aspp": True}),
}
"""The networks by the names that weights are given to: name in the catalogue, constructor options."""


def speed_table(
    data: Path,
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    objects: Sequence[int] = (1, 2, 5),
    frames: int = 60,
    sequences: Sequence[str] | None = None,
    precision: Precision = "fp32",
    device: str | None = None,
    weights: Mapping[str, Path] | None = None,
) -> tuple[Table, list[str]]:
    """Time each network on the first `frames` frames of every DAVIS-2017 sequence, for each number of objects."""
    if unknown := {*networks, *(weights or {})} - set(NETWORKS):
        raise InputError(f"no network {min(unknown)!r}; there are {', '.join(NETWORKS)}")
    if min(objects, default=0) < 1 or frames < 2:
        raise InputError(f"needs at least 1 object and 2 frames, got objects={list(objects)}, frames={frames}")
    samples = list(Davis(data, 2017, sequences=sequences))
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    for name in networks:
        entry, options = NETWORKS[name]
        model = create_model(entry, (weights or {}).get(name), **options)
        parameters = sum(p.numel() for p in model.parameters())
        is_stm = entry == "stm"
        tracker = Tracker(
            model, include_last=is_stm, top_k=None if is_stm else 20, size=None, device=device, precision=precision
        )
        for count in objects:
            seconds, seen = _time(tracker, samples, count, frames)
            rows.append((f"{name}, {count} obj.", (float(parameters), seen / seconds, 1000 * seconds / seen)))
    notes = [
        "the clock counts Tracker.step: upload, normalising, network, memory, interpolation, argmax and download of "
        "the masks; not reading or writing files; some frames of the first sequence go before, uncounted",
        f"memory of every fifth frame (STM: and the last one), {precision}, {torch.get_num_threads()} threads, "
        f"{tracker.device}: {machine_name()}",
        f"{len(samples)} sequences, at most {frames} frames of each, at their own size",
    ]
    kinds: tuple[Kind, ...] = ("count", "number", "number")
    return Table(("parameters", "frames/s", "ms/frame"), tuple(rows), kinds, "Re-timing"), notes


def _time(tracker: Tracker, samples: Sequence[SequenceSample], objects: int, most: int) -> tuple[float, int]:
    """Return the seconds that the tracker took, and for how many frames, first frames included."""
    _seconds(tracker, samples[0], objects, min(most, 10))  # kernels are chosen and memory is reserved
    parts = [_seconds(tracker, sample, objects, most) for sample in samples]
    return sum(parts), sum(min(most, len(sample.frames)) for sample in samples)


def _seconds(tracker: Tracker, sample: SequenceSample, objects: int, most: int) -> float:
    tracker.reset()
    seconds = 0.0
    for number, frame in enumerate(sample.frames[:most]):
        image = sample.image(frame)
        masks = strips(sample.labels(frame), objects) if number == 0 else None
        start = time.perf_counter()
        tracker.step(image, masks)  # hands over numpy arrays: nothing is left running on a GPU
        seconds += time.perf_counter() - start
    return seconds


def strips(labels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Cut the foreground into upright strips of about equal area, labels 1..count."""
    inside = (labels > 0) & (labels != VOID)
    before = np.cumsum(inside.sum(0))  # foreground pixels up to each column
    total = max(int(before[-1]), 1)
    strip = np.minimum((before - 1).clip(0) * count // total, count - 1) + 1
    return np.where(inside, strip.astype(np.uint8)[None], np.uint8(0))


def main() -> int:
    """Time from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of DAVIS-2017")
    parser.add_argument("--sequences", help="only these, separated by commas")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 2, 5], help="numbers of objects")
    parser.add_argument("--frames", type=int, default=60, help="frames of each sequence")
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], help="which networks")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", help="cpu, cuda, ...")
    chosen = parser.parse_args()
    try:
        table, notes = speed_table(
            chosen.data,
            networks=chosen.networks,
            objects=chosen.objects,
            frames=chosen.frames,
            sequences=chosen.sequences.split(",") if chosen.sequences else None,
            precision=chosen.precision,
            device=chosen.device,
        )
    except TwospeedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join([table.text(), *(f"note: {note}" for note in notes)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
