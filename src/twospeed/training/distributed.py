"""One run on many processes: plain torch.distributed as torchrun starts it, and exact sharding.

Every rank calls the same functions; alone (no torchrun) they cost nothing. What a step sees depends on the
seed, the epoch and the number of clips per step, not on how many processes share them: rank r of R takes the
r-th part of each batch that a single process would have seen whole.
"""

from __future__ import annotations

import gc
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twospeed.environment import resolve_device
from twospeed.errors import InputError

Key = tuple[int, int]  # (epoch, index): what a training set is asked for
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Process:
    """This process among those of the run: rank 0..world-1, and the device that is its own."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0


@contextmanager
def processes(device: str | None = None) -> Iterator[Process]:
    """Join the run that torchrun describes in the environment, or be alone; leave it at the end.

    device: "cpu", "cuda", "cuda:1"; None takes CUDA where there is one. NCCL joins GPUs, Gloo joins CPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if world > 1 and wanted == "cuda":
        wanted = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # each process touches its own card alone
    found = resolve_device(wanted)
    if world == 1 or dist.is_initialized():
        rank = dist.get_rank() if dist.is_initialized() else 0
        size = dist.get_world_size() if dist.is_initialized() else 1
        yield Process(rank, size, found)
        return
    if found.type == "cuda":
        torch.cuda.set_device(found)
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), found)
        dist.barrier()  # none closes its connections while another still waits for them
        gc.collect()  # a network wrapped for the group keeps its threads alive until then
    finally:
        dist.destroy_process_group()


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, numpy and torch (all devices); processes of one run differ by their rank.

    Samples should not draw from these generators but from one of their own, made from (seed, epoch, index),
    so that neither worker count nor order changes what is drawn.
    """
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def alone(device: str | None, what: str) -> Process:
    """Return the one process of a training that cannot share its work. Raises InputError under torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise InputError(f"{what} trains in one process, torchrun started {world}; start it without torchrun")
    return Process(0, 1, resolve_device(device))


def parallel(model: nn.Module, process: Process) -> nn.Module:
    """Wrap a model so that backward averages gradients over the processes; alone, return it unchanged.

    Batch-norm statistics stay each process's own, as the papers train: precise BN joins them before
    evaluation.
    """
    if process.world == 1:
        return model
    ids = [process.device.index] if process.device.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.15 prefers another name that older versions do not know
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def epoch_batches(
    length: int, *, epoch: int, seed: int, batch: int, batch_per_forward: int, process: Process, skip_steps: int = 0
) -> list[list[Key]]:
    """Return this rank's batches of one epoch as (epoch, index) keys: the batch_sampler of a DataLoader.

    Every optimizer step takes batch clips, cut into forwards of batch_per_forward; batch j of the
    whole run goes to rank j modulo world, so a step is batch / (batch_per_forward * world) forwards
    here. Samples that do not fill the last step are left out of this epoch (they differ from epoch to epoch).
    skip_steps: steps of this epoch that were already taken (resume in mid-epoch).
    """
    forwards = batch // (batch_per_forward * process.world)
    if forwards * batch_per_forward * process.world != batch:
        raise InputError(
            f"batch={batch} cannot be shared by {process.world} processes in forwards of "
            f"{batch_per_forward} clips; make it a multiple of {batch_per_forward * process.world}"
        )
    if length < batch:
        raise InputError(f"{length} samples do not fill one step of {batch}; lower batch")
    order = np.random.default_rng([seed, epoch]).permutation(length)
    batches = []
    for step in range(skip_steps, length // batch):
        chosen = order[step * batch : (step + 1) * batch].reshape(-1, batch_per_forward)
        batches += [[(epoch, int(i)) for i in part] for part in chosen[process.rank :: process.world]]
    return batches


def shard(length: int, process: Process) -> range:
    """Return the indices that this rank evaluates: every world-th, none twice, none padded."""
    return range(process.rank, length, process.world)


def gather(value: T) -> list[T]:
    """Return every rank's value, in rank order, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks (the input stays as it is)."""
    summed = value.detach().clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(summed)
    return summed


def world_size() -> int:
    """Return how many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def gradients_stay_here(model: nn.Module, *, unless: bool) -> Any:
    """Accumulate without exchanging gradients, but for the last forward of a step."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not unless else nullcontext()
