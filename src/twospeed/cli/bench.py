"""`twospeed bench`: frames per second and memory of a model on this machine, with what the times include."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated

import typer

from twospeed.cli.options import Device, Json, whole
from twospeed.cli.printing import print_json, print_line
from twospeed.errors import InputError


def bench(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Model; `twospeed models` lists them.")] = "track_nano",
    size: Annotated[str, typer.Option(metavar="WxH", help="Width and height of the frames in pixels.")] = "854x480",
    frames: Annotated[
        int,
        typer.Option(metavar="N", parser=whole(2, 10**6), help="Frames, or clips for classify, that are timed."),
    ] = 20,
    memory_frames: Annotated[
        int, typer.Option(metavar="N", parser=whole(1, 10**5), help="Track: frames in memory while timing.")
    ] = 10,
    objects: Annotated[int, typer.Option(metavar="N", parser=whole(1, 50), help="Track: objects.")] = 1,
    keyframe_every: Annotated[
        int, typer.Option(metavar="N", parser=whole(1), help="Segment: the image network runs on every N-th frame.")
    ] = 4,
    device: Device = None,
    json_output: Json = False,
) -> None:
    """Time a model on generated images with random weights: nothing is downloaded or decoded.

    Track: the time of `Tracker.step` (upload, network, memory, masks at the frame's size on the host), with the memory
    filled first; without decoding and files. Segment: `Segmenter.step` over whole keyframe intervals, a frame's share
    of each. Classify: one clip through the network, from tensor to scores.
    """
    from twospeed.weights.catalog import find

    entry = find(model)
    sides = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", size.lower())
    if sides is None:
        raise InputError(f"--size is {size!r}; give WIDTHxHEIGHT of up to 9999 pixels, such as 854x480")
    width, height = int(sides[1]), int(sides[2])
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if entry.task == "track":
        seconds, counts = _time_tracker(model, width, height, frames, memory_frames, objects, device), "Tracker.step"
    elif entry.task == "segment":
        seconds = _time_segmenter(model, width, height, frames, keyframe_every, device)
        counts = f"Segmenter.step, a keyframe every {keyframe_every}"
    elif entry.task == "classify":
        clip = entry.preprocessing
        seconds = _time_clips(model, clip.frames or 32, clip.crop or 256, frames, device)
        counts = f"one view of {clip.frames or 32} x {clip.crop or 256} x {clip.crop or 256}"
    else:
        raise InputError(f"no benchmark for {entry.task} models yet; choose a track, segment or classify model")
    seconds.sort()
    median = seconds[len(seconds) // 2]
    facts = {
        "model": model,
        "device": device,
        "threads": torch.get_num_threads(),
        "clock_counts": counts,
        "median_s": round(median, 4),
        "per_second": round(1 / median, 2),
        "peak_memory_mb": _peak_mb(device),
        "torch": torch.__version__,
    }
    if json_output:
        print_json(facts)
        return
    for key, value in facts.items():
        print_line(f"{key:<15} {value}")


def _time_tracker(
    model: str, width: int, height: int, frames: int, memory_frames: int, objects: int, device: str
) -> list[float]:
    import numpy as np

    from twospeed.pipelines.track import Tracker

    rng = np.random.default_rng(0)
    labels = np.zeros((height, width), np.uint8)
    for i in range(objects):
        labels[:, i * width // (objects + 1) : (i + 1) * width // (objects + 1)] = i + 1
    tracker = Tracker(model, weights=None, memory_every=1, max_memory_frames=memory_frames, size=None, device=device)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(4)]
    tracker.step(images[0], labels)
    for i in range(memory_frames):
        tracker.step(images[i % 4])
    tracker.memory_every = 5
    seconds = []
    for i in range(frames):
        start = time.perf_counter()
        tracker.step(images[i % 4])
        seconds.append(time.perf_counter() - start)
    return seconds


def _time_segmenter(model: str, width: int, height: int, frames: int, keyframe_every: int, device: str) -> list[float]:
    import numpy as np

    from twospeed.pipelines.segment import Segmenter

    segmenter = Segmenter(model, keyframe_every, weights=None, device=device)
    # Coarse patches: noise would be of another class in every pixel, which no video is, and which takes longest
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (-(-height // 64), -(-width // 64), 3), dtype=np.uint8) for _ in range(4)]
    images = [x.repeat(64, 0).repeat(64, 1)[:height, :width].copy() for x in patches]
    segmenter.step(images[0])
    segmenter.reset()
    seconds = []
    for _ in range(-(-frames // keyframe_every)):
        start = time.perf_counter()
        for i in range(keyframe_every):
            segmenter.step(images[i % 4])
        seconds.append((time.perf_counter() - start) / keyframe_every)
    return seconds


def _time_clips(model: str, frames: int, side: int, clips: int, device: str) -> list[float]:
    import torch

    from twospeed.weights.load import create_model

    network = create_model(model, None, device=device)
    clip = torch.randn(1, 3, frames, side, side, device=device)
    seconds = []
    with torch.inference_mode():
        network(clip)
        for _ in range(clips):
            start = time.perf_counter()
            network(clip).cpu()
            seconds.append(time.perf_counter() - start)
    return seconds


def _peak_mb(device: str) -> float | None:
    """Most memory used so far in megabytes: of the graphics card, else of this process; None where that is unknown."""
    import torch

    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)  # macOS counts bytes, Linux kilobytes
