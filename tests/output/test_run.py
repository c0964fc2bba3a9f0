"""A run's files agree with each other, whenever it is interrupted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import heed_ctrl_c
from twospeed.output.folder import ResultFolder
from twospeed.output.run import Run
from twospeed.results import Frame, ObjectMasks


@pytest.mark.parametrize("step_s", [0, 0.1])
def test_times_that_do_not_advance_are_warned_of(tmp_path: Path, step_s: float):
    image, labels = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    with ResultFolder(tmp_path / "out", ["masks/*.png"]) as folder:
        run = Run("track", model="m", weights_sha256=None, options={}, inputs={}, folder=folder)
        given = ((Frame(i, i * step_s, image), ObjectMasks(labels, np.ones((1, 48, 64)), ())) for i in range(3))
        run.label_frames("masks", given)
    warnings = json.loads((tmp_path / "out" / "run.json").read_text())["warnings"]
    assert [text[:31] for text in warnings] == (["all frames have the same time, "] if step_s == 0 else [])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interruption_waits_until_a_frame_is_whole(tmp_path: Path):
    """Ctrl-C between a frame's mask and its overlay: both are there, and counted."""
    before = signal.getsignal(signal.SIGINT)
    heed_ctrl_c()
    image, labels = np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), np.uint8)

    def results():
        for index in range(9):
            planes = np.stack([1.0 - labels, labels]).astype(np.float32)
            yield Frame(index, index / 10, image), ObjectMasks(labels, planes, (1,), index, index / 10)

    def draw(frame: Frame, result: ObjectMasks) -> np.ndarray:
        if frame.index == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return image

    out = tmp_path / "out"

    def label() -> None:
        with ResultFolder(out, ["masks/*.png", "overlay.mp4"]) as folder:
            run = Run("track", model="track_tiny", weights_sha256=None, options={}, folder=folder)
            run.label_frames("masks", results(), draw=draw, rate=10)

    try:
        with pytest.raises(KeyboardInterrupt):
            label()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(list(out.glob("masks/*.png"))) == 4
    assert json.loads((out / "run.json").read_text())["frames"] == 4
    assert len((out / "frames.csv").read_text().splitlines()) == 1 + 4
    with av.open(str(out / "overlay.mp4")) as overlay:
        assert sum(1 for _ in overlay.decode(video=0)) == 4
