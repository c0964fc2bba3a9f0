"""The loss of STCN's training: cross entropy of the hardest pixels (STCN, supplement F.5; STM has the plain mean)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def kept_fraction(iteration: float, *, start: float = 20_000, end: float = 70_000, final: float = 0.15) -> float:
    """Return the share of pixels that count at an iteration: 1 up to `start`, `final` from `end`, linear between.

    Any unit will do, if all three have the same: shares of a run, for example.
    """
    if iteration < start:
        return 1.0
    if iteration > end:
        return final
    return final + (1 - final) * (end - iteration) / (end - start)


def bootstrapped_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    objects: Sequence[int],
    *,
    keep: float = 1.0,
) -> Tensor:
    """Return the cross entropy of the hardest pixels of every sample, averaged over samples: a scalar.

    Shapes: logits float (B, K+1, H, W), log odds after soft aggregation, background first; labels int (B, H, W), 0 is
    the background. objects: how many objects each sample really has; channels beyond them do not enter its loss.
    keep: share of pixels that count, `kept_fraction` of the iteration; int(H * W * keep) per sample, at least one.
    """
    losses = []
    for sample_logits, sample_labels, count in zip(logits, labels, objects, strict=True):
        pixels = F.cross_entropy(
            sample_logits[None, : count + 1].float(), sample_labels[None].long(), reduction="none"
        ).flatten()  # (HW,)
        if keep < 1.0:
            pixels = pixels.topk(max(1, int(pixels.numel() * keep)), sorted=False).values
        losses.append(pixels.mean())
    return torch.stack(losses).mean()
