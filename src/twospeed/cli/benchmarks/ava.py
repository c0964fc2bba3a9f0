"""AVA: frame-mAP of boxes with actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twospeed.cli.benchmarks.request import Benchmark, Request
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress
    from twospeed.evaluation.report import Report


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


AVA = Benchmark(_ava, frozenset(["data", "predictions", "split", "ground_truth", "labels", "exclusions", "rules"]))
