"""AVA: frame-mAP of boxes with actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from twospeed.cli.benchmarks.request import Benchmark, Request
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress
    from twospeed.evaluation.report import Report


def _ava(request: Request, on_progress: OnProgress) -> Report:
    if bool(request.model) == (request.predictions is not None):
        given = "both" if request.model else "neither"
        raise InputError(
            "what is to be scored? give --predictions detections.csv, as `twospeed detect -o DIR` writes, or --model "
            f"and --data to run, not {given}"
        )
    return _of_model(request, on_progress) if request.model else _of_files(request)


def _of_files(request: Request) -> Report:
    from twospeed.cli.job import make_folder
    from twospeed.data.benchmarks.ava import find_annotations
    from twospeed.evaluation.ava import evaluate_ava

    if alone := [name for name in RUN_OPTIONS if getattr(request, name) not in (None, False, ())]:
        raise InputError(f"--{alone[0].replace('_', '-')} belongs to a run of a --model; leave it out")
    files = {} if request.data is None else find_annotations(request.data, request.split or "val")
    ground_truth = request.ground_truth or files.get("ground_truth")
    if ground_truth is None:
        raise InputError("where are the annotations? give --ground-truth ava_val_v2.2.csv, or --data with their folder")
    assert request.predictions is not None
    if request.output is not None and not request.more_predictions:
        raise InputError("-o keeps what a --model or the mean of several --predictions gives; there is only one file")
    return evaluate_ava(
        [request.predictions, *request.more_predictions],
        ground_truth,
        labels=request.labels or files.get("labels"),
        exclusions=request.exclusions or files.get("exclusions"),
        rules=request.rules or "activitynet",
        videos=request.sequences,
        averaged_to=None if request.output is None else make_folder(request.output) / "detections.csv",
    )


def _of_model(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.data.benchmarks.ava_keyframes import PERSON_SCORE
    from twospeed.evaluation.ava_runs import evaluate_ava_model

    if request.data is None:
        raise InputError("where is AVA? give --data DIR, with annotations and frames or videos")
    precision = request.precision or "fp32"
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision {precision}: choose fp32 or bf16")
    if request.size is not None and request.scales:
        raise InputError(f"--size {request.size} and --scales exclude each other: the sizes of --scales are averaged")
    given = [None if each == "random" else each for each in request.weights or ("default",)]
    return evaluate_ava_model(
        request.data,
        model=list(request.model),
        weights=given * len(request.model) if len(given) == 1 else given,
        split=request.split or "val",
        boxes=request.boxes,
        threshold=PERSON_SCORE if request.threshold is None else request.threshold,
        scales=request.scales or (() if request.size is None else (request.size,)),
        flip=request.flip,
        videos=request.sequences,
        ground_truth=request.ground_truth,
        labels=request.labels,
        exclusions=request.exclusions,
        rules=request.rules or "activitynet",
        output=request.output,
        resume=request.resume,
        workers=request.workers or 1,
        device=request.device,
        precision=cast(Literal["fp32", "bf16"], precision),
        on_progress=on_progress,
    )


RUN_OPTIONS = (
    "weights", "boxes", "threshold", "size", "scales", "flip", "resume", "workers", "device", "precision",
)  # fmt: skip
AVA = Benchmark(
    _ava,
    frozenset(
        [
            *RUN_OPTIONS,
            "data",
            "predictions",
            "more_predictions",
            "model",
            "sequences",
            "split",
            "output",
            "ground_truth",
            "labels",
            "exclusions",
            "rules",
        ]
    ),
)
