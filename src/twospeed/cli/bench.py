"""`twospeed bench`: frames per second and memory of a model on this machine, with what the times include."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from itertools import islice
from typing import Annotated

import typer

from twospeed.cli.options import Device, Json, option, whole_option
from twospeed.cli.printing import print_json, print_line
from twospeed.environment import checkout_of_this_code
from twospeed.errors import InputError


def bench(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Model; `twospeed models` lists them.")] = "track_nano",
    size: Annotated[str, option("WxH", "Width and height of the frames in pixels.")] = "854x480",
    frames: Annotated[int, whole_option(2, 10**6, help="Frames, or clips for classify, that are timed.")] = 20,
    memory_frames: Annotated[int, whole_option(1, 10**5, help="Track: frames in memory while timing.")] = 10,
    objects: Annotated[int, whole_option(1, 50, help="Track: objects.")] = 1,
    keyframe_every: Annotated[int, whole_option(1, help="Segment: the image network runs on every N-th frame.")] = 4,
    every_job: Annotated[
        bool, typer.Option("--all", help="All jobs beside plain ways and this machine's limits, for docs/results.md.")
    ] = False,
    device: Device = None,
    json_output: Json = False,
) -> None:
    """Time a model on generated images with random weights: nothing is downloaded or decoded.

    Track: the time of `Tracker.step` (upload, network, memory, masks at the frame's size on the host), with the memory
    filled first; without decoding and files. Segment: `Segmenter.step` over whole keyframe intervals, a frame's share
    of each. Classify: one clip through the network, from tensor to scores.

    With --all, which needs a checkout of the repository, the other options do not apply.
    """
    if every_job:
        raise typer.Exit(_run_table())
    from twospeed.weights.catalog import find

    entry = find(model)
    sides = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", size.lower())
    if sides is None:
        raise InputError(f"--size is {size!r}; give WIDTHxHEIGHT of up to 9999 pixels, such as 854x480")
    width, height = int(sides[1]), int(sides[2])
    import torch

    from twospeed.evaluation.speed import clip_scores, peak_mb, segmenter_steps, tracker_steps

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    repeats = frames
    if entry.task == "track":
        laps = tracker_steps(model, width, height, memory_frames=memory_frames, objects=objects, device=device)
        counts = "Tracker.step"
    elif entry.task == "segment":
        laps = segmenter_steps(model, width, height, keyframe_every=keyframe_every, device=device)
        repeats = -(-frames // keyframe_every)
        counts = f"Segmenter.step, a keyframe every {keyframe_every}"
    elif entry.task == "classify":
        clip = entry.preprocessing
        laps = clip_scores(model, clip.frames or 32, clip.crop or 256, device=device)
        counts = f"one view of {clip.frames or 32} x {clip.crop or 256} x {clip.crop or 256}"
    else:
        raise InputError(f"no benchmark for {entry.task} models yet; choose a track, segment or classify model")
    median = statistics.median(islice(laps, repeats))
    facts = {
        "model": model,
        "device": device,
        "threads": torch.get_num_threads(),
        "clock_counts": counts,
        "median_s": round(median, 4),
        "per_second": round(1 / median, 2),
        "peak_memory_mb": peak_mb(device),
        "torch": torch.__version__,
    }
    if json_output:
        print_json(facts)
        return
    for key, value in facts.items():
        print_line(f"{key:<15} {value}")


def _run_table() -> int:
    """Run the script that measures all jobs; return its exit code."""
    checkout = checkout_of_this_code()
    if checkout is None:
        raise InputError(
            "the benchmarks of all jobs are part of the repository, not of the installed package; "
            "run this in a checkout"
        )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, checkout / "benchmarks" / "all.py"], env=environment, check=False).returncode
