"""CamVid and Cityscapes: a class for every pixel, by the distance from the keyframe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twospeed.cli.benchmarks.request import Benchmark, Request, data_folder
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.mask_runs import OnProgress
    from twospeed.evaluation.report import Report
    from twospeed.evaluation.semseg import DrivingSet


def _segmentation(benchmark: DrivingSet, request: Request, on_progress: OnProgress) -> Report:
    from twospeed.evaluation.semseg import SegmentationSettings, evaluate_segmentation

    model_options = ("weights", "device", "keyframe_every", "keyframe_weights", "frame_step", "image_scales", "plot")
    if request.predictions is not None and (given := [name for name in model_options if getattr(request, name)]):
        raise InputError(f"--{given[0].replace('_', '-')} belongs to a run of a model, not to --predictions")
    if len(request.model) > 1 or len(request.weights) > 1:
        raise InputError(f"{benchmark} runs one model at a time; give one --model and its --weights")
    if request.plot is not None and not request.plot.parent.is_dir():
        raise InputError(f"--plot {request.plot}: there is no folder {request.plot.parent}")
    report = evaluate_segmentation(
        benchmark,
        data_folder(request),
        split=request.split or "val",
        predictions=request.predictions,
        model=request.model[0] if request.model else None,
        weights=request.weights[0] if request.weights else "default",
        keyframe_weights=request.keyframe_weights,
        settings=SegmentationSettings(
            keyframe_every=request.keyframe_every, frame_step=request.frame_step, image_scales=request.image_scales
        ),
        list_file=request.frame_list,
        output=request.output,
        resume=request.resume,
        device=request.device,
        on_progress=on_progress,
    )
    if request.plot is not None:
        _plot(request.plot, report)
    return report


def _plot(path: Path, report: Report) -> None:
    """Write accuracy against throughput as PNG, and the numbers beside it as CSV."""
    from twospeed.evaluation.report import write_atomic
    from twospeed.evaluation.trade_off import cost_table, operating_points
    from twospeed.output.trade_off import plot_trade_off

    points = operating_points(report.scores)
    timed = [point for point in points if point.frames_per_second > 0]  # NaN is not
    if not timed:
        raise InputError(f"--plot {path}: nothing was timed (all labels were kept from before); write to another -o")
    curves = [
        (name, [(prefix + p.setting, p.frames_per_second, p.average) for p in timed if p.kind == kind])
        for kind, name, prefix in (
            ("interval", "keyframe every l frames, average mIoU", "l = "),
            ("image scale", "image network alone, smaller images", "× "),
        )
    ]
    write_atomic(path.with_suffix(".csv"), cost_table(points).csv())
    plot_trade_off(
        path,
        [curve for curve in curves if curve[1]],
        title=f"{report.model} on {report.benchmark}",
        x_label=f"frames per second\n{report.speed['clock']}",
    )


def _camvid(request: Request, on_progress: OnProgress) -> Report:
    return _segmentation("camvid", request, on_progress)


def _cityscapes(request: Request, on_progress: OnProgress) -> Report:
    return _segmentation("cityscapes", request, on_progress)


OPTIONS = frozenset(
    [
        "data",
        "predictions",
        "model",
        "weights",
        "split",
        "output",
        "resume",
        "device",
        "keyframe_every",
        "keyframe_weights",
        "frame_step",
        "image_scales",
        "plot",
    ]
)
CAMVID = Benchmark(_camvid, OPTIONS)
CITYSCAPES = Benchmark(_cityscapes, OPTIONS | {"frame_list"})
