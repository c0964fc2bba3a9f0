"""Decode on threads, a bounded number of frames ahead of whoever consumes them."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from twospeed.errors import InputError

T = TypeVar("T")
Item = TypeVar("Item")

# A decoder gives up its thread within one frame; a pipe or a camera may block for longer. Waiting for those would
# hang the program, so after this the (daemon) thread is left to end with its source.
JOIN_SECONDS = 2.0


class _Buffer(Generic[T]):
    """What producer and consumer share. The producer holds only this, so that a forgotten consumer can be collected."""

    def __init__(self, ahead: int, keep_newest: bool) -> None:
        self.process = os.getpid()
        self.ahead = ahead
        self.keep_newest = keep_newest
        self.ready: deque[T] = deque()
        self.changed = threading.Condition()
        self.stopped = False
        self.finished = False
        self.begun = False  # the consumer has taken something
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand over one item, waiting while the buffer is full; False when nobody wants any more."""
        with self.changed:
            if self.keep_newest and self.begun:
                while len(self.ready) >= self.ahead:
                    self.ready.popleft()
            else:
                self.changed.wait_for(lambda: self.stopped or len(self.ready) < self.ahead)
            if self.stopped:
                return False
            self.ready.append(item)
            self.changed.notify_all()
            return True


def _produce(buffer: _Buffer[T], items: Generator[T, None, None]) -> None:
    try:
        while not buffer.stopped:
            # No name holds the item: while the buffer is full, only `put` keeps it alive.
            if not buffer.put(next(items)):
                break
    except StopIteration:
        pass
    except BaseException as error:  # carried over to the consumer's thread, whatever it is
        buffer.error = error
    finally:
        try:
            items.close()
        finally:
            with buffer.changed:
                buffer.finished = True
                buffer.changed.notify_all()


def _stop(buffer: _Buffer[T], thread: threading.Thread) -> None:
    if buffer.process != os.getpid():
        return  # the thread, which may have held the lock, is not in this child
    with buffer.changed:
        buffer.stopped = True
        buffer.ready.clear()
        buffer.changed.notify_all()
    if thread is not threading.current_thread():
        thread.join(JOIN_SECONDS)


class DecodeAhead(Generic[T]):
    """Iterate over a generator that runs on a thread of its own, at most `ahead` items in front.

    The generator's exceptions come out of `next()` after the items made before them. `close()`, dropping the last
    reference, or the end of the program stop the thread and close the generator on it. A forked child gets InputError.
    keep_newest: when full, drop the oldest item instead of waiting (live sources), once the first has been taken.
    """

    def __init__(self, items: Generator[T, None, None], ahead: int, *, keep_newest: bool = False) -> None:
        self._buffer: _Buffer[T] = _Buffer(ahead, keep_newest)
        thread = threading.Thread(target=_produce, args=(self._buffer, items), name="twospeed-decode", daemon=True)
        self.close = weakref.finalize(self, _stop, self._buffer, thread)
        thread.start()

    def hold(self, ahead: int) -> None:
        """Hold at most so many items in front from now on."""
        self._buffer.ahead = ahead

    def __iter__(self) -> DecodeAhead[T]:
        return self

    def __next__(self) -> T:
        buffer = self._buffer
        if buffer.process != os.getpid():
            raise InputError(
                "a video opened before the process forked is read by the parent alone; open it in the child"
            )
        with buffer.changed:
            buffer.changed.wait_for(lambda: buffer.ready or buffer.finished or buffer.stopped)
            if buffer.ready:
                item = buffer.ready.popleft()
                buffer.begun = True
                buffer.changed.notify_all()
                return item
            error, buffer.error = buffer.error, None
        if error is not None:
            raise error
        raise StopIteration


def read_ahead(read: Callable[[Item], T], items: Iterable[Item], threads: int) -> Generator[T, None, None]:
    """Yield `read(item)` of all items in their order; `threads` threads read, two items each in advance.

    An exception of `read` comes out in its place. For reading that can begin anywhere; `DecodeAhead` is for one stream.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
