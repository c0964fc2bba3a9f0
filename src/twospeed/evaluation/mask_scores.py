"""Score folders of mask files against a data set's annotations: J and F of every object in every frame.

Frames are read and compared in parallel by threads: decoding PNG and comparing masks are done outside
Python's lock, so threads keep all cores busy, start at once, and need nothing of the calling script.
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
from twospeed.data.benchmarks.label_files import VOID, read_foreground, read_label_file
from twospeed.data.benchmarks.youtube_vos import first_masks
from twospeed.data.samples import SequenceSample
from twospeed.environment import usable_cores
from twospeed.errors import DatasetError
from twospeed.metrics.regions import (
    MAX_PROPOSALS,
    match_proposals,
    score_frame,
    score_frame_pairs,
    statistics,
)

Scores = NDArray[np.float64]
Labels = NDArray[np.uint8]
T = TypeVar("T")


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

    def pair(self, frame: str) -> tuple[Labels, Labels]:
        """Read result and annotation of one frame, uint8 (H, W) of the same size."""
        path, annotation = self.results[frame], self.sample.labels(frame)
        result = read_foreground(path) if self.sample.foreground else read_label_file(path)
        if result.shape != annotation.shape:
            raise DatasetError(
                f"{path}: {result.shape[1]}x{result.shape[0]} pixels, its annotation is "
                f"{annotation.shape[1]}x{annotation.shape[0]}; save masks at the size of the annotation"
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
    """Return the ids that a label map holds, without 0."""
    highest = int(labels.max(initial=0))
    if highest > MAX_PROPOSALS:
        return frozenset(np.flatnonzero(np.bincount(labels.reshape(-1))).tolist()) - {0}
    return frozenset(k for k in range(1, highest + 1) if (labels == k).any())  # far quicker than counting


def _compare_by_id(job: tuple[_Plan, str]) -> tuple[Scores, Scores, frozenset[int]]:
    """Compare one frame object by object: J and F (K,), and the ids that its result holds."""
    plan, frame = job
    result, annotation = plan.pair(frame)
    # Labels become 1..K, since lists may have holes in their ids.
    places = np.zeros(256, dtype=np.uint8)
    places[list(plan.object_ids)] = np.arange(1, len(plan.object_ids) + 1)
    held = _ids(result)
    if strangers := sorted(held - set(plan.object_ids)):
        raise DatasetError(
            f"{plan.results[frame]}: holds object {listing([str(i) for i in strangers])}, but {plan.sample.name} has "
            f"only {listing([str(i) for i in plan.object_ids])}; each result keeps the id of its first mask"
        )
    if plan.object_ids[-1] != len(plan.object_ids):
        result, annotation = places[result], places[annotation]
    j, f = score_frame(result, annotation, len(plan.object_ids))
    return j, f, held


def _compare_pairs(job: tuple[_Plan, str]) -> tuple[Scores, Scores]:
    """Compare one frame's proposals with all objects: J and F (P + 1, K), the last row for a proposal that is empty."""
    plan, frame = job
    result, annotation = plan.pair(frame)
    proposals = int(result.max(initial=0))
    if proposals > MAX_PROPOSALS:
        raise DatasetError(
            f"{plan.results[frame]}: holds proposal {proposals}; at most {MAX_PROPOSALS} are allowed, ids 1 to "
            f"{MAX_PROPOSALS}"
        )
    return score_frame_pairs(result, annotation, proposals + 1, len(plan.object_ids))


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
    are completed with empty masks. workers: threads; None for one a core. Raises DatasetError, naming file and
    reason.
    """
    plans = [_davis_plan(sample, folder, task, all_frames) for sample in samples]
    scores: list[ObjectScores] = []
    notes: list[str] = []
    if task == "semi-supervised":
        for plan, frames in _compared(_compare_by_id, plans, workers):
            scores += _objects_by_id(plan, frames, notes)
            on_sequence(plan.sample.name)
    else:
        for plan, pairs in _compared(_compare_pairs, plans, workers):
            scores += _matched_objects(plan, pairs, notes)
            on_sequence(plan.sample.name)
    return scores, notes


def _compared(
    compare: Callable[[tuple[_Plan, str]], T], plans: Sequence[_Plan], workers: int | None
) -> Iterator[tuple[_Plan, list[T]]]:
    """Compare the frames of all sequences on threads; yield each sequence with its frames' results, in order."""
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        try:
            results = pool.map(compare, [(plan, frame) for plan in plans for frame in plan.frames])
            for plan in plans:
                yield plan, [next(results) for _ in plan.frames]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _objects_by_id(
    plan: _Plan, frames: list[tuple[Scores, Scores, frozenset[int]]], notes: list[str]
) -> list[ObjectScores]:
    held = frozenset().union(*(ids for _, _, ids in frames))
    if absent := [k for k in plan.object_ids if k not in held]:
        notes.append(
            f"{plan.sample.name}: no result holds object {listing([str(k) for k in absent])} of "
            f"{len(plan.object_ids)}; scored as empty masks"
        )
    j, f = np.stack([j for j, _, _ in frames], axis=1), np.stack([f for _, f, _ in frames], axis=1)  # (K, T)
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
