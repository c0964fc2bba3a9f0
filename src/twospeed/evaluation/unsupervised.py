"""Unsupervised video object segmentation over a data set's sequences: the `UnsupervisedTracker` that users run.

No annotation is read but the first frame's, and that only where the network is fine-tuned on it. Merged finds answer
DAVIS-2016, linked ones DAVIS-2017, at most 20 a video.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report); Caelles et al. 2019 for the 20 proposals.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from twospeed.data.benchmarks.davis import Task
from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.evaluation.mask_runs import CLOCK, FrameJobs, Labels
from twospeed.evaluation.report import Report
from twospeed.evaluation.runner import Clock, Model, Networks, Run, listed
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.pipelines.finetune import FineTuning, fine_tune
from twospeed.pipelines.unsupervised import UnsupervisedTracker, is_finder, scaled_to
from twospeed.pipelines.video_tracker import needs_masks
from twospeed.results import OnProgress


@dataclass(frozen=True, kw_only=True)
class UnsupervisedSettings:
    """Options of a run, by the names of `UnsupervisedTracker`.

    size: shorter side in pixels, None for 480 with find_nano, 800 with slowfast_maskrcnn as published. min_score: least
    score of a detection that counts (merged) or begins an object (linked); None as published: all detections are
    merged, 0.5 begins an object. max_objects: most
    of a video, when linked. finetune: iterations on the mask of each sequence's first frame; 0 uses no mask.
    finetune_options: of `FineTuning`.
    """

    size: int | None = None
    min_score: float | None = None
    max_objects: int = 20
    finetune: int = 0
    finetune_options: Mapping[str, Any] = field(default_factory=dict)


class UnsupervisedRun(Run):
    """One network over the sequences of a benchmark.

    merged: all detections are one foreground. Raises InputError for several networks (detections of different networks
    have nothing in common that could be averaged), and where fine-tuning and the task do not go together.
    """

    def __init__(
        self,
        benchmark: str,
        model: Model | Sequence[Model],
        weights: Any,
        settings: UnsupervisedSettings,
        *,
        task: Task,
        merged: bool,
        device: str | None = None,
        on_progress: OnProgress = lambda progress: None,
    ):
        networks = Networks(model, weights, task="track", on_progress=on_progress)
        super().__init__(benchmark, networks, {**asdict(settings), "merged": merged}, on_progress)
        if len(networks.given) != 1:
            raise InputError(
                f"{len(networks.given)} models: networks for unsupervised video object segmentation cannot be "
                "averaged; give one model and its weights"
            )
        finder = is_finder(networks.given[0])
        if settings.size is not None and not finder and not isinstance(networks.given[0], str):
            raise InputError(f"size is {settings.size}, but the network is built already; build it with that min_size")
        _check_task(networks.title, settings, task, finder=finder)
        (network,) = networks.built(**({} if settings.size is None or finder else scaled_to(settings.size)))
        assert finder or isinstance(network, SlowFastMaskRCNN)  # as `needs_no_masks` has said
        self.options, self.network, self.tuning = settings, network, Clock()
        size = settings.size if finder else None  # the other is built for its size
        self._build = functools.partial(
            UnsupervisedTracker, device=device, size=size, merged=merged, min_score=settings.min_score,
            max_objects=settings.max_objects,
        )  # fmt: skip
        self._tracker = self._build(network)

    def davis_plan(self, sample: SequenceSample) -> tuple[UnsupervisedRun, FrameJobs]:
        """All frames are seen and written, the first one among them. Fine-tunes the network when that is asked for."""
        if self.options.finetune:
            seen = [sample.image(name) for name in sample.frames[: self.network.window // 2 + 1]]
            masks = sample.labels(sample.frames[0])
            masks = np.where(masks == VOID, np.uint8(0), masks)
            options = FineTuning(iterations=self.options.finetune, **self.options.finetune_options)
            with self.tuning.running():
                tuned = fine_tune(self.network, seen, masks, options)
            self._tracker = self._build(tuned)
            self._tracker.reset(masks)
        return self, [(frame, None, True) for frame in sample.frames]

    def feed(self, image: NDArray[np.uint8], masks: Labels | None) -> list[Labels]:
        """Take the next frame; return the labels that are ready, some frames late."""
        result = self._tracker.step(image)
        return [] if result is None else [result.labels]

    def finish(self) -> list[Labels]:
        """Return the labels of the last frames."""
        return [result.labels for result in self._tracker.finish()]

    def reset(self) -> None:
        """Forget the sequence."""
        self._tracker.reset()

    def vos_report(self, **fields: Any) -> Report:
        """Return the report of a run over masks."""
        tuned = {"finetune_seconds": self.tuning.seconds} if self.options.finetune else {}
        clock = f"{CLOCK}; fine-tuning apart" if tuned else CLOCK
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return self.report(clock=clock, timed=tuned, parameters=parameters, **fields)


def needs_no_masks(model: Any) -> bool:
    """Return whether any of the models (names or networks) segments objects unsupervised."""
    return any(isinstance(one, str | nn.Module) and not needs_masks(one) for one in listed(model))


def _check_task(name: str, settings: UnsupervisedSettings, task: Task, *, finder: bool) -> None:
    """Raise InputError when fine-tuning and the task do not go together."""
    if finder and (settings.finetune or task == "semi-supervised"):
        raise InputError(f"{name} takes no first masks; choose the unsupervised task, or a tracker such as track_small")
    if task == "unsupervised" and settings.finetune:
        raise InputError(f"finetune is {settings.finetune}, but the unsupervised task gives no first mask")
    if task == "semi-supervised" and not settings.finetune:
        raise InputError(
            f"{name} takes no masks: for the semi-supervised task it is fine-tuned on each first mask; give the number "
            "of iterations (2000 as published), or choose the unsupervised task",
            option="finetune",
        )
