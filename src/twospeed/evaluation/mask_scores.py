"""Score folders of mask files against a data set's annotations: J and F of every object in every frame.

Frames are read and compared a few at a time, and only where they are not 0: most of a mask file's pixels are
background, which no pass over the image has to see again after it is unpacked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.davis import Task
from twospeed.data.benchmarks.folders import listing, subfolders
from twospeed.data.benchmarks.label_files import VOID, read_label_part
from twospeed.data.benchmarks.youtube_vos import first_masks
from twospeed.data.samples import SequenceSample
from twospeed.environment import keep_freed_memory, usable_cores
from twospeed.errors import DatasetError
from twospeed.metrics.regions import (
    MAX_PROPOSALS,
    Outline,
    contour_accuracies,
    match_proposals,
    outlines,
    region_similarity,
    score_frame_pairs,
    statistics,
)
from twospeed.video.png_labels import LabelPart

Scores = NDArray[np.float64]
Labels = NDArray[np.uint8]
T = TypeVar("T")

_TOGETHER = 8
"""Frames that follow each other and are compared as one: their objects lie at nearly the same place."""

_MOST_THREADS = 2
"""Started without being asked for. Most calls are so short that more threads only wait for each other: on two cores,
four take a third longer than two for masks of 480p; of large masks two take three quarters of the time of one."""


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """J and F of one object over the frames that count, float64 (T,) each.

    label: its id in the annotation. proposal: id of the result that was matched to it, in the unsupervised
    task.
    """

    sequence: str
    label: int
    j: Scores
    f: Scores
    proposal: int | None = None

    def summary(self) -> dict[str, float]:
        """Return mean, recall and decay of both measures by the names that the official scorer writes."""
        j, f = statistics(self.j), statistics(self.f)
        return _named(j.mean, j.recall, j.decay, f.mean, f.recall, f.decay)


def _named(*values: float) -> dict[str, float]:
    names = ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    scores = dict(zip(names, values, strict=True))
    return {"J&F-Mean": (scores["J-Mean"] + scores["F-Mean"]) / 2, **scores}


def mean_summary(summaries: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the mean over objects of all sequences, number by number."""
    rows = [[value for name, value in summary.items() if name != "J&F-Mean"] for summary in summaries]
    return _named(*(float(value) for value in np.mean(rows, axis=0)))


@dataclass(frozen=True)
class _Plan:
    """What is compared in one sequence: `frames` of `sample` with the files in `results`."""

    sample: SequenceSample
    results: dict[str, Path]
    frames: tuple[str, ...]
    object_ids: tuple[int, ...]

    def pair(self, frame: str) -> tuple[LabelPart, LabelPart]:
        """Read result and annotation of one frame, of images of the same size."""
        path, annotation = self.results[frame], self.sample.label_part(frame)
        result = read_label_part(path, foreground=self.sample.foreground)
        if (result.height, result.width) != (annotation.height, annotation.width):
            raise DatasetError(
                f"{path}: {result.width}x{result.height} pixels, its annotation is "
                f"{annotation.width}x{annotation.height}; save masks at the size of the annotation"
            )
        return result, annotation


def check_results(folder: Path, names: Sequence[str]) -> None:
    """Raise DatasetError when a folder of results lacks sequences, naming them."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder of predictions")
    present = subfolders(folder)
    if missing := [name for name in names if name not in present]:
        raise DatasetError(
            f"{folder}: has no results for {len(missing)} of {len(names)} sequences ({listing(missing)}); "
            f"it holds {listing(present)}; score a part by naming its sequences",
            option="sequences",
        )


def _result_files(folder: Path, sample: SequenceSample, frames: Sequence[str]) -> dict[str, Path]:
    results = {path.stem: path for path in (folder / sample.name).glob("*.png")}
    if missing := [frame for frame in frames if frame not in results]:
        raise DatasetError(
            f"{folder / sample.name}: {len(missing)} of {len(frames)} frames are missing: "
            f"{listing([f'{frame}.png' for frame in missing])}"
        )
    return results


def _davis_plan(sample: SequenceSample, folder: Path, task: Task, all_frames: bool) -> _Plan:
    if unmarked := [frame for frame in sample.frames if frame not in sample.annotations]:
        raise DatasetError(
            f"{sample.name}: {len(unmarked)} of {len(sample.frames)} frames have no annotation "
            f"({listing(unmarked)}): J and F cannot be computed here; test sets are scored by their server"
        )
    frames = sample.frames if all_frames or task == "unsupervised" else sample.frames[1:-1]
    if not frames:
        raise DatasetError(
            f"{sample.name}: has {len(sample.frames)} frames; first and last are left out, so 3 or more are needed"
        )
    first = sample.labels(sample.frames[0])
    objects = int(np.max(first, initial=0, where=first != VOID))
    if not objects:
        raise DatasetError(f"{sample.annotations[sample.frames[0]]}: marks no object; there is nothing to score")
    results = _result_files(folder, sample, frames)
    return _Plan(sample, results, frames, tuple(range(1, objects + 1)))


def _ids(labels: Labels) -> frozenset[int]:
    """Return the ids that labels hold, without 0."""
    highest = int(labels.max(initial=0))
    if highest > MAX_PROPOSALS:
        return frozenset(np.flatnonzero(np.bincount(labels.reshape(-1))).tolist()) - {0}
    below = {k for k in range(1, highest) if (labels == k).any()}  # far quicker than counting
    return frozenset(below | {highest} - {0})


@dataclass(frozen=True, eq=False)
class _Compared:
    """J and F of every object in frames that follow each other, float64 (K, T), and the ids that their results hold."""

    j: Scores
    f: Scores
    held: frozenset[int]


def _compare_by_id(job: tuple[_Plan, tuple[str, ...]]) -> _Compared:
    """Compare frames object by object."""
    plan, frames = job
    objects = len(plan.object_ids)
    places = np.zeros(256, dtype=np.uint8)
    places[list(plan.object_ids)] = np.arange(1, objects + 1)
    held: frozenset[int] = frozenset()
    pairs: list[list[tuple[Outline, Outline]]] = [[] for _ in plan.object_ids]
    for frame in frames:
        result, annotation = plan.pair(frame)
        ids = _ids(result.values)
        if strangers := sorted(ids - set(plan.object_ids)):
            raise DatasetError(
                f"{plan.results[frame]}: holds object {listing([str(i) for i in strangers])}, but {plan.sample.name} "
                f"has only {listing([str(i) for i in plan.object_ids])}; each result keeps the id of its first mask"
            )
        held |= ids
        found, wanted = (
            outlines(
                # Labels become 1..K, since lists may have holes in their ids.
                part.values if plan.object_ids[-1] == objects else places[part.values],
                objects, top=part.top, left=part.left, size=(part.height, part.width),
            )
            for part in (result, annotation)
        )  # fmt: skip
        for of_object, pair in zip(pairs, zip(found, wanted, strict=True), strict=True):
            of_object.append(pair)
    j = np.array([[region_similarity(*pair) for pair in of_object] for of_object in pairs], dtype=np.float64)
    f = np.array([contour_accuracies(of_object) for of_object in pairs], dtype=np.float64)
    return _Compared(j, f, held)


def _compare_pairs(job: tuple[_Plan, tuple[str, ...]]) -> list[tuple[Scores, Scores]]:
    """Compare each frame's proposals with all objects.

    J and F of each frame (P + 1, K), the last row for a proposal that is empty.
    """
    plan, frames = job
    scores = []
    for frame in frames:
        result, annotation = (part.whole() for part in plan.pair(frame))
        proposals = int(result.max(initial=0))
        if proposals > MAX_PROPOSALS:
            raise DatasetError(
                f"{plan.results[frame]}: holds proposal {proposals}; at most {MAX_PROPOSALS} are allowed, ids 1 to "
                f"{MAX_PROPOSALS}"
            )
        scores.append(score_frame_pairs(result, annotation, proposals + 1, len(plan.object_ids)))
    return scores


def score_davis(
    samples: Iterable[SequenceSample],
    folder: Path,
    task: Task,
    *,
    all_frames: bool = False,
    workers: int | None = None,
    on_sequence: Callable[[str], None] = lambda name: None,
) -> tuple[list[ObjectScores], list[str]]:
    """Score `folder/<sequence>/<frame>.png` and return the objects' scores and notes on what was padded.

    samples: sequences annotated in every frame. Semi-supervised: objects by id, first and last frame left
    out (unless `all_frames`), void is background. Unsupervised: all frames, void left out, at most 20 proposals,
    matched to objects by the Hungarian method. Objects are those of the first frame's annotation; fewer results
    are completed with empty masks. workers: threads; None for two, or one where there is one core. Raises DatasetError,
    naming file and reason.
    """
    plans = [_davis_plan(sample, folder, task, all_frames) for sample in samples]
    scores: list[ObjectScores] = []
    notes: list[str] = []
    if task == "semi-supervised":
        for plan, groups in _compared(_compare_by_id, plans, workers):
            scores += _objects_by_id(plan, groups, notes)
            on_sequence(plan.sample.name)
    else:
        for plan, pairs in _compared(_compare_pairs, plans, workers):
            scores += _matched_objects(plan, [frame for group in pairs for frame in group], notes)
            on_sequence(plan.sample.name)
    return scores, notes


def _compared(
    compare: Callable[[tuple[_Plan, tuple[str, ...]]], T], plans: Sequence[_Plan], workers: int | None
) -> Iterator[tuple[_Plan, list[T]]]:
    """Compare the frames of all sequences on threads; yield each sequence with the results of its groups, in order."""
    keep_freed_memory()
    groups = [[plan.frames[i : i + _TOGETHER] for i in range(0, len(plan.frames), _TOGETHER)] for plan in plans]
    with ThreadPoolExecutor(workers or min(usable_cores(), _MOST_THREADS)) as pool:
        try:
            jobs = [(plan, frames) for plan, parts in zip(plans, groups, strict=True) for frames in parts]
            results = pool.map(compare, jobs)
            for plan, parts in zip(plans, groups, strict=True):
                yield plan, [next(results) for _ in parts]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _objects_by_id(plan: _Plan, groups: list[_Compared], notes: list[str]) -> list[ObjectScores]:
    held = frozenset().union(*(group.held for group in groups))
    if absent := [k for k in plan.object_ids if k not in held]:
        notes.append(
            f"{plan.sample.name}: no result holds object {listing([str(k) for k in absent])} of "
            f"{len(plan.object_ids)}; scored as empty masks"
        )
    j, f = (np.concatenate(parts, axis=1) for parts in ([g.j for g in groups], [g.f for g in groups]))  # (K, T)
    return [ObjectScores(plan.sample.name, k, j[i], f[i]) for i, k in enumerate(plan.object_ids)]


def _matched_objects(plan: _Plan, frames: list[tuple[Scores, Scores]], notes: list[str]) -> list[ObjectScores]:
    """Match proposals over the whole sequence; objects come in order of their id.

    Differs: the official scorer lists them in order of the proposals, so that its row k is not object k.
    """
    objects, proposals = len(plan.object_ids), max(len(j) - 1 for j, _ in frames)
    if proposals < objects:
        notes.append(f"{plan.sample.name}: {proposals} proposals for {objects} objects; completed with empty masks")
    rows = max(proposals, objects)
    j = np.stack([_repeat_last(j, rows) for j, _ in frames], axis=2)  # (P, K, T)
    f = np.stack([_repeat_last(f, rows) for _, f in frames], axis=2)
    by_object = {column: row for row, column in match_proposals(j, f)}
    return [
        ObjectScores(plan.sample.name, k, j[by_object[i], i], f[by_object[i], i], proposal=by_object[i] + 1)
        for i, k in enumerate(plan.object_ids)
    ]


def _repeat_last(scores: Scores, rows: int) -> Scores:
    """Bring (P + 1, K) to (rows, K): proposals that a frame does not hold are empty there, as its last row is."""
    return scores[np.minimum(np.arange(rows), len(scores) - 1)]


def score_youtube_vos(
    samples: Iterable[SequenceSample],
    folder: Path,
    *,
    workers: int | None = None,
    on_sequence: Callable[[str], None] = lambda name: None,
) -> tuple[list[ObjectScores], list[str]]:
    """Score `folder/<video>/<frame>.png` and return the objects' scores and notes on what was padded.

    An object counts in the frames that `meta.json` lists for it, after the one where its mask is given; in
    all other frames its scores are NaN. Raises DatasetError, naming file and reason; also where annotations
    are withheld.
    """
    plans, counted = [], []
    for sample in samples:
        starts = {int(k): frame for frame, labels in first_masks(sample).items() for k in np.unique(labels) if k}
        later = {k: frozenset(f for f in o.frames if f > starts[k]) for k, o in sample.objects.items()}
        frames = tuple(sorted(frozenset().union(*later.values())))
        if withheld := [frame for frame in frames if frame not in sample.annotations]:
            raise DatasetError(
                f"{sample.name}: {len(withheld)} of {len(frames)} frames have no annotation ({listing(withheld)}): "
                "J and F cannot be computed here; the benchmark's server scores its validation set"
            )
        results = _result_files(folder, sample, frames)
        plans.append(_Plan(sample, results, frames, tuple(sorted(sample.objects))))
        counted.append(later)
    scores: list[ObjectScores] = []
    notes: list[str] = []
    for (plan, compared), later in zip(_compared(_compare_by_id, plans, workers), counted, strict=True):
        for o in _objects_by_id(plan, compared, notes) if plan.frames else []:
            counts = np.array([frame in later[o.label] for frame in plan.frames])
            j, f = np.where(counts, o.j, math.nan), np.where(counts, o.f, math.nan)
            scores.append(ObjectScores(o.sequence, o.label, j, f))
        on_sequence(plan.sample.name)
    return scores, notes
