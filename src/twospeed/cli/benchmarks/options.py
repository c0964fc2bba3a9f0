"""Options of the benchmarks, each written once, and what several of them do with what was typed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from twospeed.cli.options import option, parse_ints
from twospeed.cli.progress import show_progress
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.report import Report
    from twospeed.results import OnProgress

T = TypeVar("T")


def running(*names: str, **settings: Any) -> Any:
    """Return an option of runs of a model, which help shows together."""
    return typer.Option(*names, rich_help_panel="Running a model", **settings)


Data = Annotated[Path | None, option("DIR", "Folder of the data set, in its official layout.", show_default=False)]
Predictions = Annotated[list[Path] | None, option("DIR", "Score the files in this folder instead of running a model.")]
Files = Annotated[
    list[Path] | None,
    option("FILE", "Score this file instead of running a model. Repeat it to average the scores of several files."),
]
Models = Annotated[
    list[str] | None,
    running(
        "--model",
        help="Run this model, see `twospeed models`. Repeat it, each with its --weights, to average the probabilities "
        "of several.",
        metavar="NAME",
    ),
]
OneModel = Annotated[
    list[str] | None, running("--model", help="Run this model, see `twospeed models`.", metavar="NAME")
]
ManyWeights = Annotated[
    list[str] | None,
    running(
        "--weights",
        help="Weights of each model, in the same order: 'default', 'random' (to try things out), or a checkpoint. One "
        "alone holds for all.  [default: default]",
        metavar="FILE",
    ),
]
OneWeights = Annotated[
    list[str] | None,
    running(
        "--weights",
        help="Weights of the model: 'default', 'random' (to try things out), or a checkpoint.  [default: default]",
        metavar="FILE",
    ),
]
Sequences = Annotated[
    str | None, option("A,B,C", "Only these sequences or videos, names separated by commas.  [default: all]")
]
Output = Annotated[
    Path | None,
    running(
        "--output",
        "-o",
        help="Keep the predictions in this folder, in the benchmark's own format: to send them to its server, to look "
        "at them, or to resume.  [default: a temporary folder]",
        metavar="DIR",
    ),
]
Resume = Annotated[
    bool,
    running(
        "--resume", help="Continue the interrupted run in -o DIR, with the same options. What is finished is kept."
    ),
]
Device = Annotated[
    str | None,
    running(
        help="Where networks run: cpu, cuda, cuda:1, mps.  [default: a graphics card if there is one]", metavar="NAME"
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"],
    running(
        help="Number format of the network. bf16 is faster on hardware made for it, with slightly different scores."
    ),
]
Workers = Annotated[
    int, running(min=1, help="Threads that decode videos. Raise it when the network waits for frames.", metavar="N")
]
Scales = Annotated[
    str | None,
    running(
        help="Average over frames of these shorter sides in pixels, such as 480,600. Slower, often better.",
        metavar="N,N",
    ),
]
Flip = Annotated[bool, running("--flip", help="Average with mirrored frames. Takes twice as long, often better.")]
Json = Annotated[
    str | None,
    typer.Option("--json", help="Write all scores to this JSON file; - for standard output.", metavar="FILE"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no table.")]


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where scores go."""

    json_file: Json = None
    quiet: Quiet = False

    def report(self, evaluate: Callable[[OnProgress], Report]) -> None:
        """Evaluate with progress shown, then write and print the report: of several processes, the first alone does."""
        others = os.environ.get("RANK", "0") != "0"
        with show_progress(self.quiet or others) as on_progress:
            report = evaluate(on_progress)
        if others:
            return
        if self.json_file == "-":
            typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
            return
        if self.json_file is not None:
            report.write_json(Path(self.json_file))
        if not self.quiet:
            typer.echo(report.text())


@dataclass(frozen=True, kw_only=True)
class ModelRun(Reporting):
    """A run of a model, and where it and its scores go."""

    output: Output = None
    resume: Resume = False
    device: Device = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What every evaluation of a model takes."""
        return {"output": self.output, "resume": self.resume, "device": self.device}


def folder_of(data: Path | None, benchmark: str) -> Path:
    """Return the data set's folder. Raises InputError when none is given."""
    if data is None:
        raise InputError(f"{benchmark}: where is the data set? give --data DIR, its folder in the official layout")
    return data


def single(option: str, values: list[T] | None) -> T | None:
    """Return the only value of an option, None for none. Raises InputError for several: none is dropped silently."""
    if values and len(values) > 1:
        raise InputError(f"this benchmark takes one {option}, {len(values)} are given")
    return values[0] if values else None


def sources(weights: list[str] | None) -> Any:
    """Return what `create_model` takes: 'random' becomes None, nothing 'default'."""
    return [None if each == "random" else each for each in weights or ("default",)]


def names_in(sequences: str | None) -> tuple[str, ...] | None:
    """Read names between commas; None for None."""
    if sequences is None:
        return None
    names = tuple(name.strip() for name in sequences.split(",") if name.strip())
    if not names:
        raise InputError(f"--sequences {sequences!r} is empty; separate names by commas")
    return names


def sizes_in(size: int | None, scales: str | None) -> tuple[int, ...]:
    """Read the sizes of --scales, which exclude --size."""
    sizes = parse_ints("--scales", scales)
    if size is not None and sizes:
        raise InputError(f"--size {size} and --scales exclude each other: the sizes of --scales are averaged")
    if sizes and min(sizes) < 1:
        raise InputError(f"--scales {scales}: sizes are pixels, 1 or more")
    return sizes


def factors_in(option: str, text: str | None) -> tuple[float, ...]:
    """Read numbers between commas; none for None."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers separated by commas") from error


def refuse(why: str, **options: Any) -> None:
    """Raise InputError when one of these options is given, by its flag."""
    for name, value in options.items():
        if value not in (None, False, (), [], ""):
            raise InputError(f"--{name.replace('_', '-')} {why}; leave it out")
