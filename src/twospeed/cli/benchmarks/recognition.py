"""`twospeed evaluate kinetics` and `ava`: what happens in videos, and what people do in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twospeed.cli.benchmarks import options
from twospeed.cli.options import grouped, option
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.report import Report
    from twospeed.results import OnProgress


@grouped
def ava(
    *,
    data: options.Data = None,
    predictions: options.Files = None,
    model: options.Models = None,
    weights: options.ManyWeights = None,
    split: Annotated[str, option("NAME", "Which part of the data set: train, val or test.")] = "val",
    sequences: options.Sequences = None,
    ground_truth: Annotated[
        Path | None, option("FILE", "Annotations, such as ava_val_v2.2.csv.  [default: those in --data, see --version]")
    ] = None,
    labels: Annotated[
        Path | None,
        option(
            "FILE", "Label map (.pbtxt) of the classes to score.  [default: the one in --data, else the server's 60]"
        ),
    ] = None,
    exclusions: Annotated[
        Path | None, option("FILE", "Keyframes that are not scored (csv).  [default: in --data]")
    ] = None,
    rules: Annotated[
        Literal["activitynet", "pyslowfast"],
        typer.Option(
            help="activitynet: as the challenge's server, the best 50 detections of a keyframe, matched by score. "
            "pyslowfast: as PySlowFast, all detections, matched in file order."
        ),
    ] = "activitynet",
    version: Annotated[
        Literal["2.1", "2.2"] | None,
        typer.Option(
            help="Version of the annotations in --data: published scores are of 2.2, those of the first SlowFast paper "
            "and the report's 28.2 of 2.1.  [default: the newest there is]"
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        options.running(
            help="People that a detector found (csv).  [default: the published file in --data, "
            "annotations/person_box_67091280_iou90 before others]",
            metavar="FILE",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        options.running(
            help="Leave out people with a lower detection score, 0 to 1.  [default: as the model was published, 0.8; "
            "Slow 4x16 0.9]",
            metavar="X",
        ),
    ] = None,
    size: Annotated[
        int | None,
        options.running(help="Shorter side of the frames in pixels.  [default: the model's, 256]", metavar="N"),
    ] = None,
    scales: options.Scales = None,
    flip: options.Flip = False,
    workers: options.Workers = 1,
    precision: options.Precision = "fp32",
    run: options.ModelRun,
) -> None:
    """Action detection on AVA: frame-mAP at IoU 0.5 of boxes with actions.

    Score detections, or the mean of several files:

        twospeed evaluate ava --predictions detections.csv --ground-truth ava_val_v2.2.csv

    Run a model over the keyframes, with the boxes of people that are in AVA/annotations:

        twospeed evaluate ava --data AVA --model slowfast_r50_8x8_ava -o out

    Several scales and mirrored frames, as "++" in the report: --scales 256,320 --flip. A split without public
    annotations gives detections.csv for the server, no scores.
    """
    if bool(model) == bool(predictions):
        given = "both" if model else "neither"
        raise InputError(
            "what is to be scored? give --predictions detections.csv, as `twospeed detect -o DIR` writes, or --model "
            f"and --data to run, not {given}"
        )
    names = options.names_in(sequences)
    if not model:
        alone = {"weights": weights, "boxes": boxes, "threshold": threshold, "size": size, "scales": scales}
        options.refuse("belongs to a run of a --model", **alone, flip=flip, resume=run.resume, device=run.device)

        def score_files(_: OnProgress) -> Report:
            from twospeed.data.benchmarks.ava import find_annotations
            from twospeed.evaluation.ava import evaluate_ava
            from twospeed.files import make_folder

            assert predictions
            files = {} if data is None else find_annotations(data, split, version=version)
            truth = ground_truth or files.get("ground_truth")
            if truth is None:
                raise InputError(
                    "where are the annotations? give --ground-truth ava_val_v2.2.csv, or --data with their folder"
                )
            if run.output is not None and len(predictions) == 1:
                raise InputError(
                    "-o keeps what a --model or the mean of several --predictions gives; there is only one file"
                )
            return evaluate_ava(
                predictions, truth, labels=labels or files.get("labels"),
                exclusions=exclusions or files.get("exclusions"), rules=rules, videos=names,
                averaged_to=None if run.output is None else make_folder(run.output) / "detections.csv",
            )  # fmt: skip

        run.report(score_files)
        return
    from twospeed.evaluation.ava_runs import evaluate_ava_model

    if data is None:
        raise InputError("where is AVA? give --data DIR, with annotations and frames or videos")
    sizes = options.sizes_in(size, scales) or (() if size is None else (size,))
    run.report(
        lambda on_progress: evaluate_ava_model(
            data, model=list(model), weights=options.sources(weights), split=split, boxes=boxes, threshold=threshold,
            scales=sizes, flip=flip, videos=names, ground_truth=ground_truth, labels=labels, exclusions=exclusions,
            rules=rules, version=version, **run.arguments, workers=workers, precision=precision,
            on_progress=on_progress,
        )
    )  # fmt: skip


@grouped
def kinetics(
    *,
    data: Annotated[
        Path | None,
        option(
            "PATH",
            "A list of videos (`path label` on each line, or the official csv), a folder of class folders, or a "
            "folder with SPLIT.csv.",
        ),
    ] = None,
    predictions: options.Files = None,
    model: options.Models = None,
    weights: options.ManyWeights = None,
    split: Annotated[str, option("NAME", "Which list or folder in --data.")] = "val",
    root: Annotated[
        Path | None, option("DIR", "Folder that a list's paths are relative to.  [default: the list's folder]")
    ] = None,
    separator: Annotated[
        str | None,
        option(
            "TEXT", "Text between path and label in a list. Needed when paths end in numbers.  [default: found out]"
        ),
    ] = None,
    class_names: Annotated[
        Path | None, option("FILE", "File of class names in order, for lists that name classes.")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="Clips spread over each video. 1 is faster, 10 is the papers' protocol.")
    ] = 10,
    crops: Annotated[
        Literal["1", "3"], typer.Option(help="Crops of each clip: 1 (centre), or 3 along the longer side.")
    ] = "3",
    workers: options.Workers = 1,
    precision: options.Precision = "fp32",
    run: options.ModelRun,
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
            options.folder_of(data, "kinetics"), model=model, weights=options.sources(weights),
            predictions=predictions or (), part=split, root=root, separator=separator, class_names=class_names,
            clips=clips, crops=int(crops), workers=workers, precision=precision, **run.arguments,
            on_progress=on_progress,
        )
    )  # fmt: skip
