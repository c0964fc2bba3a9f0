"""Boxes as arrays: conversion, clipping, areas, intersection over union. Pure numpy; xyxy with x2, y2 as edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating[Any]]


def xywh_to_xyxy(boxes_xywh: Boxes) -> Boxes:
    """Turn (n, 4) x, y, width, height into (n, 4) x1, y1, x2, y2."""
    corners = np.array(boxes_xywh, copy=True)
    corners[:, 2:] += corners[:, :2]
    return corners


def clip_boxes(boxes_xyxy: Boxes, height: float, width: float) -> Boxes:
    """Cut boxes (n, 4) off at the image's edges, 0..width and 0..height; one outside comes out without area."""
    limits = np.array([width, height, width, height], dtype=boxes_xyxy.dtype)
    clipped: Boxes = np.clip(boxes_xyxy, 0, limits)
    return clipped


def areas(boxes_xyxy: Boxes) -> Boxes:
    """Return the area of each box: (..., 4) -> (...)."""
    x1, y1, x2, y2 = np.moveaxis(boxes_xyxy, -1, 0)
    product: Boxes = (x2 - x1) * (y2 - y1)
    return product


def paired_iou(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """Return the intersection over union of boxes that stand at the same place: (..., 4), (..., 4) -> (...).

    Shapes broadcast. Two boxes without area have 0.
    """
    low = np.maximum(first_xyxy[..., :2], second_xyxy[..., :2])
    high = np.minimum(first_xyxy[..., 2:], second_xyxy[..., 2:])
    overlap = np.maximum(high - low, 0.0).prod(axis=-1)
    union = areas(first_xyxy) + areas(second_xyxy) - overlap
    iou: Boxes = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
    return iou


def box_iou(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """Return the intersection over union of every box with every other: (n, 4), (m, 4) -> (n, m)."""
    return paired_iou(first_xyxy[:, None], second_xyxy[None])
