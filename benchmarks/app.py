"""What somebody waits for in `twospeed app`: frames, clicks, first masks, answers while it tracks; and its memory.

    python benchmarks/app.py [--seconds 20] [--json FILE]

Requests are made as the page makes them, without a browser: what the page adds is drawing. The clip is rendered, 480
lines. The clock of "first tracked mask" begins with the request and ends when the store has the mask. Budgets are those
of a quiet machine with two cores; the load of the machine is printed beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.client import App, Client
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.writer import VideoWriter

BUDGETS = {  # milliseconds, p50 and p95
    "step to the next frame": (25, 50),
    "random seek": (40, 80),
    "click to mask": (300, 500),
    "first tracked mask": (600, 1500),
    "API answer while tracking": (15, 50),
    "frame while tracking": (25, 50),
}


def times(repeats: int, do: Callable[[int], object]) -> list[float]:
    """Return milliseconds of each call."""
    found = []
    for index in range(repeats):
        begun = time.perf_counter()
        do(index)
        found.append(1000 * (time.perf_counter() - begun))
    return found


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process, in megabytes (Linux)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(seconds: int) -> dict[str, object]:
    """Run everything once."""
    results: dict[str, object] = {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), None
        with VideoWriter(folder / "clip.mp4", 24) as writer:
            for image, labels in render_clip(1, frames=24 * seconds, height=480, width=854):
                writer.write(image)
                first = labels if first is None else first
        app = App(folder, quick=False)
        try:
            client = Client(app)
            project = client.open("clip.mp4")
            count = 24 * seconds
            rng = np.random.default_rng(0)

            def frame(index: int) -> object:
                return client("GET", f"p/{project}/frame/{index}?h=480")

            frame(0)
            waits = {"step to the next frame": times(60, lambda i: frame(i + 1))}
            waits["random seek"] = times(40, lambda i: frame(int(rng.integers(count))))
            rows, columns = np.nonzero(first == 1)
            k = client("POST", f"p/{project}/objects", {})["id"]
            point = [float(np.median(columns)), float(np.median(rows)), 1]
            click = {"frame": 0, "object": k, "points": [point], "preview": True}
            client("POST", f"p/{project}/marks", click)
            waits["click to mask"] = times(8, lambda i: client("POST", f"p/{project}/marks", click))
            client.import_mask(project, 0, first)
            client.track(project, count - 3, "forward")  # loads the network
            begun = time.perf_counter()
            job = client("POST", f"p/{project}/jobs", {"kind": "track", "frame": 0})["job"]
            while client.job(project)["done"] < 1:
                time.sleep(0.01)
            waits["first tracked mask"] = [1000 * (time.perf_counter() - begun)]
            waits["API answer while tracking"] = times(60, lambda i: client("GET", f"p/{project}/mask/0"))
            waits["frame while tracking"] = times(60, lambda i: frame(i + 100))
            time.sleep(5)
            state = client.job(project)
            results["frames per second"] = state["done"] / (time.perf_counter() - begun)
            results["server MB"] = memory_mb(app.process.pid)
            client("DELETE", f"p/{project}/jobs/{job}")
            client.finished(project)
        finally:
            app.close()
    results["ms"] = {name: np.percentile(values, [50, 95]).round(1).tolist() for name, values in waits.items()}
    return results


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="length of the clip")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.seconds)
    print(f"load {found['load']:.1f}, server {found['server MB']:.0f} MB, {found['frames per second']:.1f} frames/s")
    for name, (middle, high) in found["ms"].items():  # type: ignore[attr-defined]
        print(f"{name:28} p50 {middle:7.1f} ms  p95 {high:7.1f} ms   budget {BUDGETS[name][0]} / {BUDGETS[name][1]}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
