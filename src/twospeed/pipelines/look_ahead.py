"""Two threads for one video: one looks at the frames to come, while the other tracks and asks it for help."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from twospeed.ops.side_by_side import ReadInAdvance
from twospeed.results import Frame

Seen = TypeVar("Seen")
Part = TypeVar("Part")
Result = TypeVar("Result")

_AHEAD = 2  # frames


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
        others = [self._pool.submit(work, part) for part in parts]
        self._ask()
        results: list[Result] = []
        # From the last on: this thread does what the other one has not begun
        for part, other in zip(parts[::-1], others[::-1], strict=True):
            results.append(work(part) if other.cancel() else other.result())
        return results[::-1]

    def _ask(self) -> None:
        if self._later is not None:
            self._asked.append((self._later, self._pool.submit(self._look, self._later)))
            self._later = None

    def _next(self) -> tuple[Frame, Seen]:
        frame, seen = self._asked.popleft()
        return frame, seen.result()
