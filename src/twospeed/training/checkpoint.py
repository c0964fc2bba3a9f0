"""Exact restart: everything that decides the next step, in one file that is either whole or absent.

A checkpoint is a plain dictionary of tensors, numbers and strings (read back with torch's restricted loader).
Random states are kept for every process of the run.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twospeed.errors import CheckpointError, InputError, OutputError
from twospeed.files import atomic_file
from twospeed.training.distributed import Process, gather, wait_for_all
from twospeed.training.log import resolved

_NAME = re.compile(r"checkpoint_(\d{8})\.pt")


def random_state() -> dict[str, Any]:
    """Return the state of Python's, numpy's and torch's generators (all CUDA devices)."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    words = torch.from_numpy(np.asarray(keys).astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": (str(kind), words, position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put every generator back to where `random_state` found it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], process: Process) -> Path:
    """Write `folder/checkpoint_<step>.pt` with the random states of all ranks; every rank must call this.

    state: what the recipe wants back (state dicts, position). The file appears under its name only when it is
    complete and on the disk; a crash leaves none. The two newest checkpoints stay. Raises OutputError when it cannot be
    written.
    """
    states = gather(random_state())
    path = folder / f"checkpoint_{step:08d}.pt"
    if process.is_main:
        try:
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                torch.save({"step": step, "world": process.world, "random": states, **state}, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise OutputError(
                f"{path}: checkpoint could not be written ({error}); free space, or choose another folder"
            ) from error
        for old in checkpoints(folder)[:-2]:
            old.unlink()
    wait_for_all()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run folder, oldest first."""
    return sorted(p for p in folder.glob("checkpoint_*.pt") if _NAME.fullmatch(p.name))


def check_same(config: Any, saved: Mapping[str, Any], *, may_change: Collection[str]) -> None:
    """Refuse to resume a run of `config.out` with other settings: the curve would not be that of either run.

    saved: the settings of before, as `resolved` gives them. may_change: fields that do not touch what is learned.
    Raises InputError, which names each changed field with both values.
    """
    now = resolved(config)
    changed = [
        f"{key} was {saved.get(key)!r}, now {now[key]!r}"
        for key in now
        if key not in may_change and now[key] != saved.get(key)
    ]
    if changed:
        raise InputError(f"{config.out}: cannot resume with other settings: {'; '.join(changed)}")


def load_checkpoint(path: Path, process: Process) -> dict[str, Any]:
    """Read a checkpoint on the CPU; `restore_random_state` takes this rank's part of its "random".

    Raises CheckpointError for a damaged file and InputError when the run had another number of processes:
    their random states and their share of each batch would differ, so the restart could not be exact.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise CheckpointError(
            f"{path}: not a checkpoint of this package, or damaged ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or not {"step", "world", "random"} <= state.keys():
        raise CheckpointError(f"{path}: not a checkpoint of this package")
    if state["world"] != process.world:
        raise InputError(
            f"{path}: written by {state['world']} processes, this run has {process.world}; resume with the same number"
        )
    return dict(state)
