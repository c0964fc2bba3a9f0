"""From coarse class scores to full-size labels, without ever holding all classes at full size.

Between four neighbouring coarse scores, bilinear interpolation is a weighted mean of them. A class that has the highest
score at all four therefore wins everywhere between them, so only the cells in which the winners differ (those along
the borders of regions) are interpolated, a few at a time. How many these are, the host must know; devices for which it
would have to wait interpolate all cells instead, class by class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CELLS_AT_ONCE = 1024  # their interpolated scores stay in the processor's cache
_CLASSES_AT_ONCE = 8  # interpolated everywhere
_CHOSEN_CELLS_ON = ("cpu",)  # types of devices


def full_size_labels(scores: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """Return the argmax over classes of `scores` resized bilinearly to `size`.

    Shapes: float (C, h, w), C up to 256 -> uint8 (H, W). Equal to `F.interpolate(scores[None], size, mode="bilinear",
    align_corners=align_corners).argmax(1)` but where two interpolated scores agree to rounding. Memory does not grow
    with C * H * W. Raises ValueError for more than 256 classes.
    """
    classes, height, width = scores.shape
    if classes > 256:
        raise ValueError(f"{classes} classes do not fit labels of 8 bits; 256 is the most")
    if scores.device.type not in _CHOSEN_CELLS_ON:
        return _all_cells(scores, size, align_corners)
    winners = best_class(scores)  # (h, w)
    cell_y, fy = _cells(height, size[0], align_corners, scores.device)
    cell_x, fx = _cells(width, size[1], align_corners, scores.device)
    below = torch.arange(1, height + 1, device=scores.device).clamp(max=height - 1)
    right = torch.arange(1, width + 1, device=scores.device).clamp(max=width - 1)
    lower, beside = winners[below], winners[:, right]
    mixed = (winners != lower) | (winners != beside) | (winners != lower[:, right])  # (h, w): cells to interpolate
    labels = winners.index_select(1, cell_x).index_select(0, cell_y)  # (H, W), right wherever a cell has one winner

    (rows, used_y), (columns, used_x) = _members(cell_y, height), _members(cell_x, width)  # rows (h, a), columns (w, b)
    mixed &= used_y[:, None] & used_x
    where_y, where_x = mixed.nonzero(as_tuple=True)
    if not len(where_y):
        return labels
    possible, flat = _possible(scores).flatten(1), scores.flatten()
    for y, x in zip(torch.split(where_y, _CELLS_AT_ONCE), torch.split(where_x, _CELLS_AT_ONCE), strict=True):
        candidates = possible.index_select(1, y * width + x)  # (C, M)
        # Most cells have two candidates, few have many. All firsts, then all seconds, and so on, each in the order of
        # cells by their number of candidates: every further round is about the leading cells alone.
        count, order = candidates.view(torch.uint8).sum(0).sort(descending=True)
        y, x = y[order], x[order]
        cell, candidate = candidates.T[order].nonzero().unbind(1)  # (P,), cell by cell, classes ascending
        turn = torch.arange(len(cell), device=cell.device) - (count.cumsum(0) - count)[cell]
        by_turn = turn.argsort(stable=True)
        cell, candidate = cell[by_turn], candidate[by_turn]
        corners = torch.stack([i * width + j for i in (y, below[y]) for j in (x, right[x])])  # (4, M)
        top_left, top_right, bottom_left, bottom_right = flat[candidate * (height * width) + corners[:, cell]]
        out_y, out_x = rows[y], columns[x]  # (M, a), (M, b)
        along_y, along_x = fy[out_y][cell], fx[out_x][cell]  # (P, a), (P, b)
        top = torch.lerp(top_left[:, None], top_right[:, None], along_x)
        bottom = torch.lerp(bottom_left[:, None], bottom_right[:, None], along_x)
        mean = torch.lerp(top[:, None], bottom[:, None], along_y[:, :, None])  # (P, a, b)
        candidate = candidate.to(torch.uint8)[:, None, None]
        start = len(y)
        best, found = mean[:start], candidate[:start].repeat(1, *mean.shape[1:])
        for m in _more_than(count)[1:]:
            other = slice(start, start + m)
            found[:m] = torch.where(mean[other] > best[:m], candidate[other], found[:m])
            torch.maximum(best[:m], mean[other], out=best[:m])
            start += m
        labels.view(-1).put_((out_y * size[1])[:, :, None] + out_x[:, None], found)
    return labels


def _all_cells(scores: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """As `full_size_labels`, without anything that the host waits for."""
    best = scores.new_full(size, -torch.inf, dtype=torch.float32)
    labels = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for start in range(0, len(scores), _CLASSES_AT_ONCE):
        part = scores[None, start : start + _CLASSES_AT_ONCE].float()
        for index, plane in enumerate(F.interpolate(part, size, mode="bilinear", align_corners=align_corners)[0]):
            _mark(labels, plane > best, start + index)
            torch.maximum(best, plane, out=best)
    return labels


def _possible(scores: Tensor) -> Tensor:
    """Return which classes may win somewhere in the cell below and right of each score.

    A mean lies between the least and the greatest of its corners: a class whose greatest is under another's least
    cannot win. Shapes: (C, h, w) -> bool (C, h, w).
    """
    corners = F.pad(scores[None], (0, 1, 0, 1), mode="replicate")[0]
    most = torch.maximum(corners[:, :-1], corners[:, 1:])
    most = torch.maximum(most[..., :-1], most[..., 1:])
    least = torch.minimum(corners[:, :-1], corners[:, 1:])
    least = torch.minimum(least[..., :-1], least[..., 1:]).amax(0)
    return (most < least).logical_not_()  # so that scores that are no numbers stay possible


def _more_than(count: Tensor) -> list[int]:
    """How many of the counts, all 1 or more, exceed 0, 1, 2, ..., up to the largest."""
    return [int(m) for m in count.bincount().flip(0).cumsum(0).flip(0)[1:]]


def best_class(scores: Tensor) -> Tensor:
    """Return the first class with the highest score. Shapes: (C, h, w) -> uint8 (h, w).

    Class by class, over whole planes: several times as fast as argmax over a strided axis on a CPU.
    """
    if torch.onnx.is_in_onnx_export():  # one operator, for a graph
        return scores.argmax(0).to(torch.uint8)
    scores = scores.detach()
    best = scores[0].clone()
    found = torch.zeros(best.shape, dtype=torch.uint8, device=scores.device)
    for index in range(1, len(scores)):
        _mark(found, scores[index] > best, index)
        if index + 1 < len(scores):
            torch.maximum(best, scores[index], out=best)
    return found


def _mark(labels: Tensor, where: Tensor, label: int) -> None:
    """Write a label that is greater than all so far: as `masked_fill_`, which takes ten times as long on a CPU."""
    torch.maximum(labels, where.to(torch.uint8).mul_(label), out=labels)


def _cells(coarse: int, fine: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which coarse cell every fine index lies in, and how far into it (0..1), as torch's bilinear resize has it."""
    index = torch.arange(fine, device=device, dtype=torch.float32)
    if align_corners:
        position = index * torch.tensor((coarse - 1) / (fine - 1) if fine > 1 else 0.0, device=device)
    else:
        position = ((index + 0.5) * torch.tensor(coarse / fine, device=device) - 0.5).clamp(min=0)
    cell = position.long().clamp(max=coarse - 1)
    return cell, (position - cell).clamp(0, 1)


def _members(cell: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Fine indices of every coarse cell, and whether it has any. Shapes: (fine,) -> (count, a), bool (count,).

    Rows shorter than a repeat their last index.
    """
    cells = torch.arange(count, device=cell.device)
    first, end = torch.searchsorted(cell, cells), torch.searchsorted(cell, cells, right=True)
    steps = torch.arange(int((end - first).max()), device=cell.device)
    return torch.minimum(first[:, None] + steps, (end - 1).clamp(min=0)[:, None]), end > first
