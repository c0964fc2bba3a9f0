"""Where one shot of a video ends and another begins, from two consecutive frames made small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SIZE = (18, 32)
_BINS = 4  # of each channel's histogram
_SAMPLES = 4  # rows and columns looked at for each cell of the small image, about

LEAST_DIFFERENCE = 0.12
"""Mean difference of two small images, 0..1, from which a cut is possible."""

MOST_OVERLAP = 0.7
"""Overlap of two colour histograms, 0..1, below which it is one: no pair of consecutive frames of 14 DAVIS sequences
(853 pairs, least overlap 0.85), 95 % of 910 pairs of frames from two different sequences, 1.5 % of frames 5 apart."""


def small_image(image: Tensor) -> Tensor:
    """Make an image small enough to be compared with the next one.

    Shapes: (3, H, W), uint8 or float in 0..1 -> float (3, 18, 32).
    """
    steps = [max(1, side // (_SAMPLES * small)) for side, small in zip(image.shape[-2:], _SIZE, strict=True)]
    samples = image[:, :: steps[0], :: steps[1]]
    return F.adaptive_avg_pool2d(samples.float().div(255) if samples.dtype == torch.uint8 else samples.float(), _SIZE)


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
    red, green, blue = (small * _BINS).long().clamp(0, _BINS - 1)
    codes = (red * _BINS + green) * _BINS + blue
    return torch.bincount(codes.flatten(), minlength=_BINS**3) / codes.numel()
