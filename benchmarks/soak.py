"""A simulated camera through all four jobs for a long time: memory, open files and threads must stay flat.

    python benchmarks/soak.py --minutes 30             30 minutes of each job
    python benchmarks/soak.py --minutes 120 --rate 2 --every 30 --together --csv FILE --plot FILE

The camera gives images of moving discs without end, 25 a second by their times, as fast as they are taken, or `--rate`
of them a second. The jobs run in turn, each in a process of its own, or `--together`. Every few seconds a row is
written: job, seconds, frames, resident memory once the allocator has given back what is free, open files, threads. A
job fails where in the last third of its time the median memory is more than 5 % and 20 MB above that of the second
third, or files or threads are more than in the second third. Networks are small ones, with random weights for classify
and detect: what is tested is what holds frames and results, not the networks.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import logging
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import twospeed
from twospeed.results import Frame

WIDTH, HEIGHT, RATE = 160, 120, 25.0
COLUMNS = ("job", "seconds", "frames", "memory_mb", "files", "threads")


def camera(seconds: float, rate: float | None = None) -> Iterator[Frame]:
    """Yield frames for so long, from the first on: a disc goes round over a drifting gradient.

    rate: frames a second, no more are given; None: as fast as they are taken.
    """
    index, until = 0, time.monotonic() + seconds
    started: float | None = None
    while time.monotonic() < until:
        if rate is not None:
            started = time.monotonic() if started is None else started
            time.sleep(max(0.0, started + index / rate - time.monotonic()))
        image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        image[:] = ((np.arange(WIDTH) + index) % 200)[None, :, None]
        centre = (int(80 + 40 * np.cos(index / 20)), int(60 + 30 * np.sin(index / 20)))
        cv2.circle(image, centre, 18, (220, 40, 40), -1)
        yield Frame(index, index / RATE, image)
        index += 1


def watched(frames: Iterator[Frame], job: str, rows: list[tuple[Any, ...]], every_s: float) -> Iterator[Frame]:
    """Pass frames on, and add a row now and then."""
    started = due = time.monotonic()
    for count, frame in enumerate(frames, start=1):
        yield frame
        if (now := time.monotonic()) >= due:
            memory, files, threads = state()
            rows.append((job, round(now - started, 1), count, round(memory, 1), files, threads))
            due = now + every_s


def track(frames: Iterator[Frame]) -> None:
    """Follow the disc, with a bounded memory."""
    tracker = twospeed.Tracker("track_nano", size=None, max_memory_frames=10)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(labels, (120, 60), 18, 1, -1)
    for frame in frames:
        tracker.step(frame.image, labels if frame.index == 0 else None)


def segment(frames: Iterator[Frame]) -> None:
    """Label every pixel."""
    segmenter = twospeed.Segmenter("segment_nano")
    for frame in frames:
        segmenter.step(frame.image)


def small(name: str) -> Any:
    """Return a narrow network of random weights."""
    logging.disable(logging.WARNING)
    try:
        return twospeed.create_model(name, None, width=8, num_classes=4)
    finally:
        logging.disable(logging.NOTSET)


def classify(frames: Iterator[Frame]) -> None:
    """Name the action of sliding windows."""
    from twospeed.pipelines.classify import Classifier

    Classifier(small("slow_r50_4x16"), timeline=True, crops=1).classify(frames)


def detect(frames: Iterator[Frame]) -> None:
    """Say what the person in a given box does, once a second."""
    from twospeed.pipelines.detect import Detector

    for _ in Detector(small("slow_r50_4x16_ava"), boxes=[[20, 20, 100, 100]], short_side=64).detect(frames):
        pass


JOBS: dict[str, Callable[[Iterator[Frame]], None]] = {
    "track": track, "segment": segment, "classify": classify, "detect": detect,
}  # fmt: skip


def state() -> tuple[float, int, int]:
    """Return resident memory in megabytes, open files and threads of this process.

    What was freed goes back to the system first (glibc): it may be kept for long, and would hide what is held.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    with Path("/proc/self/statm").open() as file:
        pages = int(file.read().split()[1])
    files = len(list(Path("/proc/self/fd").iterdir()))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threading.active_count()


def soak(job: str, minutes: float, every_s: float, rate: float | None) -> list[tuple[Any, ...]]:
    """Run one job; returns the rows."""
    rows: list[tuple[Any, ...]] = []
    JOBS[job](watched(camera(60 * minutes, rate), job, rows, every_s))
    return rows


def growth(rows: list[tuple[Any, ...]]) -> str:
    """Return what grew from the second third of a job to its last third, "" for nothing."""
    third = len(rows) // 3
    if third < 2:
        return "too few rows to tell; give more minutes"
    before, after = rows[third : 2 * third], rows[2 * third :]
    found = []
    memory = [statistics.median(row[3] for row in part) for part in (before, after)]
    if memory[1] > 1.05 * memory[0] and memory[1] > memory[0] + 20:
        found.append(f"memory from {memory[0]:.0f} to {memory[1]:.0f} MB")
    for column, name in ((4, "open files"), (5, "threads")):
        counts = [max(row[column] for row in part) for part in (before, after)]
        if counts[1] > counts[0]:
            found.append(f"{name} from {counts[0]} to {counts[1]}")
    return "; ".join(found)


def plot(rows: list[tuple[Any, ...]], path: Path) -> None:
    """Draw memory, files and threads over time, a line for each job."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), constrained_layout=True)
    for axis, column, name in zip(axes, (3, 4, 5), ("memory (MB)", "open files", "threads"), strict=True):
        for job in dict.fromkeys(row[0] for row in rows):
            points = [row for row in rows if row[0] == job]
            axis.plot([row[1] / 60 for row in points], [row[column] for row in points], label=job)
        axis.set(xlabel="minutes", title=name, ylim=(0, None))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> int:
    """Run the jobs in turn; returns 1 where something grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="of each job")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two rows")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--rate", type=float, help="frames a second (default: as many as the job takes)")
    parser.add_argument("--together", action="store_true", help="run the jobs at the same time")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    jobs = options.jobs.split(",")
    rows: list[tuple[Any, ...]] = []
    grown = False
    # Spawned: a forked process would inherit the parent's memory, and what it measures is its own
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(jobs) if options.together else 1, context, max_tasks_per_child=1) as pool:
        running = [pool.submit(soak, job, options.minutes, options.every, options.rate) for job in jobs]
        for job, result in zip(jobs, running, strict=True):
            own = result.result()
            rows += own
            problem = growth(own)
            grown |= bool(problem)
            last = own[-1]
            facts = f"{last[2]} frames in {last[1] / 60:.1f} min, {last[3]:.0f} MB, {last[4]} files, {last[5]} threads"
            print(f"{job}: {facts}: {problem or 'flat'}", flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    if options.plot:
        plot(rows, options.plot)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
