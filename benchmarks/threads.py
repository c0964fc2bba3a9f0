"""What waiting threads cost: frames per second of `track_nano` for each way of waiting, quiet and beside other work.

    python benchmarks/threads.py                         all ways, 480x854
    python benchmarks/threads.py --spins default,3000    some of them

torch's threads meet after every layer. With libgomp (Linux) those that are early spin for GOMP_SPINCOUNT rounds, then
sleep; OMP_WAIT_POLICY=passive lets them sleep at once. Spinning wakes up sooner, but takes the processor from whoever
has work.

Each way runs in processes of its own, since libgomp reads its variables when torch is loaded, and twice: alone, and
beside as many endless loops as there are cores. The ways take turns, in both orders. Frames that are counted come
after one second of others. Spinning counts as processor seconds. `twospeed` is what the command line sets
(`twospeed.environment.use_threads_well`). The start of Python and of torch is not counted. Lines are appended to
benchmarks/history/threads.csv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from record import append, machine_load, stamp
from twospeed.environment import usable_cores, use_threads_well

COLUMNS = (
    *("date", "machine", "load", "commit", "model", "size", "waiting"),
    *("quiet_per_s", "busy_per_s", "quiet_cpu_s", "busy_cpu_s"),
)
LIBGOMP = 300_000  # its own count, where nothing is set


def environment(waiting: str) -> dict[str, str]:
    """Return the variables of a process that waits this way: "default", "passive", "twospeed" or a spin count."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    if waiting == "passive":
        return {**kept, "OMP_WAIT_POLICY": "passive"}
    if waiting == "twospeed":
        use_threads_well(kept)
        return kept
    return {**kept, "GOMP_SPINCOUNT": str(LIBGOMP if waiting == "default" else int(waiting))}


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep this many processes running that want the processor all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def frames_per_second(model: str, width: int, height: int, seconds: float) -> tuple[float, float]:
    """Track generated frames with ten in memory for this long, after a second that does not count.

    Returns frames a second, and processor seconds of a frame, waiting included.
    """
    from twospeed.evaluation.speed import tracker_steps

    steps = tracker_steps(model, width, height, memory_frames=10, objects=1, device="cpu")
    for wanted in (1.0, seconds):
        start, cpu, frames = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < wanted:
            next(steps)
            frames += 1
    return frames / (time.perf_counter() - start), (time.process_time() - cpu) / frames


def measured(options: argparse.Namespace, waiting: str) -> tuple[float, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--child", "--model", options.model, "--size", options.size]
    command += ["--seconds", str(options.seconds)]
    done = subprocess.run(command, env=environment(waiting), capture_output=True, text=True, check=True)
    rate, cpu = map(float, done.stdout.split())
    print(f"{waiting:>10} {rate:6.2f} frames/s, {cpu:.3f} processor seconds a frame", flush=True)
    return rate, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="track_nano")
    parser.add_argument("--size", default="854x480", help="WIDTHxHEIGHT")
    parser.add_argument("--seconds", type=float, default=4, help="that are counted, of each measurement")
    parser.add_argument("--spins", default="default,passive,twospeed,1000,10000,100000", help="ways, by commas")
    parser.add_argument("--no-history", action="store_true", help="only print")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        width, height = map(int, options.size.split("x"))
        print(*frames_per_second(options.model, width, height, options.seconds))
        return
    load, ways = machine_load(), options.spins.split(",")
    print("alone")
    quiet = {way: measured(options, way) for way in ways}
    print("beside endless loops")
    with busy(usable_cores()):
        beside = {way: measured(options, way) for way in reversed(ways)}
    rows = []
    for way in ways:
        numbers = {"quiet_per_s": f"{quiet[way][0]:.2f}", "busy_per_s": f"{beside[way][0]:.2f}"}
        numbers |= {"quiet_cpu_s": f"{quiet[way][1]:.3f}", "busy_cpu_s": f"{beside[way][1]:.3f}"}
        rows.append({**stamp(load), "model": options.model, "size": options.size, "waiting": way, **numbers})
    if not options.no_history:
        append("threads", COLUMNS, rows)


if __name__ == "__main__":
    main()
