"""The time that a training counts: that of its steps, not of pauses."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

LONGEST = 10.0  # times the median of the steps before: what takes longer was paused meanwhile
LEAST_LIMIT_S = 2.0  # short steps vary more: so many seconds are always counted
FIRST_LIMIT_S = 60.0  # of the first step, which starts loading processes and has none before it to compare with


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
