"""`twospeed evaluate kinetics`: top-1 and top-5 accuracy of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twospeed.cli.benchmarks import options
from twospeed.cli.benchmarks.options import Files, ManyWeights, ModelRun, Models, Precision, Workers
from twospeed.cli.options import grouped


@grouped
def kinetics(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A list of videos (`path label` on each line, or the official csv), a folder of class folders, or a "
            "folder with SPLIT.csv.",
            metavar="PATH",
        ),
    ] = None,
    predictions: Files = None,
    model: Models = None,
    weights: ManyWeights = None,
    split: Annotated[str, typer.Option(help="Which list or folder in --data.", metavar="NAME")] = "val",
    root: Annotated[
        Path | None,
        typer.Option(help="Folder that a list's paths are relative to.  [default: the list's folder]", metavar="DIR"),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            help="Text between path and label in a list. Needed when paths end in numbers.  [default: found out]",
            metavar="TEXT",
        ),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="File of class names in order, for lists that name classes.", metavar="FILE")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="Clips spread over each video. 1 is faster, 10 is the papers' protocol.")
    ] = 10,
    crops: Annotated[
        Literal["1", "3"], typer.Option(help="Crops of each clip: 1 (centre), or 3 along the longer side.")
    ] = "3",
    workers: Workers = 1,
    precision: Precision = "fp32",
    run: ModelRun,
) -> None:
    """Action recognition: top-1 and top-5 accuracy, and their average error, on labelled videos.

    Run a model with 10 clips of 3 crops, as the SlowFast papers do, and keep the scores:

        twospeed evaluate kinetics --data val.csv --model slowfast_r50_8x8 -o scores

    Score them again, or average the scores of several models:

        twospeed evaluate kinetics --data val.csv --predictions a/scores.npz --predictions b/scores.npz

    A list without labels is not graded: its scores are written to -o DIR.
    Several processes share the videos: torchrun --nproc-per-node 8 -m twospeed evaluate kinetics ...
    """
    from twospeed.evaluation.recognition import evaluate_kinetics

    if not model:
        options.refuse("belongs to a run of a --model", weights=weights)
    run.report(
        lambda on_progress: evaluate_kinetics(
            options.folder_of(data, "kinetics"),
            model=model,
            weights=options.sources(weights),
            predictions=predictions or (),
            part=split,
            root=root,
            separator=separator,
            class_names=class_names,
            clips=clips,
            crops=int(crops),
            workers=workers,
            precision=precision,
            **run.arguments,
            on_progress=on_progress,
        )
    )
