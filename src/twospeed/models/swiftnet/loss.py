"""How image networks are trained: weighted cross entropy, and the overlap that mIoU measures, made smooth.

Labels are whole numbers; what is no class 0..C-1 is void and does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_IGNORED = -100


def class_weights(counts: Tensor, power: float) -> Tensor:
    """Return (median count / count) to a power, for pixel counts of each class (C,): float32 (C,).

    power 0 weighs all alike, 1 gives every class the same say. A class that never occurs weighs as the rarest other.
    """
    counted = counts.double().masked_fill(counts == 0, float("inf"))

    counted[counts == 0] = counted[counts > 0].min()
    return (counts[counts > 0].double().median() / counted).pow(power).float()


def cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy, a scalar, 0 where all is void.

    Shapes: scores (N, C, H, W), labels (N, H, W). weights: of the classes (C,); the mean is then weighted.
    """
    targets = void_ignored(labels, scores.shape[1])
    counted = targets != _IGNORED
    total = F.cross_entropy(scores, targets, weights, ignore_index=_IGNORED, reduction="sum")
    return total / (counted.sum() if weights is None else weights[targets[counted]].sum()).clamp(min=1e-6)


def soft_jaccard(scores: Tensor, labels: Tensor, *, smooth: float = 50.0) -> Tensor:
    """Return one minus the mean intersection over union of the classes that occur, with probabilities for pixels.

    Shapes: scores (N, C, H, W), labels (N, H, W) -> scalar in 0..1. The batch counts as one image, as in mIoU.
    smooth: pixels added to both areas, so that a class with few of them asks for little. 0 where all is void.
    """
    classes = scores.shape[1]
    targets = void_ignored(labels, classes)
    counted = (targets != _IGNORED).unsqueeze(1)
    found = scores.softmax(1) * counted
    truth = F.one_hot(targets.clamp(min=0), classes).permute(0, 3, 1, 2) * counted
    inside = (found * truth).sum((0, 2, 3))
    area = truth.sum((0, 2, 3))
    union = found.sum((0, 2, 3)) + area - inside
    present = area > 0
    distance = 1 - (inside + smooth) / (union + smooth)
    return (distance * present).sum() / present.sum().clamp(min=1)


def void_ignored(labels: Tensor, classes: int) -> Tensor:
    """Return labels as int64 with everything that is no class at cross entropy's ignored value."""
    targets = labels.long()
    return targets.masked_fill((targets < 0) | (targets >= classes), _IGNORED)


def boundary_focal(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the boundary-aware focal loss with which the pyramid was trained: a scalar, 0 where all is void.

    mean of weight * exp((1 - p) / 2) * -log p, with p the probability of the right class. Shapes: scores (N, C, H, W),
    labels (N, H, W), weights (N, H, W), large along the borders of regions.
    """
    targets = void_ignored(labels, scores.shape[1])
    counted = targets != _IGNORED
    entropy = F.cross_entropy(scores, targets, ignore_index=_IGNORED, reduction="none")  # (N, H, W)
    hard = torch.exp(0.5 * (1 - torch.exp(-entropy)))
    return (weights * hard * entropy * counted).sum() / counted.sum().clamp(min=1)
