"""Top-k accuracy and the challenge's average error, from score tables alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError


@dataclass(frozen=True, slots=True)
class TopK:
    """Fractions over `count` videos. average_error: mean of top-1 and top-5 error (the Kinetics challenge)."""

    top1: float
    top5: float
    average_error: float
    count: int


def hits(scores: NDArray[Any], labels: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Return for each row whether its label is among the k best scores: bool (n,).

    scores: float (n, C). labels: int (n,) in 0..C-1. Equal scores rank by class number, so that a constant
    score is not a hit everywhere. k above C counts as C. Raises InputError for NaN scores and labels outside
    the table.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise InputError(f"scores (n, C) and labels (n,) do not fit: {scores.shape} and {labels.shape}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        wrong = labels[(labels < 0) | (labels >= scores.shape[1])][0]
        raise InputError(f"label {wrong} is outside the {scores.shape[1]} classes of the scores")
    if np.isnan(scores).any():
        raise InputError(f"row {int(np.isnan(scores).any(axis=1).argmax())} of the scores holds NaN")
    own = scores[np.arange(len(labels)), labels][:, None]  # (n, 1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]  # (n, C)
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    better: NDArray[np.bool_] = rank < k
    return better


def topk(scores: NDArray[Any], labels: NDArray[Any]) -> TopK:
    """Score a table of (n, C) against labels (n,). Raises InputError for an empty table and as `hits` does."""
    if not len(labels):
        raise InputError("no video to score")
    top1 = float(hits(scores, labels, 1).mean())
    top5 = float(hits(scores, labels, 5).mean())
    return TopK(top1, top5, ((1 - top1) + (1 - top5)) / 2, len(labels))
