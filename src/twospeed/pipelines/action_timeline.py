"""When each action starts and ends: from the scores of windows to spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.results import ActionSpan


def spans(
    starts_s: Sequence[float],
    ends_s: Sequence[float],
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
    *,
    threshold: float | None = None,
    smooth: int = 1,
) -> tuple[ActionSpan, ...]:
    """Join neighbouring windows that agree into spans, in order of time.

    starts_s, ends_s: of n windows, ascending. probabilities: (n, C). An action changes half way between the centres
    of two windows; the first span begins with the first window, the last ends with the last. threshold: None names
    the most probable class at every moment; a number (0..1) lists every class where it reaches that, so spans may
    overlap and moments may be without any. smooth: windows averaged around each (odd), against flicker.
    """
    if smooth < 1 or smooth % 2 == 0:
        raise InputError(f"smooth={smooth}: an odd number of windows, 1 for none")
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"threshold={threshold}: a probability above 0, at most 1")
    if not len(probabilities):
        return ()
    rows = _smoothed(probabilities.astype(np.float64), smooth)
    centres = (np.asarray(starts_s) + np.asarray(ends_s)) / 2
    edges = np.concatenate([[starts_s[0]], (centres[:-1] + centres[1:]) / 2, [ends_s[-1]]])
    if threshold is None:
        best = rows.argmax(axis=1)
        holds = best[:, None] == np.arange(rows.shape[1])  # (n, C)
    else:
        holds = rows >= threshold
    found = []
    for c in np.flatnonzero(holds.any(axis=0)).tolist():
        changes = np.flatnonzero(np.diff(np.concatenate([[False], holds[:, c], [False]]).astype(np.int8)))
        for first, after in zip(changes[::2], changes[1::2], strict=True):
            mean = float(probabilities[first:after, c].mean())
            found.append(ActionSpan(labels[c], float(edges[first]), float(edges[after]), mean))
    return tuple(sorted(found, key=lambda span: (span.start_s, -span.probability)))


def _smoothed(rows: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean over `width` windows around each; fewer at both ends."""
    sums = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(axis=0)])
    centre = np.arange(len(rows))
    low, high = np.maximum(centre - width // 2, 0), np.minimum(centre + width // 2 + 1, len(rows))
    smoothed: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)[:, None]
    return smoothed if width > 1 else rows
