"""Masks as labels, as one-hot planes, and as soft probabilities that sum to one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def one_hot(labels: Tensor, object_ids: Sequence[int]) -> Tensor:
    """Split a label map into one plane for each object.

    Shapes: labels integer (H, W) -> float32 (K, H, W) of exact 0 and 1, in the order of object_ids.
    """
    ids = torch.tensor(object_ids, dtype=labels.dtype, device=labels.device)
    return (labels[None] == ids[:, None, None]).float()


def split_batch(x: Tensor, batch: int, objects: int) -> Tensor:
    """Undo `flatten(0, 1)` of images and their objects. Shapes: (BK, ...) -> (B, K, ...).

    By reshape: where a graph is traced, `unflatten` turns its sizes into constants.
    """
    return x.reshape(batch, objects, *x.shape[1:])


def soft_aggregate(probabilities: Tensor) -> Tensor:
    """Let objects compete for each pixel: independent probabilities -> log odds with the background first.

    Shapes: float (B, K, H, W) in 0..1 -> (B, K+1, H, W); softmax over dim 1 gives probabilities that sum to one.
    Source: STM (Oh 2019), section 3.4; background = product of (1 - p), clamped to
    [1e-7, 1 - 1e-7] before the log odds.
    """
    background = (1 - probabilities).prod(dim=1, keepdim=True)
    stacked = torch.cat([background, probabilities], dim=1).clamp(1e-7, 1 - 1e-7)
    return torch.log(stacked / (1 - stacked))


def soft_jaccard(logits: Tensor, masks: Tensor) -> Tensor:
    """Overlap of probabilities with masks, smoothed by one pixel. Shapes: float (B, H, W) twice -> (B,), 0..1."""
    probabilities = logits.sigmoid()
    inside = (probabilities * masks).sum((1, 2))
    union = (probabilities + masks).sum((1, 2)) - inside
    return (inside + 1) / (union + 1)
