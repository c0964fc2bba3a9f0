"""The loop of trainings of small networks on a CPU, for minutes or iterations; recipes fill in data, losses and checks.

    with start_run(config, config.device, resume=resume) as run:
        stage = single_stage(run, config, model, groups)
        stage.fit(batches, loss, check)

AdamW; the learning rate rises, then falls along half a cosine to the end of the stage. Replicas of one thread each
share a batch. Averaged weights, where `ema_decay` is set, are what `check` validates and exports.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from twospeed.errors import InputError
from twospeed.training.optim import gradient_norm, set_learning_rate
from twospeed.training.replicas import ThreadedReplicas, move_average
from twospeed.training.run import Run, RunSettings
from twospeed.training.schedule import check_length, half_cosine, progress_of, with_warm_up

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")
Loss = tuple[Tensor, Mapping[str, float]]  # and numbers to report, "loss" among them

LONGEST = 10.0  # times the median of the steps before: what takes longer was paused meanwhile
LEAST_LIMIT_S = 2.0  # short steps vary more: so many seconds are always counted
FIRST_LIMIT_S = 60.0  # of the first step, which starts loading processes and has none before it to compare with


@dataclass(frozen=True, kw_only=True)
class StageSettings(RunSettings):
    """Settings that a `Stage` reads; recipes add their own and set the defaults."""

    batch: int = 8
    replicas: int = 1  # that share each batch, one thread each
    lr: float = 1e-3  # falls along half a cosine
    warm_up: float = 0.02  # share of the run in which the rate rises
    weight_decay: float = 1e-2
    clip_gradient: float | None = 1.0  # largest L2 norm
    ema_decay: float | None = None  # of averaged weights, which are then validated and exported
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 8.0

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.batch % self.replicas:
            raise InputError(f"batch {self.batch} cannot be shared by {self.replicas} replicas: make it a multiple")


@dataclass(frozen=True, kw_only=True)
class SingleStageSettings(StageSettings):
    """Settings of a recipe that is one `Stage`."""

    minutes: float | None = 30.0  # training time; the schedule spans it
    iterations: int | None = None  # instead of minutes: exactly reproducible
    device: str | None = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self.minutes, self.iterations)


class StepClock:
    """Measures steps in seconds; leaves out the time in which the process was stopped or the machine slept.

    Neither shows as such in a clock, so a step that takes much longer than those before it is cut: it counts at most
    LONGEST times their median. now: a clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._began = now()
        self._last: deque[float] = deque(maxlen=100)

    def begin(self) -> None:
        """Begin a step."""
        self._began = self._now()

    def end(self) -> float:
        """Return how many seconds the step that began last counts."""
        limit = max(LONGEST * statistics.median(self._last), LEAST_LIMIT_S) if self._last else FIRST_LIMIT_S
        counted = min(self._now() - self._began, limit)
        self._last.append(counted)
        return counted


class Stage(Generic[Model]):
    """What learns, and how far it is: `iteration` of this stage, `seconds` of training, `progress` from 0 to 1.

    groups: parameter groups for AdamW, each with an optional `lr_scale`. minutes: used where iterations is None.
    name: of the rows of its log. first_step: steps of the run before this stage. kept: values of the recipe that
    checkpoints keep; `restore`: bring them, weights and position back from the run's checkpoint, where it has one.
    """

    def __init__(
        self,
        run: Run,
        config: StageSettings,
        model: Model,
        groups: Sequence[dict[str, Any]],
        *,
        lr: float,
        minutes: float | None,
        iterations: int | None,
        name: str = "train",
        first_step: int = 0,
        kept: Mapping[str, Any] | None = None,
        restore: bool = True,
    ) -> None:
        self.run, self.config, self.model, self.name = run, config, model, name
        self.lr, self.minutes, self.iterations, self.first_step = lr, minutes, iterations, first_step
        averaged = config.ema_decay is not None
        self.average: Model = copy.deepcopy(model).eval().requires_grad_(False) if averaged else model
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))
        self.parts: dict[str, Any] = {"model": model, "optimizer": self.optimizer}
        if averaged:
            self.parts["average"] = self.average
        self.kept = dict(kept or {})
        saved = run.restore(**self.parts) if restore else {}
        self.iteration: int = saved.get("step", first_step) - first_step
        self.seconds: float = saved.get("seconds", 0.0)
        self._checked: float = saved.get("checked", self.seconds)
        self.kept.update({key: saved[key] for key in self.kept if key in saved})

    @property
    def step(self) -> int:
        """Steps of the run so far."""
        return self.first_step + self.iteration

    @property
    def progress(self) -> float:
        """How much of the stage is done: 0 to 1."""
        return progress_of(self.iteration, self.seconds, iterations=self.iterations, minutes=self.minutes)

    def fit(
        self,
        batches: Iterator[Batch],
        loss: Callable[[Model, int, Batch], Loss],
        check: Callable[[], None],
        *,
        prepare: Callable[[Model, bool], object] = lambda replica, frozen: replica.train(not frozen),
        freeze_norm: float = 1.0,
    ) -> None:
        """Train to the end of the stage, or until the run shall stop early.

        loss: (replica, its number, batch) -> the loss of the replica's share, and numbers to report. check: validates
        and exports `average`, every `validate_minutes` and at the end. prepare: called with every replica before each
        step, and with whether batch norm keeps its statistics: from the share `freeze_norm` of the stage on.
        """
        run, config, frozen = self.run, self.config, False
        replicas = ThreadedReplicas(self.model, config.replicas, lambda replica: prepare(replica, frozen))
        clock, rows = StepClock(), list[Mapping[str, float]]()
        while (progress := self.progress) < 1:
            clock.begin()
            frozen = progress >= freeze_norm
            if frozen:
                replicas.share_statistics()
            batch = next(batches)
            lr = self._rate(progress)
            set_learning_rate(self.optimizer, lr)
            rows.append(replicas.backward(lambda replica, number, batch=batch: loss(replica, number, batch)))  # type: ignore[misc]
            run.check_finite(self.step + 1, lr=lr, loss=rows[-1]["loss"])
            gradient_norm(self.model, clip=config.clip_gradient)
            self.optimizer.step()
            if config.ema_decay is not None:
                decay = min(config.ema_decay, (1 + self.iteration) / (10 + self.iteration))
                move_average(self.average, self.model, decay)
            self.iteration += 1
            self.seconds += clock.end()
            if self.iteration % config.log_every == 0:
                means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
                run.log(self.name, self.step, minutes=round(self.seconds / 60, 2), lr=lr, **means)
                rows.clear()
            finished = self.progress >= 1
            if finished or self.seconds - self._checked > 60 * config.validate_minutes:
                self._checked = self.seconds
                run.check_weights(self.model, self.step)
                check()
            if finished or run.due(self.step):
                run.save(self.step, **self.parts, seconds=self.seconds, checked=self._checked, **self.kept)
            if run.ended(self.step):
                break
        replicas.close()

    def log(self, kind: str, scores: Mapping[str, float]) -> None:
        """Log what `check` measured."""
        self.run.log(kind, self.step, minutes=round(self.seconds / 60, 2), **scores)

    def _rate(self, progress: float) -> float:
        return with_warm_up(
            progress,
            lambda at: half_cosine(at, base=self.lr, length=1.0),
            warm_up=self.config.warm_up,
            start=0.01 * self.lr,
        )


def single_stage(run: Run, config: SingleStageSettings, model: Model, groups: Sequence[dict[str, Any]]) -> Stage[Model]:
    """Return the only stage of a run. groups: as `Stage` takes them."""
    torch.set_num_threads(1)  # sums are the same in a run that is resumed in another process
    run.total_steps = config.iterations
    return Stage(run, config, model, groups, lr=config.lr, minutes=config.minutes, iterations=config.iterations)
