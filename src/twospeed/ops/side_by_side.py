"""Work that does not depend on each other, side by side on the processor's cores.

Threads that share every single operation of a small network wait for the slowest of them hundreds of times a frame,
above all while something else runs too: decoding, encoding, other programs. Those that have a frame each meet once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

MOST = 8
"""Pieces of work at once: each holds frames and features of its own."""


def pieces_at_once(device: torch.device) -> int:
    """Return how many pieces of work are worth running at once: 1 where there is one thread, or no CPU."""
    return min(MOST, torch.get_num_threads()) if device.type == "cpu" else 1


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads for so many pieces of work, which share those of torch; what still waits at the end is dropped."""
    threads = torch.get_num_threads()
    share = max(1, threads // count)
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
