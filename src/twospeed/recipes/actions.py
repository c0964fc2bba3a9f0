"""Train an action network on classes of your own, from a few clips of each, in minutes on a CPU.

    twospeed train actions FOLDER       a folder with a folder of clips for each class; five clips of each are a start
    twospeed classify clip.mp4 --weights runs/actions/weights.safetensors

Everything follows from the folder: the classes are its folders, the length of a view fits its clips. The start is
`slowfast_lite0`, which ships with twospeed, or the published weights of a SlowFast network (`--weights FILE`). The last
layer alone is trained, on what the network sees in several views of every clip: a few clips are too few to change a
whole network by. Accuracy is measured on clips that were left out (cross-validation), with its 95 % confidence
interval, beside what the most frequent class alone would score. Clips of one source video, where names say so, are
left out together. The network that is written has then been trained on all clips.

In the run folder: config.json, origin.json, clips.csv (seconds a clip), fold.csv, predictions.csv (every clip, by a
network that never saw it), cross_validation.json, confusion.png, unreadable.csv, checkpoints, weights.safetensors.
Raises DatasetError for a folder that is not laid out so, and for a class with fewer than two clips that can be read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.data.benchmarks.video_lists import LabelledVideo, read_classes
from twospeed.errors import DatasetError, InputError, VideoError
from twospeed.evaluation.folds import Folds, interval, leave_out, source_of
from twospeed.files import csv_text, write_json, write_text
from twospeed.metrics.confusion import Matrix, confusion_matrix
from twospeed.models.optimise import optimise
from twospeed.output.plots import plot_confusion
from twospeed.pipelines.action_views import UniformViews
from twospeed.pipelines.clip_networks import clip_shape
from twospeed.results import OnProgress
from twospeed.training.run import Run, RunSettings, start_run
from twospeed.video.reader import frame_times, probe
from twospeed.video.sampling import TRAINED_RATE, ClipShape
from twospeed.weights.catalog import find
from twospeed.weights.load import create_model, model_of, save_model

ARGUMENT = "data"  # the setting that `twospeed train actions FOLDER` gives without its name
DEFAULT_START = "slowfast_lite0"
STRIDES = (4, 2, 1)  # that a view of `slowfast_lite0` may have, by the length of the clips
VIEWS_IN_ALL, MOST_VIEWS = 400, 5  # of all clips together, and of one: each has three crops where it is not square


@dataclass(frozen=True, kw_only=True)
class ActionsConfig(RunSettings):
    """What a run is made of; written to config.json in its folder. None: follows from the folder."""

    data: Path | None = None  # a folder with a folder of clips for each class
    weights: Path | None = None  # weights to start from, of any SlowFast network; None: the default ones of `model`
    model: str | None = None  # None: the one that `weights` are of, slowfast_lite0 without any
    frame_stride: int | None = None  # of slowfast_lite0's views, in frames of a 30 fps video
    views: int | None = None  # places in each clip that are looked at
    folds: int = 5  # of the cross-validation; fewer where a class has fewer clips; 0: none
    weight_decay: float = 0.01  # of the last layer
    out: Path = Path("runs/actions")
    seed: int = 0  # of the folds
    checkpoint_minutes: float = 2.0
    log_every: int = 1  # clips
    device: str | None = None  # None: a GPU where there is one

    def __post_init__(self) -> None:
        for name, least in {"frame_stride": 1, "views": 1, "folds": 0}.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= 1000:
                raise InputError(f"{name} is {value}; give a number from {least} to 1000", option=name)
        if self.folds == 1:
            raise InputError("folds is 1; give at least 2, or 0 for no cross-validation", option="folds")


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """A clip that can be read: its length in seconds, and whether its image is wider than high or the other way."""

    video: LabelledVideo
    seconds: float
    oblong: bool


def train(config: ActionsConfig, *, resume: bool = False, on_progress: OnProgress | None = None) -> Path:
    """Train and return the run folder.

    Raises DatasetError as the module says, InputError when the folder holds a run already and `resume` is False.
    """
    if config.data is None:
        raise InputError("which folder? Give one with a folder of clips for each class", option="data")
    videos, names = read_classes(config.data)
    with start_run(config, config.device, resume=resume, on_progress=on_progress) as run:
        clips, unreadable = readable(videos, names)
        network, sampling = start(config, clips)
        network.to(run.process.device)
        saved = run.restore()
        seen: dict[str, Tensor] = saved.get("seen", {})  # by the clip's path
        unreadable.update(saved.get("unreadable", {}))
        ready: Any = optimise(network.eval(), torch.float32)
        run.note(
            f"{len(clips)} clips of {len(names)} classes; views of {sampling.span_s:.1f} s, "
            f"{sampling.frames} frames of {sampling.crop} pixels"
        )
        run.total_steps = len(clips)
        done = {*seen, *unreadable}
        todo = [clip for clip in clips if str(clip.video.path) not in done]
        began = time.perf_counter()
        for number, clip in enumerate(todo, 1):
            step = len(clips) - len(todo) + number
            try:
                seen[str(clip.video.path)] = look(ready, clip, sampling, views_of(config, clip, len(clips), sampling))
            except VideoError as error:
                unreadable[str(clip.video.path)] = str(error)
            if step % config.log_every == 0:
                run.log("clips", step, seconds=round((time.perf_counter() - began) / number, 3))
            if run.due(step):
                run.save(step, seen=seen, unreadable=unreadable)
            if run.ended(step):
                return config.out
        run.save(len(clips), seen=seen, unreadable=unreadable)
        clips = [clip for clip in clips if str(clip.video.path) in seen]
        check_left(clips, names, unreadable)
        if unreadable:
            path = run.path / "unreadable.csv"
            write_text(path, csv_text([("clip", "reason"), *sorted(unreadable.items())]))
            run.note(f"{len(unreadable)} clips cannot be read and were left out; see {path}")

        features = [seen[str(clip.video.path)].float() for clip in clips]
        shown = Shown(clips, features, names, network.pathway_channels, config.weight_decay)
        if config.folds:
            groups = [source_of(clip.video.path) for clip in clips]
            validate(run, shown, leave_out(shown.labels, groups, config.folds, seed=config.seed))
        network.head.projection = shown.fit(range(len(clips)))
        network.num_classes, network.class_names = len(names), tuple(names)
        run.check_weights(network)
        source, path = {"recipe": "actions", "clips": str(len(clips))}, run.path / "weights.safetensors"
        save_model(network.cpu(), path, model_name=name_of(config), source=source, half_precision=True)
    return config.out


def readable(videos: Sequence[LabelledVideo], names: Sequence[str]) -> tuple[list[ClipFacts], dict[str, str]]:
    """Look at every clip's frame times; returns those that can be read, and why the others cannot."""
    clips: list[ClipFacts] = []
    unreadable: dict[str, str] = {}
    for video in videos:
        try:
            times_s, info = frame_times(video.path, rate=TRAINED_RATE), probe(video.path)
        except VideoError as error:
            unreadable[str(video.path)] = str(error)
            continue
        seconds = float(times_s[-1] - times_s[0]) + 1 / TRAINED_RATE
        longer, shorter = max(info.width, info.height), min(info.width, info.height)
        clips.append(ClipFacts(video, seconds, longer > 1.1 * shorter))
    check_left(clips, names, unreadable)
    return clips, unreadable


def check_left(clips: Sequence[ClipFacts], names: Sequence[str], unreadable: dict[str, str]) -> None:
    """Raise DatasetError for a class with fewer than two clips that can be read."""
    counts = np.bincount([clip.video.label for clip in clips], minlength=len(names))
    for name, count in zip(names, counts.tolist(), strict=True):
        if count < 2:
            why = next((f"; {text}" for path, text in unreadable.items() if Path(path).parent.name == name), "")
            raise DatasetError(
                f"class {name!r} has {count} clip{'' if count == 1 else 's'} that can be read; give at least 2, "
                f"five are a start{why}"
            )


def name_of(config: ActionsConfig) -> str:
    """Return the catalogue name of the network that is trained."""
    return config.model or (DEFAULT_START if config.weights is None else model_of(config.weights))


def start(config: ActionsConfig, clips: Sequence[ClipFacts]) -> tuple[Any, ClipShape]:
    """Build the network to start from, and say what it wants to see."""
    entry = find(name_of(config))
    name = entry.name
    if entry.task != "classify":
        raise InputError(f"{name} is a network of the task {entry.task!r}; give weights of one that classifies")
    options: dict[str, Any] = {}
    if name == DEFAULT_START:
        # The longest views that three quarters of the clips fill
        typical = float(np.quantile([clip.seconds for clip in clips], 0.25))
        frames = entry.preprocessing.frames or 16
        fits = next((stride for stride in STRIDES if frames * stride / TRAINED_RATE <= typical), 1)
        options["frame_stride"] = config.frame_stride or fits
    elif config.frame_stride is not None:
        raise InputError(f"frame_stride is one of {DEFAULT_START}; {name} has its own", option="frame_stride")
    network: Any = create_model(name, config.weights or "default", **options)
    return network, clip_shape(network, entry.preprocessing)


def views_of(config: ActionsConfig, clip: ClipFacts, clips: int, sampling: ClipShape) -> int:
    """Choose at how many places of a clip to look: they overlap by half at most."""
    most = config.views or max(1, min(MOST_VIEWS, VIEWS_IN_ALL // clips))
    return min(most, max(1, math.ceil(2 * (clip.seconds / sampling.span_s - 1))))


@torch.inference_mode()
def look(network: Any, clip: ClipFacts, sampling: ClipShape, views: int) -> Tensor:
    """Return what the head sees in the views of a clip: float16 (S, C), one row for each crop and position."""
    rows = []
    device = next(network.head.parameters()).device
    for view in UniformViews(clip.video.path, [sampling], views, 3 if clip.oblong else 1, pad="repeat_last"):
        features = network.features(view.clip.to(device))
        rows.append(network.head.pooled([each.float() for each in features]).flatten(0, 1))
    return torch.cat(rows).half().cpu()


def fit(
    features: Sequence[Tensor], labels: Sequence[int], classes: int, parts: Sequence[int], weight_decay: float
) -> nn.Linear:
    """Fit the last layer on the rows of clips: multinomial logistic regression, every clip as heavy as another.

    parts: channels of each pathway. All pathways have the same total variance, so that 64 channels of motion count
    beside 320 of appearance. weight_decay: times half the squared weights, for features of variance 1 on average.
    """
    rows = torch.cat(list(features))
    counts = torch.tensor([len(each) for each in features])
    targets = torch.tensor(labels).repeat_interleave(counts)
    heavy = (1.0 / (counts * len(features))).repeat_interleave(counts)
    mean = (heavy[:, None] * rows).sum(0)
    deviation = (heavy[:, None] * (rows - mean).square()).sum(0).sqrt().clamp_min(1e-3)
    shares = [torch.full((channels,), math.sqrt(len(parts) * channels / rows.shape[1])) for channels in parts]
    deviation = deviation * torch.cat(shares)
    rows = (rows - mean) / deviation
    weight = torch.zeros(classes, rows.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(rows @ weight.mT + bias, targets, reduction="none")
        loss = (heavy * losses).sum() + 0.5 * weight_decay * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(objective)
    layer = nn.Linear(rows.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(weight / deviation)
        layer.bias.copy_(bias - (weight / deviation) @ mean)
    return layer


@dataclass(frozen=True)
class Shown:
    """What the head is shown of all clips. features: of each, float32 (S, C), as `look` gives them.

    parts: channels of each pathway. weight_decay: as `fit` takes it.
    """

    clips: Sequence[ClipFacts]
    features: Sequence[Tensor]
    names: Sequence[str]
    parts: Sequence[int]
    weight_decay: float

    @property
    def labels(self) -> list[int]:
        """The class of each clip."""
        return [clip.video.label for clip in self.clips]

    def fit(self, places: Sequence[int]) -> nn.Linear:
        """Fit the last layer on some of the clips."""
        features, labels = [self.features[p] for p in places], [self.clips[p].video.label for p in places]
        return fit(features, labels, len(self.names), self.parts, self.weight_decay)


def validate(run: Run, shown: Shown, folds: Folds) -> None:
    """Classify every clip by a layer that was fitted without it; write and report how well that went."""
    clips, names, labels = shown.clips, shown.names, shown.labels
    run.total_steps = folds.count
    found: NDArray[np.float64] = np.zeros((len(clips), len(names)))
    for number in range(folds.count):
        own = [place for place in range(len(clips)) if folds.of[place] != number]
        layer = shown.fit(own)
        left = [place for place in range(len(clips)) if folds.of[place] == number]
        for place in left:
            with torch.no_grad():
                found[place] = layer(shown.features[place]).softmax(-1).mean(0).double().numpy()
        right = float(np.mean([found[place].argmax() == labels[place] for place in left]))
        run.log("fold", number + 1, accuracy=right, clips=len(left), trained_on=len(own))
    predicted = found.argmax(1)
    hits = int((predicted == np.array(labels)).sum())
    low, high = interval(hits, len(clips))
    counts = np.bincount(labels, minlength=len(names))
    usual = float(counts.max() / len(clips))
    matrix = confusion_matrix(np.array(labels), predicted, len(names))
    recall = {name: round(float(matrix[c, c] / counts[c]), 4) for c, name in enumerate(names)}
    report = {
        "accuracy": hits / len(clips), "interval_95": [low, high], "most_frequent_class": usual, "clips": len(clips),
        "folds": folds.count, "sources_left_out_together": folds.by_source, "recall": recall,
    }  # fmt: skip
    write_json(run.path / "cross_validation.json", report)
    write_predictions(run.path / "predictions.csv", clips, names, found, folds)
    plot_confusion(run.path / "confusion.png", matrix, names, title=f"{hits} of {len(clips)} clips right")
    for line in summary(hits, len(clips), (low, high), usual, folds, matrix, names):
        run.note(line)


def summary(
    hits: int, clips: int, between: tuple[float, float], usual: float, folds: Folds, matrix: Matrix,
    names: Sequence[str],
) -> list[str]:  # fmt: skip
    """Describe what the cross-validation found, and how reliable it is."""
    low, high = between
    lines = [
        f"cross-validation, {folds.count} folds: {100 * hits / clips:.1f} % of {clips} clips right "
        f"(95 % confidence: {100 * low:.0f} to {100 * high:.0f} %); always the most frequent class: {100 * usual:.1f} %"
    ]
    if low <= usual:
        lines.append("too few clips to show that it has learned anything: the interval includes that; give more clips")
    elif high - low > 0.3:
        lines.append("the interval is wide as there are few clips; more of them make it narrower")
    if folds.shared:
        lines.append(
            "by their names, clips of one source video were in both parts, as a class has too few sources: expect less "
            "on other videos"
        )
    mistakes = matrix - np.diag(np.diag(matrix))
    if mistakes.any():
        c, p = np.unravel_index(int(mistakes.argmax()), mistakes.shape)
        lines.append(f"most often confused: {names[int(c)]!r} was taken for {names[int(p)]!r} {mistakes.max()} times")
    return lines


def write_predictions(
    path: Path, clips: Sequence[ClipFacts], names: Sequence[str], found: NDArray[np.float64], folds: Folds
) -> None:
    """Write a line for each clip: what it is, what it was taken for, how sure, and the fold that left it out."""
    rows = [("clip", "class", "predicted", "probability", "fold")]
    for clip, row, fold in zip(clips, found, folds.of, strict=True):
        best = int(row.argmax())
        rows.append((str(clip.video.path), names[clip.video.label], names[best], f"{row[best]:.4f}", str(fold + 1)))
    write_text(path, csv_text(rows))
