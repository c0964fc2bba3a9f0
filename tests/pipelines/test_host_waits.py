"""On a graphics card the host queues work ahead. What makes it wait, frame by frame, is counted here on a CPU.

A wait is: reading a number of a tensor (`item`, `int`, `if tensor`), an operation whose result has a size that depends
on values (`nonzero`, `unique`, masked indexing), and a copy between host and device. Copies are recognised by their
calls, since on a CPU nothing is copied.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.slowfast.test_network import tiny
from twospeed import Classifier, Segmenter, Tracker
from twospeed.models.banks import MemoryBank
from twospeed.ops import full_labels
from twospeed.ops.transfer import HostCopy

SIZED_BY_VALUES = ("nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "unique_dim")
COPIES = ("cpu", "numpy", "tolist", "item", "__array__")
MAKERS = (torch.tensor, torch.as_tensor, torch.from_numpy)

HOST_ONLY = ("ops/cuts.py", "pipelines/inputs.py")
"""Modules whose tensors are on the host: the image as given, before it is copied to the device."""


def _place() -> str:
    """The innermost line of the package that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if "/src/twospeed/" in name or "/site-packages/twospeed/" in name:
            return f"{name.rpartition('/twospeed/')[2]}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "test"


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for index in arg
        )
        repeats = str(func) in ("aten.repeat_interleave.Tensor", "aten.repeat_interleave.self_Tensor")
        if name in ("_local_scalar_dense", "is_nonzero", "equal", *SIZED_BY_VALUES) or masked or repeats:
            self.waits[f"{name} in {_place()}"] += 1
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if (name in COPIES and args and isinstance(args[0], Tensor)) or func in MAKERS:
            self.waits[f"{name} in {_place()}"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def host_waits() -> Iterator[Counter[str]]:
    """Count what the host would wait for, by operation and function, but for what `HOST_ONLY` does."""
    found: Counter[str] = Counter()
    waits: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(_Operations(found))
        stack.enter_context(_Calls(found))
        yield waits
    waits.update({what: n for what, n in found.items() if not any(f" in {place}:" in what for place in HOST_ONLY)})


RESULT = {"cpu in ops/transfer.py:__init__", "numpy in ops/transfer.py:numpy"}
"""How a result leaves the device: a queued copy, and one wait for it."""


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.tensor([1, 2]),
        lambda x: x.repeat_interleave(torch.arange(6)),
    ],
)
def test_waits_are_found(wait: Callable[[Tensor], object]):
    with host_waits() as waits:
        wait(torch.arange(6))
    assert waits.total() >= 1


def test_what_only_queues_work_is_no_wait():
    x = torch.randn(2, 3, 8, 8)
    with host_waits() as waits:
        (x[:, :, ::2].contiguous() @ x.mT[..., :8, :8][:, :, :, :8]).relu().topk(2).values.sum()
        torch.nn.functional.interpolate(x, (16, 16), mode="bilinear")
    assert not waits


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let labels be made as on a graphics card."""
    monkeypatch.setattr(full_labels, "_CHOSEN_CELLS_ON", ())


def images(count: int, height: int = 64, width: int = 80) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [np.roll(first, i, axis=1) for i in range(count)]


@pytest.mark.parametrize("model", ["track_tiny", "stm"])
def test_a_tracked_frame_waits_for_its_result_alone(model: str):
    tracker = Tracker(model, memory_every=2, max_memory_frames=3, weights=None, device="cpu")
    frames = images(9)
    labels = np.zeros((64, 80), np.uint8)
    labels[10:30, 10:30], labels[40:60, 40:70] = 2, 5  # ids that are not 1..K
    tracker.step(frames[0], labels)
    later = labels.copy()
    later[:8, 60:] = 7  # an object that the first slots do not show
    tracker.step(frames[1], later)
    tracker.step(frames[2])
    with host_waits() as waits:
        for frame in frames[3:]:
            tracker.step(frame)
    assert set(waits) <= RESULT, waits
    assert waits["numpy in ops/transfer.py:numpy"] == 6  # labels; probabilities are read when they are asked for


def test_a_segmented_frame_waits_for_its_result_alone(as_on_a_device: None):
    segmenter = Segmenter("segment_nano", 2, device="cpu")
    frames = images(6, 96, 128)
    segmenter.step(frames[0])
    segmenter.step(frames[1])
    with host_waits() as waits:
        for frame in frames[2:]:
            segmenter.step(frame)
    assert set(waits) <= RESULT, waits
    assert waits["numpy in ops/transfer.py:numpy"] == 2 * 4  # labels and scores


def test_a_clip_waits_for_its_scores_alone(tmp_path: Path):
    for i, image in enumerate(images(12)):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), image)
    network = tiny().eval()
    classifier = Classifier(network, 3, 1, device="cpu")
    classifier.classify(tmp_path)
    with host_waits() as waits:
        classifier.classify(tmp_path)
    place = "ops/on_torch.py:to_numpy"
    assert waits == {f"cpu in {place}": 3, f"numpy in {place}": 3}


def test_labels_on_a_device_are_those_of_a_cpu(as_on_a_device: None):
    torch.manual_seed(0)
    scores = torch.randn(19, 12, 16)
    for size, corners in (((90, 128), True), ((90, 128), False), ((7, 9), True), ((12, 16), False)):
        expected = torch.nn.functional.interpolate(scores[None], size, mode="bilinear", align_corners=corners)[0]
        found = full_labels.full_size_labels(scores, size, align_corners=corners)
        assert torch.equal(found.long(), expected.argmax(0))


def test_a_host_copy_gives_the_values():
    copy = HostCopy(torch.arange(6).view(2, 3))
    np.testing.assert_array_equal(copy.numpy(), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("bound", [1, 5])
def test_a_bounded_bank_makes_room_once(bound: int):
    bank, places = MemoryBank(max_frames=bound), set()
    for i in range(2 * bound + 2):
        bank.add(torch.full((4, 2, 3), float(i)), torch.ones(1, 5, 2, 3), permanent=i == 0, temporary=i % 2 == 1)
        places.add((bank._keys.data_ptr(), bank._values.data_ptr()))
        assert bank.read(torch.ones(4, 2, 3)).isfinite().all()
    assert len(places) == 1
