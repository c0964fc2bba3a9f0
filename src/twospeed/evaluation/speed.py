"""How long a job takes for a frame or clip on this machine: generated images, random weights, nothing decoded.

Those that iterate give the seconds of one frame or clip after another, without end; labels are on the host then.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import torch
from torch import Tensor

from twospeed.environment import peak_memory
from twospeed.models.gsv.network import GSVNet
from twospeed.models.optimise import optimise
from twospeed.ops.warp import backward_warp
from twospeed.pipelines.segment import Segmenter
from twospeed.pipelines.tracker import Tracker
from twospeed.weights.load import create_model


def tracker_steps(
    model: str, width: int, height: int, *, memory_frames: int, objects: int, device: str
) -> Iterator[float]:
    """Time `Tracker.step`, with `memory_frames` in memory before the first."""
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
    for i in count():
        start = time.perf_counter()
        tracker.step(images[i % 4])
        yield time.perf_counter() - start


def segmenter_steps(model: str, width: int, height: int, *, keyframe_every: int, device: str) -> Iterator[float]:
    """Time `Segmenter.step`: a frame's share of each keyframe interval."""
    segmenter = Segmenter(model, keyframe_every, weights=None, device=device)
    # Coarse patches: noise would be of another class in every pixel, which no video is, and which takes longest
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (-(-height // 64), -(-width // 64), 3), dtype=np.uint8) for _ in range(4)]
    images = [x.repeat(64, 0).repeat(64, 1)[:height, :width].copy() for x in patches]
    segmenter.step(images[0])
    segmenter.reset()
    while True:
        start = time.perf_counter()
        for i in range(keyframe_every):
            segmenter.step(images[i % 4])
        yield (time.perf_counter() - start) / keyframe_every


def clip_scores(model: str, frames: int, side: int, *, device: str) -> Iterator[float]:
    """Time a network for classify, as `Classifier` runs it, on clips of `frames` x `side` x `side` pixels."""
    network = optimise(create_model(model, None, device=device))
    clip = torch.randn(1, 3, frames, side, side, device=device)
    with torch.inference_mode():
        network(clip)
    while True:
        start = time.perf_counter()
        with torch.inference_mode():
            network(clip).cpu()
        yield time.perf_counter() - start


@torch.inference_mode()
def step_seconds(network: GSVNet, previous: Tensor, image: Tensor) -> dict[str, float]:
    """Return the median seconds of the parts of a propagation step (GSVNet's Fig. A9): flow, warp, features, fusion.

    previous, image: RGB 0..255 (1, 3, H, W), two frames of a video. features are those of the current frame, 0 for a
    network without them; fusion is the guide network and the filtering. Bringing frames to the grid is in none of them.
    """
    seconds: dict[str, list[float]] = {"flow": [], "warp": [], "features": [], "fusion": []}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        _wait_for(image.device)
        started = time.perf_counter()
        yield
        _wait_for(image.device)
        seconds[part].append(time.perf_counter() - started)

    scores, before, now = network.keyframe(previous.float()), network.small(previous), network.small(image)
    for _ in range(6):
        with timed("flow"):
            flow = network.flow(before, now)
        with timed("warp"):
            warped = backward_warp(scores, flow)
        with timed("features"):
            intra = None if network.intra is None else network.intra(now)
        with timed("fusion"):
            network.fuse(flow, warped, intra)
    return {part: statistics.median(laps[1:]) for part, laps in seconds.items()}  # the first warms up


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: str) -> float | None:
    """Most memory used so far in megabytes: of the graphics card, else of this process; None where that is unknown."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    peak = peak_memory()
    return None if peak is None else round(peak / 1e6, 1)
