"""Kinetics: top-1 and top-5 of videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from twospeed.cli.benchmarks.request import Benchmark, Request, data_folder
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress
    from twospeed.evaluation.report import Report


def _kinetics(request: Request, on_progress: OnProgress) -> Report:
    from twospeed.evaluation.mask_runs import Progress
    from twospeed.evaluation.recognition import evaluate_kinetics

    precision = request.precision or "fp32"
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision {precision}: choose fp32 or bf16")
    return evaluate_kinetics(
        data_folder(request),
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


KINETICS = Benchmark(
    _kinetics,
    frozenset(
        [
            "data",
            "predictions",
            "model",
            "weights",
            "split",
            "output",
            "device",
            "clips",
            "crops",
            "root",
            "separator",
            "class_names",
            "workers",
            "precision",
        ]
    ),
)
