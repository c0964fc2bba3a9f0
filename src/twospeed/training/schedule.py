"""Learning rate as a pure function of the position in training: nothing to save, nothing to restore.

Positions and lengths share one unit, whichever the recipe counts in: epochs (fractions allowed) or steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from twospeed.errors import InputError


def check_length(minutes: float | None, iterations: int | None) -> None:
    """Raise InputError unless a training has one length: minutes of training, or iterations."""
    if (minutes is None) == (iterations is None):
        raise InputError(f"minutes={minutes} and iterations={iterations}: give one and set the other to None")


def progress_of(step: int, seconds: float, *, iterations: int | None, minutes: float | None) -> float:
    """Return how much of a training is done, from 0 to 1: in iterations where they are given, else in minutes."""
    return step / iterations if iterations is not None else seconds / (60 * (minutes or 1.0))


def half_cosine(position: float, *, base: float, length: float) -> float:
    """Half-period cosine: base * (cos(pi * position / length) + 1) / 2, from base to 0."""
    return base * 0.5 * (math.cos(math.pi * min(max(position / length, 0.0), 1.0)) + 1.0)


def steps(position: float, *, base: float, boundaries: Sequence[float], factor: float = 0.1) -> float:
    """Stepwise: base, times `factor` at each boundary that the position has reached."""
    return base * factor ** sum(position >= boundary for boundary in boundaries)


def with_warm_up(position: float, schedule: Callable[[float], float], *, warm_up: float, start: float) -> float:
    """Rise linearly from `start` to the schedule's value at `warm_up`, then follow the schedule.

    The schedule itself is not shifted: after the warm-up it continues where it would have been (PySlowFast).
    """
    if position >= warm_up:
        return schedule(position)
    return start + (schedule(warm_up) - start) * position / warm_up


def scaled_lr(lr: float, *, batch: int, reference_batch: int) -> float:
    """Linear scaling rule: a learning rate found for `reference_batch` clips per step, for `batch` clips."""
    if batch < 1 or reference_batch < 1:
        raise InputError(f"batches must have at least 1 clip, got batch={batch}, reference={reference_batch}")
    return lr * batch / reference_batch
