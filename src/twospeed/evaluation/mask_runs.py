"""Run trackers over a data set's sequences and write their masks in the benchmark's own file format.

What runs is the `Tracker` or `UnsupervisedTracker` that users run, fed one frame at a time. Test-time averaging
(several sizes, mirrored frames, several models) is several trackers in step with each other: their probabilities are
averaged frame by frame, so nothing is held for a whole video. A sequence is written aside and moved into place
when it is finished, which is what makes a run resumable.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.benchmarks.youtube_vos import first_masks, required_frames
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.evaluation.report import Report
from twospeed.evaluation.runner import Model, Networks, Run
from twospeed.files import atomic_folder
from twospeed.results import ObjectMasks, OnProgress

Labels = NDArray[np.uint8]

KERNEL_SIGMA = {600: 7.0}
"""Gaussian of kernelized memory reading, in cells, by size of a multi-scale pass, as published for STCN."""


class MaskTracker(Protocol):
    """What is evaluated: anything with the two calls of `twospeed.Tracker`."""

    def step(self, image: NDArray[np.uint8], masks: Labels | None = None) -> ObjectMasks:
        """Take the next frame, uint8 (H, W, 3) RGB, with masks where they are given; return all objects' masks."""

    def reset(self) -> None:
        """Forget the video."""


BuildTracker = Callable[..., MaskTracker]
"""Called as `build(model, memory_every=..., include_last=..., top_k=..., max_memory_frames=..., size=...)`, with
`upscale=True` where a size is asked for, `kernel_sigma=...` where a pass reads its memory with a kernel,
`finetune=...` where it learns the first masks and `finder=...` where another one than its own corrects it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Options of a run, by the names of `Tracker`, and those of averaging.

    size: shorter side in pixels, None for the frames' own. scales: run at each of these sizes and average; empty for
    `size` alone. flip: also run every pass on mirrored frames. finetune: iterations on the first masks of each
    sequence. finder: what corrects masks of a tracker, "default" being its own. given_masks: whether first masks are
    handed over (unsupervised models find their objects themselves).
    """

    memory_every: int = 5
    include_last: bool = False
    top_k: int | None = 20
    max_memory_frames: int | None = None
    size: int | None = None
    scales: tuple[int, ...] = ()
    flip: bool = False
    finetune: int | None = None
    finder: str | None = "default"
    given_masks: bool = True


FrameJobs = list[tuple[str, Labels | None, bool]]
"""What a tracker is fed: name of the frame, masks given there, whether its result is written."""


@dataclass(frozen=True)
class Pass:
    """One tracker among those that are averaged."""

    tracker: MaskTracker
    mirrored: bool = False


def build_passes(models: Sequence[Any], settings: RunSettings, build: BuildTracker) -> list[Pass]:
    """Build a tracker for each model, size and direction."""
    shared = ("memory_every", "include_last", "top_k", "max_memory_frames")
    options = {
        **{name: getattr(settings, name) for name in shared},
        **({"finetune": settings.finetune} if settings.finetune else {}),
        **({"finder": settings.finder} if settings.finder != "default" else {}),
    }
    # A size that is asked for holds for smaller videos, too: the published multi-scale passes enlarge
    sizes: list[tuple[int | None, dict[str, float]]] = [
        (size, {"kernel_sigma": KERNEL_SIGMA[size]} if size in KERNEL_SIGMA else {}) for size in settings.scales
    ] or [(settings.size, {})]
    mirrors = (False, True) if settings.flip else (False,)
    return [
        Pass(build(model, **options, size=size, **({} if size is None else {"upscale": True}), **kernel), mirrored)
        for model, (size, kernel), mirrored in itertools.product(models, sizes, mirrors)
    ]


class Labeller(Protocol):
    """What `run_sequences` feeds: takes the frames of one sequence in turn and returns labels as they are ready."""

    def feed(self, image: NDArray[np.uint8], masks: Labels | None) -> list[Labels]:
        """Take the next frame; return the labels, uint8 (H, W), of the next frames in order, if any are ready."""

    def finish(self) -> list[Labels]:
        """End the sequence: return the labels of the frames that are still missing."""

    def reset(self) -> None:
        """Forget the sequence."""


@dataclass(frozen=True)
class InStep:
    """Trackers in step with each other: each frame's labels are the argmax of their mean probabilities."""

    passes: Sequence[Pass]

    def feed(self, image: NDArray[np.uint8], masks: Labels | None) -> list[Labels]:
        """Segment one frame by all passes. Raises InputError where they disagree on the objects."""
        if len(self.passes) == 1 and not self.passes[0].mirrored:
            return [self.passes[0].tracker.step(image, masks).labels]
        total: NDArray[np.float32] | None = None
        ids: tuple[int, ...] = ()
        for one in self.passes:
            if one.mirrored:
                flipped = None if masks is None else np.ascontiguousarray(masks[:, ::-1])
                result = one.tracker.step(np.ascontiguousarray(image[:, ::-1]), flipped)
                probabilities = result.probabilities[:, :, ::-1]
            else:
                result = one.tracker.step(image, masks)
                probabilities = result.probabilities
            if total is None:
                total, ids = probabilities.astype(np.float32, copy=True), result.object_ids
                continue
            if set(result.object_ids) != set(ids):
                raise InputError(
                    f"trackers disagree on the objects ({ids} and {result.object_ids}), so their probabilities cannot "
                    "be averaged; average only models that are given their masks"
                )
            total += probabilities[[0, *(1 + result.object_ids.index(k) for k in ids)]]
        assert total is not None  # there is at least one pass
        return [np.array([0, *ids], dtype=np.uint8)[total.argmax(axis=0)]]

    def finish(self) -> list[Labels]:
        """Nothing is missing: a tracker answers at once."""
        return []

    def reset(self) -> None:
        """Forget the sequence."""
        for one in self.passes:
            one.tracker.reset()


def run_sequences(
    run: Run,
    samples: Sequence[SequenceSample],
    folder: Path,
    plan: Callable[[SequenceSample], tuple[Labeller, FrameJobs]],
    write: Callable[[Path, Labels], None],
) -> None:
    """Segment every sequence that `folder` does not hold yet, and write `folder/<sequence>/<frame>.png`.

    plan: what sees which frames of a sequence. write: how one mask is saved.
    Raises OutputError when a mask cannot be written; sequences that are finished stay.
    """
    before, total = 0, sum(len(sample.frames) for sample in samples)
    run.clock.all_frames = total
    for index, sample in enumerate(samples, start=1):
        finished = folder / sample.name
        done = "kept from before"
        if not finished.is_dir():
            labeller, jobs = plan(sample)
            done = f"{len(jobs)} frames"
            if len(jobs) < len(sample.frames):  # some need not be seen; how many of the others is not known
                run.clock.all_frames = None
            try:
                with atomic_folder(finished) as partial:
                    waiting = iter(jobs)  # a labeller may look ahead: results come later than frames, in that order
                    for number, (frame, masks, _) in enumerate(jobs, start=1):
                        image = sample.image(frame)
                        with run.clock.running():
                            results = labeller.feed(image, masks)
                            results += labeller.finish() if number == len(jobs) else []
                        for labels in results:
                            name, _, wanted = next(waiting)
                            if wanted:
                                write(partial / f"{name}.png", labels)
                        run.progress("track", before + number, total, "frames")
            finally:
                labeller.reset()
        before += len(sample.frames)
        run.progress("track", before, total, "frames", f"{sample.name}: {done} ({index} of {len(samples)})")


def youtube_vos_jobs(sample: SequenceSample) -> FrameJobs:
    """From the first mask on, new objects given where they first appear; results wanted where the benchmark asks."""
    given, wanted = first_masks(sample), required_frames(sample)
    frames = sample.frames[sample.frames.index(next(iter(given))) :]
    return [(frame, given.get(frame), frame in wanted) for frame in frames]


def remembered_jobs(jobs: FrameJobs, memory_every: int) -> FrameJobs | None:
    """Leave out frames that are neither wanted nor remembered; None where that would change a mask.

    A tracker counts the frames it sees. Reduced to the needed frames, it must remember each of them, which is
    the same as before exactly when each lies `memory_every` or more frames after the one before. So it is
    with the official validation set (masks wanted every fifth frame, memory every fifth).
    """
    kept: FrameJobs = []
    last = 0
    for index, job in enumerate(jobs):
        _, given, wanted = job
        if given is not None or index - last >= memory_every:
            last = index
            kept.append(job)
        elif wanted:
            return None
    return kept


CLOCK = "from pixels to masks, without reading and writing files"


class TrackerRun(Run):
    """Trackers that are given their first masks, over the sequences of a benchmark.

    settings: see `RunSettings`. build_tracker: what is run, if not `twospeed.Tracker`. options: of the networks'
    constructors, for those given by name. Raises InputError for networks that cannot do the task.
    """

    def __init__(
        self,
        benchmark: str,
        model: Model | Sequence[Model],
        weights: Any,
        settings: RunSettings,
        *,
        device: str | None = None,
        build_tracker: BuildTracker | None = None,
        options: Mapping[str, Any] | None = None,
        on_progress: OnProgress = lambda progress: None,
    ):
        networks = Networks(model, weights, task="track", on_progress=on_progress)
        super().__init__(benchmark, networks, {**asdict(settings), **(options or {})}, on_progress)
        self.options = settings
        if build_tracker is None:
            from twospeed.pipelines.tracker import Tracker

            build_tracker = functools.partial(Tracker, device=device, cuts=False)
        self._build = build_tracker
        self._models = self.networks.built(**(options or {}))
        self.passes = build_passes(self._models, settings, self._build)
        if not settings.given_masks and any(getattr(p.tracker, "needs_masks", True) for p in self.passes):
            raise InputError(
                f"{self.networks.title} needs a first mask, which the unsupervised task does not give; choose a model "
                "for unsupervised video object segmentation, or the semi-supervised task",
                option="task",
            )
        self._every_frame_remembered: list[Pass] | None = None

    def davis_plan(self, sample: SequenceSample) -> tuple[Labeller, FrameJobs]:
        """Which trackers see which frames of a sequence: all see all, and all results are written.

        The objects of the first frame are given, where masks are (void pixels as background).
        """
        first = sample.labels(sample.frames[0]) if self.options.given_masks else None
        if first is not None:
            first = np.where(first == VOID, np.uint8(0), first)
        return InStep(self.passes), [(name, None if n else first, True) for n, name in enumerate(sample.frames)]

    def youtube_vos_plan(self, sample: SequenceSample) -> tuple[Labeller, FrameJobs]:
        """Which trackers see which frames of a video, leaving out those that change nothing."""
        jobs = youtube_vos_jobs(sample)
        need_all = any(getattr(one.tracker, "needs_every_frame", False) for one in self.passes)
        fewer = None if need_all or self.options.include_last else remembered_jobs(jobs, self.options.memory_every)
        if fewer is None:
            return InStep(self.passes), jobs
        if self._every_frame_remembered is None:
            remembering = replace(self.options, memory_every=1)
            self._every_frame_remembered = build_passes(self._models, remembering, self._build)
        return InStep(self._every_frame_remembered), fewer

    def vos_report(self, **fields: Any) -> Report:
        """Return the report of a run over masks."""
        several = f", {len(self.passes)} passes a frame" if len(self.passes) > 1 else ""
        return self.report(clock=CLOCK + several, **fields)
