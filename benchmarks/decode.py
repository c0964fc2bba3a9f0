"""How long frames take to come in and go out, beside the plain ways of doing the same.

    python benchmarks/decode.py --video clip.mp4
    python benchmarks/decode.py                      # a 480p clip of 250 frames that it makes for itself

| job | ours | plain |
|---|---|---|
| read all | `open_video`, every frame | OpenCV's `VideoCapture`, every frame to RGB |
| read 32 | `read_frames`, 32 frames, every other, from the middle | the same by walking there with `VideoCapture` |
| count | `frame_times` of a file not seen before | `VideoCapture.grab` to the end |
| overlay | `draw_masks`, two objects over a third of the image | the same sum by NumPy indexing and floats |
| write | `VideoWriter`, H.264 veryfast | OpenCV's `VideoWriter`, MPEG-4 (no H.264 in its wheels; browsers refuse it) |

Both ways take turns; the best of the repetitions is kept. Milliseconds are of the wall clock for the whole job,
`cpu` of all threads; files are in the page cache. Lines are appended to benchmarks/history/decode.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from record import append, machine_load, stamp
from twospeed.output.overlay import draw_masks
from twospeed.output.palette import object_colours
from twospeed.video import seeking
from twospeed.video.reader import frame_times, open_video, probe, read_frames
from twospeed.video.writer import VideoWriter

COLUMNS = ("date", "machine", "load", "commit", "video", "job", "frames", "ms", "plain_ms", "cpu_ms", "plain_cpu_ms")
Images = list[NDArray[np.uint8]]


def make_clip(path: Path, frames: int = 250) -> None:
    """A textured background that drifts under two moving disks, 854x480, 25 frames per second."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (600, 1200, 3), np.uint8), (0, 0), 3)
    with VideoWriter(path, 25) as writer:
        for number in range(frames):
            image = texture[number // 3 : number // 3 + 480, number : number + 854].copy()
            cv2.circle(image, (100 + 2 * number, 240), 70, (220, 60, 40), -1)
            cv2.circle(image, (700 - 2 * number, 200 + number // 2), 50, (40, 90, 230), -1)
            writer.write(image)


def plain_walk(path: Path, wanted: set[int] | None) -> Images:
    """Decode from the start with OpenCV, keeping the wanted frames (None: converting all, keeping none)."""
    capture = cv2.VideoCapture(str(path))
    kept: Images = []
    index = 0
    while (wanted is None or index <= max(wanted)) and capture.grab():
        if wanted is None or index in wanted:
            image = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
            if wanted is not None:
                kept.append(image)
        index += 1
    capture.release()
    return kept


def plain_count(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def read_all(path: Path) -> int:
    with open_video(path) as reader:
        return sum(1 for _ in reader)


def count(path: Path) -> int:
    seeking._index_packets.cache_clear()
    return len(frame_times(path))


def plain_overlay(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    drawn = image.copy()
    inside = labels > 0
    drawn[inside] = (0.5 * image[inside] + 0.5 * object_colours()[labels[inside]]).round()
    square = np.ones((5, 5), np.uint8)
    border = (cv2.dilate(labels, square) != cv2.erode(labels, square)) & inside
    drawn[border] = object_colours()[labels[border]]
    return drawn


def write(path: Path, images: Images) -> None:
    with VideoWriter(path, 25) as writer:
        for image in images:
            writer.write(image)


def plain_write(path: Path, images: Images) -> None:
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()


def clocked(job: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds on the wall, and of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a clip; one is made where none is given")
    parser.add_argument("--repeat", type=int, default=5, help="how often each way runs")
    parser.add_argument("--no-history", action="store_true", help="only print")
    options = parser.parse_args()
    load = machine_load()

    with tempfile.TemporaryDirectory() as folder:
        path = options.video or Path(folder) / "made.mp4"
        if options.video is None:
            make_clip(path)
        info, frames = probe(path), len(frame_times(path))
        first = max(0, min(frames // 2, frames - 64))
        chosen = list(range(first, min(first + 64, frames), 2))
        images = list(read_frames(path, chosen))
        labels = np.zeros(images[0].shape[:2], np.uint8)
        height, width = labels.shape
        cv2.ellipse(labels, (width // 3, height // 2), (width // 6, height // 3), 20, 0, 360, 1, -1)
        cv2.ellipse(labels, (2 * width // 3, height // 2), (width // 7, height // 4), 0, 0, 360, 2, -1)
        same = np.abs(np.stack(plain_walk(path, set(chosen))).astype(int) - np.stack(images)).mean()
        if same > 3:
            raise SystemExit(f"the two ways read different frames (mean difference {same:.1f})")
        jobs: dict[str, tuple[int, Callable[[], object], Callable[[], object]]] = {
            "read all": (frames, lambda: read_all(path), lambda: plain_walk(path, None)),
            "read 32": (len(chosen), lambda: read_frames(path, chosen), lambda: plain_walk(path, set(chosen))),
            "count": (frames, lambda: count(path), lambda: plain_count(path)),
            "overlay": (1, lambda: draw_masks(images[0], labels), lambda: plain_overlay(images[0], labels)),
            "write": (
                len(images),
                lambda: write(Path(folder) / "ours.mp4", images),
                lambda: plain_write(Path(folder) / "plain.mp4", images),
            ),
        }
        size = f"{info.width}x{info.height} {info.codec}, {frames} frames"
        rows = []
        for name, (number, ours, plain) in jobs.items():
            times = [(clocked(ours), clocked(plain)) for _ in range(options.repeat * (10 if name == "overlay" else 1))]
            best, cpu = (min(ours[i] for ours, _ in times) for i in (0, 1))
            plain_best, plain_cpu = (min(plain[i] for _, plain in times) for i in (0, 1))
            print(
                f"{name:>9}  {number:4d} frames  {best:8.1f} ms ({cpu:.1f} cpu)"
                f"   plain {plain_best:8.1f} ms ({plain_cpu:.1f} cpu)"
            )
            measured = (f"{value:.1f}" for value in (best, plain_best, cpu, plain_cpu))
            found = dict(zip(COLUMNS[4:], (size, name, number, *measured), strict=True))
            rows.append(stamp(load) | found)
    if not options.no_history:
        append("decode", COLUMNS, rows)


if __name__ == "__main__":
    main()
