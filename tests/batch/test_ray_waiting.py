"""A cluster of its own, and actors that get more work while others still run. Needs the extra `ray`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from twospeed.batch.cluster import RayEngine
from twospeed.batch.worker import Outcome, Task, Work
from twospeed.errors import InputError

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
    release = threading.Timer(120, (tmp_path / "go").touch)  # where both are waited for, both are returned then
    try:
        for key in ("one", "two"):  # both actors are up
            engine.submit(Task(key, ""))
        while engine.free < 2:
            engine.wait(60)
        engine.submit(Task("long", str(tmp_path / "go")))
        engine.submit(Task("short", ""))
        release.start()
        assert [outcome.key for outcome in engine.wait(240)] == ["short"]
        (tmp_path / "go").touch()
        assert [outcome.key for outcome in engine.wait(240)] == ["long"]
    finally:
        release.cancel()
        engine.close()


@pytest.mark.parametrize("at", ["local", "192.0.2.1:6379"])
def test_what_a_cluster_is_started_with(at, monkeypatch):
    """Not joined to another batch's cluster on this machine, nor given the current folder, as by `uv run`."""

    def init(**options):
        asked.append((options["address"], os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"]))
        raise ConnectionError("nobody there")

    asked = []
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if at != "local":
        monkeypatch.setenv("RAY_ADDRESS", at)
    with pytest.raises(InputError, match=f"no Ray cluster answers at {at}"):
        RayEngine(Work("wait", print, [], "", "waiting"))
    assert asked == [(at, "0")]
