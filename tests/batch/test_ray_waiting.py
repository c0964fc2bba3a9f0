"""Actors of Ray that have ended get more work while others still run. Needs the extra `ray`."""

from __future__ import annotations

import time

import pytest

from twospeed.batch.cluster import RayEngine
from twospeed.batch.driver import Batch
from twospeed.batch.inputs import Video
from twospeed.batch.storage import open_storage
from twospeed.batch.worker import Outcome, Task, Work

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_thirty_videos_on_three_actors(tmp_path, monkeypatch):
    """One video takes long; the other 29 are done by the other two actors meanwhile."""

    class Sleeper:
        def __init__(self, work: Work, threads: int, device: str | None) -> None: ...

        def execute(self, task: Task) -> Outcome:
            time.sleep(20 if task.key == "v00" else 0.01)
            facts = {"model": "none", "frames": 1, "frames_per_second": 1.0, "summary": {}}
            return Outcome(task.key, "done", facts=facts)

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(RayEngine, "actor", Sleeper)
    engine = RayEngine(Work("wait", print, [], "", "simulated"), slots=3, cpus=0)
    ended = []
    with Batch(open_storage(str(tmp_path / "out")), "segment", []) as batch:
        batch.add([Video(f"/videos/v{number:02d}.mp4") for number in range(30)])
        counts = batch.run(engine, on_event=lambda event: ended.append((event.get("video"), time.monotonic())))
        assert counts == {"pending": 0, "running": 0, "done": 30, "failed": 0}
    last = {video: moment for video, moment in ended if video}
    others = sorted(moment for video, moment in last.items() if video != "v00")
    assert others[-1] < last["v00"]
    assert others[-1] - others[0] < 4  # 14 rounds; if each waited half a second for the long one, 7 s
