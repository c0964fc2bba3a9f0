"""The tables of STCN's supplement, each by one command, on whatever data and weights are there.

    python -m twospeed.evaluation.stcn_tables table1 --data DAVIS/2017/trainval -o OUT \\
        --weights stm-dot=FILE --weights stm-l2=FILE --weights stcn-dot=FILE --weights stcn-l2=stcn.pth
    python -m twospeed.evaluation.stcn_tables table3 --data ... -o OUT \\
        --weights stcn-l2=FILE --weights wide=FILE --weights aspp=FILE
    python -m twospeed.evaluation.stcn_tables speed --data ... --objects 1,2,5

table1: STM and STCN, dot product and L2, remembering every fifth frame, or that and the last one. table3: what STCN
gains by remembering every third frame, by kernelized reading at 600 pixels, several scales with mirrored frames, other
backbones, and all three networks together. speed: frames per second of each network by number of objects, with what the
clock counts. Rows without weights stay empty beside what the supplement gives; `speed` needs no weights.

In OUT: <table>.txt, <table>.csv, and masks/<row> of each run; a table that was interrupted goes on where it was.
Source: Cheng 2021, supplement, Tables 1 and 3; its frames per second are of an RTX 2080 Ti.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.samples import SequenceSample
from twospeed.environment import machine_name
from twospeed.errors import InputError, TwospeedError
from twospeed.evaluation.mask_runs import RunSettings
from twospeed.evaluation.report import Kind, Table
from twospeed.evaluation.vos import YOUTUBE_VOS_SETTINGS, evaluate_davis, evaluate_youtube_vos
from twospeed.files import make_folder, write_text
from twospeed.pipelines.track import Precision, Tracker
from twospeed.weights.load import create_model, weights_sha256

Benchmark = Literal["davis16", "davis17", "youtube-vos"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class NetworkRow:
    """A network of the tables: its name in the catalogue, constructor options, and how it is run."""

    title: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    top_k: int | None = 20


NETWORKS = {
    "stm-dot": NetworkRow("STM, dot", "stm", {"similarity": "dot"}, top_k=None),
    "stm-l2": NetworkRow("STM, L2", "stm", {"similarity": "l2"}, top_k=None),
    "stcn-dot": NetworkRow("STCN, dot", "stcn", {"similarity": "dot"}),
    "stcn-l2": NetworkRow("STCN, L2", "stcn", {"similarity": "l2"}),
    "wide": NetworkRow("STCN, WideResNet-50", "stcn", {"backbone": "wide_resnet50"}),
    "aspp": NetworkRow("STCN, WideResNet-50 + ASPP", "stcn", {"backbone": "wide_resnet50", "aspp": True}),
}
"""The networks by the names that weights are given to."""

TABLE_1 = {
    "stm-dot": (0.833, 0.813),
    "stm-l2": (0.827, 0.810),
    "stcn-dot": (0.843, 0.841),
    "stcn-l2": (0.831, 0.854),
}
"""J&F on DAVIS-2017 val by the supplement: every fifth frame and the last; every fifth alone."""


@dataclass(frozen=True)
class Variant:
    """A row of Table 3: networks whose probabilities are averaged, what is changed, and what the supplement gives.

    test_dev: J&F on DAVIS-2017 test-dev; youtube_vos: G on YouTube-VOS 2019; None where it gives none.
    """

    title: str
    networks: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    test_dev: float | None = None
    youtube_vos: float | None = None


_SCALES: Mapping[str, Any] = {"scales": (480, 600), "flip": True}

TABLE_3 = (
    Variant("ResNet-50", ("stcn-l2",), {}, 0.778, 0.842),
    Variant("memory every third frame", ("stcn-l2",), {"memory_every": 3}, 0.799),
    Variant("600 pixels, kernelized reading", ("stcn-l2",), {"scales": (600,)}),
    Variant("480 and 600 pixels, mirrored", ("stcn-l2",), _SCALES, None, 0.852),
    Variant("WideResNet-50", ("wide",)),
    Variant("WideResNet-50 + ASPP", ("aspp",)),
    Variant("ensemble of the three, scales, mirrored", ("stcn-l2", "wide", "aspp"), _SCALES, None, 0.867),
)

SPEED = {("stm-dot", True): 10.2, ("stcn-l2", False): 26.9, ("stcn-l2", True): 20.2}
"""Frames per second by the supplement: (network, several objects); STM as re-timed by the authors of STCN."""


@dataclass(frozen=True, kw_only=True)
class TableData:
    """What tables are made on: a benchmark's folder, and which of it."""

    root: Path
    benchmark: Benchmark = "davis17"
    split: str | None = None
    sequences: tuple[str, ...] | None = None
    device: str | None = None


def table_1(data: TableData, weights: Mapping[str, Path], folder: Path, say: Say = print) -> tuple[Table, list[str]]:
    """Run the networks of Table 1 that weights are given for, and return the table and notes.

    weights: files by the names of `NETWORKS`. folder: for masks; what is there already is not computed again.
    """
    runner = _Runner(data, weights, folder, say)
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    for name, (with_last, without) in TABLE_1.items():
        ours = [runner.score((name,), {"include_last": last}).main for last in (True, False)]
        rows.append((NETWORKS[name].title, (*ours, with_last, without)))
    columns = ("5th + last", "5th only", "suppl. 5th + last", "suppl. 5th only")
    title = f"Table 1: {runner.measure}, memory of every fifth frame with and without the last; suppl.: DAVIS-2017 val"
    return Table(columns, tuple(rows), title=title), runner.notes


def table_3(data: TableData, weights: Mapping[str, Path], folder: Path, say: Say = print) -> tuple[Table, list[str]]:
    """Run the variants of Table 3 that weights are given for. Arguments and result as `table_1`."""
    runner = _Runner(data, weights, folder, say)
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    for variant in TABLE_3:
        score = runner.score(variant.networks, variant.changes)
        rows.append((variant.title, (score.main, score.per_second, variant.test_dev, variant.youtube_vos)))
    columns = (runner.measure, "frames/s", "suppl. test-dev J&F", "suppl. YouTube-VOS 2019 G")
    kinds: tuple[Kind, ...] = ("share", "number", "share", "share")
    return Table(columns, tuple(rows), kinds, "Table 3: variants of STCN"), runner.notes


@dataclass(frozen=True)
class _Score:
    main: float | None = None
    per_second: float | None = None


class _Runner:
    """Runs rows on one benchmark, each set of weights built once, and collects what a reader must know."""

    def __init__(self, data: TableData, weights: Mapping[str, Path], folder: Path, say: Say):
        if unknown := sorted(set(weights) - set(NETWORKS)):
            raise InputError(f"no network {unknown[0]!r} in the tables; there are {', '.join(NETWORKS)}")
        self.data, self.weights, self.folder, self.say = data, weights, folder, say
        self.measure = "G" if data.benchmark == "youtube-vos" else "J&F"
        self.notes: list[str] = []
        self._models: dict[str, nn.Module] = {}

    def model(self, name: str) -> nn.Module:
        row = NETWORKS[name]
        if name not in self._models:
            self._models[name] = create_model(row.model, self.weights[name], **row.options)
        return self._models[name]

    def score(self, names: Sequence[str], changes: Mapping[str, Any]) -> _Score:
        if missing := [name for name in names if name not in self.weights]:
            note = f"no weights for {', '.join(missing)}: give --weights {missing[0]}=FILE"
            self.notes += [note] if note not in self.notes else []
            return _Score()
        published = YOUTUBE_VOS_SETTINGS if self.data.benchmark == "youtube-vos" else RunSettings()
        settings = replace(published, top_k=NETWORKS[names[0]].top_k, **changes)
        if settings.scales:
            settings = replace(settings, size=None)
        place = self.folder / "masks" / _folder_name(names, [self.weights[name] for name in names], changes)
        self.say(f"{place.name}: {', '.join(str(self.weights[name]) for name in names)}")
        arguments: dict[str, Any] = {
            "model": [self.model(name) for name in names],
            "settings": settings,
            "sequences": self.data.sequences,
            "output": place,
            "resume": place.is_dir(),
            "device": self.data.device,
        }
        if self.data.benchmark == "youtube-vos":
            report = evaluate_youtube_vos(self.data.root, split=self.data.split or "valid", **arguments)
            main = report.scores.get("G")
        else:
            year: Literal[2016, 2017] = 2016 if self.data.benchmark == "davis16" else 2017
            report = evaluate_davis(self.data.root, year, split=self.data.split or "val", **arguments)
            main = report.scores.get("global", {}).get("J&F-Mean")
        for line in (f"{report.protocol}; {report.coverage}", *report.notes):
            self.notes += [line] if line not in self.notes else []
        return _Score(main, report.speed.get("frames_per_second"))


def _folder_name(names: Sequence[str], files: Sequence[Path], changes: Mapping[str, Any]) -> str:
    """Name a run by its networks, the beginning of their weights' checksums, and what is changed."""
    networks = [f"{n}-{(weights_sha256(NETWORKS[n].model, f) or '')[:8]}" for n, f in zip(names, files, strict=True)]
    what = [f"{key}-{'x'.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in changes.items()]
    return "_".join([*networks, *what])


def speed_table(
    data: TableData,
    *,
    networks: Sequence[str] = ("stm-dot", "stcn-l2", "wide", "aspp"),
    objects: Sequence[int] = (1, 2, 5),
    frames: int = 60,
    precision: Precision = "fp32",
    weights: Mapping[str, Path] | None = None,
    say: Say = print,
) -> tuple[Table, list[str]]:
    """Time each network on the first `frames` frames of every sequence, for each number of objects.

    The first mask of a sequence is cut into that many upright strips of equal area, whatever its own objects are, so
    that rows differ in nothing else. Without weights a network is timed with random ones, which takes as long.
    """
    if data.benchmark == "youtube-vos":
        raise InputError("speed is measured on DAVIS; give --benchmark davis16 or davis17")
    if min(objects, default=0) < 1 or frames < 2:
        raise InputError(f"needs at least 1 object and 2 frames, got objects={list(objects)}, frames={frames}")
    year: Literal[2016, 2017] = 2016 if data.benchmark == "davis16" else 2017
    samples = list(Davis(data.root, year, data.split or "val", sequences=data.sequences))
    rows: list[tuple[str, tuple[float | None, ...]]] = []
    for name in networks:
        row = NETWORKS[name]
        model = create_model(row.model, (weights or {}).get(name), **row.options)
        parameters = sum(p.numel() for p in model.parameters())
        tracker = Tracker(
            model, include_last=row.model == "stm", top_k=row.top_k, size=None, device=data.device, precision=precision
        )
        for count in objects:
            seconds, seen = _time(tracker, samples, count, frames)
            say(f"{row.title}, {count} objects: {seen / seconds:.2f} frames/s")
            published = SPEED.get((name, count > 1))
            rows.append(
                (f"{row.title}, {count} obj.", (float(parameters), seen / seconds, 1000 * seconds / seen, published))
            )
    notes = [
        "the clock counts Tracker.step: upload, normalising, network, memory, interpolation, argmax and download of "
        "the masks; not reading or writing files; some frames of the first sequence go before, uncounted",
        f"memory of every fifth frame{' (STM: and the last one)'}, {precision}, {torch.get_num_threads()} threads, "
        f"{tracker.device}: {machine_name()}",
        f"{len(samples)} sequences, at most {frames} frames of each, at their own size; the supplement's frames per "
        "second are of DAVIS-2016 (1 object) and DAVIS-2017 (several) on an RTX 2080 Ti",
    ]
    kinds: tuple[Kind, ...] = ("count", "number", "number", "number")
    return Table(("parameters", "frames/s", "ms/frame", "suppl. frames/s"), tuple(rows), kinds, "Re-timing"), notes


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a table from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m twospeed.evaluation.stcn_tables", description="Make the tables of STCN's supplement."
    )
    parser.add_argument("table", choices=("table1", "table3", "speed"))
    parser.add_argument("--data", type=Path, required=True, help="the benchmark's folder")
    parser.add_argument("--benchmark", choices=("davis16", "davis17", "youtube-vos"), default="davis17")
    parser.add_argument("--split", help="val, test-dev, ...")
    parser.add_argument("--sequences", help="only these, separated by commas")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE", help=", ".join(NETWORKS))
    parser.add_argument("--device", help="cpu, cuda, ...")
    parser.add_argument("--objects", default="1,2,5", help="speed: numbers of objects")
    parser.add_argument("--frames", type=int, default=60, help="speed: frames of each sequence")
    parser.add_argument("--networks", default="stm-dot,stcn-l2,wide,aspp", help="speed: which of them")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="speed")
    parser.add_argument("-o", "--output", type=Path, help="folder for masks and tables")
    chosen = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            folder = chosen.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            table, notes = _make(chosen, folder)
        text = "\n".join([table.text(), *(f"note: {note}" for note in notes)])
        print(text)
        if chosen.output is not None:
            make_folder(folder)
            write_text(folder / f"{chosen.table}.txt", text + "\n")
            write_text(folder / f"{chosen.table}.csv", table.csv())
    except TwospeedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(chosen: argparse.Namespace, folder: Path) -> tuple[Table, list[str]]:
    weights = {}
    for given in chosen.weights:
        name, separator, file = given.partition("=")
        if not separator:
            raise InputError(f"--weights {given}: give NAME=FILE, where NAME is one of {', '.join(NETWORKS)}")
        weights[name] = Path(file)
    data = TableData(
        root=chosen.data,
        benchmark=chosen.benchmark,
        split=chosen.split,
        sequences=tuple(chosen.sequences.split(",")) if chosen.sequences else None,
        device=chosen.device,
    )

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if chosen.table != "speed":
        return (table_1 if chosen.table == "table1" else table_3)(data, weights, folder, say)
    if unknown := set(chosen.networks.split(",")) - set(NETWORKS):
        raise InputError(f"--networks {min(unknown)}: there are {', '.join(NETWORKS)}")
    try:
        counts = [int(part) for part in chosen.objects.split(",")]
    except ValueError:
        raise InputError(f"--objects {chosen.objects}: give numbers separated by commas") from None
    return speed_table(
        data,
        networks=chosen.networks.split(","),
        objects=counts,
        frames=chosen.frames,
        precision=chosen.precision,
        weights=weights,
        say=say,
    )


if __name__ == "__main__":
    sys.exit(main())
