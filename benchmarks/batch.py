"""What handing out many videos costs.

    python benchmarks/batch.py throughput --videos 1000 --workers 2   # against plain loops in as many processes
    python benchmarks/batch.py scaling --videos 200                   # one worker, two, ... as many as cores
    python benchmarks/batch.py simulate --videos 10000 --workers 100 --seconds 2
    python benchmarks/batch.py simulate_ray --videos 10000 --workers 100 --seconds 2

`throughput` segments generated clips (64 x 48, 8 frames) by `twospeed batch` and by as many processes that each run
`twospeed segment` over their share in a loop, with their network held: no manifest, no tables, no report. The clock of
both counts everything, starts of processes among it; `ratio` is plain seconds by batch seconds. They take turns: batch
and loops on the first half of the clips, loops and batch on the second. `memory` is that of a worker after the first
tenth of its half and after the last, `peak` the most that one ever held until then (Linux).
`simulate` runs the driver and its manifest with work that only waits, drawn around the given length: `efficiency` is
the time that workers without a driver would take by the time taken, `driver_ms` the processor time of the driver for
each video; their quotient says how many workers of such work keep one driver busy. `simulate_ray`
does the same through the engine of Ray, with actors that wait: its clock starts when every actor has answered once, and
`manifest_share` is the part of the time that the driver spends in the manifest. Lines are appended to
benchmarks/history/batch.csv.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from record import append, machine_load, stamp
from twospeed.batch.cluster import RayEngine
from twospeed.batch.driver import Batch
from twospeed.batch.inputs import Video, find_videos
from twospeed.batch.local import LocalEngine, thread_settings
from twospeed.batch.manifest import Row
from twospeed.batch.storage import open_storage
from twospeed.batch.worker import Outcome, Task, Work, prepare
from twospeed.cli.batch import run_job
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.writer import VideoWriter

COLUMNS = (
    "date", "machine", "load", "commit", "what", "videos", "workers", "seconds", "plain_seconds", "ratio",
    "memory_begin_mb", "memory_end_mb", "efficiency", "driver_ms", "peak_begin_mb", "peak_end_mb",
    "manifest_per_second", "manifest_share",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "scaling", "simulate", "simulate_ray"))
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=2.0, help="simulate: mean length of the work at a video")
    chosen = parser.parse_args()
    load = machine_load()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.what == "simulate":
            lines = [simulate(Path(folder), chosen.videos, Waiting(chosen.workers, chosen.seconds))]
        elif chosen.what == "simulate_ray":
            lines = [simulate_ray(Path(folder), chosen.videos, chosen.workers, chosen.seconds)]
        else:
            clips = render(Path(folder) / "clips", chosen.videos)
            counts = range(1, chosen.workers + 1) if chosen.what == "scaling" else [chosen.workers]
            lines = [measure(Path(folder), clips, workers, chosen.what) for workers in counts]
    for line in lines:
        print({name: value for name, value in line.items() if value != ""})
    append("batch", COLUMNS, [{**dict.fromkeys(COLUMNS, ""), **stamp(load), **line} for line in lines])


def render(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    for seed in range(count):
        with VideoWriter(folder / f"{seed:05d}.mp4", 10) as writer:
            for image, _ in render_clip(seed, frames=8, height=48, width=64, objects=1):
                writer.write(image)
    return [str(path) for path in sorted(folder.iterdir())]


def measure(folder: Path, clips: Sequence[str], workers: int, what: str) -> dict[str, object]:
    """Measure both ways in turn, on the first half of the clips and in the other order on the second."""
    halves = [clips[: len(clips) // 2], clips[len(clips) // 2 :]]
    memory: list[tuple[int, int]] = []
    seconds = plain_seconds = 0.0
    for number, half in enumerate(halves):
        places = [folder / f"{name}{workers}_{number}" for name in ("batch", "plain")]
        ways = [partial(by_batch, places[0], half, workers, memory), partial(by_loops, places[1], half, workers)]
        for way in ways if number == 0 else ways[::-1]:
            begun = time.perf_counter()
            way()
            if way is ways[0]:
                seconds += time.perf_counter() - begun
            else:
                plain_seconds += time.perf_counter() - begun
    tenth = max(1, len(memory) // 20)
    held, peaks = zip(*memory[: len(halves[0])], strict=True)
    return {
        "what": what,
        "videos": len(clips),
        "workers": workers,
        "seconds": round(seconds, 1),
        "plain_seconds": round(plain_seconds, 1),
        "ratio": round(plain_seconds / seconds, 3),
        "memory_begin_mb": round(max(held[:tenth]) / 1e6),
        "memory_end_mb": round(max(held[-tenth:]) / 1e6),
        "peak_begin_mb": round(max(peaks[:tenth]) / 1e6) or "",
        "peak_end_mb": round(max(peaks[-tenth:]) / 1e6) or "",
    }


def by_batch(out: Path, clips: Sequence[str], workers: int, memory: list[tuple[int, int]]) -> None:
    with Batch(open_storage(str(out)), "segment", []) as batch:
        batch.add(find_videos(clips, lambda cells: []))
        work = Work("segment", run_job, [], str(out), batch.batch_id)
        counts = batch.run(Watched(work, [None] * workers, memory))
    assert counts["done"] == len(clips), counts


def by_loops(out: Path, clips: Sequence[str], workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    shares = [context.Process(target=plain, args=(clips[place::workers], str(out))) for place in range(workers)]
    os.environ.update(thread_settings(1))
    for share in shares:
        share.start()
    for share in shares:
        share.join()


class Watched(LocalEngine):
    """Collects, after each video, what its worker holds and the most that any worker has held."""

    def __init__(self, work: Work, devices: Sequence[str | None], memory: list[tuple[int, int]]) -> None:
        super().__init__(work, devices)
        self._memory = memory

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended since."""
        outcomes = super().wait(timeout_s)
        peak = max(peak_memory(worker.process.pid) for worker in self._workers.values()) if outcomes else 0
        self._memory += [(outcome.memory, peak) for outcome in outcomes]
        return outcomes


def peak_memory(pid: int | None) -> int:
    """Return the most bytes that a process has held; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def plain(clips: Sequence[str], out: str) -> None:
    prepare(1)
    for clip in clips:
        run_job("segment", [clip, "-o", f"{out}/{Path(clip).stem}", "--quiet"])


class Waiting:
    """An engine whose work only takes time."""

    def __init__(self, slots: int, seconds: float) -> None:
        self.slots, self._draw = slots, random.Random(0)
        self._seconds, self._ends = seconds, list[tuple[float, str]]()
        self.worked = 0.0

    @property
    def free(self) -> int:
        """How many tasks would begin at once."""
        return self.slots - len(self._ends)

    def submit(self, task: Task) -> None:
        """Begin to wait."""
        seconds = self._seconds * self._draw.uniform(0.5, 1.5)
        self.worked += seconds
        heapq.heappush(self._ends, (time.monotonic() + seconds, task.key))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended since."""
        if self._ends:
            time.sleep(min(timeout_s, max(0.0, self._ends[0][0] - time.monotonic())))
        outcomes = []
        while self._ends and self._ends[0][0] <= time.monotonic():
            facts = {"model": "none", "frames": 1, "frames_per_second": 1.0, "summary": {}}
            outcomes.append(Outcome(heapq.heappop(self._ends)[1], "done", facts=facts))
        return outcomes

    def close(self) -> None:
        """Nothing runs."""


class WaitingActor:
    """An actor of Ray whose work only takes time."""

    def __init__(self, work: Work, threads: int, device: str | None) -> None:
        self._seconds = float(work.arguments[0])

    def execute(self, task: Task) -> Outcome:
        """Wait as long as the video's name says, always the same."""
        seconds = self._seconds * random.Random(task.key).uniform(0.5, 1.5) if task.key else 0.0
        begun = time.monotonic()
        time.sleep(seconds)
        facts = {"model": "none", "frames": 1, "frames_per_second": 1.0, "summary": {}}
        return Outcome(task.key, "done", seconds=time.monotonic() - begun, facts=facts)


class WaitingRay(RayEngine):
    """The engine of Ray with actors that wait; all of them are up before it is used."""

    actor = WaitingActor

    def __init__(self, slots: int, seconds: float) -> None:
        super().__init__(Work("wait", run_job, [str(seconds)], "", "simulated"), slots=slots, cpus=0)
        self.worked = 0.0
        for _ in range(slots):
            self.submit(Task("", ""))
        while self._running:
            self.wait(1.0)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return what has ended since."""
        outcomes = super().wait(timeout_s)
        self.worked += sum(outcome.seconds for outcome in outcomes)
        return outcomes


def simulate_ray(folder: Path, videos: int, workers: int, seconds: float) -> dict[str, object]:
    begun = time.perf_counter()
    engine = WaitingRay(workers, seconds)
    print(f"{workers} actors were up after {time.perf_counter() - begun:.1f} s")
    return simulate(folder, videos, engine) | {"what": "simulate_ray"}


def simulate(folder: Path, videos: int, engine: Waiting | WaitingRay) -> dict[str, object]:
    writes = 0
    writing = 0.0
    with Batch(open_storage(str(folder / "out")), "segment", []) as batch:
        batch.add([Video(f"/videos/{number:06d}.mp4") for number in range(videos)])
        save = batch.manifest._save

        def timed(rows: Sequence[Row]) -> None:
            nonlocal writes, writing
            start = time.perf_counter()
            save(rows)
            writes, writing = writes + 1, writing + time.perf_counter() - start

        batch.manifest._save = timed  # type: ignore[method-assign]
        begun, busy = time.perf_counter(), time.process_time()
        counts = batch.run(engine)
        taken, busy = time.perf_counter() - begun, time.process_time() - busy
    assert counts["done"] == videos, counts
    return {
        "what": "simulate",
        "videos": videos,
        "workers": engine.slots,
        "seconds": round(taken, 1),
        "efficiency": round(engine.worked / engine.slots / taken, 3),
        "driver_ms": round(1000 * busy / videos, 2),
        "manifest_per_second": round(writes / taken, 1),
        "manifest_share": round(writing / taken, 3),
    }


if __name__ == "__main__":
    main()
