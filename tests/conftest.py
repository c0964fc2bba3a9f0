"""Fixtures that all tests share: golden cases and real data."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: they, and what they start, share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.goldens import seeded

GOLDENS = Path(__file__).parent / "goldens"
DATA = Path(os.environ.get("TWOSPEED_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Golden:
    """One recorded case: how it was made (`case`) and what the authors' code computed (`outputs`)."""

    case: dict[str, Any]
    outputs: dict[str, np.ndarray]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The case's weights, in the authors' names, rebuilt from names and shapes."""
        state = {
            name: torch.from_numpy(value)
            for name, value in seeded.state_dict(self.case["state_dict"], **self.case["fill"]).items()
        }
        for target, change in self.case.get("fill_overrides", {}).items():
            name, index = re.fullmatch(r"([^\[]+)(?:\[(.*)\])?", target).groups()
            view = state[name]
            if index:  # such as "[:, 3:]"
                view = eval(f"view[{index}]", {"view": view})
            if "set" in change:
                view.fill_(change["set"])
            else:
                view.mul_(change["multiply"])
        return state


@pytest.fixture
def golden():
    """Return a loader: `golden("vos/stcn_segment")`."""

    def load(name: str) -> Golden:
        folder = GOLDENS / name
        outputs = np.load(folder / "outputs.npz") if (folder / "outputs.npz").is_file() else {}
        return Golden(json.loads((folder / "case.json").read_text()), {key: outputs[key] for key in outputs})

    return load


def require_data(*parts: str) -> Path:
    """Return a path below the real-data folder, or skip the test with the reason."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data not on this machine: {'/'.join(parts)} (set TWOSPEED_TEST_DATA to its folder)")
    return path


@pytest.fixture(scope="session")
def davis16() -> Path:
    """Folder of the DAVIS-2016 sequences (JPEGImages/480p, Annotations/480p)."""
    return require_data("davis16")


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of short real video files."""
    return require_data("videos")


def heed_ctrl_c() -> None:
    """For `preexec_fn`: a child of a background job would otherwise ignore SIGINT, one started by nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Give torch two threads, as on a machine with two cores; what runs must give both back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Let this process take SIGINT as Python does by default: the tests may run as a background job that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _threads():
    """Two threads at most, or what OMP_NUM_THREADS says: on a busy machine threads wait for each other."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))
