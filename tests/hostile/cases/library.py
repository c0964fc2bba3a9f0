"""The library from Python: images and masks that are none, refusals in the middle, threads and forked children."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.hostile.case import calls
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import GOOD

IMAGE = np.full((48, 64, 3), 60, np.uint8)
LABELS = np.zeros((48, 64), np.uint8)
LABELS[10:30, 10:30] = 1


def refused(function: Callable[[], object]) -> None:
    """Raise where a function does not raise an InputError of one line."""
    from twospeed.errors import TwospeedError

    try:
        function()
    except TwospeedError as error:
        assert "\n" not in str(error).strip(), f"several lines: {error}"
        return
    raise AssertionError("accepted")


def tracker(**options: Any) -> Any:
    import twospeed

    return twospeed.Tracker("track_tiny", size=None, **options)


def add_cases() -> None:
    images = {
        "floats to 255": IMAGE.astype(np.float32), "NaN": np.full((48, 64, 3), np.nan, np.float32), "infinity": np.full((48, 64, 3), np.inf, np.float32),
        "negative": IMAGE.astype(np.int16) - 99, "16 bits": IMAGE.astype(np.uint16) * 257, "bool": IMAGE > 5, "objects": IMAGE.astype(object),
        "complex": IMAGE.astype(complex), "text": np.full((48, 64, 3), "x"), "grey": IMAGE[..., 0], "four channels": np.zeros((48, 64, 4), np.uint8),
        "channels first": IMAGE.transpose(2, 0, 1), "empty": np.zeros((0, 64, 3), np.uint8), "a list": IMAGE.tolist(), "None": None, "a path": str(GOOD),
        "one row": IMAGE[:1], "another size": np.zeros((64, 48, 3), np.uint8), "batch": IMAGE[None],
    }  # fmt: skip
    for name, image in images.items():
        if name not in ("one row", "another size"):
            calls(f"library: track image {name}", lambda i=image: refused(lambda: tracker().step(i, LABELS)))
            calls(f"library: segment image {name}", lambda i=image: refused(lambda: segmenter().step(i)))
        if name != "one row":
            calls(
                f"library: after a refused image {name} nothing has changed",
                lambda i=image: unchanged(lambda t: t.step(i)),
            )
    masks = {
        "floats": LABELS.astype(np.float32) * 0.5, "NaN": np.full((48, 64), np.nan), "negative": LABELS.astype(int) - 1, "300": LABELS.astype(int) * 300,
        "another size": LABELS[:5], "three dimensions": LABELS[None], "objects": LABELS.astype(object), "text": np.full((48, 64), "x"), "a list of text": [["x"]],
        "a dictionary": {}, "a path": "mask.png",
    }  # fmt: skip
    for name, mask in masks.items():
        calls(f"library: mask {name}", lambda m=mask: refused(lambda: tracker().step(IMAGE, m)))
        calls(
            f"library: after a refused mask {name} nothing has changed",
            lambda m=mask: unchanged(lambda t: t.step(IMAGE, m)),
        )
    for option, value in (("memory_every", 0), ("memory_every", -1), ("memory_every", 1.5), ("top_k", -1), ("top_k", 0.5), ("size", -3), ("size", float("nan")),
                          ("max_memory_frames", 0), ("max_memory_frames", -2), ("max_objects", 0), ("weights", 3), ("weights", {}), ("weights", {"a": "b"}), ("device", "meta"),
                          ("device", "nonsense"), ("precision", "fp8"), ("weights", str(C / "bomb.pth"))):  # fmt: skip
        calls(
            f"library: Tracker {option}={str(value)[-20:]}",
            lambda o=option, v=value: refused(lambda: option_used(o, v)),
        )
    calls("library: a tracker in two threads gives an error or right results", threads)
    calls("library: a reader in a forked child", forked_reader, seconds=60)
    calls("library: a thousand readers leave no file open", many_readers, seconds=120)
    calls("library: a reader left in the middle", lambda: next(iter(_open(GOOD))))
    for value in (None, 3.5, True, -1, b"", [], {}, object(), float("nan"), [3], ["x"], lambda: 3, np.zeros(3)):
        calls(f"library: open_video({str(value)[:20]})", lambda v=value: refused(lambda: list(_open(v))))


def option_used(name: str, value: Any) -> None:
    import twospeed

    twospeed.Tracker("track_tiny", **{"size": None, name: value}).step(IMAGE, LABELS)


def segmenter() -> Any:
    import twospeed

    return twospeed.Segmenter("segment_nano")


def unchanged(disturb: Callable[[Any], object]) -> None:
    """A refused step in the middle leaves the results of later steps as they are without it."""
    rng = np.random.default_rng(0)
    images = [np.clip(IMAGE + rng.integers(0, 40, IMAGE.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    results = []
    for disturbed in (False, True):
        one = tracker(memory_every=1)
        one.step(images[0], LABELS)
        found = []
        for image in images[1:]:
            if disturbed:
                refused(lambda: disturb(one))
            found.append(one.step(image).probabilities)
        results.append(np.stack(found))
    assert np.array_equal(*results), "a refused step changed what came after"


def threads() -> None:
    """Two threads that share a tracker: each gets an error, or what a tracker of its own gives."""
    from twospeed.errors import TwospeedError

    one = tracker()
    one.step(IMAGE, LABELS)
    wanted = tracker()
    wanted.step(IMAGE, LABELS)
    right = wanted.step(IMAGE).labels
    found: list[Any] = []

    def work() -> None:
        for _ in range(5):
            try:
                found.append(one.step(IMAGE).labels)
            except TwospeedError as error:
                found.append(error)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 10
    assert all(isinstance(each, TwospeedError) or each.shape == right.shape for each in found)


def _open(source: Any) -> Any:
    import twospeed

    return twospeed.open_video(source)


def forked_reader() -> None:
    """A reader that is carried into a forked child: the child gets an error or frames, and does not hang."""
    from twospeed.errors import TwospeedError

    frames = iter(_open(GOOD))
    next(frames)
    pid = os.fork()
    if pid == 0:
        try:
            next(frames)
        except TwospeedError:
            pass
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(list(frames)) == 7


def many_readers() -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    list(_open(GOOD))
    before = handles()
    for number in range(300):
        reader = _open(GOOD)
        if number % 3:
            next(iter(reader))
        if number % 2:
            list(reader)
        del reader
    assert handles() <= before + 2, f"{handles() - before} handles more"
    assert threading.active_count() < 5
