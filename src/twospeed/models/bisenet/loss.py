"""How BiSeNet is trained: the sum of the cross entropies of its three heads, each on its hard pixels alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_IGNORED = -100


def hard_cross_entropy(scores: Tensor, labels: Tensor, *, threshold: float = 0.7, least: float = 1 / 16) -> Tensor:
    """Return the mean cross entropy of hard pixels (online hard example mining): a scalar, 0 where all is void.

    Hard is a pixel whose right class has a probability below `threshold`; at least a share `least` of all pixels
    counts, the hardest first. Shapes: scores (N, C, H, W), labels (N, H, W); what is no class 0..C-1 is void.
    """
    targets = labels.long()
    targets = targets.masked_fill((targets < 0) | (targets >= scores.shape[1]), _IGNORED)
    losses = F.cross_entropy(scores, targets, ignore_index=_IGNORED, reduction="none")[targets != _IGNORED]
    if not len(losses):
        return scores.sum() * 0
    hard = losses > -torch.log(torch.tensor(threshold, device=losses.device))
    fewest = min(len(losses), max(1, round(least * labels.numel())))
    chosen = losses[hard] if int(hard.sum()) >= fewest else losses.topk(fewest).values
    return chosen.mean()


def bisenet_loss(heads: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the sum over the heads (`BiSeNet.training_scores`), all weighed alike: a scalar."""
    return torch.stack([hard_cross_entropy(scores, labels) for scores in heads]).sum()
