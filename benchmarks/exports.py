"""What exports cost beside tracking, and whether they stay at constant memory in a long video.

    python benchmarks/exports.py                     milliseconds a frame of each format at 854x480, and of `track`
    python benchmarks/exports.py --long 20000        memory while so many frames of 64x48 leave in every format at once

Frames and masks are rendered beforehand (three objects with soft edges), so that only writing is timed, through what
`track` itself uses. Lines go to history/exports.csv. The long run fails where the median memory of its last third is
more than 5 % and 20 MB above that of the second third.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

import record
from twospeed.data.clips.synthetic import render_clip
from twospeed.output.exports import EXPORTS
from twospeed.output.folder import ResultFolder
from twospeed.output.mask_outputs import MaskOutputs, MaskOutputSettings
from twospeed.output.run import Run
from twospeed.pipelines.tracker import Tracker
from twospeed.results import Frame, ObjectMasks

HEIGHT, WIDTH = 480, 854
COLUMNS = ("date", "machine", "load", "commit", "what", "ms_a_frame", "share_of_track")
SETTINGS = {
    **{name: MaskOutputSettings(exports=(name,)) for name in EXPORTS},
    **{f"matte {kind}": MaskOutputSettings(matte=kind) for kind in ("prores4444", "webm", "png", "exr")},
    "blur": MaskOutputSettings(blur=True),
    "pixelate": MaskOutputSettings(pixelate=True),
    "background": MaskOutputSettings(remove_background="#00ff00"),
}


def rendered(count: int, height: int, width: int) -> list[tuple[Frame, ObjectMasks]]:
    """Frames with masks whose probabilities are soft along edges."""
    found = []
    for index, (image, labels) in enumerate(render_clip(5, frames=count, height=height, width=width, objects=3)):
        ids = tuple(i for i in range(1, 4))
        planes = np.stack([cv2.GaussianBlur((labels == i).astype(np.float32), (0, 0), 1.5) for i in (0, *ids)])
        planes /= planes.sum(0)
        sure = np.array([float((labels == i).any()) for i in ids], np.float32)
        found.append((Frame(index, index / 25, image), ObjectMasks(labels, planes, ids, index, index / 25, sure)))
    return found


def write(frames: Iterator[tuple[Frame, ObjectMasks]], settings: MaskOutputSettings, folder: Path) -> Iterator[int]:
    """Write frames as `track` does, and yield after each."""
    with ResultFolder(folder, settings.patterns) as results:
        run = Run("track", model="none", weights_sha256=None, options={}, folder=results)
        with run, MaskOutputs(settings, run, video="clip", rate=25) as outputs:
            for frame, masks in frames:
                run.add_frame(frame)  # begins the run's folder
                outputs.add(frame, masks)
                run.advance()
                yield frame.index


def costs(count: int) -> list[dict[str, object]]:
    """Time every format, and tracking of the same frames at size 480."""
    frames = rendered(count, HEIGHT, WIDTH)
    tracker = Tracker("track_nano", max_memory_frames=20)
    spent = []
    for frame, masks in frames:
        begun = time.perf_counter()
        tracker.step(frame.image, masks.labels if not frame.index else None)
        spent.append(time.perf_counter() - begun)
    track_s = statistics.median(spent[1:])
    lines: list[dict[str, object]] = [{"what": "track", "ms_a_frame": round(1000 * track_s, 1), "share_of_track": 1.0}]
    for name, settings in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            written = write(iter(frames), settings, Path(folder) / "out")
            next(written)  # makes the folder and its record
            begun = time.perf_counter()
            for _ in written:
                pass
            each_s = (time.perf_counter() - begun) / (count - 1)
        share = round(each_s / track_s, 3)
        lines.append({"what": name, "ms_a_frame": round(1000 * each_s, 2), "share_of_track": share})
    return lines


def memory_mb() -> float:
    """Resident memory (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def long_run(count: int) -> Sequence[float]:
    """Write many small frames in every format at once; return the memory after every hundredth part."""
    few = rendered(50, 48, 64)

    def frames() -> Iterator[tuple[Frame, ObjectMasks]]:
        for index in range(count):
            frame, masks = few[index % len(few)]
            yield replace(frame, index=index, time_s=index / 25), masks.numbered(index)

    settings = MaskOutputSettings(
        exports=tuple(EXPORTS), matte="webm", blur=True, pixelate=True, remove_background="#00ff00"
    )
    held = []
    with tempfile.TemporaryDirectory() as folder:
        for index in write(frames(), settings, Path(folder) / "out"):
            if index % max(1, count // 100) == 0:
                held.append(memory_mb())
        held.append(memory_mb())  # after files were completed
    return held


def main() -> int:
    """Run what is asked for; 1 where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24, help="frames that are timed")
    parser.add_argument("--long", type=int, metavar="FRAMES", help="measure memory over so many frames instead")
    given = parser.parse_args()
    if given.long:
        held = long_run(given.long)
        third = len(held) // 3
        before, after = statistics.median(held[third : 2 * third]), statistics.median(held[2 * third :])
        grows = after > before * 1.05 and after > before + 20
        print(f"{given.long} frames: {held[1]:.0f} MB, {before:.0f}, then {after:.0f} MB; at the end {held[-1]:.0f}")
        return int(grows)
    stamp = record.stamp()
    lines = [{**stamp, **line} for line in costs(given.frames)]
    for line in lines:
        print(
            f"{line['what']:<18} {line['ms_a_frame']:>8} ms a frame   {100 * float(str(line['share_of_track'])):6.1f} %"
        )
    record.append("exports", COLUMNS, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
