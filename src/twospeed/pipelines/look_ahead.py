"""Two threads for one video: one looks at the frames to come, while the other tracks and asks it for help."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Generic, TypeVar

from twospeed.ops.side_by_side import ReadInAdvance
from twospeed.results import Frame

Seen = TypeVar("Seen")
Part = TypeVar("Part")
Result = TypeVar("Result")

_AHEAD = 2  # frames


class Asked(Generic[Result]):
    """Work that the thread of a pool does where it gets round to it, or else who wants the result."""

    def __init__(self, work: Callable[[], Result], pool: Executor) -> None:
        self._work, self._future = work, pool.submit(work)

    def result(self) -> Result:
        """Return what the work returns, or raise what it raises."""
        return self._work() if self._future.cancel() else self._future.result()

    def drop(self) -> None:
        """Return once the work is not done any more, without its result."""
        if not self._future.cancel():
            wait([self._future])


class LookAhead(Generic[Seen]):
    """Looks at frames before their turn on the thread of a pool, which has one.

    look: what is computed of a frame's image; it depends on nothing else.
    """

    def __init__(self, look: Callable[[Frame], Seen], pool: Executor) -> None:
        self._look, self._pool = look, pool
        self._asked: deque[tuple[Frame, Future[Seen]]] = deque()
        self._later: Frame | None = None  # to be looked at, too

    def frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Seen]]:
        """Yield frames with what was seen in them; all before an error of the source or of `look` come first."""
        for frame in (in_advance := ReadInAdvance(frames)):
            self._ask()
            self._later = frame
            if not self._asked or not self._asked[-1][1].done():
                self._ask()  # else the other thread is ahead: it shall help first with the frame whose turn comes
            if len(self._asked) + (self._later is not None) > _AHEAD:
                yield self._next()
        self._ask()
        while self._asked:
            yield self._next()
        in_advance.check()

    def share(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Return `work` of each part, done by both threads where the other one is free."""
        asked = [Asked(partial(work, part), self._pool) for part in parts]
        self._ask()
        return [one.result() for one in asked[::-1]][::-1]  # from the last on: the other one begins with the first

    def later(self, work: Callable[[], Result]) -> Asked[Result]:
        """Have work done beside what this thread does until it asks for the result."""
        return Asked(work, self._pool)

    def _ask(self) -> None:
        if self._later is not None:
            self._asked.append((self._later, self._pool.submit(self._look, self._later)))
            self._later = None

    def _next(self) -> tuple[Frame, Seen]:
        frame, seen = self._asked.popleft()
        return frame, seen.result()
