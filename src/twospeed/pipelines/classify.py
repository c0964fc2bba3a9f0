"""Name what happens in a video, and when.

    scores = twospeed.classify("clip.mp4", "slowfast_r50_8x8")
    scores.top(5)          # [(label, probability), ...]
    scores.timeline        # (ActionSpan(label, start_s, end_s, probability), ...)

By default as the papers test: 10 clips spread over the video x 3 crops along its longer side, probabilities averaged.
With timeline=True a window slides over the video instead, one pass at constant memory. Decoding runs on its own
thread, ahead of the network and into the next video.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, TwospeedError, VideoError
from twospeed.files import is_there
from twospeed.output.folder import PROJECTS, files_of_run
from twospeed.pipelines.action_labels import Labels, label_names
from twospeed.pipelines.action_timeline import spans
from twospeed.pipelines.action_views import Frames, UniformViews, View, folder_rate, sliding_views
from twospeed.pipelines.clip_networks import clip_networks
from twospeed.pipelines.inputs import (
    Array,
    Device,
    Model,
    Precision,
    arrays_of,
    one_or_several,
    place,
)
from twospeed.pipelines.parts import Answer, Part, misfit
from twospeed.results import ActionScores, Frame, OnProgress, Progress, VideoInfo
from twospeed.video.ahead import DecodeAhead, read_ahead
from twospeed.video.containers import Damaged
from twospeed.video.reader import open_video
from twospeed.video.sampling import LEAST_STEP_S
from twospeed.video.sources import PositionLike, Source, SourceLike, find_source
from twospeed.weights.entries import Preprocessing

DEFAULT_MODEL = "slowfast_r50_8x8"
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv"}
VIDEO_SUFFIXES |= {".3gp", ".ogv", ".gif", ".y4m"}
FRAMES_AHEAD = 8
"""Events that are made ahead of the networks where frames are handed on, too; without them, one view."""
KINETICS = Preprocessing(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), short_side=256, crop=256)


@dataclass(frozen=True, slots=True)
class _Done:
    source: int
    error: TwospeedError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ViewScores:
    """What one temporal view of a video shows: times of its first and last frame, float64 (C,) with crops averaged."""

    start_s: float
    end_s: float
    probabilities: NDArray[np.float64]

    @property
    def centre_s(self) -> float:
        """The time in its middle."""
        return (self.start_s + self.end_s) / 2


@dataclass(frozen=True, slots=True)
class _Calls:
    """Whom to call while a video is classified."""

    progress: OnProgress | None = None
    frame: Callable[[Frame], None] | None = None
    view: Callable[[ViewScores], None] | None = None


class Classifier:
    """Networks that are ready to name actions, for one video after another.

    model_or_name: a network of the SlowFast family (or any module with its call and its attributes `frames`,
    `frame_stride`, `num_classes`), its catalogue name, or several of either: an ensemble by averaged probabilities.
    None is the model that the file of weights is of, or `DEFAULT_MODEL` without a file. weights: for names, as
    `create_model` takes them; one for each of several names. labels: names of the classes, see `read_labels`; None
    takes those that the weights hold, else the catalogue's. clips, crops: test views (crops 1 or 3). timeline: slide a
    window over the video, centres every_s seconds apart, instead of `clips` views. threshold, smooth: of the timeline,
    see `action_timeline.spans`. pad: what a video shorter than a clip does, "repeat_last" frame (as the authors) or
    "error". workers: threads that decode the views of a file. precision: "bf16" computes in bfloat16, "auto" where the
    device is made for it. start, end: the part of each video, and damaged: what to do at broken frames, as `open_video`
    takes them. device: None chooses CUDA if present. on_progress: called while weights are downloaded.
    Exported models are given by their folder. Raises InputError for options that make no sense, CheckpointError and
    WeightsUnavailable as `create_model` does.
    """

    def __init__(
        self,
        model_or_name: Model | Sequence[Model] | None = None,
        clips: int = 10,
        crops: int = 3,
        *,
        weights: Any = "default",
        labels: Labels | None = None,
        timeline: bool = False,
        every_s: float = 1.0,
        threshold: float | None = None,
        smooth: int = 1,
        pad: Literal["repeat_last", "error"] = "repeat_last",
        workers: int = 1,
        precision: Precision = "fp32",
        device: Device = None,
        preprocessing: Preprocessing | None = None,
        start: PositionLike | None = None,
        end: PositionLike | None = None,
        damaged: Damaged = "error",
        on_progress: OnProgress | None = None,
    ) -> None:
        if clips < 1:
            raise InputError(f"clips={clips}: give at least 1")
        if crops not in (1, 3):
            raise InputError(f"crops={crops}: choose 1 (centre) or 3 (along the longer side)")
        if not every_s >= LEAST_STEP_S:
            raise InputError(f"every_s={every_s}: give at least {LEAST_STEP_S} seconds", option="every")
        if pad not in ("repeat_last", "error"):
            raise InputError(f"pad={pad!r}: choose 'repeat_last' or 'error'")
        if workers < 1:
            raise InputError(f"workers={workers}: at least 1 thread decodes")
        spans([], [], np.zeros((0, 0), np.float32), [], threshold=threshold, smooth=smooth)  # refuses bad numbers now
        self.clips, self.crops, self.timeline, self.every_s = clips, crops, timeline, every_s
        self.threshold, self.smooth, self.pad, self.workers = threshold, smooth, pad, workers
        self.start, self.end, self.damaged = start, end, damaged
        self.device, self.precision, dtype = place(one_or_several(model_or_name), device, precision)
        self._members = clip_networks(
            "classify", _models(model_or_name, weights), weights, preprocessing, default=KINETICS, dtype=dtype,
            device=self.device, on_progress=on_progress,
        )  # fmt: skip
        first = self._members[0]
        self._arrays = arrays_of(first.network)
        self.labels = label_names(labels, first.known_labels, first.network.num_classes, first.name)
        self.samplings = list(dict.fromkeys(member.shape for member in self._members))
        self.frames_seen = 0  # by the networks, over all views
        self.info: VideoInfo | None = None  # of the video in work, once its first frame is handed to on_frame

    @property
    def frames_per_video(self) -> int:
        """Frames that the networks see of one video by `clips` x `crops` views."""
        return self.clips * self.crops * sum(member.network.frames for member in self._members)

    def classify(
        self,
        source: SourceLike,
        on_progress: OnProgress | None = None,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        on_view: Callable[[ViewScores], None] | None = None,
        full_size: bool = True,
        known: Iterable[Answer] | None = None,
    ) -> ActionScores:
        """Classify one video: a file, a folder of images, or (with a sliding window) a camera or a pipe.

        on_progress: called after each view. on_frame: called with every frame as it is read; the video is then decoded
        once from start to end, also where views are few, and `info` says what is known of it. A folder of images has 30
        a second. full_size: whether those frames are wanted at their own size. on_view: called with each temporal view,
        in order, behind its last frame; `scores` makes results of those so far. known: the `answers` of all parts of
        the video, which no network then computes again. Raises VideoError, ClipTooShort.
        """
        frames: Frames = "none" if on_frame is None else "full" if full_size else "small"
        calls = _Calls(on_progress, on_frame, on_view)
        if known is not None:
            return self.scores(self._replayed(find_source(source), self._views_of(known), calls))
        for _, rows, times in self._rows([source], calls=calls, frames=frames):
            if isinstance(rows, TwospeedError):
                raise rows
            return self.scores(_in_order(rows, times))
        raise AssertionError("one source gives one result")

    def classify_many(
        self, sources: Iterable[SourceLike], on_progress: OnProgress | None = None
    ) -> Iterator[tuple[SourceLike, ActionScores | TwospeedError]]:
        """Classify videos one after another, decoding ahead across them; a broken one gives its error as the
        result."""
        for source, rows, times in self._rows(sources, calls=_Calls(on_progress)):
            yield source, rows if isinstance(rows, TwospeedError) else self.scores(_in_order(rows, times))

    def view_probabilities(
        self, sources: Iterable[SourceLike]
    ) -> Iterator[tuple[SourceLike, NDArray[np.float32] | TwospeedError]]:
        """Classify videos view by view: each with float32 (V, S, C), of V clips with S crops each, or with its error.

        What `classify_many` averages: an evaluation grades views one by one, too.
        """
        for source, rows, _ in self._rows(sources):
            if isinstance(rows, TwospeedError):
                yield source, rows
            else:
                yield source, np.stack([rows[number] for number in sorted(rows)]).astype(np.float32)

    def answers(self, source: SourceLike, part: Part) -> Iterator[Answer]:
        """Compute the windows of a timeline that begin in a part of a video: what `classify` takes as `known`.

        Raises VideoError.
        """
        for _, rows, times in self._rows([source], part):
            if isinstance(rows, TwospeedError):
                raise rows
            for number in sorted(rows):
                yield {"window": number, "times_s": times[number], "probabilities": rows[number].tolist()}, b""

    def _views_of(self, answers: Iterable[Answer]) -> list[ViewScores]:
        """The views that the answers of all parts of a video tell."""
        facts = [values for values, _ in answers]
        if [values["window"] for values in facts] != sorted({values["window"] for values in facts}):
            raise misfit("a window comes twice, or they are out of order")
        self.frames_seen += len(facts) * self.frames_per_video // self.clips
        views = []
        for values in facts:
            start_s, end_s = values["times_s"]
            views.append(ViewScores(start_s, end_s, np.array(values["probabilities"]).mean(axis=0)))
        return views

    def _replayed(self, source: Source, views: list[ViewScores], calls: _Calls) -> list[ViewScores]:
        """Hand on the frames of a video, and views that are known, as if they were computed."""
        if calls.frame is None:
            return views
        upcoming = deque(views)
        with open_video(source, self.start, self.end, rate=folder_rate(source), damaged=self.damaged) as reader:
            self.info = reader.info
            for frame in reader:
                while calls.view is not None and upcoming and upcoming[0].centre_s <= frame.time_s:
                    calls.view(upcoming.popleft())
                calls.frame(frame)
        while calls.view is not None and upcoming:
            calls.view(upcoming.popleft())
        return views

    def _rows(
        self,
        sources: Iterable[SourceLike],
        part: Part | None = None,
        *,
        calls: _Calls | None = None,
        frames: Frames = "none",
    ) -> Iterator[tuple[SourceLike, dict[int, NDArray[np.float64]] | TwospeedError, dict[int, tuple[float, float]]]]:
        """Yield each video with the probabilities (S, C) of its views by number, or its error, and the views' times."""
        listed = list(sources)
        rows: dict[int, NDArray[np.float64]] = {}
        times: dict[int, tuple[float, float]] = {}
        total = None if self.timeline or len(listed) != 1 else self.clips * len(self.samplings)
        done, started = 0, time.perf_counter()
        calls = calls or _Calls()
        ahead = 1 if frames == "none" else FRAMES_AHEAD
        with closing(DecodeAhead(self._events(listed, part, frames), ahead)) as events:
            for event in events:
                if isinstance(event, VideoInfo):
                    self.info = event
                    continue
                if isinstance(event, Frame):
                    if calls.frame is not None:
                        calls.frame(event)
                    continue
                if isinstance(event, _Done):
                    yield listed[event.source], event.error or rows, times
                    rows, times = {}, {}
                    continue
                row = self._probabilities(event)
                rows[event.number] = rows.get(event.number, 0.0) + row
                if event.sampling == 0:
                    times[event.number] = (event.start_s, event.end_s)
                done += 1
                if calls.progress is not None:
                    calls.progress(Progress("classify", done, total, "views", time.perf_counter() - started))
                if calls.view is not None and event.sampling == len(self.samplings) - 1:
                    calls.view(ViewScores(*times[event.number], rows[event.number].mean(axis=0)))

    def _events(
        self, sources: list[SourceLike], part: Part | None, frames: Frames
    ) -> Generator[View | Frame | VideoInfo | _Done, None, None]:
        """All views, and frames, of all videos, on the decoding thread, with a mark at the end of each."""
        for number, source in enumerate(sources):
            try:
                yield from self._views(source, part, frames)
            except TwospeedError as error:
                yield _Done(number, error)
            else:
                yield _Done(number)

    def _views(self, source: SourceLike, part: Part | None, frames: Frames) -> Iterator[View | Frame | VideoInfo]:
        found = find_source(source)
        chosen: dict[str, Any] = {"start": self.start, "end": self.end, "damaged": self.damaged, "arrays": self._arrays}
        if self.timeline or not found.stored:
            return sliding_views(found, self.samplings, self.every_s, self.crops, part=part, frames=frames, **chosen)
        views = UniformViews(found, self.samplings, self.clips, self.crops, pad=self.pad, **chosen)
        if frames != "none":
            return views.with_frames(frames)
        return iter(views) if self.workers == 1 else read_ahead(views.__getitem__, range(len(views)), self.workers)

    def _probabilities(self, view: View) -> NDArray[np.float64]:
        """Rows (S, C) for the crops of a temporal view: the members of the ensemble that use this sampling averaged."""
        with self._arrays.inference():
            return self._averaged(view)

    def _averaged(self, view: View) -> NDArray[np.float64]:
        clip = self._arrays.on_device(view.clip, self.device)
        total = np.zeros((len(clip), self._members[0].network.num_classes))
        for member in self._members:
            if self.samplings[view.sampling] != member.shape:
                continue
            with self._arrays.autocast(self.device, member.autocast):
                logits = member.network(clip)
            average = getattr(member.network, "average", member.preprocessing.average)
            scores = position_average(self._arrays.as_float(logits), average)
            total += self._arrays.to_numpy(scores).astype(np.float64) / len(self._members)
            self.frames_seen += clip.shape[0] * clip.shape[2]
        return total

    def scores(self, views: Sequence[ViewScores]) -> ActionScores:
        """Return what views of a video, in order of time, say together."""
        if not views:
            return ActionScores(np.zeros(len(self.labels), np.float32), self.labels)
        probabilities = np.stack([view.probabilities for view in views])
        starts, ends = [view.start_s for view in views], [view.end_s for view in views]
        by_view = probabilities.astype(np.float32)
        return ActionScores(
            probabilities.mean(axis=0).astype(np.float32),
            self.labels,
            np.array([view.centre_s for view in views]),
            by_view,
            spans(starts, ends, by_view, self.labels, threshold=self.threshold, smooth=self.smooth),
        )


class ClassifyOptions(TypedDict, total=False):
    """Options of `classify`: those of `Classifier`."""

    weights: Any
    labels: Labels | None
    timeline: bool
    every_s: float
    threshold: float | None
    smooth: int
    pad: Literal["repeat_last", "error"]
    workers: int
    precision: Precision
    device: Device
    preprocessing: Preprocessing | None


def classify(
    source: SourceLike,
    model_or_name: Model | Sequence[Model] | None = None,
    clips: int = 10,
    crops: int = 3,
    *,
    on_progress: OnProgress | None = None,
    **options: Unpack[ClassifyOptions],
) -> ActionScores:
    """Name what happens in one video: probabilities of all classes, and a timeline.

    options: as `Classifier` takes them. on_progress: called while weights are downloaded and after each view. To
    classify many videos make one `Classifier`, so that the network is built once. Raises VideoError (missing,
    unreadable, no image, changing size), ClipTooShort (with pad="error"), InputError, CheckpointError,
    WeightsUnavailable.
    """
    return Classifier(model_or_name, clips, crops, on_progress=on_progress, **options).classify(source, on_progress)


def _in_order(rows: dict[int, NDArray[np.float64]], times: dict[int, tuple[float, float]]) -> list[ViewScores]:
    return [ViewScores(*times[number], rows[number].mean(axis=0)) for number in sorted(rows)]


def position_average(logits: Array, average: Literal["probabilities", "logits"]) -> Array:
    """Turn float32 logits (N, P, C) into probabilities (N, C) as the weights' authors do (see `SlowFast.average`)."""
    arrays = arrays_of(logits)
    if average == "logits":
        return arrays.softmax(logits.mean(1))
    return arrays.softmax(logits).mean(1)


def videos_in(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the videos that paths name: files as they are, a folder of videos as its videos (sorted, with subfolders).

    Hidden files, the page's projects and the videos that runs wrote are left out. A folder of images is one video.
    Raises VideoError for a folder with neither.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not (is_there(path) and path.is_dir()):
            found.append(path)
            continue
        try:
            entries = list(path.iterdir())
            inside = sorted(_below(path))
        except OSError as error:
            raise VideoError(f"{path}: the folder cannot be read ({error.strerror})") from None
        if inside:
            found += inside
        elif entries:
            found.append(path)
        else:
            raise VideoError(f"{path}: the folder is empty; give a folder of videos or of images")
    return found


def _below(folder: Path) -> Iterator[Path]:
    written = set[Path]()
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if name[0] != "." and name != PROJECTS]
        written |= {here / name for name in files_of_run(here)}
        for file in (here / name for name in names):
            if file.suffix.lower() in VIDEO_SUFFIXES and file.name[0] != "." and file not in written and file.is_file():
                yield file


def _models(given: Model | Sequence[Model] | None, weights: Any) -> list[Any]:
    """Return the networks to run: without any given, those that the files of weights are of, or the default."""
    if given is not None:
        return one_or_several(given)
    models: list[Any] = []
    for source in one_or_several(weights):
        if isinstance(source, str | Path) and source != "default":
            from twospeed.weights.load import model_of  # imports torch

            models.append(model_of(source))
        else:
            models.append(DEFAULT_MODEL)
    return models
