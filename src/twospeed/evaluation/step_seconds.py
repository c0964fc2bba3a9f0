"""Where the time of a non-keyframe goes: GSVNet's Fig. A9."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from twospeed.models.gsv.network import GSVNet
from twospeed.ops.warp import backward_warp


@torch.inference_mode()
def step_seconds(network: GSVNet, previous: Tensor, image: Tensor, *, repeats: int = 5) -> dict[str, float]:
    """Return the median seconds of the four parts of a propagation step: flow, warp, features, fusion.

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
    for _ in range(repeats + 1):
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
