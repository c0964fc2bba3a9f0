"""`twospeed evaluate`: score files, or run a model, by a benchmark's own protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress, Progress, RunSettings
    from twospeed.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks of a benchmark. None and empty: not asked for, the protocol's own value holds."""

    data: Path | None = None
    predictions: Path | None = None
    model: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    sequences: tuple[str, ...] | None = None
    split: str | None = None
    task: str | None = None
    output: Path | None = None
    resume: bool = False
    device: str | None = None
    size: int | None = None
    scales: tuple[int, ...] = ()
    flip: bool = False
    memory_every: int | None = None
    top_k: int | None = None
    max_memory_frames: int | None = None
    include_last: bool = False
    clips: int | None = None
    crops: int | None = None
    root: Path | None = None
    separator: str | None = None
    class_names: Path | None = None
    workers: int | None = None
    precision: str | None = None
    ground_truth: Path | None = None
    labels: Path | None = None
    exclusions: Path | None = None
    rules: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: the function that runs it, and the options that mean something to it."""

    run: Callable[[Request, OnProgress], Report]
    options: frozenset[str]


_VIEW_OPTIONS = frozenset(("clips", "crops", "root", "separator", "class_names", "workers", "precision"))
_BOX_OPTIONS = frozenset(("ground_truth", "labels", "exclusions", "rules"))
_MASK_OPTIONS = frozenset(field.name for field in fields(Request)) - _VIEW_OPTIONS - _BOX_OPTIONS


def _davis(year: Literal[2016, 2017], request: Request, on_progress: OnProgress) -> Report:
    from twospeed.data.davis import Task
    from twospeed.evaluation.vos import davis_settings, evaluate_davis

    task = request.task or "semi-supervised"
    if task not in ("semi-supervised", "unsupervised"):
        raise InputError(f"--task {task}: choose semi-supervised or unsupervised")
    split = request.split or "val"
    return evaluate_davis(
        _data(request),
        year,
        split=split,
        task=cast(Task, task),
        settings=_settings(request, davis_settings(split)),
        on_progress=on_progress,
        **_source(request),
    )


def _davis16(request: Request, on_progress: OnProgress) -> Report:
    return _davis(2016, request, on_progress)


def _davis17(request: Request, on_progress: OnProgress) -> Report:
    return _davis(2017, request, on_progress)


def _youtube_vos(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.evaluation.vos import YOUTUBE_VOS_SETTINGS, evaluate_youtube_vos

    return evaluate_youtube_vos(
        _data(request),
        split=request.split or "valid",
        settings=_settings(request, YOUTUBE_VOS_SETTINGS),
        on_progress=on_progress,
        **_source(request),
    )


def _kinetics(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.evaluation.mask_runs import Progress
    from twospeed.evaluation.recognition import evaluate_kinetics

    precision = request.precision or "fp32"
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision {precision}: choose fp32 or bf16")
    return evaluate_kinetics(
        _data(request),
        model=request.model,
        weights=request.weights or "default",
        predictions=() if request.predictions is None else (request.predictions,),
        part=request.split or "val",
        root=request.root,
        separator=request.separator,
        class_names=request.class_names,
        clips=request.clips or 10,
        crops=request.crops or 3,
        workers=request.workers or 0,
        device=request.device,
        precision=cast(Literal["fp32", "bf16"], precision),
        scores_out=None if request.output is None else request.output / "scores.npz",
        on_views=lambda done, views: on_progress(Progress("score", "views", done, views, 0, 0)),
    )


def _ava(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.data.ava import find_annotations
    from twospeed.evaluation.ava import evaluate_ava

    if request.predictions is None:
        raise InputError("what is to be scored? give --predictions detections.csv, as `twospeed detect -o DIR` writes")
    files = {} if request.data is None else find_annotations(request.data, request.split or "val")
    ground_truth = request.ground_truth or files.get("ground_truth")
    if ground_truth is None:
        raise InputError("where are the annotations? give --ground-truth ava_val_v2.2.csv, or --data with their folder")
    return evaluate_ava(
        request.predictions,
        ground_truth,
        labels=request.labels or files.get("labels"),
        exclusions=request.exclusions or files.get("exclusions"),
        rules=request.rules or "activitynet",
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    "davis16": Benchmark(_davis16, _MASK_OPTIONS),
    "davis17": Benchmark(_davis17, _MASK_OPTIONS),
    "youtube-vos": Benchmark(_youtube_vos, _MASK_OPTIONS - {"task"}),
    "ava": Benchmark(_ava, _BOX_OPTIONS | {"data", "predictions", "split"}),
    "kinetics": Benchmark(
        _kinetics, _VIEW_OPTIONS | {"data", "predictions", "model", "weights", "split", "output", "device"}
    ),
}
"""Every benchmark that can be named on the command line."""


def _data(request: Request) -> Path:
    if request.data is None:
        raise InputError("where is the data set? give --data DIR, its folder in the official layout")
    return request.data


def _source(request: Request) -> dict[str, Any]:
    """Arguments on what is evaluated, as all mask benchmarks take them."""
    return {
        "predictions": request.predictions,
        "model": list(request.model) or None,
        "weights": list(request.weights) or "default",
        "sequences": request.sequences,
        "output": request.output,
        "resume": request.resume,
        "device": request.device,
    }


def _settings(request: Request, published: RunSettings) -> RunSettings:
    """Return the published settings with what the command line changes; 0 stands for "no limit"."""
    from dataclasses import replace

    if request.size is not None and request.scales:
        raise InputError(f"--size {request.size} and --scales exclude each other: the sizes of --scales are averaged")
    if request.scales and min(request.scales) < 1:
        raise InputError(f"--scales {','.join(map(str, request.scales))}: sizes are pixels, 1 or more")
    changes: dict[str, Any] = {"scales": request.scales, "flip": request.flip}
    if request.memory_every is not None:
        changes["memory_every"] = request.memory_every
    if request.include_last:
        changes["include_last"] = True
    for name in ("size", "top_k", "max_memory_frames"):
        value = getattr(request, name)
        if value is not None:
            changes[name] = value or None
    return replace(published, **changes)


def evaluate(
    benchmark: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHMARKS)}.", metavar="BENCHMARK")],
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder, in its official layout.", metavar="DIR")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score these masks: DIR/SEQUENCE/00000.png, palette, 0/1 or 0/255.", metavar="DIR"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Run this model; give several to average their probabilities.", metavar="NAME"),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights of each model: a file, or 'default'.", metavar="FILE"),
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="Only these sequences, separated by commas.", metavar="A,B,C")
    ] = None,
    split: Annotated[str | None, typer.Option(help="val, test-dev, ... (YouTube-VOS: valid).", metavar="NAME")] = None,
    task: Annotated[str | None, typer.Option(help="semi-supervised (default) or unsupervised.", metavar="TASK")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write all scores to this file (- for stdout).", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Keep the model's masks here, as the benchmark wants them.", metavar="DIR"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in -o DIR.")] = False,
    scales: Annotated[
        str | None,
        typer.Option(help="Average over these sizes, e.g. 480,600.", metavar="N,N", rich_help_panel="Model options"),
    ] = None,
    flip: Annotated[
        bool,
        typer.Option("--flip", help="Average with mirrored frames too.", rich_help_panel="Model options"),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(help="Shorter side for the network; 0: the frames' own.", rich_help_panel="Model options"),
    ] = None,
    memory_every: Annotated[
        int | None, typer.Option(help="Remember every n-th frame.", rich_help_panel="Model options")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Memory matches kept; 0: all.", rich_help_panel="Model options")
    ] = None,
    max_memory_frames: Annotated[
        int | None, typer.Option(help="Most frames remembered; 0: no limit.", rich_help_panel="Model options")
    ] = None,
    include_last: Annotated[
        bool,
        typer.Option("--include-last", help="Also remember the last frame.", rich_help_panel="Model options"),
    ] = False,
    clips: Annotated[
        int | None, typer.Option(help="Clips spread over each video (10).", rich_help_panel="Kinetics")
    ] = None,
    crops: Annotated[
        int | None, typer.Option(help="Crops of each clip, 1 or 3 (3).", rich_help_panel="Kinetics")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Where a list's paths begin; else the list's folder.", rich_help_panel="Kinetics"),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(help="Between path and label in a list; else found out.", rich_help_panel="Kinetics"),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="File of class names in order, for lists that name classes.", rich_help_panel="Kinetics"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Decoding processes (0).", rich_help_panel="Kinetics")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 (default) or bf16.", rich_help_panel="Kinetics")] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Annotations, such as ava_val_v2.2.csv.", metavar="FILE", rich_help_panel="AVA")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label map (.pbtxt) of the classes to score; else the server's 60.",
            metavar="FILE",
            rich_help_panel="AVA",
        ),
    ] = None,
    exclusions: Annotated[
        Path | None,
        typer.Option(help="Keyframes that are not scored (csv).", metavar="FILE", rich_help_panel="AVA"),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(help="activitynet (default: the server's) or pyslowfast.", rich_help_panel="AVA"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, ...; chosen if not given.", rich_help_panel="Model options"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Score masks by a benchmark's own protocol, or run a model and score what it gives.

    Score masks that exist:

        twospeed evaluate davis16 --data DAVIS/2016 --predictions results --json scores.json

    Run a model by the published settings of the benchmark and keep its masks:

        twospeed evaluate davis17 --data DAVIS/2017/trainval --model stcn --weights stcn.pth -o masks

    Go on after an interruption: the same line with --resume. Two sequences only: --sequences dog,cows.

    Average sizes and mirrored frames: --scales 480,600 --flip. Average models: --model A --weights a.pth
    --model B --weights b.pth. STM's memory: --include-last --top-k 0.

    Score action recognition: evaluate kinetics --data val.csv (or a folder) --model slowfast_r50_8x8 -o scores; later
    --predictions scores/scores.npz.

    Score boxes with actions: evaluate ava --predictions detections.csv --ground-truth ava_val_v2.2.csv, or --data with
    the folder of AVA's annotations.

    Test sets whose annotations are not public (--split test-dev) give masks to send to the server, no scores.
    """
    chosen = BENCHMARKS.get(benchmark)
    if chosen is None:
        raise InputError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(BENCHMARKS)}")
    request = Request(
        data=data,
        predictions=predictions,
        model=tuple(model or ()),
        weights=tuple(weights or ()),
        sequences=_names(sequences),
        split=split,
        task=task,
        output=output,
        resume=resume,
        device=device,
        size=size,
        scales=_numbers("--scales", scales),
        flip=flip,
        memory_every=memory_every,
        top_k=top_k,
        max_memory_frames=max_memory_frames,
        include_last=include_last,
        clips=clips,
        crops=crops,
        root=root,
        separator=separator,
        class_names=class_names,
        workers=workers,
        precision=precision,
        ground_truth=ground_truth,
        labels=labels,
        exclusions=exclusions,
        rules=rules,
    )
    unused = [f for f in fields(Request) if getattr(request, f.name) != f.default and f.name not in chosen.options]
    if unused:
        raise InputError(f"{benchmark} has no --{unused[0].name.replace('_', '-')}; leave it out")
    with _progress_shown(quiet) as on_progress:
        report = chosen.run(request, on_progress)
    if json_file == "-":
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    if json_file is not None:
        report.write_json(Path(json_file))
    if not quiet:
        typer.echo(report.text())


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError(f"--sequences {text!r} names none; separate names by commas")
    return names


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f"{option} {text}: expected whole numbers separated by commas") from error


def _progress_shown(quiet: bool) -> AbstractContextManager[OnProgress]:
    """Return what shows progress: a bar on a terminal, a line for each sequence elsewhere, nothing when quiet."""
    if quiet:
        return nullcontext(lambda progress: None)
    if sys.stderr.isatty():
        return _Bar()
    return nullcontext(_say_line)


def _say_line(progress: Progress) -> None:
    if progress.stage == "track" and progress.frame == progress.frames:
        what = "kept from before" if progress.skipped else f"{progress.frames} frames"
        number = f"{progress.index} of {progress.sequences}"
        typer.echo(f"{progress.sequence}: {what} ({number})", err=True)


class _Bar(AbstractContextManager["OnProgress"]):
    """A bar over all sequences, with the name of the one at hand and its frame."""

    def __enter__(self) -> OnProgress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._bar.start()
        return self._advance

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _advance(self, progress: Progress) -> None:
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bar.add_task(progress.stage, total=progress.sequences, detail="")
        part = progress.frame / progress.frames if progress.frames else 1.0
        self._bar.update(
            self._tasks[progress.stage],
            completed=progress.index - 1 + part,
            detail=f"{progress.sequence} {progress.frame}/{progress.frames}",
        )
