"""Search the settings of SlowFast in Mask R-CNN over a grid: of its fine-tuning on first masks, or of its training.

    python -m experiments.slowfast_maskrcnn_search --davis DAVIS --weights 'runs/{model}/weights.safetensors' \
        --processes 4
    python -m experiments.slowfast_maskrcnn_search --davis DAVIS --stage training --models slowfast_maskrcnn_3_7

The defaults are the report's ("Applying SlowFast Networks to Video Object Segmentation"): for every configuration of
the pathways 36 experiments of fine-tuning (what is frozen, how much scales vary, three learning rates, on two
sequences); for the training, backbone frozen or not and three learning rates. The report compares on two sequences that
it also scores; to keep them apart, leave them out of the evaluation, or name others with `--sequences`.

In the run folder: config.json, experiments/MODEL/SETTINGS/SEQUENCE.json with the outcome of each, and the tables
results.csv (all experiments), summary.csv and summary.txt (settings of each network, best first). They are brought up
to date after each experiment. `--resume` continues after an interruption; the same line in another terminal takes a
share of what is left. Settings at which learning fails are an outcome, too.
Raises DatasetError, InputError and CheckpointError before the first experiment.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from twospeed.data.benchmarks.davis import Davis
from twospeed.errors import InputError, OutputError
from twospeed.evaluation.unsupervised import UnsupervisedSettings
from twospeed.evaluation.vos import evaluate_davis
from twospeed.files import make_folder, write_text
from twospeed.pipelines.finetune import FineTuning
from twospeed.pipelines.video_tracker import needs_masks
from twospeed.recipes import slowfast_maskrcnn
from twospeed.training.checkpoint import check_same, checkpoints
from twospeed.training.log import resolved
from twospeed.weights.imports import check_there

logger = logging.getLogger(f"twospeed.{__name__}")

Settings = tuple[tuple[str, Any], ...]

CONFIGURATIONS = tuple(f"slowfast_maskrcnn_{name}" for name in ("1_1", "3_3", "7_7", "1_7", "3_7"))
HEADS = ("detector.roi_heads",)
FREEZE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "finetune": {
        "none": ("detector.backbone", "detector.rpn", *HEADS, "slow_fast"),
        "slow_fast": ("detector.backbone", "detector.rpn", *HEADS),
        "backbone+slow_fast": HEADS,  # the authors freeze the proposals with the backbone
    },
    "training": {
        "backbone": (*HEADS, "slow_fast"),
        "none": ("detector.backbone", "detector.rpn", *HEADS, "slow_fast"),
    },
}
"""What `freeze` means: the parts that learn."""

GRIDS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "finetune": {"freeze": tuple(FREEZE["finetune"]), "scale": (0.25, 0.4), "lr": (1e-3, 5e-4, 1e-4)},
    "training": {"freeze": tuple(FREEZE["training"]), "lr": (1e-3, 5e-4, 1e-4)},
}
"""What the report varies. It names one rate of the training only (1e-3, the best): the others are ours."""


@dataclass(frozen=True, kw_only=True)
class SlowFastMaskRCNNSearchConfig:
    """Which experiments there are, and how they are run."""

    davis: Path = Path("DAVIS")  # in the official layout
    stage: Literal["finetune", "training"] = "finetune"
    models: tuple[str, ...] = CONFIGURATIONS
    grid: Mapping[str, Any] = field(default_factory=dict)  # setting -> list of values, as JSON; empty: the report's
    base: Mapping[str, Any] = field(default_factory=dict)  # settings that all experiments share, as JSON

    # finetune: settings are those of `FineTuning`, and `freeze`
    weights: str = "runs/{model}/weights.safetensors"  # of each network after its unsupervised training
    sequences: tuple[str, ...] = ("breakdance", "bmx-trees")  # each is fine-tuned on and scored
    iterations: int = 1000  # on each first mask
    size: int | None = None  # shorter side for the networks, None for their own

    # training: settings are those of `slowfast_maskrcnn`, and `freeze`; scored on its validation sequences
    preset: Literal["published", "small"] = "published"

    # Run
    out: Path = Path("runs/slowfast_maskrcnn_search")
    processes: int = 1  # that run experiments side by side
    threads: int | None = None  # of each process; None: torch's own choice
    device: str | None = None  # None: a GPU where there is one

    def __post_init__(self) -> None:
        if self.processes < 1 or self.iterations < 1 or (self.threads is not None and self.threads < 1):
            raise InputError(
                f"processes={self.processes}, iterations={self.iterations}, threads={self.threads}: give 1 or more"
            )
        if len(set(self.models)) != len(self.models) or not self.models:
            raise InputError(f"models={','.join(self.models)}: name one or more, each once")
        for name, values in self.grid.items():
            if not isinstance(values, list | tuple) or not values:
                raise InputError(
                    f'grid: {name} is {values!r}; give a list of values, such as {{"lr": [0.001, 0.0001]}}'
                )


@dataclass(frozen=True)
class Experiment:
    """One point of the grid, for one network and (fine-tuning) one sequence; "" stands for all of a training."""

    model: str
    settings: Settings
    sequence: str

    def folder(self, out: Path) -> Path:
        """Where its outcome lies."""
        name = ",".join(f"{key}={value}" for key, value in self.settings).replace("/", "_")
        return out / "experiments" / self.model / name

    def file(self, out: Path) -> Path:
        """Its outcome."""
        return self.folder(out) / f"{self.sequence or 'validation'}.json"


def experiments(config: SlowFastMaskRCNNSearchConfig) -> list[Experiment]:
    """Return all experiments in their order: network by network."""
    grid = config.grid or GRIDS[config.stage]
    points = [tuple(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    sequences = config.sequences if config.stage == "finetune" else ("",)
    return [Experiment(model, point, sequence) for model in config.models for point in points for sequence in sequences]


def train(config: SlowFastMaskRCNNSearchConfig, *, resume: bool = False) -> Path:
    """Run the experiments that have no outcome yet, and write the tables. resume: continue the search in `out`."""
    every = experiments(config)
    check(config, every)
    kept = config.out / "config.json"
    if kept.is_file() != resume:
        raise InputError(
            f"{config.out}: holds no search to resume; start one"
            if resume
            else f"{config.out}: holds a search already; resume it, or choose another folder"
        )
    if resume:
        check_same(config, json.loads(kept.read_text()), may_change={"processes", "threads", "device", "out"})
    else:
        make_folder(config.out)
        write_text(kept, json.dumps(resolved(config), indent=2) + "\n")
    if config.processes == 1:
        work(config)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.processes, mp_context=context) as pool:
            for one in [pool.submit(work, config) for _ in range(config.processes)]:
                one.result()
    write_tables(config)
    left = sum(not one.file(config.out).is_file() for one in every)
    logger.info(f"{len(every) - left} of {len(every)} experiments done: {config.out / 'summary.txt'}")
    return config.out


def check(config: SlowFastMaskRCNNSearchConfig, every: list[Experiment]) -> None:
    """Find what would stop an experiment before the first is begun."""
    for model in config.models:
        if needs_masks(model):
            raise InputError(f"models: {model} is no SlowFast Mask R-CNN; `twospeed models` lists their names")
    for settings in {one.settings for one in every}:
        if config.stage == "finetune":
            fine_tuning(config, settings)
        else:
            training(config, Experiment(config.models[0], settings, ""))
    if config.stage == "finetune":
        Davis(config.davis, 2016, sequences=config.sequences)
        for model in config.models:
            check_there(Path(config.weights.replace("{model}", model)))
    else:
        slowfast_maskrcnn.split(training(config, every[0]))


def fine_tuning(config: SlowFastMaskRCNNSearchConfig, settings: Settings) -> dict[str, Any]:
    """Return the options of `FineTuning` at a point of the grid."""
    options = with_freeze(config, settings)
    known = [one.name for one in fields(FineTuning) if one.name != "iterations"]
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"{unknown[0]!r} is no setting of the fine-tuning; it has freeze, {', '.join(known)}")
    FineTuning(iterations=config.iterations, **options)
    return options


def training(config: SlowFastMaskRCNNSearchConfig, one: Experiment) -> slowfast_maskrcnn.SlowFastMaskRCNNDavisConfig:
    """Return the configuration of a training at a point of the grid."""
    options = with_freeze(config, one.settings)
    Kind = slowfast_maskrcnn.SlowFastMaskRCNNDavisConfig
    known = [each.name for each in fields(Kind) if each.name not in ("davis", "model", "out", "device")]
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"{unknown[0]!r} is no setting of the training; it has freeze, {', '.join(known)}")
    start = Kind() if config.preset == "published" else slowfast_maskrcnn.small()
    place = one.folder(config.out) / "run"
    return replace(start, davis=config.davis, model=one.model, out=place, device=config.device, **options)


def with_freeze(config: SlowFastMaskRCNNSearchConfig, settings: Settings) -> dict[str, Any]:
    """Join what all experiments share with a point of the grid, `freeze` turned into the parts that learn."""
    options = {
        name: tuple(value) if isinstance(value, list) else value for name, value in (*config.base.items(), *settings)
    }
    if "freeze" in options:
        freeze = FREEZE[config.stage]
        if (chosen := str(options.pop("freeze"))) not in freeze:
            raise InputError(f"freeze={chosen!r}: choose {', '.join(freeze)}")
        options["learning_parts"] = freeze[chosen]
    return options


# ---------------------------------------------------------------- the loop


def work(config: SlowFastMaskRCNNSearchConfig) -> None:
    """Run every experiment that has no outcome and that no other process is at."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    for one in experiments(config):
        with claimed(one, config.out) as mine:
            if not mine:
                continue
            logger.info(f"{one.model} {one.sequence} " + " ".join(f"{k}={v}" for k, v in one.settings))
            begun = time.perf_counter()
            try:
                outcome = run(config, one)
            except InputError as error:  # such as a loss that grew without bounds
                outcome = {"failed": str(error)}
            outcome |= {"total_seconds": time.perf_counter() - begun}
            row = {"model": one.model, **dict(one.settings), "sequence": one.sequence, **outcome}
            write_text(one.file(config.out), json.dumps(row, indent=2) + "\n")
        write_tables(config)


def run(config: SlowFastMaskRCNNSearchConfig, one: Experiment) -> dict[str, Any]:
    """Run one experiment and return its scores: all frames count, the first one is predicted like any other."""
    if one.sequence:
        report = evaluate_davis(
            config.davis,
            2016,
            model=one.model,
            weights=config.weights.replace("{model}", one.model),
            all_frames=True,
            sequences=(one.sequence,),
            settings=UnsupervisedSettings(
                size=config.size, finetune=config.iterations, finetune_options=fine_tuning(config, one.settings)
            ),
            device=config.device,
        )
        scores = {key: report.scores["global"][key] for key in ("J&F-Mean", "J-Mean", "F-Mean")}
        return {**scores, "evaluation_seconds": report.speed["seconds"]}
    settings = training(config, one)
    folder = slowfast_maskrcnn.train(settings, resume=bool(checkpoints(settings.out)))
    with (folder / "validation.csv").open() as file:
        scores_of_epochs = [float(row["mean"]) for row in csv.DictReader(file)]
    return {"J&F-Mean": max(scores_of_epochs) if settings.select == "best" else scores_of_epochs[-1]}


@contextmanager
def claimed(one: Experiment, out: Path) -> Iterator[bool]:
    """Take an experiment for this process: False when it has its outcome, or another process is at it.

    The claim is a lock of the operating system, which ends with the process, however that ends.
    """
    try:
        import fcntl
    except ImportError:  # on Windows, for a single process
        yield not one.file(out).is_file()
        return
    lock = one.file(out).with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise OutputError(f"{lock}: could not be written ({error.strerror or error})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield not one.file(out).is_file()
        if one.file(out).is_file():  # who still holds the removed lock will find the outcome
            lock.unlink(missing_ok=True)


# ---------------------------------------------------------------- tables


def outcomes(config: SlowFastMaskRCNNSearchConfig) -> list[dict[str, Any]]:
    """Read the outcomes that there are."""
    files = [one.file(config.out) for one in experiments(config)]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def summary(config: SlowFastMaskRCNNSearchConfig) -> list[dict[str, Any]]:
    """Mean J&F of each network and settings over the sequences that are done; networks in order, best first."""
    names = list(config.grid or GRIDS[config.stage])
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in outcomes(config):
        score = row.get("J&F-Mean")
        groups.setdefault((row["model"], *(json.dumps(row[name]) for name in names)), []).append(
            math.nan if score is None else score  # learning failed
        )
    rows = [
        {"model": model, **dict(zip(names, map(json.loads, point), strict=True)), "J&F-Mean": sum(s) / len(s)}
        | {"experiments": len(s)}
        for (model, *point), s in groups.items()
    ]
    order = list(config.models)
    return sorted(rows, key=lambda r: (order.index(r["model"]), math.isnan(r["J&F-Mean"]), -r["J&F-Mean"]))


def write_tables(config: SlowFastMaskRCNNSearchConfig) -> None:
    """Write results.csv, summary.csv and summary.txt."""
    write_text(config.out / "results.csv", as_csv(outcomes(config)))
    rows = summary(config)
    write_text(config.out / "summary.csv", as_csv(rows))
    lines = [["", *rows[0]]] if rows else []
    last = None
    for row in rows:
        best = "best" if row["model"] != last and not math.isnan(row["J&F-Mean"]) else ""
        last = row["model"]
        shown = {**row, "J&F-Mean": "failed" if math.isnan(row["J&F-Mean"]) else f"{100 * row['J&F-Mean']:.1f}"}
        lines.append([best, *map(str, shown.values())])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "".join(
        "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )
    write_text(config.out / "summary.txt", text)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Columns are all names that occur, in order."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


if __name__ == "__main__":
    from twospeed.cli.main import run as run_command

    run_command(["train", __file__, *sys.argv[1:]])
