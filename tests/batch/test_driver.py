"""Nothing is lost and nothing done twice, whatever happens to workers, driver, disk and clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch.stub import ended, prepare, run, run_batch, write_videos
from twospeed.batch.driver import Batch, Policy
from twospeed.batch.local import LocalEngine
from twospeed.batch.manifest import open_manifest
from twospeed.batch.storage import FolderStorage, open_storage
from twospeed.batch.worker import Outcome, Task, Work
from twospeed.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes by signals")


def rows(out: Path) -> dict[str, tuple[str, int]]:
    manifest = open_manifest(FolderStorage(out), read_only=True)
    return {row.key: (row.state, row.attempts) for row in manifest.rows.values()}


def driver(folder: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.batch.stub", str(folder), str(out), *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_batch_that_is_only_read_stays_as_it_is(tmp_path):
    out = tmp_path / "out"
    run_batch(str(out), write_videos(tmp_path / "in", good="ok"))
    before = sorted(path.name for path in out.iterdir())
    manifest = open_manifest(FolderStorage(out), read_only=True)
    manifest.close()
    assert manifest.rows["good"].state == "done"
    assert sorted(path.name for path in out.iterdir()) == before


def test_every_ending_of_a_video(tmp_path):
    """Bad input gets one attempt, faults and deaths all; none stops the others, and no half of a result is seen."""
    videos = write_videos(
        tmp_path / "in", good="ok", bad="bad", flaky="fault 2", broken="fault 99", poisoned="die", unlucky="die-once",
        full="big",
    )  # fmt: skip
    counts, batch = run_batch(str(tmp_path / "out"), videos)
    assert counts == {"pending": 0, "running": 0, "done": 3, "failed": 4}
    assert rows(tmp_path / "out") == {
        "good": ("done", 1), "bad": ("failed", 1), "flaky": ("done", 3), "broken": ("failed", 3),
        "poisoned": ("failed", 3), "unlucky": ("done", 2), "full": ("failed", 3),
    }  # fmt: skip
    errors = {row.key: (row.kind, row.error) for row in batch.manifest.rows.values() if row.state == "failed"}
    assert errors["bad"] == ("input", f"{videos[1].source}: not a video")
    assert errors["broken"][0] == "fault"
    assert "the moon is in the way" in errors["broken"][1]
    assert errors["poisoned"] == ("died", "the process that worked on it was killed by SIGKILL")
    assert "free space" in errors["full"][1]
    assert sorted(path.name for path in (tmp_path / "out" / "videos").iterdir()) == ["flaky", "good", "unlucky"]
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not a video" in page
    assert "videos/good/" in page

    again, _ = run_batch(str(tmp_path / "out"), videos)
    assert again == counts
    assert ended(tmp_path / "in")["good"] == 1


def test_memory_of_a_worker_stays_flat(tmp_path):
    """What a video leaves in reference cycles is freed before the next; Python alone lets dozens pile up."""
    one = 50_000_000
    videos = write_videos(tmp_path / "in", **{f"v{number:02d}": f"cycle {one}" for number in range(8)})
    engine = LocalEngine(Work("segment", run, [], str(tmp_path / "out"), "batch", prepare), [None])
    memory = []
    try:
        for video in videos:
            engine.submit(Task(Path(video.source).stem, video.source))
            ended = []
            while not ended:
                ended = engine.wait(60)
            assert [outcome.ending for outcome in ended] == ["done"]
            memory += [outcome.memory for outcome in ended]
    finally:
        engine.close()
    assert max(memory[1:]) - memory[0] < one / 2


def test_a_worker_that_hangs_is_replaced(tmp_path):
    counts, _ = run_batch(str(tmp_path / "out"), write_videos(tmp_path / "in", stuck="hang", other="ok"), lease_s=8.0)
    assert counts["done"] == 2
    assert rows(tmp_path / "out")["stuck"] == ("done", 2)


def test_killed_driver_and_next_run_do_each_video_once(tmp_path):
    videos = write_videos(tmp_path / "in", **{f"v{n}": f"slow 0.{n % 3}" for n in range(8)})
    first = driver(tmp_path / "in", tmp_path / "out", "2")
    wait_until(lambda: sum(ended(tmp_path / "in").values()) >= 3)
    first.kill()
    first.communicate()
    finished = {path.name for path in (tmp_path / "out" / "videos").iterdir()}
    assert finished
    counts, _ = run_batch(str(tmp_path / "out"), videos)
    assert counts == {"pending": 0, "running": 0, "done": 8, "failed": 0}
    assert {name: ended(tmp_path / "in")[name] for name in finished} == dict.fromkeys(finished, 1)


def test_signals_drain(tmp_path):
    """A batch that is stopped lets what runs end, and begins nothing more."""
    videos = write_videos(tmp_path / "in", a="slow 0.1", b="ok", c="ok")
    begun = []

    def on_event(event):
        begun.extend([event] if event["event"] == "begin" else [])

    with Batch(open_storage(str(tmp_path / "out")), "segment", []) as batch:
        batch.add(videos)
        work = Work("segment", run, [], str(tmp_path / "out"), batch.batch_id, prepare)
        counts = batch.run(LocalEngine(work, [None]), is_stopped=lambda: bool(begun), on_event=on_event)
    assert counts == {"pending": 2, "running": 0, "done": 1, "failed": 0}
    assert ended(tmp_path / "in") == {"a": 1}


def test_full_disk_of_the_driver_loses_nothing(tmp_path):
    videos = write_videos(tmp_path / "in", **{f"v{n}": "ok" for n in range(30)})
    full = driver(tmp_path / "in", tmp_path / "out", "1", "65536")
    message = full.communicate()[1]
    assert full.returncode != 0
    assert "free space" in message
    counts, _ = run_batch(str(tmp_path / "out"), videos)
    assert counts["done"] + counts["failed"] == 30
    assert all(
        count == 1 for name, count in ended(tmp_path / "in").items() if rows(tmp_path / "out")[name][0] == "done"
    )


def test_two_runs_into_one_place(tmp_path):
    with Batch(open_storage(str(tmp_path)), "segment", []):
        with pytest.raises(InputError, match=rf"is held by process {os.getpid()} on \S+, which runs a batch"):
            Batch(open_storage(str(tmp_path)), "segment", []).__enter__()
        assert FolderStorage(tmp_path).is_held()
    assert not FolderStorage(tmp_path).is_held()
    with pytest.raises(InputError, match="holds a batch with job 'segment', now it is 'track'"):
        Batch(open_storage(str(tmp_path)), "track", []).__enter__()
    with pytest.raises(InputError, match="with arguments 'none', now it is '--size 3'"):
        Batch(open_storage(str(tmp_path)), "segment", ["--size", "3"]).__enter__()


def test_errors_of_the_setup_end_the_batch(tmp_path):
    videos = write_videos(tmp_path / "in", a="setup", b="setup")
    with pytest.raises(InputError, match=r"no checkpoint at nowhere\.pt"):
        run_batch(str(tmp_path / "out"), videos, workers=1)
    assert rows(tmp_path / "out") == {"a": ("pending", 0), "b": ("pending", 0)}


class Instant:
    """An engine without processes, whose attempts end as a function says."""

    slots = 1

    def __init__(self, ending) -> None:
        self._ending, self._tasks = ending, list[Task]()

    @property
    def free(self) -> int:
        return 1 - len(self._tasks)

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = [Outcome(task.key, self._ending(task)) for task in self._tasks]
        self._tasks.clear()
        return outcomes

    def close(self) -> None: ...


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    jumps = iter([1e9, -1e9, 0, 5e8] * 1000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    with Batch(open_storage(str(tmp_path / "out")), "segment", [], Policy(backoff_s=0.01)) as batch:
        batch.add(write_videos(tmp_path / "in", **{f"v{n}": "ok" for n in range(5)}))
        counts = batch.run(Instant(lambda task: "done" if task.attempt == 2 else "fault"))
    assert counts == {"pending": 0, "running": 0, "done": 5, "failed": 0}
    assert {attempts for _, attempts in rows(tmp_path / "out").values()} == {2}


def test_delivered_before_death_counts_once(tmp_path):
    """A worker that dies between its rename and its answer has done its work."""
    storage = open_storage(str(tmp_path / "out"))

    def deliver_and_die(task):
        folder = tmp_path / "work" / task.key
        folder.mkdir(parents=True)
        facts = {"model": "m", "weights_sha256": None, "frames": 1, "seconds": 1.0, "frames_per_second": 1.0}
        (folder / "run.json").write_text(json.dumps({**facts, "summary": {}}))
        storage.deliver(folder, f"videos/{task.key}")
        return "died"

    with Batch(storage, "segment", []) as batch:
        batch.add(write_videos(tmp_path / "in", a="ok"))
        assert batch.run(Instant(deliver_and_die))["done"] == 1
    assert rows(tmp_path / "out") == {"a": ("done", 1)}


def test_workers_end_with_their_driver(tmp_path):
    write_videos(tmp_path / "in", a="slow 60")
    process = driver(tmp_path / "in", tmp_path / "out", "1")
    wait_until(lambda: (tmp_path / "in" / "a.log").exists())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children")
    workers = [int(child) for child in children.read_text().split()]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not any(Path(f"/proc/{worker}/cmdline").exists() and alive(worker) for worker in workers), 30)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
