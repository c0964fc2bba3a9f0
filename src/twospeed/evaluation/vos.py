"""Video object segmentation benchmarks: DAVIS 2016, DAVIS 2017 and YouTube-VOS.

Either a folder of masks is scored, or a model is run: then the masks that the ordinary `Tracker` gives are
written in the benchmark's own format first, and those files are scored, so that a published number is what
users get.

Sources of the protocols: STCN (Cheng 2021) section 5 and its supplement for settings; the DAVIS and
YouTube-VOS papers for what is counted.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.data.benchmarks.davis import Davis, Task, Year
from twospeed.data.benchmarks.youtube_vos import YouTubeVos, required_frames
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.evaluation.mask_runs import (
    BuildTracker,
    Clock,
    FrameJobs,
    InStep,
    OnProgress,
    Pass,
    Progress,
    RunSettings,
    build_passes,
    can_skip,
    claim_output,
    davis_jobs,
    run_sequences,
    settings_as_json,
    youtube_vos_jobs,
)
from twospeed.evaluation.mask_scores import (
    ObjectScores,
    check_results,
    mean_summary,
    score_davis,
    score_youtube_vos,
)
from twospeed.evaluation.report import Report, Table
from twospeed.video.indexed_png import write_indexed_png

if TYPE_CHECKING:
    from torch import nn

    from twospeed.evaluation.unsupervised import UnsupervisedRun, UnsupervisedSettings

    Model = str | nn.Module

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
    root: Path | str,
    year: Year = 2017,
    *,
    predictions: Path | str | None = None,
    model: Model | Sequence[Model] | None = None,
    weights: Any = "default",
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

    root: the data set in its official layout; `predictions`: a folder with `<sequence>/<frame>.png`, of
    0/255, 0/1 or palette ids. weights: of each model, as `create_model` takes them. task: None is unsupervised
    for a model that finds objects by itself, as long as it is not fine-tuned, else semi-supervised. all_frames:
    also score the first and the last frame of the semi-supervised task, as the SlowFast report does. settings:
    None for the split's published ones; `UnsupervisedSettings` for models that find objects by themselves. output:
    where a model's masks go, an empty or new folder, or with `resume` that of an interrupted run; None for a
    temporary one. build_tracker: what is run, if not `twospeed.Tracker`. workers: threads that score; None for
    one a core.

    The report's scores are {"global": ..., "sequences": {name: ...}} with the seven numbers of the official
    scorer, fractions. 2016: all objects of a file are one foreground, one entry a sequence. 2017: one entry
    an object, named `sequence_id` by its id in the annotation. The test sets have no public annotations: then
    masks are written to `output` and the scores are empty.

    Raises DatasetError, InputError, OutputError, each with what is wrong and where; errors of the weights and
    masks come from `create_model` and `Tracker`.
    """
    benchmark = f"davis{year % 100}"
    _check_source(predictions, model, output, resume)
    finder = _finder(model, weights, settings, device, merged=year == 2016) if build_tracker is None else None
    task = task or ("unsupervised" if finder is not None and not finder.settings.finetune else "semi-supervised")
    data = Davis(root, year, split, task, sequences, images=predictions is None)
    if predictions is not None:
        check_results(Path(predictions), data.names)
    samples = list(data)
    public = all(frame in sample.annotations for sample in samples for frame in sample.frames)

    with ExitStack() as stack:
        run: _Run | UnsupervisedRun | None = None
        folder = Path(predictions) if predictions is not None else None
        if folder is None:
            run = finder
            if run is not None:
                run.check_task(task)
            else:
                assert isinstance(settings, RunSettings | None)
                settings = replace(settings or davis_settings(split), given_masks=task != "unsupervised")
                run = _Run(model, weights, settings, device, build_tracker)
            folder = _output_folder(output, public, benchmark, stack)
            claim_output(folder, {"benchmark": benchmark, "split": split, **run.description()}, resume=resume)
            write = _write_grey if year == 2016 else write_indexed_png
            run_sequences(samples, folder, run.davis_plan, write, on_progress=on_progress, clock=run.clock)
        objects: list[ObjectScores] = []
        notes: list[str] = []
        if public or predictions is not None:
            told = _scoring_progress(samples, on_progress)
            objects, notes = score_davis(
                samples, folder, task, all_frames=all_frames, workers=workers, on_sequence=told
            )

    entries = {o.sequence if year == 2016 else f"{o.sequence}_{o.label}": o.summary() for o in objects}
    overall = mean_summary(entries.values()) if entries else None
    scores: dict[str, Any] = {"global": overall, "sequences": entries} if overall else {}
    if matched := {name: o.proposal for name, o in zip(entries, objects, strict=True) if o.proposal is not None}:
        scores["matched_proposals"] = matched
    if not public:
        notes.append(f"the annotations of {split} are not public: send {folder} to the benchmark's server")
    rows = {**entries, "mean": overall} if overall else {}
    table = Table(DAVIS_COLUMNS, tuple((name, tuple(row[c] for c in DAVIS_COLUMNS)) for name, row in rows.items()))
    return Report(
        benchmark=benchmark,
        scores=scores,
        table=table,
        protocol=_davis_protocol(year, task, all_frames),
        coverage=_coverage(len(data), data.official, "sequences", f"DAVIS-{year} {split}"),
        notes=tuple(notes),
        **(run.of_report() if run else {"model": f"files in {predictions}"}),
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
    root: Path | str,
    *,
    predictions: Path | str | None = None,
    model: Model | Sequence[Model] | None = None,
    weights: Any = "default",
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
    _check_source(predictions, model, output, resume)
    data = YouTubeVos(root, split, sequences, images=predictions is None)
    if predictions is not None:
        check_results(Path(predictions), data.names)
    samples = list(data)
    public = all(frame in s.annotations for s in samples for frame in required_frames(s))

    with ExitStack() as stack:
        run = None
        folder = Path(predictions) if predictions is not None else None
        notes: list[str] = []
        if folder is None:
            run = _Run(model, weights, settings or YOUTUBE_VOS_SETTINGS, device, build_tracker)
            folder = _output_folder(output, public, "youtube-vos", stack)
            claim_output(folder, {"benchmark": "youtube-vos", "split": split, **run.description()}, resume=resume)
            run_sequences(
                samples, folder, run.youtube_vos_plan, write_indexed_png, on_progress=on_progress, clock=run.clock
            )
            if not data.every_frame:
                notes.append(f"{split}_all_frames not found: the model saw every fifth frame only")
        objects: list[ObjectScores] = []
        if public or predictions is not None:
            told = _scoring_progress(samples, on_progress)
            objects, padded = score_youtube_vos(samples, folder, workers=workers, on_sequence=told)
            notes += padded

    categories = {s.name: s.objects for s in samples}
    groups: dict[str, list[ObjectScores]] = {"seen": [], "unseen": []}
    for o in objects:
        seen = categories[o.sequence][o.label].category in data.seen_categories
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
    if not public:
        notes.append(f"the annotations of {split} are not public: send {folder} to the benchmark's server")
    columns = ("G", "J_seen", "F_seen", "J_unseen", "F_unseen")
    rows = (("mean", tuple(scores[c] for c in columns)),) if scores else ()
    return Report(
        benchmark="youtube-vos",
        scores=scores,
        table=Table(columns, rows),
        protocol="YouTube-VOS: masks given where objects first appear, scored in later frames that meta.json lists",
        coverage=_coverage(len(data), data.official, "videos", f"meta.json of {split}"),
        notes=tuple(notes),
        **(run.of_report() if run else {"model": f"files in {predictions}"}),
    )


class _Run:
    """The models of one evaluation, built, with what a report and a resumed run must know of them."""

    def __init__(
        self,
        model: Any,
        weights: Any,
        settings: RunSettings,
        device: str | None,
        build_tracker: BuildTracker | None,
    ):
        models = list(model) if isinstance(model, list | tuple) else [model]
        sources = list(weights) if isinstance(weights, list | tuple) else [weights] * len(models)
        if len(sources) != len(models):
            raise InputError(f"{len(models)} models but {len(sources)} weights: give one for each model, in order")
        self.settings, self.clock = settings, Clock()
        self.names = [m if isinstance(m, str) else type(m).__name__ for m in models]
        self.checksums: tuple[str | None, ...] = ()
        if any(isinstance(m, str) for m in models):
            from twospeed.weights.load import create_model, weights_sha256

            self.checksums = tuple(
                weights_sha256(m, w) if isinstance(m, str) else None for m, w in zip(models, sources, strict=True)
            )
            models = [create_model(m, w) if isinstance(m, str) else m for m, w in zip(models, sources, strict=True)]
        self._models, self._build = models, build_tracker or _default_tracker(device)
        self.passes = build_passes(models, settings, self._build)
        if not settings.given_masks and any(getattr(p.tracker, "needs_masks", True) for p in self.passes):
            raise InputError(
                f"{' + '.join(self.names)} needs a first mask, which the unsupervised task does not give; "
                "choose a model that finds objects itself, or --task semi-supervised"
            )
        self._every_frame_remembered: list[Pass] | None = None

    def davis_plan(self, sample: SequenceSample) -> tuple[InStep, FrameJobs]:
        """Which trackers see which frames of a sequence: all see all."""
        return InStep(self.passes), davis_jobs(sample, given_masks=self.settings.given_masks)

    def youtube_vos_plan(self, sample: SequenceSample) -> tuple[InStep, FrameJobs]:
        """Which trackers see which frames of a video, leaving out those that change nothing."""
        every = self.settings.memory_every
        if self.settings.include_last or not can_skip(sample, every):
            return InStep(self.passes), youtube_vos_jobs(sample)
        if self._every_frame_remembered is None:
            remembering = replace(self.settings, memory_every=1)
            self._every_frame_remembered = build_passes(self._models, remembering, self._build)
        return InStep(self._every_frame_remembered), youtube_vos_jobs(sample, skip_every=every)

    def description(self) -> dict[str, Any]:
        """Return what two runs must share for their masks to be of one kind."""
        return {
            "models": self.names,
            "weights_sha256": list(self.checksums),
            "settings": settings_as_json(self.settings),
        }

    def of_report(self) -> dict[str, Any]:
        """Return the fields of `Report` that speak of the run."""
        return {
            "model": " + ".join(self.names),
            "weights_sha256": self.checksums,
            "settings": settings_as_json(self.settings),
            "speed": self.clock.speed(len(self.passes)),
        }


def _finder(model: Any, weights: Any, settings: Any, device: str | None, *, merged: bool) -> UnsupervisedRun | None:
    """Build the run of a model that finds objects by itself; None for others, and where files are scored."""
    if model is None:
        return None
    from twospeed.evaluation.unsupervised import UnsupervisedRun, UnsupervisedSettings, needs_no_masks

    if not needs_no_masks(model):
        return None
    if not isinstance(settings, UnsupervisedSettings | None):
        raise InputError(f"{type(settings).__name__} are settings of trackers; this model takes UnsupervisedSettings")
    return UnsupervisedRun(model, weights, settings or UnsupervisedSettings(), device, merged=merged)


def _default_tracker(device: str | None) -> BuildTracker:
    from twospeed.pipelines.track import Tracker

    return lambda model, **options: Tracker(model, device=device, **options)


def _check_source(predictions: Any, model: Any, output: Any, resume: bool) -> None:
    if (predictions is None) == (model is None):
        given = "both" if model is not None else "neither"
        raise InputError(f"give either --predictions (files to score) or --model (to run), not {given}")
    if predictions is not None and (output is not None or resume):
        raise InputError("--output and --resume belong to a run of a model; scoring --predictions writes no masks")
    if resume and output is None:
        raise InputError("--resume needs the folder of the interrupted run: give -o DIR")


def _output_folder(output: Path | str | None, public: bool, benchmark: str, stack: ExitStack) -> Path:
    if output is not None:
        return Path(output)
    if not public:
        raise InputError(
            f"{benchmark}: the annotations of this split are not public, so only masks can be made: "
            "give -o DIR for them"
        )
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twospeed-")))


def _scoring_progress(samples: Sequence[SequenceSample], on_progress: OnProgress) -> Callable[[str], None]:
    numbers = {sample.name: number for number, sample in enumerate(samples, start=1)}
    frames = {sample.name: len(sample.frames) for sample in samples}

    def tell(name: str) -> None:
        on_progress(Progress("score", name, numbers[name], len(samples), frames[name], frames[name]))

    return tell


def _coverage(scored: int, official: int | None, noun: str, of_what: str) -> str:
    if official is None:
        return f"{scored} {noun}, not an official split"
    return f"{scored} of {official} {noun} ({of_what})"


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of what is a number; NaN when nothing is."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _write_grey(path: Path, labels: NDArray[np.uint8]) -> None:
    """Save the foreground as DAVIS-2016 does: 8-bit grey, 0 and 255."""
    Image.fromarray(np.where(labels > 0, np.uint8(255), np.uint8(0))).save(path)
