"""The parameter-free parts of GSVNet: delay kernels, edge map, spatially-varying 1x1 filtering (paper, section 3.4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twospeed.ops.full_labels import best_class

EdgeKind = Literal["binary", "sigmoid"]

_EMPTY = 1e-9  # keeps pixels whose kernel is all zeros at zero


def delay_places(size: int) -> list[tuple[int, int]]:
    """Row and column of every ideal delay's impulse, in order. Raises ValueError for a size other than 3 and 5."""
    if size not in (3, 5):
        raise ValueError(f"delay_kernel is {size!r}; choose 3 (9 kernels) or 5 (17 kernels)")
    centre = size // 2
    places = [(centre + i, centre + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    if size == 5:
        places += [(i, j) for i in (0, 2, 4) for j in (0, 2, 4) if (i, j) != (2, 2)]
    return places


def delay_kernels(size: int) -> Tensor:
    """Return the ideal-delay kernels: (9, 3, 3) or (17, 5, 5), each a shift to one neighbour.

    First the eight neighbours in reading order, for size 5 then the outer ring (every second position). The last kernel
    is all zeros, as released: the centre is skipped when the shifts are laid out. It still takes its part of the
    normalisation, so scores shrink a little at every step. Raises ValueError for another size.
    """
    places = delay_places(size)
    kernels = torch.zeros(len(places) + 1, size, size)
    for index, (row, column) in enumerate(places):
        kernels[index, row, column] = 1
    return kernels


def edge_map(scores: Tensor, kind: EdgeKind = "binary") -> Tensor:
    """Mark where the best class changes. Shapes: scores (N, C, h, w) -> float (N, 1, h, w) in 0..1.

    A Laplacian over class numbers with zero padding, so that pixels at the border of any class but 0 count as edges.
    kind: "binary" is 1 where it is not zero, as in the released code; "sigmoid" its sigmoid, as in the paper (section
    3.4.3): 0.5 without an edge, towards 0 or 1 where the class has a higher or a lower number than those around it.
    """
    labels = torch.stack([best_class(image) for image in scores]).unsqueeze(1).to(scores.dtype)
    centred = F.pad(labels, (1, 1, 1, 1))
    rows = centred[:, :, :-2] + centred[:, :, 1:-1] + centred[:, :, 2:]  # exact: small whole numbers
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    if kind == "sigmoid":
        return torch.sigmoid(around - 9 * labels)
    return (around != 9 * labels).to(scores.dtype)


def unit_gain(kernels: Tensor) -> Tensor:
    """Scale non-negative kernels so that they sum to one at every pixel. Shapes: (N, taps, h, w) -> the same."""
    return kernels / (kernels.sum(1, keepdim=True) + _EMPTY)


def filter_scores(
    scores: Tensor,
    kernels: Tensor,
    delays: Tensor,
    intra: Tensor | None,
    places: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Mix, at every pixel, the scores, their delayed copies and the intra scores by that pixel's own kernel.

    Shapes: scores (N, C, h, w), kernels (N, taps, h, w) in the order identity, the D delays, intra; delays (D, K, K);
    intra (N, C, h, w) or None (then one tap fewer) -> (N, C, h, w). places: the rows and columns at which any delay is
    not zero, where that is known (`delay_places` of ideal ones).

    The delayed copies are never formed: delays are linear, so each pixel's weights over delays are turned into weights
    over its K x K neighbours first.
    """
    count, size = delays.shape[0], delays.shape[-1]
    kernels = kernels.contiguous()  # plane by plane, whatever the networks' memory order
    intra = None if intra is None else intra.contiguous()
    neighbours = torch.einsum("ndhw,dp->nphw", kernels[:, 1 : count + 1], delays.flatten(1))
    height, width = scores.shape[-2:]
    padded = F.pad(scores, (size // 2,) * 4)
    out = kernels[:, :1] * scores
    for row, column in itertools.product(range(size), repeat=2) if places is None else places:
        weight = neighbours[:, row * size + column].unsqueeze(1)  # (N, 1, h, w)
        out = torch.addcmul(out, weight, padded[..., row : row + height, column : column + width])
    if intra is not None:
        out = torch.addcmul(out, kernels[:, count + 1 : count + 2], intra)
    return out
