"""Batches of a training set, loaded by processes of one thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader

from twospeed.errors import InputError

Batch = TypeVar("Batch")


def load(
    samples: Any,
    keys: Iterable[Sequence[Any]],
    collate: Callable[[list[Any]], Batch],
    *,
    workers: int,
    ahead: int = 2,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yield a batch for each list of keys. samples: anything with `samples[key]`; workers: 0 loads in this process.

    ahead: batches that each process loads before they are asked for. Raises what loading a sample raises, in one line.
    """
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=keys,  # type: ignore[arg-type]  # an iterator serves, too
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=_use_one_thread,
        generator=torch.Generator(),  # its own: starting an iterator must not move the global generator
        pin_memory=pin_memory,
    )
    try:
        yield from loader
    except InputError as error:  # from a loading process it comes with that process's traceback before its own line
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.partition(f"{type(error).__name__}: ")[2] or last) from error


def _use_one_thread(_worker: int) -> None:
    """Leave the other threads to the network."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
