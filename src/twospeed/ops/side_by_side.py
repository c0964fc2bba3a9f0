"""Work that does not depend on each other, side by side on the processor's cores.

Threads that share every single operation of a small network wait for the slowest of them hundreds of times a frame,
above all while something else runs too: decoding, encoding, other programs. Those that have a frame each meet once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Network = TypeVar("Network", bound=nn.Module)

MOST = 8
"""Pieces of work at once: each holds frames and features of its own."""


def pieces_at_once(device: torch.device) -> int:
    """Return how many pieces of work are worth running at once: 1 where there is one thread, or no CPU."""
    return min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1


@contextmanager
def workers(count: int, *, beside_this: bool = False) -> Iterator[ThreadPoolExecutor]:
    """Give threads for so many pieces of work, which share those of torch; what still waits at the end is dropped.

    beside_this: this thread computes, too, with a share of its own.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // (count + beside_this))
    if beside_this:
        torch.set_num_threads(share)
    pool = ThreadPoolExecutor(count, "twospeed-work", initializer=torch.set_num_threads, initargs=(share,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that are started later take over the number that was set last


def twin(network: Network) -> Network:
    """Return a copy with the same weights, not copied, for another thread: optimised networks have scratch memory."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shared)


class ReadInAdvance(Generic[Item]):
    """Items that are read before they are needed: an error ends them quietly, until `check` raises it at its turn."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Item]:
        try:
            yield from self._items
        except Exception as error:
            self._error = error

    def check(self) -> None:
        """Raise the error that ended the items, if one did."""
        if self._error is not None:
            raise self._error
