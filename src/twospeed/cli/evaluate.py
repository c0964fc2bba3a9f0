"""`twospeed evaluate`: score files, or run a model, by a benchmark's own protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from twospeed.cli.benchmarks.ava import AVA
from twospeed.cli.benchmarks.recognition import KINETICS
from twospeed.cli.benchmarks.request import Benchmark, Request
from twospeed.cli.benchmarks.segmentation import CAMVID, CITYSCAPES
from twospeed.cli.benchmarks.vos import DAVIS_2016, DAVIS_2017, DAVIS_CONFIGURATIONS, YOUTUBE_VOS
from twospeed.cli.evaluation_progress import progress_shown
from twospeed.cli.options import parse_ints
from twospeed.errors import InputError

_LABELS = "CamVid, Cityscapes"

BENCHMARKS: Mapping[str, Benchmark] = {
    "davis16": DAVIS_2016,
    "davis17": DAVIS_2017,
    "davis16-configurations": DAVIS_CONFIGURATIONS,
    "youtube-vos": YOUTUBE_VOS,
    "ava": AVA,
    "kinetics": KINETICS,
    "camvid": CAMVID,
    "cityscapes": CITYSCAPES,
}
"""Every benchmark that can be named on the command line."""


def evaluate(
    benchmark: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHMARKS)}.", metavar="BENCHMARK")],
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder, in its official layout.", metavar="DIR")
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Score these masks: DIR/SEQUENCE/00000.png, palette, 0/1 or 0/255. CamVid, Cityscapes: labels, "
            "DIR/NAME.png. AVA: a csv, or several to average.",
            metavar="DIR",
        ),
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
    task: Annotated[
        str | None,
        typer.Option(
            help="semi-supervised or unsupervised. [default: unsupervised for models that find objects by themselves]",
            metavar="TASK",
        ),
    ] = None,
    all_frames: Annotated[
        bool,
        typer.Option("--all-frames", help="Semi-supervised: score first and last frame too, as the SlowFast report."),
    ] = False,
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
    min_score: Annotated[
        float | None,
        typer.Option(help="slowfast_maskrcnn: least score of a detection.", rich_help_panel="Model options"),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Learn each first mask in so many iterations (slowfast_maskrcnn 2000, track_nano 30).",
            rich_help_panel="Model options",
        ),
    ] = None,
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
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="People that a detector found (csv); else looked for in --data.",
            metavar="FILE",
            rich_help_panel="AVA",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="People with a lower score are left out (0.8).", rich_help_panel="AVA")
    ] = None,
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
    keyframe_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest keyframe interval; shorter ones are scored with it (4).", rich_help_panel=_LABELS
        ),
    ] = None,
    keyframe_weights: Annotated[
        Path | None,
        typer.Option(help="GSVNet: the image network's own file.", metavar="FILE", rich_help_panel=_LABELS),
    ] = None,
    frame_step: Annotated[
        int | None,
        typer.Option(
            min=1, help="Frames of the recording between two frames; else the least.", rich_help_panel=_LABELS
        ),
    ] = None,
    image_scales: Annotated[
        str | None,
        typer.Option(
            help="Also run the image network alone on smaller images, e.g. 0.5,0.75,1.",
            metavar="X,X",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw accuracy against throughput (PNG, and CSV beside it).", metavar="FILE", rich_help_panel=_LABELS
        ),
    ] = None,
    frame_list: Annotated[
        Path | None,
        typer.Option(help="Cityscapes: GSVNet's list of frames.", metavar="FILE", rich_help_panel=_LABELS),
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

    Find objects without masks: evaluate davis16 --data DAVIS/2016 --model slowfast_maskrcnn_3_7 --weights W. The tables
    of all its configurations: evaluate davis16-configurations --weights DIR -o tables.

    Score action recognition: evaluate kinetics --data val.csv (or a folder) --model slowfast_r50_8x8 -o scores; later
    --predictions scores/scores.npz.

    Score boxes with actions: evaluate ava --predictions detections.csv --ground-truth ava_val_v2.2.csv, or --data with
    the folder of AVA's annotations; run a network: --data AVA --model slowfast_r50_8x8_ava --weights FILE -o DIR.

    Score a class for every pixel: evaluate camvid --data camvid --predictions labels, or --model gsvnet_swiftnet_r18
    --weights W --keyframe-every 5 --image-scales 0.5,0.75,1 --plot trade_off.png.

    Test sets whose annotations are not public (--split test-dev) give masks to send to the server, no scores.
    """
    chosen = BENCHMARKS.get(benchmark)
    if chosen is None:
        raise InputError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(BENCHMARKS)}")
    request = Request(
        data=data,
        predictions=predictions[0] if predictions else None,
        more_predictions=tuple(predictions[1:]) if predictions else (),
        model=tuple(model or ()),
        weights=tuple(weights or ()),
        sequences=_names(sequences),
        split=split,
        task=task,
        output=output,
        resume=resume,
        device=device,
        size=size,
        scales=parse_ints("--scales", scales),
        flip=flip,
        memory_every=memory_every,
        top_k=top_k,
        max_memory_frames=max_memory_frames,
        include_last=include_last,
        min_score=min_score,
        finetune=finetune,
        all_frames=all_frames,
        clips=clips,
        crops=crops,
        root=root,
        separator=separator,
        class_names=class_names,
        workers=workers,
        precision=precision,
        boxes=boxes,
        threshold=threshold,
        ground_truth=ground_truth,
        labels=labels,
        exclusions=exclusions,
        rules=rules,
        keyframe_every=keyframe_every,
        keyframe_weights=keyframe_weights,
        frame_step=frame_step,
        image_scales=_factors("--image-scales", image_scales),
        frame_list=frame_list,
        plot=plot,
    )
    unused = [f for f in fields(Request) if getattr(request, f.name) != f.default and f.name not in chosen.options]
    if request.more_predictions and "more_predictions" not in chosen.options:
        raise InputError(f"{benchmark} scores one --predictions, {1 + len(request.more_predictions)} are given")
    if unused:
        raise InputError(f"{benchmark} has no --{unused[0].name.replace('_', '-')}; leave it out")
    with progress_shown(quiet) as on_progress:
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


def _factors(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers separated by commas") from error
