"""Semantic segmentation of driving videos: CamVid and Cityscapes.

Either a folder of label files is scored, or a model is run: as its users run it, from a keyframe 0, 1, ... frames ahead
of each labelled frame, labels compared at full size.

Source of the protocol: GSVNet (Lee, Chen, Peng, ICME 2021), section 4.1, and the released trainer. Confusion matrices
are summed over all frames before anything is divided; the average over a keyframe interval of l is the mIoU of the
summed matrices of the distances 0 to l - 1, the minimum that of the farthest. A class that occurs nowhere counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twospeed.data.benchmarks import camvid, cityscapes
from twospeed.data.clips.snippets import LabelledVideos
from twospeed.data.samples import LabelledFrame
from twospeed.errors import InputError
from twospeed.evaluation.label_runs import (
    LabelCode,
    check_classes_only,
    find_predictions,
    plan_chains,
    run_chains,
    tally_files,
)
from twospeed.evaluation.report import Report, Table
from twospeed.evaluation.runner import Clock, Model, Networks, Run, check_source, coverage
from twospeed.evaluation.trade_off import cost_table, operating_points
from twospeed.metrics.confusion import Matrix, class_iou, mean_iou, over_interval, pixel_accuracy
from twospeed.pipelines.inputs import Precision
from twospeed.results import LabelMap, OnProgress, Progress

if TYPE_CHECKING:
    from twospeed.weights.cost import SegmenterCost

DrivingSet = Literal["camvid", "cityscapes"]

KEYFRAME_EVERY = 4
"""Frames from one keyframe to the next, where nothing else is asked for."""

MOST_SECONDS_APART = 0.2
"""Frames that are farther apart are no video: nothing is propagated between CamVid's labels of one a second."""


@dataclass(frozen=True)
class _Benchmark:
    """frame_rate: images of the recordings a second. official: labelled frames of each split."""

    title: str
    open: Callable[[Path, str, Path | None], LabelledVideos]
    classes: LabelMap
    frame_rate: int
    official: Mapping[str, int]
    code: LabelCode | None = None


def _open_camvid(root: Path, split: str, list_file: Path | None) -> LabelledVideos:
    if list_file is not None:
        raise InputError(f"{list_file}: CamVid is read without a list; its splits are known")
    return camvid.CamVid(root, split)  # type: ignore[arg-type]


BENCHMARKS: Mapping[DrivingSet, _Benchmark] = {
    "camvid": _Benchmark(
        "CamVid", _open_camvid, camvid.CLASSES, camvid.FRAME_RATE, {"train": 367, "val": 101, "test": 233}
    ),
    "cityscapes": _Benchmark(
        "Cityscapes",
        lambda root, split, list_file: cityscapes.Cityscapes(root, split, list_file=list_file),  # type: ignore[arg-type]
        cityscapes.CLASSES,
        17,
        cityscapes.OFFICIAL_FRAMES,
        LabelCode(cityscapes.ids_from_classes, cityscapes.classes_from_ids),
    ),
}


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """Options of a run.

    keyframe_every: the longest interval; all shorter ones are reported with it. None for 4, and 1 for image networks.
    frame_step: frames of the recording from one frame to the next; None for the finest that there is. image_scales: run
    the image network by itself, too, on images brought to these fractions of their size (the paper's Fig. A5).
    keyframe_scale: fraction of its size at which a GSVNet that is given by name sees a keyframe; None for that of the
    weights (0.75 published; the paper's Fig. A6 has 1). precision: of the image network, as `Segmenter` takes it.
    """

    keyframe_every: int | None = None
    frame_step: int | None = None
    image_scales: tuple[float, ...] = ()
    keyframe_scale: float | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name in ("keyframe_every", "frame_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give 1 or more")
        if wrong := [scale for scale in self.image_scales if not 0 < scale <= 2]:
            raise InputError(f"an image scale of {wrong[0]}; give factors above 0 and up to 2")


def evaluate_segmentation(
    benchmark: DrivingSet,
    data: Path | str | LabelledVideos,
    *,
    split: str = "val",
    predictions: Path | str | None = None,
    model: Model | None = None,
    weights: Any = "default",
    keyframe_weights: Any = None,
    settings: SegmentationSettings | None = None,
    list_file: Path | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Score labels on CamVid or Cityscapes: those of `predictions`, or those of `model`.

    data: the data set's folder, or labelled frames of your own with the benchmark's classes. predictions: a folder of
    label PNGs, `find_predictions` says which belongs to which frame; values are classes, for Cityscapes also label ids
    (recognised from the values). weights, keyframe_weights: as `create_model` takes them. list_file:
    GSVNet's list, for Cityscapes. output: where a model's labels are kept, in `distance_D` folders, a new folder or
    with `resume` that of an interrupted run.

    The report's scores are mIoU, pixel_accuracy and class_IoU, fractions, over everything that was counted; with a
    model also by_distance, average_mIoU, minimum_mIoU for the longest interval, `intervals` for all of them with what a
    frame costs, `parts`, `image_scales`, and of a GSVNet `step_seconds`. A class that occurs nowhere has no class_IoU
    and is 0 in the mean.

    Raises DatasetError, InputError, OutputError, each with what is wrong and where; errors of the weights come from
    `create_model`.
    """
    check_source(predictions, model, output, resume)
    if benchmark not in BENCHMARKS:
        raise InputError(f"no segmentation benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    chosen = BENCHMARKS[benchmark]
    opened = chosen.open(Path(data), split, list_file) if isinstance(data, str | Path) else data
    official = chosen.official[split] if isinstance(data, str | Path) else None
    frames = [opened[index] for index in range(len(opened))]
    public = all(frame.annotation is not None for frame in frames)
    if model is None:
        if not public:
            raise InputError(f"{data}: the labels of split {split!r} are not here; the benchmark's server scores them")
        matrix, notes = _score_files(chosen, frames, Path(str(predictions)), on_progress)
        return Report(
            benchmark=benchmark,
            scores=_scores(matrix, chosen.classes),
            table=_table({"IoU": matrix}, chosen.classes),
            protocol=f"{chosen.title}: confusion matrix over all frames, void left out",
            coverage=coverage(len(frames), official, "frames", f"{chosen.title} {split}"),
            model=f"files in {predictions}",
            notes=(*notes, *_notes(matrix, chosen.classes)),
        )
    run = _SegmentationRun(
        benchmark, model, weights, keyframe_weights, settings or SegmentationSettings(), device, on_progress
    )
    with run.folder(output, resume=resume, public=public, split=split) as folder:
        kept = None if output is None else folder
        of = f"of {official} frames ({chosen.title} {split})" if official else "frames, not an official split"
        return run.evaluated(opened, frames, kept, public, of)


class _SegmentationRun(Run):
    """A network for images or videos over labelled frames, each reached from keyframes before it."""

    def __init__(
        self,
        benchmark: DrivingSet,
        model: Model,
        weights: Any,
        keyframe_weights: Any,
        settings: SegmentationSettings,
        device: str | None,
        on_progress: OnProgress,
    ):
        from twospeed.pipelines.inputs import is_exported
        from twospeed.pipelines.segment import NEVER, Segmenter, check_keyframe_scale

        networks = Networks(model, weights, task="segment", on_progress=on_progress)
        super().__init__(benchmark, networks, asdict(settings), on_progress)
        self.chosen, self.options = BENCHMARKS[benchmark], settings
        extra: dict[str, Any] = {} if keyframe_weights is None else {"keyframe_weights": keyframe_weights}
        if settings.keyframe_scale is not None:
            check_keyframe_scale(networks.given[0], settings.keyframe_scale)
            extra["keyframe_scale"] = settings.keyframe_scale
        (self.model,) = self.networks.built(**extra)
        if is_exported(self.model):
            raise InputError(
                f"{self.networks.title} is an exported model, whose parts are not timed here; label the images with it "
                "and give the folder as predictions",
                option="model",
            )
        self.is_video = hasattr(self.model, "propagate")
        if not self.is_video and (settings.keyframe_every or 1) > 1:
            raise InputError(
                f"{self.networks.title} labels every image by itself; leave the keyframe interval of "
                f"{settings.keyframe_every} out",
                option="keyframe_every",
            )
        self.segmenter = Segmenter(
            self.model, NEVER, labels=self.chosen.classes, precision=settings.precision, device=device
        )
        self.image_network = getattr(self.model, "keyframe_network", self.model)

    @property
    def interval(self) -> int:
        """The longest keyframe interval."""
        return (self.options.keyframe_every or KEYFRAME_EVERY) if self.is_video else 1

    def frames_per_second(self, interval: int) -> float:
        """Return the speed with every so many frames a keyframe, from the medians; NaN where one was never timed."""
        seconds = self.clock.median("keyframe")
        if interval > 1:
            seconds += (interval - 1) * self.clock.median("step")
        return interval / seconds

    def evaluated(
        self, data: LabelledVideos, frames: Sequence[LabelledFrame], folder: Path | None, public: bool, of: str
    ) -> Report:
        """Label, count, and return the report. folder: where labels are kept. of: what the frames are a part of."""
        from twospeed.weights.cost import segmenter_cost

        chosen, notes = self.chosen, []
        distances = range(self.interval if public else 1)
        most = int(MOST_SECONDS_APART * chosen.frame_rate)
        chains = plan_chains(data, distances, step=self.options.frame_step, most=most)
        counts = {d: sum(d in chain.scored for chain in chains) for d in distances}
        reached = [d for d in distances if counts[d]]
        if len(reached) < len(distances):
            notes.append(
                f"no labelled frame has {len(reached)} frames of video before it: propagation is scored up to "
                f"{len(reached) - 1} steps (the labelled frames lie apart; a frame step takes them as a video)"
            )
        matrices = run_chains(
            self.segmenter, chains, len(chosen.classes), output=folder, code=chosen.code, clock=self.clock,
            on_chain=partial(self._report, "label", len(chains)),
        )  # fmt: skip
        height, width = frames[0].image().shape[:2]
        cost = segmenter_cost(self.model, height, width)
        medians = {f"{kind}_seconds": self.clock.median(kind) for kind in sorted(self.clock.laps)}
        common: dict[str, Any] = {
            "clock": "from pixels to labels at full size, without reading and writing files",
            "timed": medians,
            "protocol": f"{chosen.title}: keyframe 0 to {len(reached) - 1} frames before each labelled frame, "
            "confusion matrices summed, void left out, labels at full size",
            "coverage": f"{', '.join(str(counts[d]) for d in reached)} {of}"
            + (f" at 0 to {reached[-1]} steps from the keyframe" if len(reached) > 1 else ""),
            "settings": {
                **self.settings,
                "keyframe_every": self.interval,
                "precision": self.segmenter.precision,
                "device": str(self.segmenter.device),
            },
        }
        if not public:
            notes.append(f"the labels of this split are not public: send {folder}/distance_0 to the benchmark's server")
            return self.report(scores={}, table=Table((), ()), notes=tuple(notes), **common)
        pooled: Matrix = np.sum([matrices[d] for d in reached], axis=0)
        average, minimum = over_interval([matrices[d] for d in reached])
        scores: dict[str, Any] = {
            **_scores(pooled, chosen.classes),
            "by_distance": {str(d): mean_iou(matrices[d]) for d in reached},
            "average_mIoU": average,
            "average_mIoU_of_distances": float(np.mean([mean_iou(matrices[d]) for d in reached])),
            "minimum_mIoU": minimum,
            "intervals": self._intervals([matrices[d] for d in reached], cost),
            "parts": _parts(cost),
            "gmacs": {"keyframe": cost.keyframe_gmacs, "step": cost.step_gmacs, "frame": f"{width}x{height}"},
        }
        two = next((chain.frames[:2] for chain in chains if len(chain.frames) > 1), None)
        if two is not None and (seconds := self._step_seconds(*two)):
            scores["step_seconds"] = seconds
        if self.options.image_scales:
            scores["image_scales"] = self._scaled_images(data, height, width)
        sizes = [
            f"{name.replace('_', ' ')}: {part['parameters']:,} parameters, {part['bytes'] / 1e6:.2f} MB"
            for name, part in scores["parts"].items()
        ]
        columns = {"all": pooled, **{f"{d} step{'s' * (d != 1)}": matrices[d] for d in reached}}
        return self.report(
            scores=scores,
            parameters=cost.keyframe_parameters + cost.step_parameters,
            table=_table(columns if len(reached) > 1 else {"IoU": pooled}, chosen.classes),
            more_tables=(cost_table(operating_points(scores)),),
            notes=(*notes, *_notes(pooled, chosen.classes), *sizes),
            **common,
        )

    def _report(self, task: str, total: int, done: int) -> None:
        self.progress(task, done, total, "keyframes")

    def _step_seconds(self, previous: LabelledFrame, frame: LabelledFrame) -> dict[str, float]:
        """Where the time of a GSVNet's propagation step goes; empty for other networks."""
        import torch

        from twospeed.evaluation.speed import step_seconds
        from twospeed.models.gsv.network import GSVNet

        if not isinstance(self.segmenter.model, GSVNet):
            return {}
        images = [torch.from_numpy(each.image()).permute(2, 0, 1)[None] for each in (previous, frame)]
        return step_seconds(self.segmenter.model, *(image.to(self.segmenter.device) for image in images))

    def _intervals(self, matrices: Sequence[Matrix], cost: SegmenterCost) -> dict[str, dict[str, float]]:
        """Accuracy and cost with a keyframe every 1, 2, ... frames, from the distances that each of them sees."""
        table = {}
        for interval in range(1, len(matrices) + 1):
            average, minimum = over_interval(matrices[:interval])
            table[str(interval)] = {
                "average_mIoU": average,
                "minimum_mIoU": minimum,
                "gmacs_per_frame": cost.gmacs_per_frame(interval),
                "frames_per_second": self.frames_per_second(interval),
            }
        return table

    def _scaled_images(self, data: LabelledVideos, height: int, width: int) -> dict[str, dict[str, float]]:
        """Accuracy and cost of the image network by itself, on every labelled frame, at fractions of its size."""
        from twospeed.models.gsv.network import ScaledImages
        from twospeed.pipelines.segment import Segmenter
        from twospeed.weights.cost import segmenter_cost

        chains = plan_chains(data, (0,))
        table = {}
        for scale in self.options.image_scales:
            clock, network = Clock(), ScaledImages(self.image_network, scale)
            done = partial(self._report, f"images at {scale:g}", len(chains))
            segmenter = Segmenter(
                network, labels=self.chosen.classes, precision=self.segmenter.precision, device=self.segmenter.device
            )
            (matrix,) = run_chains(segmenter, chains, len(self.chosen.classes), clock=clock, on_chain=done).values()
            table[f"{scale:g}"] = {
                "mIoU": mean_iou(matrix),
                "gmacs_per_frame": segmenter_cost(network, height, width).keyframe_gmacs,
                "frames_per_second": 1 / clock.median("keyframe"),
            }
        return table


def _score_files(
    chosen: _Benchmark, frames: Sequence[LabelledFrame], folder: Path, on_progress: OnProgress
) -> tuple[Matrix, list[str]]:
    files, by_order = find_predictions(folder, frames)
    tally = tally_files(
        files, frames, len(chosen.classes),
        on_frame=lambda done: on_progress(Progress("score", done, len(frames), "frames")),
    )  # fmt: skip
    notes = [f"{folder}: files were taken for frames in their order"] if by_order else []
    classes = np.arange(256, dtype=np.uint8)
    if chosen.code is not None:
        # Label ids of cars, persons, vegetation or sky, which every set of frames has, are beyond the classes
        is_ids = any(len(chosen.classes) <= value <= cityscapes.LAST_LABEL_ID for value in tally.first_file)
        notes.append(f"values of the files were read as {'label ids' if is_ids else 'classes'}")
        if is_ids:
            return tally.matrix(chosen.code.read(classes)), notes
    check_classes_only(tally, chosen.classes.names)
    return tally.matrix(classes), notes


def _scores(matrix: Matrix, classes: LabelMap) -> dict[str, Any]:
    return {
        "mIoU": mean_iou(matrix),
        "pixel_accuracy": pixel_accuracy(matrix),
        "class_IoU": {name: float(value) for name, value in zip(classes, class_iou(matrix), strict=True)},
    }


def _table(columns: Mapping[str, Matrix], classes: LabelMap) -> Table:
    ious = {name: class_iou(matrix) for name, matrix in columns.items()}
    rows: list[tuple[str, tuple[float | None, ...]]] = [
        ("mIoU", tuple(mean_iou(matrix) for matrix in columns.values())),
        ("pixel accuracy", tuple(pixel_accuracy(matrix) for matrix in columns.values())),
    ]
    rows += [(name, tuple(float(values[i]) for values in ious.values())) for i, name in enumerate(classes)]
    return Table(tuple(columns), tuple(rows))


def _notes(matrix: Matrix, classes: LabelMap) -> list[str]:
    if not matrix.any():
        return ["not one pixel was scored: all labels are void"]
    absent = [name for name, value in zip(classes, class_iou(matrix), strict=True) if np.isnan(value)]
    if not absent:
        return []
    present = mean_iou(matrix, "skip")
    return [
        f"counted as 0, as they occur nowhere: {', '.join(absent)}; over the other classes mIoU {100 * present:.1f}"
    ]


def _parts(cost: SegmenterCost) -> dict[str, dict[str, int]]:
    parts = {"image_network": cost.keyframe_parameters, "propagation": cost.step_parameters}
    return {name: {"parameters": count, "bytes": count * cost.bytes_each} for name, count in parts.items() if count}
