"""Action recognition: videos x test views x top-k -> Report, from a network or from a file of scores.

A video's score is the mean of its views' probabilities (10 clips x 3 crops in the papers). Videos that cannot be read
are counted and named; nothing takes their place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from twospeed.data.kinetics import ClipShape, CountBroken, TestViews
from twospeed.data.samples import BrokenSample, ClipBatch, collate_clips
from twospeed.data.video_lists import LabelledVideo, find_videos, read_class_names
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
from twospeed.training.distributed import Process, gather, shard

Average = Literal["probabilities", "logits"]
Scores = NDArray[np.float32]


@dataclass(slots=True)
class ViewScores:
    """What a network says of videos: rows of probabilities by video, and the views one by one.

    sums: float64 (C,) summed over a video's views, by index of the video. ranks: for each (video, clip, crop) how many
    classes beat the right one (0: a top-1 hit). broken: index -> reason. frames: pictures that the network saw.
    """

    clips: int
    crops: int
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    ranks: dict[tuple[int, int, int], int] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    frames: int = 0

    def videos(self) -> list[int]:
        """Return the videos of which every view was scored, in order."""
        seen: dict[int, int] = {}
        for video, _, _ in self.ranks:
            seen[video] = seen.get(video, 0) + 1
        return sorted(v for v, views in seen.items() if views == self.clips * self.crops and v not in self.broken)

    def probabilities(self) -> Scores:
        """Return float32 (n, C), one row for each of `videos()`."""
        rows = [self.sums[video] / (self.clips * self.crops) for video in self.videos()]
        return np.stack(rows).astype(np.float32) if rows else np.zeros((0, 0), np.float32)

    def update(self, other: ViewScores) -> None:
        """Take in what another process scored; no view may be in both."""
        self.ranks |= other.ranks
        self.broken |= other.broken
        self.frames += other.frames
        for video, row in other.sums.items():
            self.sums[video] = self.sums[video] + row if video in self.sums else row


def view_probabilities(logits: Tensor, average: Average = "probabilities") -> Tensor:
    """Turn logits (N, P, C) of P pooled positions into one probability row for each view: (N, C).

    average: "probabilities" takes the softmax at each position, then the mean (PySlowFast); "logits" the mean of
    logits, then softmax (PyTorchVideo).
    """
    if average == "logits":
        return logits.float().mean(dim=1).softmax(dim=-1)
    return logits.float().softmax(dim=-1).mean(dim=1)


@torch.inference_mode()
def score_views(
    network: nn.Module,
    views: TestViews,
    process: Process,
    *,
    clips_per_forward: int = 1,
    workers: int = 0,
    average: Average = "probabilities",
    precision: torch.dtype = torch.float32,
) -> ViewScores:
    """Run a network over all test views; every process takes its share and all get the whole result.

    network: in eval mode, on process.device. clips_per_forward: test clips (each with its crops) in one forward.
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
    for batch in loader:
        _note_broken(scores, batch.broken)
        if batch.views is None:
            continue
        clips = batch.views.flatten(0, 1).to(process.device, non_blocking=True)  # (N S, 3, T, H, W)
        with torch.autocast(process.device.type, precision, enabled=precision != torch.float32):
            logits = network(clips)
        rows = view_probabilities(logits, average).double().cpu().numpy()
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
        scores.sums[video] = scores.sums.get(video, np.zeros(views.shape[-1])) + views.sum(axis=0)
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
    return {**fractions(result), "per_view": single, **coverage(len(scored), len(videos), result)}


def report_views(
    scores: ViewScores,
    videos: Sequence[LabelledVideo],
    *,
    model: str,
    weights_sha256: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> Report:
    """Put what `score_views` found into a Report; raises DatasetError when no video could be scored."""
    summary = summarise(scores, videos)
    single = summary["per_view"]
    views = f"{scores.clips} x {scores.crops} views"
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
        table=scores_table({f"mean of {views}": summary, "one view (mean)": single}),
        protocol=f"{PROTOCOL}; {views}",
        coverage=f"{summary['videos']} of {len(videos)} videos",
        model=model,
        weights_sha256=() if weights_sha256 is None else (weights_sha256,),
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
    model: str | None = None,
    weights: str | None = None,
    predictions: Sequence[Path | str] = (),
    root: Path | str | None = None,
    separator: str | None = None,
    class_names: Path | str | None = None,
    clips: int = 10,
    crops: int = 3,
    short_side: int | None = None,
    crop: int | None = None,
    clips_per_forward: int = 1,
    workers: int = 0,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    scores_out: Path | str | None = None,
) -> Report:
    """Score a network, or files of scores, on labelled videos.

    data: as `twospeed.data.video_lists.find_videos` takes it. model, weights: as `create_model` takes them.
    predictions: files of scores (see `read_scores`) instead of a model; several are averaged. root, separator,
    class_names: how the list is read. short_side, crop: None takes what the weights were tested with. scores_out: write
    the scores there (.npz), for later scoring. Raises InputError, DatasetError, CheckpointError.
    """
    labels = None if class_names is None else read_class_names(class_names)
    videos, _ = find_videos(data, root=root, separator=separator, labels=labels)
    if bool(predictions) == (model is not None):
        raise InputError("give either a model or files of predictions to score")
    if model is None:
        return report_scores([Path(path) for path in predictions], videos)

    from twospeed.training.distributed import processes
    from twospeed.weights.catalog import find
    from twospeed.weights.load import create_model, weights_sha256

    entry = find(model)
    if entry.task != "classify":
        raise InputError(f"{model} is made for {entry.task}, not for classifying videos")
    with processes(device) as process:
        network = create_model(model, weights, device=process.device)
        known = int(network.num_classes)  # type: ignore[arg-type]
        wrong = next((video for video in videos if video.label >= known), None)
        if wrong is not None:
            raise DatasetError(
                f"{wrong.path}: label {wrong.label}, but {model} with these weights knows {known} classes"
            )
        prepared = entry.preprocessing
        shape = ClipShape(
            frames=prepared.frames or int(network.frames),  # type: ignore[arg-type]
            stride=prepared.stride or int(network.frame_stride),  # type: ignore[arg-type]
            mean=prepared.mean,
            std=prepared.std,
            order=prepared.input_order,
        )
        views = TestViews(
            videos,
            shape,
            clips=clips,
            crops=crops,
            short_side=short_side or prepared.short_side or 256,
            crop=crop or prepared.crop or 256,
        )
        started = time.perf_counter()
        scores = score_views(
            network.eval(),
            views,
            process,
            clips_per_forward=clips_per_forward,
            workers=workers,
            average=getattr(network, "average", prepared.average),
            precision=torch.bfloat16 if precision == "bf16" else torch.float32,
        )
        seconds = time.perf_counter() - started
        if scores_out is not None and process.is_main:
            chosen = scores.videos()
            write_scores(
                Path(scores_out),
                scores.probabilities(),
                [videos[v].label for v in chosen],
                [videos[v].path for v in chosen],
            )
        return report_views(
            scores,
            videos,
            model=model,
            weights_sha256=weights_sha256(model, weights),
            settings={
                "clips": clips,
                "crops": crops,
                "short_side": views.short_side,
                "crop": views.crop,
                "frames": shape.frames,
                "stride": shape.stride,
                "precision": precision,
            },
            seconds=seconds,
        )
