"""Action recognition: videos x test views x top-k -> Report, from a network or from files of scores.

A video's score is the mean of its views' probabilities (10 clips x 3 crops in the papers), as the `Classifier` that
users run computes them. Videos that cannot be read are counted and named; nothing takes their place.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.video_lists import LabelledVideo, find_videos, read_class_names
from twospeed.errors import DatasetError, InputError, TwospeedError, VideoError
from twospeed.evaluation.report import Report, Table
from twospeed.evaluation.runner import SETTINGS_FILE, Clock, Model, Networks, Run, check_source, listed
from twospeed.evaluation.score_files import Scores, read_scores, write_scores
from twospeed.files import atomic_file, make_folder, parse_json, read_arrays
from twospeed.metrics.topk import TopK, topk
from twospeed.results import OnProgress

if TYPE_CHECKING:
    from twospeed.pipelines.classify import Classifier
    from twospeed.pipelines.inputs import Precision
    from twospeed.training.distributed import Process

PROTOCOL = (
    "top-1 and top-5 accuracy over videos; a video's score is the mean of its views' probabilities; "
    "average_error is the mean of top-1 and top-5 error"
)
CLOCK = "decoding, network and averaging; not loading of the network"
VIDEOS_A_PART = 50  # an interrupted run loses less than this


@dataclass(slots=True)
class VideoScores:
    """Scores of videos, by index of the video.

    probabilities: float32 (C,), the mean of a video's views. ranks: int64 (V, S), of V clips with S crops, how many
    classes beat the right one (0: a top-1 hit). broken: why a video could not be read.
    """

    probabilities: dict[int, Scores] = field(default_factory=dict)
    ranks: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)

    def update(self, other: VideoScores) -> None:
        """Take in other videos."""
        self.probabilities |= other.probabilities
        self.ranks |= other.ranks
        self.broken |= other.broken

    def videos(self) -> list[int]:
        """Return the indices of the videos that were scored, in order."""
        return sorted(self.probabilities)

    def stacked(self) -> Scores:
        """Return float32 (n, C), one row for each of `videos()`."""
        return np.stack([self.probabilities[video] for video in self.videos()])


def score_videos(
    classifier: Classifier,
    videos: Sequence[LabelledVideo],
    *,
    process: Process | None = None,
    parts: Path | None = None,
    clock: Clock | None = None,
    on_video: Callable[[int], None] = lambda done: None,
) -> VideoScores:
    """Classify videos; every process takes its share and all get the whole result.

    parts: folder where finished parts are kept; what is there already is not computed again. clock: counts on.
    on_video: called with the number of videos that this process has done. Raises DatasetError for a label that the
    classifier does not know.
    """
    from twospeed.training.distributed import gather

    known = len(classifier.labels)
    if wrong := next((video for video in videos if video.label >= known), None):
        raise DatasetError(f"{wrong.path}: label {wrong.label}, but the network has {known} classes")
    rank, world = (process.rank, process.world) if process is not None else (0, 1)
    mine, done = VideoScores(), 0
    size = math.ceil(len(videos) / world) if parts is None else VIDEOS_A_PART
    for begin in range(rank * size, len(videos), world * size):
        numbers = range(begin, min(begin + size, len(videos)))
        file = None if parts is None else parts / f"{begin:07d}.npz"
        if file is not None and file.is_file():
            mine.update(_read_part(file))
        else:
            part = VideoScores()
            for _ in _score(classifier, videos, numbers, part, clock):
                done += 1
                on_video(done)
            mine.update(part)
            if file is not None:
                _write_part(file, part)
        done = len(mine.probabilities) + len(mine.broken)
        on_video(done)
    whole = VideoScores()
    for share in gather(mine):
        whole.update(share)
    return whole


def _score(
    classifier: Classifier, videos: Sequence[LabelledVideo], numbers: range, scores: VideoScores, clock: Clock | None
) -> Iterator[int]:
    results = iter(classifier.view_probabilities([videos[number].path for number in numbers]))
    clock = clock or Clock()
    for number in numbers:
        seen = classifier.frames_seen
        with clock.running("video", 0):
            _, views = next(results)
        clock.frames += classifier.frames_seen - seen
        if isinstance(views, VideoError):
            scores.broken[number] = str(views)
        elif isinstance(views, TwospeedError):
            raise views
        else:
            scores.probabilities[number] = views.astype(np.float64).mean(axis=(0, 1)).astype(np.float32)
            label = videos[number].label
            own = views[..., label : label + 1]
            scores.ranks[number] = (views > own).sum(-1) + (views[..., :label] == own).sum(-1)
        yield number


def _write_part(path: Path, part: VideoScores) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        arrays = {
            **{f"p{number}": row for number, row in part.probabilities.items()},
            **{f"r{number}": row for number, row in part.ranks.items()},
        }
        np.savez(file, broken=json.dumps(part.broken), **arrays)  # type: ignore[arg-type]


def _read_part(path: Path) -> VideoScores:
    content = read_arrays(path)
    arrays: dict[str, dict[int, Any]] = {"p": {}, "r": {}}
    try:
        for name in content.keys() - {"broken"}:
            arrays[name[0]][int(name[1:])] = content[name]
        broken = {int(number): reason for number, reason in parse_json(str(content["broken"]), path).items()}
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not a part of this run ({error}); remove it and resume once more") from error
    return VideoScores(arrays["p"], arrays["r"], broken)


def mean_of(results: Sequence[VideoScores]) -> VideoScores:
    """Average the probabilities of several networks or files, over the videos that all of them scored.

    Ranks of single views are not kept: each network has its own.
    """
    common = set(results[0].videos()).intersection(*(scores.videos() for scores in results[1:]))
    if len({scores.probabilities[video].size for scores in results for video in common}) > 1:
        raise InputError("scores for different numbers of classes cannot be averaged")
    whole = VideoScores({v: np.mean([scores.probabilities[v] for scores in results], axis=0) for v in sorted(common)})
    for scores in results:
        whole.broken |= scores.broken
    return whole


def summarise(scores: VideoScores, videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """Return top1, top5 and average_error of the averaged views, and of the views one by one."""
    scored = scores.videos()
    whole = _graded(scores.stacked(), [videos[v].label for v in scored], len(videos))
    if not scores.ranks:  # an average of networks
        return whole
    ranks = np.stack([scores.ranks[v] for v in scored])  # (n, clips, crops)
    one, five = (ranks < 1), (ranks < 5)
    single = {
        "top1": float(one.mean()),
        "top5": float(five.mean()),
        "average_error": float(1 - (one.mean() + five.mean()) / 2),
        "top1_by_clip": one.mean(axis=(0, 2)).tolist(),
        "top1_by_crop": one.mean(axis=(0, 1)).tolist(),
    }
    return {**whole, "per_view": single}


def _fractions(result: TopK) -> dict[str, Any]:
    """Return the three scores under the names that others read."""
    return {"top1": result.top1, "top5": result.top5, "average_error": result.average_error}


def _graded(scores: Scores, labels: Sequence[int], listed: int) -> dict[str, Any]:
    """Return the three scores, how many videos were scored, and the scores when the missing ones count as wrong."""
    result = topk(scores, np.array(labels))
    share = len(labels) / listed
    top1, top5 = result.top1 * share, result.top5 * share
    return {
        **_fractions(result),
        "videos": len(labels),
        "videos_listed": listed,
        "missing_as_errors": {"top1": top1, "top5": top5, "average_error": 1 - (top1 + top5) / 2},
    }


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table that people read: a row of the three scores for each name."""
    columns = ("top1", "top5", "average_error")
    return Table(
        ("top-1", "top-5", "avg. error"),
        tuple((name, tuple(values[column] for column in columns)) for name, values in rows.items()),
    )


def report_videos(
    scores: VideoScores, videos: Sequence[LabelledVideo], *, model: str, views: str, clock: Clock | None = None
) -> Report:
    """Return the report of what `score_videos` found; raises DatasetError when no video could be scored."""
    if not scores.probabilities:
        why = f"; the first: {next(iter(scores.broken.values()))}" if scores.broken else ""
        raise DatasetError(f"not one of {len(videos)} videos could be scored{why}")
    reasons = [scores.broken[v] for v in sorted(scores.broken)]
    notes: tuple[str, ...] = tuple(reasons[:5])
    if reasons:
        what = f"{len(reasons)} of {len(videos)} videos were not scored and do not count in top1, top5, average_error"
        notes = (what, *notes, *([f"and {len(reasons) - 5} more"] if len(reasons) > 5 else []))
    common: dict[str, Any] = {
        "benchmark": "kinetics",
        "coverage": f"{len(scores.probabilities)} of {len(videos)} videos",
        "model": model,
        "speed": {} if clock is None else clock.speed(CLOCK),
    }
    if not all(video.labelled for video in videos):
        notes = ("the list has no labels: scores were written, nothing is graded", *notes)
        protocol = f"scores of videos without labels; {views}"
        return Report(scores={}, table=Table((), ()), protocol=protocol, notes=notes, **common)
    summary = summarise(scores, videos)
    rows = {f"mean of {views}": summary}
    if "per_view" in summary:
        rows["one view (mean)"] = summary["per_view"]
    return Report(scores=summary, table=_table(rows), protocol=f"{PROTOCOL}; {views}", notes=notes, **common)


def evaluate_kinetics(
    data: Path | str | Sequence[LabelledVideo],
    *,
    model: Model | Sequence[Model] | None = None,
    weights: Any = "default",
    predictions: Path | str | Sequence[Path | str] = (),
    part: str = "val",
    root: Path | str | None = None,
    separator: str | None = None,
    class_names: Path | str | None = None,
    clips: int = 10,
    crops: int = 3,
    workers: int = 1,
    device: str | None = None,
    precision: Precision = "fp32",
    output: Path | str | None = None,
    resume: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Score networks, or files of scores, on labelled videos.

    data: as `twospeed.data.benchmarks.video_lists.find_videos` takes it with part, root and separator, or videos of
    your own. class_names: a file that names the classes in order, for lists that name classes. model, weights: as
    `create_model` takes them; the probabilities of several models are averaged. predictions: a file of scores (see
    `read_scores`) instead of a model; several are averaged. workers: threads that decode. output: folder for
    scores.npz, for later scoring, and with resume that of an interrupted run. A list without labels is not graded:
    its scores are written to `output`, and the report's scores are empty. Run under torchrun, processes share the
    videos, and all return the whole report. Raises InputError, DatasetError, CheckpointError, WeightsUnavailable,
    OutputError.
    """
    models = [] if model is None else listed(model)
    files = [predictions] if isinstance(predictions, str | Path) else list(predictions)
    check_source(files, models, output, resume)
    if isinstance(data, str | Path):
        names = None if class_names is None else read_class_names(class_names)
        videos, _ = find_videos(data, part=part, root=root, separator=separator, labels=names, unlabelled=True)
    else:
        videos = list(data)
    labelled = all(video.labelled for video in videos)
    if not models:
        if not labelled:
            raise DatasetError(f"{data}: its lines hold no labels; without them nothing can be graded")
        return _report_files([Path(path) for path in files], videos)
    if not labelled and output is None:
        raise InputError(
            f"{data}: its lines hold no labels, so scores can only be written: give a folder for them", option="output"
        )
    from twospeed.environment import resolve_device
    from twospeed.pipelines.classify import Classifier
    from twospeed.pipelines.inputs import used_precision
    from twospeed.training.distributed import processes

    networks = Networks(models, weights, task="classify", on_progress=on_progress)
    precision = used_precision(precision, resolve_device(device))
    options = {"clips": clips, "crops": crops, "precision": precision, "videos": len(videos)}
    run = Run("kinetics", networks, options, on_progress)
    views: dict[str, dict[str, int]] = {}
    results: list[VideoScores] = []
    with processes(device) as process, run.shared_folder(output, process, resume=resume) as folder:
        parts = None if output is None else folder / "parts"
        for number, (name, given) in enumerate(zip(networks.names, networks.given, strict=True)):
            classifier = Classifier(
                given, clips, crops, weights=networks.weights[number], workers=workers, precision=precision,
                device=str(process.device),
            )  # fmt: skip
            sampling = classifier.samplings[0]
            views[name] = {"short_side": sampling.short_side, "crop": sampling.crop, "frames": sampling.frames}
            kept = None if parts is None else make_folder(parts / str(number))
            on_video = partial(_report, run, name, len(videos), process.world)
            results.append(
                score_videos(classifier, videos, process=process, parts=kept, clock=run.clock, on_video=on_video)
            )
        whole = results[0] if len(results) == 1 else mean_of(results)
        if output is not None and process.is_main and not whole.probabilities:
            _discard(folder)  # there is nothing to resume
        if output is not None and process.is_main and whole.probabilities:
            chosen = whole.videos()
            labels_of = [videos[v].label if videos[v].labelled else -1 for v in chosen]
            write_scores(folder / "scores.npz", whole.stacked(), labels_of, [videos[v].path for v in chosen])
    report = report_videos(whole, videos, model=networks.title, views=f"{clips} x {crops} views")
    scores, table = report.scores, report.table
    if len(results) > 1 and scores:
        alone = {name: summarise(one, videos) for name, one in zip(networks.names, results, strict=True)}
        scores, table = {**scores, "models": alone}, _table({**alone, "mean of all": scores})
    return run.report(
        clock=CLOCK, scores=scores, table=table, protocol=report.protocol, coverage=report.coverage,
        notes=report.notes, settings={**options, **views},
    )  # fmt: skip


def _discard(folder: Path) -> None:
    """Remove what a run wrote of which not one video could be scored."""
    shutil.rmtree(folder / "parts", ignore_errors=True)
    (folder / SETTINGS_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _report(run: Run, name: str, videos: int, world: int, done: int) -> None:
    """Show how far this process is as if all were as far."""
    run.progress(f"classify by {name}", min(done * world, videos), videos, "videos")


def _report_files(paths: Sequence[Path], videos: Sequence[LabelledVideo]) -> Report:
    """Score files against labelled videos; several files are averaged over the videos that all of them have.

    Names are matched as whole paths, else as file names, else without ending. Listed videos without scores are
    counted as missing.
    """
    tables = [read_scores(path) for path in paths]
    names: dict[str, int] = {}
    aliases: tuple[Callable[[Path], str], ...] = (str, lambda path: path.name, lambda path: path.stem)
    for alias in aliases:  # the more exact first
        found: dict[str, list[int]] = {}
        for i, video in enumerate(videos):
            found.setdefault(alias(video.path), []).append(i)
        for name, indices in found.items():
            if len(indices) == 1:  # what two videos share names neither
                names.setdefault(name, indices[0])
    results: list[VideoScores] = []
    unknown: list[str] = []
    for path, table in zip(paths, tables, strict=True):
        own: dict[int, Scores] = {}
        for name, row in table.items():
            place = next((names[n] for n in (name, Path(name).name, Path(name).stem) if n in names), None)
            if place is None:
                unknown.append(name)
            elif place in own:
                raise DatasetError(f"{path}: {videos[place].path} has scores twice, under two names")
            else:
                own[place] = row
        results.append(VideoScores(own))
    whole = mean_of(results)
    if not whole.probabilities:
        raise DatasetError(
            f"{paths[0]}: no scored name is among the {len(videos)} listed videos "
            f"(scored {next(iter(tables[0]))!r}, listed {str(videos[0].path)!r})"
        )
    order, scores = whole.videos(), whole.stacked()
    labels = [videos[i].label for i in order]
    if max(labels) >= scores.shape[1]:
        raise DatasetError(f"{paths[0]}: has scores for {scores.shape[1]} classes, the list has label {max(labels)}")
    summary = _graded(scores, labels, len(videos))
    table_rows: dict[str, Mapping[str, Any]] = {}
    if len(paths) > 1:
        for path, one in zip(paths, results, strict=True):
            single = np.stack([one.probabilities[i] for i in order])
            table_rows[path.name] = _fractions(topk(single, np.array(labels)))
    table_rows["mean of all" if table_rows else paths[0].name] = summary
    notes = []
    if len(order) < len(videos):
        notes.append(f"{len(videos) - len(order)} listed videos have no scores; missing_as_errors counts them as wrong")
    if unknown:
        notes.append(f"{len(unknown)} scored names are not in the list, such as {unknown[0]!r}; they were ignored")
    covered, model = f"{len(order)} of {len(videos)} videos", ", ".join(path.name for path in paths)
    return Report(
        benchmark="kinetics", scores=summary, table=_table(table_rows), protocol=PROTOCOL, coverage=covered,
        model=model, notes=tuple(notes),
    )  # fmt: skip
