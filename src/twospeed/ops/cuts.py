"""Where one shot of a video ends and another begins, from two consecutive frames made small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from twospeed.ops.on_numpy import BINS, LEAST_DIFFERENCE, MOST_OVERLAP, SAMPLES, SMALL_SIZE


def small_image(image: Tensor) -> Tensor:
    """Make an image small enough to be compared with the next one.

    Shapes: (3, H, W), uint8 or float in 0..1 -> float (3, 18, 32).
    """
    steps = [max(1, side // (SAMPLES * small)) for side, small in zip(image.shape[-2:], SMALL_SIZE, strict=True)]
    samples = image[:, :: steps[0], :: steps[1]]
    values = samples.float().div(255) if samples.dtype == torch.uint8 else samples.float()
    return F.adaptive_avg_pool2d(values, SMALL_SIZE)


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Tell whether a cut lies between two consecutive frames: they differ in place, and their colours do.

    Motion changes pixels but few colours, light changes colours but, where it is slow, few pixels: a cut changes both.
    Shapes: of `small_image`. The host needs the answer: both are to be on it.
    """
    if float((before - after).abs().mean()) < LEAST_DIFFERENCE:
        return False
    return float(torch.minimum(_histogram(before), _histogram(after)).sum()) < MOST_OVERLAP


def _histogram(small: Tensor) -> Tensor:
    """Shares of the colours, of all three channels together. Shapes: (3, h, w) -> (64,)."""
    red, green, blue = (small * BINS).long().clamp(0, BINS - 1)
    codes = (red * BINS + green) * BINS + blue
    return torch.bincount(codes.flatten(), minlength=BINS**3) / codes.numel()
