"""What somebody waits for in `twospeed app`: frames, jumps, clicks, first masks, answers while it tracks; its memory.

    python benchmarks/app.py [--seconds 20]

Requests are made as the page makes them, without a browser: what the page adds is drawing. The clips are rendered, 480
lines and 1080, with 250 frames between keyframes; "copy" is the small copy that the page makes of them to jump in. The
clock of "first tracked mask" begins with the request and ends when the store has the mask. Budgets are those of a quiet
machine with two cores; the load of the machine is printed beside the numbers. Lines are appended to
benchmarks/history/app.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from websockets.sync.client import connect
from websockets.typing import Origin

from record import append, machine_load, stamp

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.client import App, Client, worker_of
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.writer import VideoWriter

BUDGETS = {  # at most: p50 and p95, in milliseconds
    "page after Enter": (1500, 1500),
    "step to the next frame": (25, 50),
    "jump": (80, 700),
    "jump, copy": (40, 80),
    "step to the next frame, 1080p": (25, 50),
    "jump, 1080p, a near frame": (80, 80),
    "jump, 1080p": (700, 700),
    "the same frame at its own size": (80, 80),
    "jump, 1080p, copy": (40, 80),
    "click to mask": (300, 500),
    "first tracked mask": (600, 1500),
    "API answer while tracking": (15, 50),
    "frame while tracking": (25, 50),
}
MEMORY = {"server": 250, "worker": 1500}  # at most, in megabytes
COLUMNS = ["date", "machine", "load", "commit", "what", "p50", "p95", "budget_p50", "budget_p95", "unit"]
LARGE_SECONDS = 10


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


def write_clips(folder: Path, seconds: int) -> np.ndarray:
    """Render both clips; return the labels of the first frame of the small one."""
    first = None
    with VideoWriter(folder / "clip.mp4", 24) as small, VideoWriter(folder / "large.mp4", 24) as large:
        for index, (image, labels) in enumerate(render_clip(1, frames=24 * seconds, height=480, width=854)):
            small.write(image)
            if index < 24 * LARGE_SECONDS:
                large.write(cv2.resize(image, (1920, 1080)))
            first = labels if first is None else first
    assert first is not None
    return first


def from_copy(client: Client, project: str, places: list[int]) -> list[float]:
    """Wait until the copy of a slow video is there, as a page does, and jump in it."""
    address = f"127.0.0.1:{client.port}"
    headers = {"Cookie": client.cookie}
    page = connect(
        f"ws://{address}/api/p/{project}/live", origin=Origin(f"http://{address}"), additional_headers=headers
    )
    with page:
        until = time.monotonic() + 60
        while not client("GET", f"p/{project}").get("quick"):
            if time.monotonic() > until:
                raise SystemExit("there is no copy of the video after a minute")
            time.sleep(0.2)
        return times(len(places), lambda i: client("GET", f"p/{project}/frame/{places[i]}?h=540&near=1"))


def jumps(client: Client, rng: np.random.Generator) -> dict[str, list[float]]:
    """Measure the large clip."""
    project = client.open("large.mp4")

    def frame(index: int, query: str = "h=540") -> object:
        return client("GET", f"p/{project}/frame/{index}?{query}")

    frame(0)
    waits = {"step to the next frame, 1080p": times(30, lambda i: frame(i + 1))}
    places = rng.integers(40, 24 * LARGE_SECONDS, 20).tolist()
    waits["jump, 1080p, a near frame"] = times(20, lambda i: frame(places[i], "h=540&near=1"))
    exact, whole = [], []
    for place in places:
        exact += times(1, lambda _, place=place: frame(place))
        whole += times(1, lambda _, place=place: frame(place, "h=1080"))
    waits |= {"jump, 1080p": exact, "the same frame at its own size": whole}
    return {**waits, "jump, 1080p, copy": from_copy(client, project, places)}


def measure(seconds: int) -> tuple[dict[str, list[float]], dict[str, float], float]:
    """Run everything once; return milliseconds by row, megabytes by process, and frames per second of tracking."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = write_clips(folder, seconds)
        begun = time.perf_counter()
        app = App(folder, quick=False)
        try:
            client = Client(app)
            waits = {"page after Enter": times(1, lambda _: client("GET", "home"))}
            waits["page after Enter"][0] = 1000 * (time.perf_counter() - begun)
            project = client.open("clip.mp4")
            count = 24 * seconds
            rng = np.random.default_rng(0)

            def frame(index: int) -> object:
                return client("GET", f"p/{project}/frame/{index}?h=480")

            frame(0)
            waits["step to the next frame"] = times(60, lambda i: frame(i + 1))
            waits["jump"] = times(40, lambda i: frame(int(rng.integers(count))))
            waits["jump, copy"] = from_copy(client, project, rng.integers(count, size=40).tolist())
            waits |= jumps(client, rng)
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
            rate = state["done"] / (time.perf_counter() - begun)
            memory = {"server": memory_mb(app.process.pid), "worker": memory_mb(worker_of(app))}
            client("DELETE", f"p/{project}/jobs/{job}")
            client.finished(project)
        finally:
            app.close()
    return waits, memory, rate


def main() -> None:
    """Print a table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="length of the clip")
    load = machine_load()
    waits, memory, rate = measure(parser.parse_args().seconds)
    lines: list[dict[str, object]] = []
    for name, values in waits.items():
        middle, high = np.percentile(values, [50, 95]).round(1).tolist()
        lines.append({"what": name, "p50": middle, "p95": high, "unit": "ms"})
        lines[-1] |= dict(zip(("budget_p50", "budget_p95"), BUDGETS[name], strict=True))
    for name, megabytes in memory.items():
        lines.append(
            {"what": f"memory of the {name}", "p50": round(megabytes), "budget_p50": MEMORY[name], "unit": "MB"}
        )
    lines.append({"what": "tracking", "p50": round(rate, 2), "unit": "frames/s"})
    append("app", COLUMNS, [{**dict.fromkeys(COLUMNS, ""), **stamp(load), **line} for line in lines])
    print(f"load {load:.1f}")
    for line in lines:
        budget = " / ".join(str(line[key]) for key in ("budget_p50", "budget_p95") if key in line)
        high = f"p95 {line['p95']:7}" if "p95" in line else ""
        print(
            f"{line['what']:34} p50 {line['p50']:7} {high:12} {line['unit']:9}{'at most ' + budget if budget else ''}"
        )


if __name__ == "__main__":
    main()
