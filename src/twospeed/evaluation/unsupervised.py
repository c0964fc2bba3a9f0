"""Run networks that find objects by themselves over a data set's sequences: the `UnsupervisedTracker` that users run.

No annotation is read but the first frame's, and that only where the network is fine-tuned on it. Merged detections
answer DAVIS-2016, linked ones DAVIS-2017, at most 20 a video.
Source: "Applying SlowFast Networks to Video Object Segmentation" (report); Caelles et al. 2019 for the 20 proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from twospeed.data.benchmarks.label_files import VOID
from twospeed.data.samples import SequenceSample
from twospeed.errors import InputError
from twospeed.evaluation.mask_runs import Clock, FrameJobs, Labels
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.pipelines.finetune import FineTuning, fine_tune
from twospeed.pipelines.trackers import needs_masks
from twospeed.pipelines.unsupervised import UnsupervisedTracker, scaled_to
from twospeed.weights.load import create_model, weights_sha256


@dataclass(frozen=True, kw_only=True)
class UnsupervisedSettings:
    """Options of a run, by the names of `UnsupervisedTracker`.

    size: shorter side in pixels, None for 800 as published. min_score: least score of a detection that counts (merged)
    or begins an object (linked); None as published: all detections are merged, 0.5 begins an object. max_objects: most
    of a video, when linked. finetune: iterations on the mask of each sequence's first frame; 0 uses no mask.
    finetune_options: of `FineTuning`.
    """

    size: int | None = None
    min_score: float | None = None
    max_objects: int = 20
    finetune: int = 0
    finetune_options: Mapping[str, Any] = field(default_factory=dict)


class UnsupervisedRun:
    """One network over the sequences of a benchmark, with what a report and a resumed run must know of it.

    merged: all detections are one foreground. Raises InputError for several networks: detections of different
    networks have nothing in common that could be averaged.
    """

    def __init__(
        self,
        model: str | nn.Module | Sequence[str | nn.Module],
        weights: Any,
        settings: UnsupervisedSettings,
        device: str | None,
        *,
        merged: bool,
    ):
        models: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
        sources = list(weights) if isinstance(weights, list | tuple) else [weights]
        if len(models) != 1 or len(sources) != 1:
            raise InputError(
                f"{len(models)} models and {len(sources)} weights: networks that find objects by themselves cannot be "
                "averaged; give one model and its weights"
            )
        self.settings, self.clock, self.merged = settings, Clock(), merged
        self.tuning = Clock()
        self.checksums: tuple[str | None, ...] = ()
        given, source = models[0], sources[0]
        self.name = given if isinstance(given, str) else type(given).__name__
        if isinstance(given, str):
            self.checksums = (weights_sha256(given, source),)
            given = create_model(given, source, **({} if settings.size is None else scaled_to(settings.size)))
        elif settings.size is not None:
            raise InputError(f"size is {settings.size}, but the network is built already; build it with that min_size")
        assert isinstance(given, SlowFastMaskRCNN)  # as `needs_no_masks` has said
        self.network, self._device = given, device
        self._unsupervised_tracker = self._unsupervised_tracker_of(self.network)

    def _unsupervised_tracker_of(self, network: nn.Module) -> UnsupervisedTracker:
        return UnsupervisedTracker(
            network,
            device=self._device,
            merged=self.merged,
            min_score=self.settings.min_score,
            max_objects=self.settings.max_objects,
        )

    def check_task(self, task: str) -> None:
        """Raise InputError when fine-tuning and the task do not go together."""
        if task == "unsupervised" and self.settings.finetune:
            raise InputError(f"finetune is {self.settings.finetune}, but the unsupervised task gives no first mask")
        if task == "semi-supervised" and not self.settings.finetune:
            raise InputError(
                f"{self.name} finds objects by itself: for the semi-supervised task it is fine-tuned on each first "
                "mask; say how long (--finetune 2000 as published), or choose --task unsupervised"
            )

    def davis_plan(self, sample: SequenceSample) -> tuple[UnsupervisedRun, FrameJobs]:
        """All frames are seen and written, the first one among them. Fine-tunes the network when that is asked for."""
        if self.settings.finetune:
            seen = [sample.image(name) for name in sample.frames[: self.network.window // 2 + 1]]
            masks = sample.labels(sample.frames[0])
            masks = np.where(masks == VOID, np.uint8(0), masks)
            options = FineTuning(iterations=self.settings.finetune, **self.settings.finetune_options)
            with self.tuning.running():
                tuned = fine_tune(self.network, seen, masks, options)
            self._unsupervised_tracker = self._unsupervised_tracker_of(tuned)
            self._unsupervised_tracker.reset(masks)
        return self, [(frame, None, True) for frame in sample.frames]

    def feed(self, image: NDArray[np.uint8], masks: Labels | None) -> list[Labels]:
        """Take the next frame; return the labels that are ready, n // 2 frames late."""
        result = self._unsupervised_tracker.step(image)
        return [] if result is None else [result.labels]

    def finish(self) -> list[Labels]:
        """Return the labels of the last frames."""
        return [result.labels for result in self._unsupervised_tracker.finish()]

    def reset(self) -> None:
        """Forget the sequence."""
        self._unsupervised_tracker.reset()

    def description(self) -> dict[str, Any]:
        """Return what two runs must share for their masks to be of one kind."""
        return {
            "models": [self.name],
            "weights_sha256": list(self.checksums),
            "settings": {**asdict(self.settings), "merged": self.merged},
        }

    def of_report(self) -> dict[str, Any]:
        """Return the fields of `Report` that speak of the run."""
        speed = self.clock.speed(1)
        if speed and self.settings.finetune:
            speed |= {"finetune_seconds": self.tuning.seconds}
            speed["clock"] += "; fine-tuning apart"
        return {
            "model": self.name,
            "weights_sha256": self.checksums,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "settings": {**asdict(self.settings), "merged": self.merged},
            "speed": speed,
        }


def needs_no_masks(model: Any) -> bool:
    """Say whether any of the models (names or networks) finds objects by itself."""
    models = model if isinstance(model, list | tuple) else [model]
    return any(isinstance(one, str | nn.Module) and not needs_masks(one) for one in models)
