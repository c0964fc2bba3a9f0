"""Video object segmentation benchmarks: DAVIS 2016, DAVIS 2017 and YouTube-VOS.

Either a folder of masks is scored, or a model is run: then the masks that the ordinary `Tracker` gives are
written in the benchmark's own format first, and those files are scored, so that a published number is what
users get.

Sources of the protocols: STCN's supplement (Cheng 2021), sections B, C and E, for settings; the DAVIS and
YouTube-VOS papers for what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.data.benchmarks.davis import Davis, Task, Year
from twospeed.data.benchmarks.youtube_vos import TRAINING_CATEGORIES, YouTubeVos, required_frames
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.evaluation.mask_runs import BuildTracker, RunSettings, TrackerRun, run_sequences
from twospeed.evaluation.mask_scores import (
    ObjectScores,
    check_results,
    mean_summary,
    score_davis,
    score_youtube_vos,
)
from twospeed.evaluation.report import Report, Table
from twospeed.evaluation.runner import Model, check_source, coverage
from twospeed.results import OnProgress, Progress
from twospeed.video.indexed_png import write_indexed_png

if TYPE_CHECKING:
    from twospeed.evaluation.unsupervised import UnsupervisedRun, UnsupervisedSettings

DAVIS_SETTINGS = RunSettings()
"""480p frames at their own size, memory every 5th frame, 20 best matches, no temporary frame."""

DAVIS_TEST_SETTINGS = replace(DAVIS_SETTINGS, memory_every=3)
"""For the test sets of DAVIS-2017: memory every 3rd frame."""

YOUTUBE_VOS_SETTINGS = RunSettings(size=480)
"""Shorter side at 480, memory every 5th frame of 30 a second."""

DAVIS_COLUMNS = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


def davis_settings(split: str) -> RunSettings:
    """Return the published settings for one split of DAVIS."""
    return DAVIS_TEST_SETTINGS if split.startswith("test") else DAVIS_SETTINGS


def evaluate_davis(
    data: Path | str | Sequence[SequenceSample],
    year: Year = 2017,
    *,
    predictions: Path | str | None = None,
    model: Model | Sequence[Model] | None = None,
    weights: Any = "default",
    options: Mapping[str, Any] | None = None,
    split: str = "val",
    task: Task | None = None,
    all_frames: bool = False,
    sequences: Sequence[str] | None = None,
    settings: RunSettings | UnsupervisedSettings | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    build_tracker: BuildTracker | None = None,
    workers: int | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Score masks on DAVIS: those of `predictions`, or those of `model` (several: their probabilities averaged).

    data: the data set in its official layout, or samples of your own. predictions: a folder with
    `<sequence>/<frame>.png`, of 0/255, 0/1 or palette ids. weights: of each model, as `create_model` takes them.
    options: of the models' constructors, such as {"similarity": "dot"}. task: None is unsupervised for a model of that
    task, as long as it is not fine-tuned, else semi-supervised. all_frames: also score the first and the last frame of
    the semi-supervised task, as the SlowFast report does. settings: None for the split's published ones;
    `UnsupervisedSettings` for models of the unsupervised task. output: where a model's masks go, an empty or new
    folder, or with `resume` that of an interrupted run; None for a temporary one. build_tracker: what is run, if not
    `twospeed.Tracker`. workers: threads that score; None for two, or one where there is one core.

    The report's scores are {"global": ..., "sequences": {name: ...}} with the seven numbers of the official
    scorer, fractions. 2016: all objects of a file are one foreground, one entry a sequence. 2017: one entry
    an object, named `sequence_id` by its id in the annotation. The test sets have no public annotations: then
    masks are written to `output` and the scores are empty.

    Raises DatasetError, InputError, OutputError, each with what is wrong and where; errors of the weights and
    masks come from `create_model` and `Tracker`.
    """
    benchmark = f"davis{year % 100}"
    check_source(predictions, model, output, resume)
    unsupervised = None
    if model is not None and build_tracker is None:
        unsupervised = _unsupervised_settings(model, settings)
    task = task or ("unsupervised" if unsupervised and not unsupervised.finetune else "semi-supervised")
    given = _given(data, lambda root: Davis(root, year, split, task, sequences, images=predictions is None), sequences)
    run: TrackerRun | UnsupervisedRun | None = None
    if unsupervised is not None and model is not None:
        from twospeed.evaluation.unsupervised import UnsupervisedRun

        run = UnsupervisedRun(
            benchmark, model, weights, unsupervised, task=task, merged=year == 2016, device=device,
            on_progress=on_progress,
        )  # fmt: skip
    elif model is not None:
        assert isinstance(settings, RunSettings | None)
        settings = replace(settings or davis_settings(split), given_masks=task != "unsupervised")
        run = TrackerRun(
            benchmark, model, weights, settings, device=device, build_tracker=build_tracker, options=options,
            on_progress=on_progress,
        )  # fmt: skip
    public = all(frame in sample.annotations for sample in given.samples for frame in sample.frames)
    write = _write_grey if year == 2016 else write_indexed_png
    plan = None if run is None else run.davis_plan
    objects: list[ObjectScores] = []
    notes: list[str] = []
    where: dict[str, Any] = {"split": split, "public": public, "output": output, "resume": resume}
    with _masks(run, plan, given, predictions, write, **where) as folder:
        if public or predictions is not None:
            objects, notes = score_davis(
                given.samples, folder, task, all_frames=all_frames, workers=workers,
                on_sequence=_scoring(given.samples, on_progress),
            )  # fmt: skip

    entries = {o.sequence if year == 2016 else f"{o.sequence}_{o.label}": o.summary() for o in objects}
    overall = mean_summary(entries.values()) if entries else None
    scores: dict[str, Any] = {"global": overall, "sequences": entries} if overall else {}
    if matched := {name: o.proposal for name, o in zip(entries, objects, strict=True) if o.proposal is not None}:
        scores["matched_proposals"] = matched
    rows = {**entries, "mean": overall} if overall else {}
    return _report(
        run,
        predictions,
        benchmark=benchmark,
        scores=scores,
        table=Table(DAVIS_COLUMNS, tuple((name, tuple(row[c] for c in DAVIS_COLUMNS)) for name, row in rows.items())),
        protocol=_davis_protocol(year, task, all_frames),
        coverage=coverage(len(given.samples), given.official, "sequences", f"DAVIS-{year} {split}"),
        notes=(*notes, *_not_public(public, split, folder)),
    )


def _davis_protocol(year: Year, task: Task, all_frames: bool) -> str:
    if task == "semi-supervised":
        frames = "all frames scored (not the official protocol)" if all_frames else "first and last frame not scored"
        counted = f"first mask given, {frames}, void as background"
    else:
        counted = "no mask given, all frames scored, void left out, proposals matched to objects"
    objects = "all objects one foreground" if year == 2016 else "mean over objects"
    return f"DAVIS-{year} {task}: {counted}; {objects}"


def evaluate_youtube_vos(
    data: Path | str | Sequence[SequenceSample],
    *,
    predictions: Path | str | None = None,
    model: Model | Sequence[Model] | None = None,
    weights: Any = "default",
    options: Mapping[str, Any] | None = None,
    split: str = "valid",
    sequences: Sequence[str] | None = None,
    settings: RunSettings | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    device: str | None = None,
    build_tracker: BuildTracker | None = None,
    workers: int | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Report:
    """Score masks on YouTube-VOS: those of `predictions`, or those of `model`. Arguments as `evaluate_davis`.

    A model sees every frame (30 a second) where `all_frames` is there, is given each object's mask where it
    first appears, and only the frames that `meta.json` lists are written. Frames that are neither listed nor
    remembered are not computed, where that changes no mask.

    The report's scores are G, J_seen, F_seen, J_unseen, F_unseen, fractions, and `objects` by `video_id`.
    Seen: the class occurs in the training set. The annotations of the official validation set are not public:
    then masks are written to `output` for the server and the scores are empty.

    Differs: what the server counts is not published in full. Here an object counts in the frames that
    `meta.json` lists for it after the one where its mask is given, and objects of a group are averaged.
    """
    check_source(predictions, model, output, resume)
    given = _given(data, lambda root: YouTubeVos(root, split, sequences, images=predictions is None), sequences)
    public = all(frame in s.annotations for s in given.samples for frame in required_frames(s))
    run = None
    if model is not None:
        run = TrackerRun(
            "youtube-vos", model, weights, settings or YOUTUBE_VOS_SETTINGS, device=device,
            build_tracker=build_tracker, options=options, on_progress=on_progress,
        )  # fmt: skip
    plan = None if run is None else run.youtube_vos_plan
    notes: list[str] = []
    if run is not None and not given.every_frame:
        notes.append(f"{split}_all_frames not found: the model saw every fifth frame only")
    objects: list[ObjectScores] = []
    where: dict[str, Any] = {"split": split, "public": public, "output": output, "resume": resume}
    with _masks(run, plan, given, predictions, write_indexed_png, **where) as folder:
        if public or predictions is not None:
            objects, padded = score_youtube_vos(
                given.samples, folder, workers=workers, on_sequence=_scoring(given.samples, on_progress)
            )
            notes += padded

    categories = {s.name: s.objects for s in given.samples}
    groups: dict[str, list[ObjectScores]] = {"seen": [], "unseen": []}
    for o in objects:
        seen = categories[o.sequence][o.label].category in given.seen_categories
        groups["seen" if seen else "unseen"].append(o)
    scores: dict[str, Any] = {}
    if objects:
        means = {f"J_{group}": _mean([_mean(o.j) for o in members]) for group, members in groups.items()}
        means |= {f"F_{group}": _mean([_mean(o.f) for o in members]) for group, members in groups.items()}
        scores = {"G": _mean(list(means.values())), **{key: means[key] for key in sorted(means)}}
        scores["objects"] = {f"{o.sequence}_{o.label}": {"J-Mean": _mean(o.j), "F-Mean": _mean(o.f)} for o in objects}
        notes += [
            f"no object of an {group} class: G is the mean of the others" for group in groups if not groups[group]
        ]
    columns = ("G", "J_seen", "F_seen", "J_unseen", "F_unseen")
    return _report(
        run,
        predictions,
        benchmark="youtube-vos",
        scores=scores,
        table=Table(columns, (("mean", tuple(scores[c] for c in columns)),) if scores else ()),
        protocol="YouTube-VOS: masks given where objects first appear, scored in later frames that meta.json lists",
        coverage=coverage(len(given.samples), given.official, "videos", f"meta.json of {split}"),
        notes=(*notes, *_not_public(public, split, folder)),
    )


@dataclass(frozen=True)
class _Given:
    """The sequences to evaluate. official: how many their split has; None for samples of the user's own."""

    samples: Sequence[SequenceSample]
    official: int | None = None
    every_frame: bool = True
    seen_categories: frozenset[str] = TRAINING_CATEGORIES


def _given(
    data: Path | str | Sequence[SequenceSample],
    open_folder: Callable[[Path], Davis | YouTubeVos],
    sequences: Sequence[str] | None,
) -> _Given:
    """Open a data set's folder, or take samples as they are. Raises DatasetError, and InputError for no samples."""
    if isinstance(data, Path | str):
        opened = open_folder(Path(data))
        if isinstance(opened, Davis):
            return _Given(list(opened), opened.official)
        return _Given(list(opened), opened.official, opened.every_frame, opened.seen_categories)
    samples = [sample for sample in data if sequences is None or sample.name in sequences]
    if not samples or (sequences is not None and len(samples) < len(set(sequences))):
        raise InputError(f"of the {len(data)} samples given, {len(samples)} are among {sequences or 'them'}")
    return _Given(samples)


@contextmanager
def _masks(
    run: TrackerRun | UnsupervisedRun | None,
    plan: Any,
    given: _Given,
    predictions: Path | str | None,
    write: Callable[[Path, NDArray[np.uint8]], None],
    *,
    split: str,
    public: bool,
    output: Path | str | None,
    resume: bool,
) -> Iterator[Path]:
    """Give the folder of masks to score: the one given, or the run's own, filled by it first."""
    if run is None:
        assert predictions is not None  # as `check_source` has made sure
        check_results(Path(predictions), [sample.name for sample in given.samples])
        yield Path(predictions)
        return
    with run.folder(output, resume=resume, public=public, split=split) as folder:
        run_sequences(run, given.samples, folder, plan, write)
        yield folder


def _unsupervised_settings(model: Any, settings: Any) -> UnsupervisedSettings | None:
    """Return the settings of a model for the unsupervised task; None for other models."""
    from twospeed.evaluation.unsupervised import UnsupervisedSettings, needs_no_masks

    if not needs_no_masks(model):
        return None
    if not isinstance(settings, UnsupervisedSettings | None):
        raise InputError(f"{type(settings).__name__} are settings of trackers; this model takes UnsupervisedSettings")
    return settings or UnsupervisedSettings()


def _report(run: TrackerRun | UnsupervisedRun | None, predictions: Path | str | None, **fields: Any) -> Report:
    return Report(model=f"files in {predictions}", **fields) if run is None else run.vos_report(**fields)


def _not_public(public: bool, split: str, folder: Path) -> tuple[str, ...]:
    if public:
        return ()
    return (f"the annotations of {split} are not public: send {folder} to the benchmark's server",)


def _scoring(samples: Sequence[SequenceSample], on_progress: OnProgress) -> Callable[[str], None]:
    numbers = {sample.name: number for number, sample in enumerate(samples, start=1)}
    return lambda name: on_progress(Progress("score", numbers[name], len(samples), "sequences"))


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of what is a number; NaN when nothing is."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _write_grey(path: Path, labels: NDArray[np.uint8]) -> None:
    """Save the foreground as DAVIS-2016 does: 8-bit grey, 0 and 255."""
    Image.fromarray(np.where(labels > 0, np.uint8(255), np.uint8(0))).save(path)
