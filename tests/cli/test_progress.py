"""What lines of progress say where no terminal is: how far, how fast, how long still."""

from __future__ import annotations

from twospeed.cli.progress import show_progress
from twospeed.results import Progress


def test_a_line_has_rate_and_time_left(capsys):
    with show_progress() as on_progress:
        on_progress(Progress("read", 5, 20, "clips", 11.0))
        on_progress(Progress("read", 6, 20, "clips", 12.0))  # too soon after the line before
        on_progress(Progress("read", 20, 20, "clips", 400.0))
        on_progress(Progress("track", 1, None, "frames", 20.0))
        on_progress(Progress("encode", 300, 90_000, "frames", 30.0, {"loss": 0.5}))
    assert capsys.readouterr().err.splitlines() == [
        "read: 5 of 20 clips, 0.45/s, 33 s left",
        "read: 20 of 20 clips, 0.05/s",
        "track: 1 frames, 0.05/s",
        "encode: 300 of 90000 frames, 10.0/s, 149 min left loss 0.5",
    ]


def test_the_speed_of_a_resumed_task_is_that_of_this_run(capsys):
    with show_progress() as on_progress:
        on_progress(Progress("train", 2448, 4000, "steps", 47.0, done_before=2400))
    assert capsys.readouterr().err == "train: 2448 of 4000 steps, 1.0/s, 25 min left\n"
