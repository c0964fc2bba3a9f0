"""Where the time of a non-keyframe goes: GSVNet's Fig. A9."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from twospeed.models.gsv.network import GSVNet
from twospeed.ops.warp import backward_warp

Result = TypeVar("Result")


@torch.inference_mode()
def step_seconds(network: GSVNet, previous: Tensor, image: Tensor, *, repeats: int = 5) -> dict[str, float]:
    """Return the median seconds of the four parts of a propagation step: flow, warp, features, fusion.

    previous, image: RGB 0..255 (1, 3, H, W), two frames of a video. features are those of the current frame, 0 for a
    network without them; fusion is the guide network and the filtering. Bringing frames to the grid is in none of them.
    """
    seconds: dict[str, list[float]] = {"flow": [], "warp": [], "features": [], "fusion": []}

    def timed(part: str, compute: Callable[[], Result]) -> Result:
        _wait_for(image.device)
        started = time.perf_counter()
        result = compute()
        _wait_for(image.device)
        seconds[part].append(time.perf_counter() - started)
        return result

    scores, before, now = network.keyframe(previous.float()), network.small(previous), network.small(image)
    for _ in range(repeats + 1):
        flow = timed("flow", lambda: network.flow(before, now))
        warped = timed("warp", lambda flow=flow: backward_warp(scores, flow))
        intra = timed("features", lambda: None if network.intra is None else network.intra(now))
        timed("fusion", lambda flow=flow, warped=warped, intra=intra: network.fuse(flow, warped, intra))
    return {part: statistics.median(laps[1:]) for part, laps in seconds.items()}  # the first warms up


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
