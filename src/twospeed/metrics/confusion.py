"""Confusion matrix, class IoU, mIoU and pixel accuracy, as the segmentation benchmarks count them.

Rows are the ground truth, columns the prediction. Pixels whose label is no class (void) are left out, whatever is
predicted there. A class that occurs in neither labels nor predictions has no IoU: NaN here; `mean_iou` says what the
mean makes of it. Matrices are summed over all images before anything is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError

Matrix = NDArray[np.int64]


def confusion_matrix(labels: NDArray[np.integer], predictions: NDArray[np.integer], num_classes: int) -> Matrix:
    """Count pixels by true class (row) and predicted class (column): int64 (C, C).

    labels, predictions: integers of one shape, any number of axes. Labels outside 0..C-1 are void.
    Raises InputError for shapes that differ, and for predictions outside the classes where the label is one.
    """
    if labels.shape != predictions.shape:
        raise InputError(f"labels are {labels.shape}, predictions {predictions.shape}; give one size")
    truth, found = labels.ravel().astype(np.int64), predictions.ravel().astype(np.int64)
    counted = (truth >= 0) & (truth < num_classes)
    truth, found = truth[counted], found[counted]
    if len(found) and not (found.min() >= 0 and found.max() < num_classes):
        bad = found.min() if found.min() < 0 else found.max()
        raise InputError(f"prediction holds class {bad}; the {num_classes} classes are 0 to {num_classes - 1}")
    return np.bincount(truth * num_classes + found, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(matrix: Matrix) -> NDArray[np.float64]:
    """Return the intersection over union of every class (C,): 0..1, NaN for a class that occurs nowhere.

    A matrix (C, C + 1) has what was predicted as no class in its last column: wrong, and no other class's mistake.
    """
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0)[: len(hits)] + matrix.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(matrix: Matrix, absent: Literal["zero", "skip", "nan"] = "zero") -> float:
    """Return the mean of the class IoUs, 0..1.

    absent: what a class that occurs nowhere does: "zero" counts it as 0 (GSVNet's tool), "nan" makes the mean NaN
    (SwiftNet's), "skip" leaves it out (neither's; for a few images that lack classes). NaN when nothing was counted.
    """
    if absent not in ("zero", "skip", "nan"):
        raise InputError(f"absent is {absent!r}; choose 'zero', 'skip' or 'nan'")
    values = class_iou(matrix)
    if not matrix.any():
        return float("nan")
    if absent == "skip":
        return float(values[~np.isnan(values)].mean())
    return float((np.nan_to_num(values) if absent == "zero" else values).mean())


def pixel_accuracy(matrix: Matrix) -> float:
    """Return the share of counted pixels that are right, 0..1; NaN when none was counted."""
    total = int(matrix.sum())
    return float(np.trace(matrix) / total) if total else float("nan")


def mean_class_accuracy(matrix: Matrix) -> float:
    """Return the mean over all classes of the share of their pixels that is right; a class without labels counts 0."""
    pixels = matrix.sum(1)
    return float(np.divide(np.diag(matrix), pixels, out=np.zeros(len(matrix)), where=pixels > 0).mean())


def frequency_weighted_iou(matrix: Matrix) -> float:
    """Return the class IoUs averaged by how many labelled pixels each class has; NaN when none was counted."""
    total = int(matrix.sum())
    return float((matrix.sum(1) / total * np.nan_to_num(class_iou(matrix))).sum()) if total else float("nan")


def over_interval(matrices: Sequence[Matrix]) -> tuple[float, float]:
    """Return average and minimum mIoU of a keyframe interval, as GSVNet's code computes them.

    matrices: one for each distance from the keyframe, 0 first. The average is the mIoU of their sum (not the mean of
    their mIoUs, which differs), the minimum that of the farthest distance.
    """
    if not matrices:
        raise InputError("no distance was evaluated; give one confusion matrix for each")
    return mean_iou(np.sum(matrices, axis=0)), mean_iou(matrices[-1])
