"""Actors of Ray that have ended get more work while others still run. Needs the extra `ray`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from twospeed.batch.cluster import RayEngine
from twospeed.batch.worker import Outcome, Task, Work

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_what_has_ended_is_returned_while_others_run(tmp_path, monkeypatch):
    class Waiter:
        """Ends at once, or when the file that the task names is there."""

        def __init__(self, work: Work, threads: int, device: str | None) -> None: ...

        def execute(self, task: Task) -> Outcome:
            while task.source and not Path(task.source).exists():
                time.sleep(0.05)
            return Outcome(task.key, "done")

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(RayEngine, "actor", Waiter)
    engine = RayEngine(Work("wait", print, [], "", "waiting"), slots=2, cpus=0)
    release = threading.Timer(10, (tmp_path / "go").touch)
    try:
        for key in ("one", "two"):  # both actors are up
            engine.submit(Task(key, ""))
        while engine.free < 2:
            engine.wait(60)
        engine.submit(Task("long", str(tmp_path / "go")))
        engine.submit(Task("short", ""))
        release.start()
        assert [outcome.key for outcome in engine.wait(60)] == ["short"]
        assert [outcome.key for outcome in engine.wait(60)] == ["long"]
    finally:
        release.cancel()
        engine.close()
