"""Runs to be damaged and resumed: a finished one of `track`, the same one interrupted, and a training."""

from __future__ import annotations

import os
import shutil

from tests.hostile.inputs import GOOD, MASK, RUNS, VIDEOS
from tests.hostile.inputs.drawing import encode

TRACK = ("track", "v.mp4", "--mask", "m.png", "--model", "track_tiny", "--size", "64", "-q", "-o", "out")
TRAINING = (
    "train", "stcn", "--preset", "tiny", "--iterations", "3", "--minutes", "none", "--batch", "2", "--workers", "0",
    "--crop", "64", "--phase-borders", "", "--generated-first", "false", "--generated", "4", "--held-out", "",
    "--cache", "none", "--log-every", "1", "--out", "run", "--device", "cpu",
)  # fmt: skip


def runs() -> None:
    from twospeed.cli import track_job
    from twospeed.cli.main import exit_code
    from twospeed.output.run import Run

    track_job.SECONDS_BETWEEN_STATES, track_job.SHARE_OF_STATES = (
        0.0,
        1.0,
    )  # a state after each frame, not each half a minute
    advance = Run.advance

    def interrupted(run: Run, frames: int = 1) -> None:
        advance(run, frames)
        if run.frames == 5:
            raise KeyboardInterrupt

    here = os.getcwd()
    for name, patched in (("finished", advance), ("interrupted", interrupted)):
        folder = RUNS / name
        folder.mkdir(parents=True)
        shutil.copy(GOOD, folder / "v.mp4")
        shutil.copy(MASK, folder / "m.png")
        os.chdir(folder)
        Run.advance = patched  # type: ignore[method-assign]
        assert exit_code(list(TRACK)) == (130 if name == "interrupted" else 0), name
    Run.advance = advance  # type: ignore[method-assign]
    training = RUNS / "training"
    training.mkdir()
    os.chdir(training)
    assert exit_code([*TRAINING, "--stop-after-steps", "2"]) == 0
    os.chdir(here)
    encode(VIDEOS / "inverted.mp4", 8, picture=lambda image, i: 255 - image)
