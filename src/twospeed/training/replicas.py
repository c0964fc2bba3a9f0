"""Replicas that share a batch, one thread each: how small networks train fastest on a few processor cores.

Threads that share every single operation wait for the slowest of them hundreds of times a step, above all on a busy
machine. ThreadedReplicas meet once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class ThreadedReplicas(Generic[Model]):
    """A model and its replicas, which share its weights but not its gradients and batch norm statistics.

    prepare: called on every replica before each step; sets training and eval modes. Sums are made in a fixed order, so
    that a step gives the same numbers every time.
    """

    def __init__(self, model: Model, count: int, prepare: Callable[[Model], object] = nn.Module.train) -> None:
        self.replicas = [model] + [copy.deepcopy(model) for _ in range(count - 1)]
        for replica in self.replicas[1:]:
            for mine, shared in zip(replica.parameters(), model.parameters(), strict=True):
                mine.data = shared.data
        self.prepare = prepare
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, work: Callable[[Model, int], tuple[torch.Tensor, Mapping[str, float]]]) -> dict[str, float]:
        """Let every replica compute a loss on its share and gather the gradient of the mean in the model's `grad`.

        work: (replica, replica number) -> loss, numbers to report. Returns the means of these.
        """

        def run(number: int) -> Mapping[str, float]:
            replica = self.replicas[number]
            self.prepare(replica)
            replica.zero_grad(set_to_none=True)
            loss, parts = work(replica, number)
            (loss / len(self.replicas)).backward()
            return parts

        results = [share.result() for share in [self._pool.submit(run, i) for i in range(len(self.replicas))]]
        for first, *others in zip(*(replica.parameters() for replica in self.replicas), strict=True):
            for other in others:
                if first.grad is not None and other.grad is not None:
                    first.grad += other.grad
        return {key: sum(parts[key] for parts in results) / len(results) for key in results[0]}

    def share_statistics(self) -> None:
        """Give every replica the buffers of the first: for the end of a training, when norms keep their statistics."""
        for replica in self.replicas[1:]:
            replica.load_state_dict(dict(self.replicas[0].named_buffers()), strict=False)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards the model's; batch norm statistics are averages already and are copied."""
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for kept, statistic in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(statistic)
