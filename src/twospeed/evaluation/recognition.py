"""Action recognition: videos x test views x top-k -> Report, from a network or from a file of scores.

A video's score is the mean of its views' probabilities (10 clips x 3 crops in the papers). Videos that cannot be read
are counted and named; nothing takes their place.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Subset

from twospeed.data.benchmarks.video_lists import LabelledVideo, find_videos, read_class_names
from twospeed.data.clips.actions import ClipShape, CountBroken, TestViews
from twospeed.data.samples import BrokenSample, ClipBatch, collate_clips
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.report import Report
from twospeed.evaluation.score_files import (
    PROTOCOL,
    coverage,
    fractions,
    report_scores,
    scores_table,
    write_scores,
)
from twospeed.metrics.topk import topk
from twospeed.models.optimise import optimise
from twospeed.models.slowfast.network import SlowFast
from twospeed.pipelines.classify import position_average
from twospeed.training.distributed import Process, gather, processes, shard
from twospeed.weights.catalog import find
from twospeed.weights.load import create_model, weights_sha256

Average = Literal["probabilities", "logits"]
OnViews = Callable[[int, int], None]
Scores = NDArray[np.float32]


@dataclass(slots=True)
class ViewScores:
    """What a network says of videos: rows of probabilities by video, and the views one by one.

    sums: float64 (C,) summed over a video's views, by index of the video; views: how many they are. ranks: for each
    (video, clip, crop) how many classes beat the right one (0: a top-1 hit). broken: index -> reason. frames: images
    that the network saw.
    """

    clips: int
    crops: int
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    views: dict[int, int] = field(default_factory=dict)
    ranks: dict[tuple[int, int, int], int] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    frames: int = 0

    def videos(self) -> list[int]:
        """Return the videos of which every view was scored, in order."""
        return sorted(v for v, n in self.views.items() if n == self.clips * self.crops and v not in self.broken)

    def mean(self, video: int) -> NDArray[np.float64]:
        """Return a video's probabilities (C,), the mean of its views."""
        return self.sums[video] / self.views[video]

    def probabilities(self) -> Scores:
        """Return float32 (n, C), one row for each of `videos()`."""
        rows = [self.mean(video) for video in self.videos()]
        return np.stack(rows).astype(np.float32) if rows else np.zeros((0, 0), np.float32)

    def update(self, other: ViewScores) -> None:
        """Take in what another process scored; no view may be in both."""
        self.ranks |= other.ranks
        self.broken |= other.broken
        self.frames += other.frames
        for video, row in other.sums.items():
            self.add(video, row, other.views[video])

    def add(self, video: int, row: NDArray[np.float64], views: int) -> None:
        """Add the sum of so many views of a video."""
        self.sums[video] = self.sums[video] + row if video in self.sums else row
        self.views[video] = self.views.get(video, 0) + views


@torch.inference_mode()
def score_views(
    network: nn.Module,
    views: TestViews,
    process: Process,
    *,
    clips_per_forward: int = 1,
    workers: int = 0,
    average: Average = "probabilities",
    on_views: OnViews | None = None,
) -> ViewScores:
    """Run a network over all test views; every process takes its share and all get the whole result.

    network: in eval mode, on process.device. clips_per_forward: test clips (each with its crops) in one forward.
    on_views: called with (clips done, clips in all), of this process's share.
    """
    mine = Subset(CountBroken(views), shard(len(views), process))
    loader: DataLoader[Any] = DataLoader(
        mine,
        batch_size=clips_per_forward,
        num_workers=workers,
        collate_fn=collate_clips,
        generator=torch.Generator(),
        pin_memory=process.device.type == "cuda",
    )
    scores = ViewScores(views.clips, views.crops)
    batch: ClipBatch
    for number, batch in enumerate(loader, 1):
        if on_views is not None:
            on_views(min(number * clips_per_forward, len(mine)), len(mine))
        _note_broken(scores, batch.broken)
        if batch.views is None:
            continue
        clips = batch.views.flatten(0, 1).to(process.device, non_blocking=True)  # (N S, 3, T, H, W)
        rows = position_average(network(clips), average).double().cpu().numpy()
        rows = rows.reshape(len(batch), views.crops, -1)  # (N, S, C)
        scores.frames += clips.shape[0] * clips.shape[2]
        _add(scores, rows, batch)
    whole = ViewScores(views.clips, views.crops)
    for part in gather(scores):
        whole.update(part)
    return whole


def _note_broken(scores: ViewScores, broken: Sequence[BrokenSample]) -> None:
    for sample in broken:
        scores.broken.setdefault(sample.video, sample.reason)


def _add(scores: ViewScores, rows: NDArray[np.float64], batch: ClipBatch) -> None:
    for views, label, video, clip in zip(
        rows, batch.labels.tolist(), batch.videos.tolist(), batch.clips.tolist(), strict=True
    ):
        if label >= views.shape[-1]:
            raise DatasetError(f"video {video} has label {label}, the network knows {views.shape[-1]} classes")
        scores.add(video, views.sum(axis=0), len(views))
        for crop, row in enumerate(views):
            before = int((row > row[label]).sum() + (row[:label] == row[label]).sum())
            scores.ranks[video, clip, crop] = before


def summarise(scores: ViewScores, videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """Return top1, top5 and average_error of the ensembled views, and of the views one by one."""
    scored = scores.videos()
    if not scored:
        first = next(iter(scores.broken.items()), None)
        why = f"; the first: {first[1]}" if first else ""
        raise DatasetError(f"not one of {len(videos)} videos could be scored{why}")
    result = topk(scores.probabilities(), np.array([videos[v].label for v in scored]))
    whole = {**fractions(result), **coverage(len(scored), len(videos), result)}
    if not scores.ranks:  # an average of networks
        return whole
    ranks = np.array(
        [
            [[scores.ranks[v, clip, crop] for crop in range(scores.crops)] for clip in range(scores.clips)]
            for v in scored
        ]
    )  # (n, clips, crops)
    one, five = (ranks < 1), (ranks < 5)
    single = {
        "top1": float(one.mean()),
        "top5": float(five.mean()),
        "average_error": float(1 - (one.mean() + five.mean()) / 2),
        "top1_by_clip": one.mean(axis=(0, 2)).tolist(),
        "top1_by_crop": one.mean(axis=(0, 1)).tolist(),
    }
    return {**whole, "per_view": single}


def report_views(
    scores: ViewScores,
    videos: Sequence[LabelledVideo],
    *,
    model: str,
    settings: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> Report:
    """Put what `score_views` found into a Report; raises DatasetError when no video could be scored."""
    summary = summarise(scores, videos)
    views = f"{scores.clips} x {scores.crops} views"
    rows = {f"mean of {views}": summary}
    if "per_view" in summary:
        rows["one view (mean)"] = summary["per_view"]
    speed: dict[str, Any] = {}
    if seconds:
        speed = {
            "frames": scores.frames,
            "seconds": seconds,
            "frames_per_second": scores.frames / seconds,
            "clock": "decoding, network and averaging; not loading of the network",
        }
    return Report(
        benchmark="kinetics",
        scores=summary,
        table=scores_table(rows),
        protocol=f"{PROTOCOL}; {views}",
        coverage=f"{summary['videos']} of {len(videos)} videos",
        model=model,
        notes=_broken_notes({str(videos[v].path): reason for v, reason in sorted(scores.broken.items())}, videos),
        settings=dict(settings or {}),
        speed=speed,
    )


def _broken_notes(reasons: Mapping[str, str], videos: Sequence[LabelledVideo], most: int = 5) -> tuple[str, ...]:
    if not reasons:
        return ()
    head = f"{len(reasons)} of {len(videos)} videos were not scored and do not count in top1, top5, average_error"
    more = [f"and {len(reasons) - most} more"] if len(reasons) > most else []
    return (head, *list(reasons.values())[:most], *more)


def evaluate_kinetics(
    data: Path | str,
    *,
    model: str | Sequence[str] = (),
    weights: str | Sequence[str | None] | None = "default",
    predictions: Sequence[Path | str] = (),
    part: str = "val",
    root: Path | str | None = None,
    separator: str | None = None,
    class_names: Path | str | None = None,
    clips: int = 10,
    crops: int = 3,
    workers: int = 0,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    scores_out: Path | str | None = None,
    on_views: OnViews | None = None,
) -> Report:
    """Score networks, or files of scores, on labelled videos.

    data, part, root, separator: as `data.benchmarks.video_lists.find_videos` takes them. class_names: a file that
    names the classes in order, for lists that name classes. model, weights: as `create_model` takes them; the
    probabilities of several models are averaged. predictions: files of scores (see `read_scores`) instead of a model;
    several are averaged. workers: decoding processes. scores_out: write the scores there (.npz), for later scoring.
    on_views: see `score_views`.
    Raises InputError, DatasetError, CheckpointError, WeightsUnavailable.
    """
    labels = None if class_names is None else read_class_names(class_names)
    videos, _ = find_videos(data, part=part, root=root, separator=separator, labels=labels)
    models = [model] if isinstance(model, str) else list(model)
    if bool(predictions) == bool(models):
        raise InputError("give either a model or files of predictions to score")
    if not models:
        return report_scores([Path(path) for path in predictions], videos)
    sources = [weights] * len(models) if isinstance(weights, str) or weights is None else list(weights)
    if len(sources) == 1:
        sources = sources * len(models)
    if len(sources) != len(models):
        raise InputError(f"{len(models)} models with {len(sources)} weights; give one for each, in the same order")

    settings: dict[str, Any] = {"clips": clips, "crops": crops, "precision": precision}
    started = time.perf_counter()
    results = []
    with processes(device) as process:
        for name, source in zip(models, sources, strict=True):
            network, views = _prepared(name, source, videos, clips, crops, process, precision)
            average = network.average
            scored = score_views(network, views, process, workers=workers, average=average, on_views=on_views)
            results.append(scored)
            settings[name] = {"short_side": views.short_side, "crop": views.crop, "frames": views.shape.frames}
        is_main = process.is_main
    seconds = time.perf_counter() - started
    whole = results[0] if len(results) == 1 else mean_of(results)
    if scores_out is not None and is_main:
        chosen = whole.videos()
        labels_of, paths = [videos[v].label for v in chosen], [videos[v].path for v in chosen]
        write_scores(Path(scores_out), whole.probabilities(), labels_of, paths)
    report = report_views(whole, videos, model=" + ".join(models), settings=settings, seconds=seconds)
    checksums = tuple(weights_sha256(name, source) for name, source in zip(models, sources, strict=True))
    report = dataclasses.replace(report, weights_sha256=checksums)
    if len(models) == 1:
        return report
    alone = {name: summarise(scores, videos) for name, scores in zip(models, results, strict=True)}
    return dataclasses.replace(
        report,
        scores={**report.scores, "models": alone},
        table=scores_table({**alone, "mean of all": report.scores}),
    )


def mean_of(results: Sequence[ViewScores]) -> ViewScores:
    """Average the probabilities of several networks, over the videos that all of them scored.

    What single views say of an ensemble is not kept: each network has its own.
    """
    first = results[0]
    common = set(first.videos()).intersection(*(scores.videos() for scores in results[1:]))
    if len({scores.sums[video].size for scores in results for video in common}) > 1:
        raise InputError("the networks know different numbers of classes; they cannot be averaged")
    whole = ViewScores(1, 1, frames=sum(scores.frames for scores in results))
    for video in sorted(common):
        whole.add(video, np.mean([scores.mean(video) for scores in results], axis=0), 1)
    for scores in results:
        whole.broken |= scores.broken
    return whole


def _prepared(
    name: str,
    weights: str | None,
    videos: Sequence[LabelledVideo],
    clips: int,
    crops: int,
    process: Process,
    precision: Literal["fp32", "bf16"],
) -> tuple[Any, TestViews]:
    """Build a network as the pipeline does, and the views that its weights were tested with."""
    entry = find(name)
    if entry.task != "classify":
        raise InputError(f"{name} is made for the task {entry.task}; `twospeed models` lists those that classify")
    network = create_model(name, weights)
    if isinstance(network, SlowFast):
        network = optimise(network, torch.bfloat16 if precision == "bf16" else torch.float32)
    ready: Any = network.to(process.device).eval()
    wrong = next((video for video in videos if video.label >= ready.num_classes), None)
    if wrong is not None:
        raise DatasetError(
            f"{wrong.path}: label {wrong.label}, but {name} with these weights knows {ready.num_classes} classes"
        )
    prepared = entry.preprocessing
    shape = ClipShape(
        frames=ready.frames,
        stride=ready.frame_stride,
        mean=prepared.mean,
        std=prepared.std,
        order=prepared.input_order,
    )
    short_side = prepared.short_side or 256
    views = TestViews(videos, shape, clips=clips, crops=crops, short_side=short_side, crop=prepared.crop or short_side)
    return ready, views
