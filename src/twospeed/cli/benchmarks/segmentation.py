"""`twospeed evaluate camvid` and `cityscapes`: a class for every pixel, by the distance from the keyframe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from twospeed.cli.benchmarks import options
from twospeed.cli.options import grouped, option
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.evaluation.report import Report
    from twospeed.evaluation.semseg import DrivingSet
    from twospeed.results import OnProgress

Split = Annotated[str, option("NAME", "Which part of the data set: train, val or test.")]
KeyframeEvery = Annotated[
    int | None,
    options.running(
        min=1,
        help="Longest keyframe interval, in frames; all shorter ones are scored with it. The paper's tables go up to "
        "5.  [default: 4 for video models]",
        metavar="N",
    ),
]
KeyframeWeights = Annotated[
    Path | None, options.running(help="GSVNet: file of the image network, where it is a file of its own.")
]
FrameStep = Annotated[
    int | None,
    options.running(
        min=1,
        help="Frames of the recording from one frame to the next. Give it to take CamVid's labelled frames, which are "
        "30 apart, as a video.  [default: the least there is]",
        metavar="N",
    ),
]
KeyframeScale = Annotated[
    float | None,
    options.running(
        help="GSVNet: fraction of its size at which the image network sees a keyframe.  [default: that of the weights, "
        "0.75 as published]",
        metavar="X",
    ),
]
ImageScales = Annotated[
    str | None,
    options.running(
        help="Also run the image network alone on images of these fractions of their size, such as 0.5,0.75,1.",
        metavar="X,X",
    ),
]
Plot = Annotated[
    Path | None,
    options.running(help="Draw accuracy against frames per second as PNG, with the numbers as CSV beside it."),
]


@grouped
def segmentation(
    *,
    context: typer.Context,
    data: options.Data = None,
    predictions: options.Predictions = None,
    model: options.OneModel = None,
    weights: options.OneWeights = None,
    keyframe_weights: KeyframeWeights = None,
    split: Split = "val",
    frame_list: Annotated[
        Path | None, option("FILE", "Cityscapes: GSVNet's list of frames.  [default: all labelled frames]")
    ] = None,
    keyframe_every: KeyframeEvery = None,
    frame_step: FrameStep = None,
    image_scales: ImageScales = None,
    keyframe_scale: KeyframeScale = None,
    plot: Plot = None,
    precision: options.Precision = "fp32",
    run: options.ModelRun,
) -> None:
    """Score label images on CamVid or Cityscapes, or run a model and score its labels."""
    from twospeed.evaluation.semseg import SegmentationSettings, evaluate_segmentation

    if predictions:
        options.refuse(
            "belongs to a run of a model, not to --predictions", weights=weights, device=run.device,
            keyframe_every=keyframe_every, keyframe_weights=keyframe_weights, frame_step=frame_step,
            image_scales=image_scales, keyframe_scale=keyframe_scale, plot=plot,
        )  # fmt: skip
    if plot is not None and (not plot.name or plot.is_dir()):
        raise InputError(f"--plot {plot}: is a folder; name a file in it")
    if plot is not None and not plot.parent.is_dir():
        raise InputError(f"--plot {plot}: there is no folder {plot.parent}")
    settings = SegmentationSettings(
        keyframe_every=keyframe_every, frame_step=frame_step,
        image_scales=options.factors_in("--image-scales", image_scales), keyframe_scale=keyframe_scale,
        precision=precision,
    )  # fmt: skip

    options.single("--weights", weights)
    benchmark = cast("DrivingSet", context.info_name)

    def evaluate(on_progress: OnProgress) -> Report:
        report = evaluate_segmentation(
            benchmark, options.folder_of(data, benchmark), split=split,
            predictions=options.single("--predictions", predictions), model=options.single("--model", model),
            weights=options.sources(weights)[0], keyframe_weights=keyframe_weights, settings=settings,
            list_file=frame_list, **run.arguments, on_progress=on_progress,
        )  # fmt: skip
        if plot is not None:
            _plot(plot, report)
        return report

    run.report(evaluate)


def _plot(path: Path, report: Report) -> None:
    """Write accuracy against throughput as PNG, and the numbers beside it as CSV."""
    from twospeed.evaluation.trade_off import cost_table, operating_points
    from twospeed.files import write_text
    from twospeed.output.plots import plot_trade_off

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
    write_text(path.with_suffix(".csv"), cost_table(points).csv())
    plot_trade_off(
        path,
        [curve for curve in curves if curve[1]],
        title=f"{report.model} on {report.benchmark}",
        x_label=f"frames per second\n{report.speed['clock']}",
    )
