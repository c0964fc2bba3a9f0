"""Reading the memory: one function for training and use. What is read lies in `models.banks`.

What the families that segment from masks share (STCN: one bank; STM: one for each object).
Source: STCN (Cheng 2021) and its supplement, section A; dot product: STM (Oh 2019); kernel: KMN (Seong 2020).
Letters: C key channels, V value channels, K objects, h/w cells, P = h w query cells, N stored cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from twospeed.models.protocol import Similarity
from twospeed.ops.onednn import affine

_CHUNK_ELEMENTS = 1 << 21  # similarities held at once by the top-k read: 8 MB in fp32, within a last-level cache
_CHUNK_ROWS = 96  # but no fewer query cells: each chunk passes over all keys, with 32 rows at half the speed
_GROUP = 8  # cells in a group of the top-k search, measured: 4 to 16 are within a fifth, more is slower


def read_memory(
    query_key: Tensor,
    memory_key: Tensor,
    memory_value: Tensor,
    *,
    top_k: int | None = None,
    similarity: Similarity = "l2",
    kernel_sigma: float | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Recall what the stored cells say about each cell of the query.

    Shapes: query_key (B, C, h, w), memory_key (B, C, N), memory_value (B, K, V, N) -> (B, K, V, h, w).
    top_k: best matches kept per query cell (clamped to N), softmax over those alone; None keeps all, as in training.
    similarity: "l2": (2 k.q - k.k) / sqrt(C), the query's own norm cancels in the softmax; "dot": k.q / sqrt(C).
    kernel_sigma: standard deviation in cells of a Gaussian around each stored cell's best match (KMN, kernelized
    reading); None for no kernel. allowed: bool (N,), False hides a stored cell.
    The softmax subtracts the column maximum, so that large keys do not overflow; the result is the same. The top-k
    read never holds the whole affinity: it works on a few query cells at a time. Differentiable either way.
    """
    height, width = query_key.shape[-2:]
    queries = query_key.flatten(2).mT  # (B, P, C)
    readouts = []
    for b in range(len(queries)):
        keys, values = memory_key[b], memory_value[b].mT  # (C, N), (K, N, V)
        matcher = _Matcher(queries[b], keys, similarity, kernel_sigma, width, allowed)
        if top_k is None:
            readouts.append(matcher.rows(slice(None)).softmax(-1) @ values)  # (K, P, V)
        else:
            readouts.append(_recall_top_k(matcher, values, min(top_k, keys.shape[1])))
    return torch.stack(readouts).mT.unflatten(-1, (height, width))


class _Matcher:
    """Similarities of query cells to all stored cells, a few rows at a time."""

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        similarity: Similarity,
        kernel_sigma: float | None,
        width: int,
        allowed: Tensor | None,
    ):
        scale = queries.shape[1] ** -0.5
        l2 = similarity == "l2"
        self.queries = (queries * (2 * scale if l2 else scale)).contiguous()  # (P, C)
        self.keys = keys.mT  # (N, C), contiguous in a bank
        self.bias = -scale * keys.square().sum(0) if l2 else keys.new_zeros(keys.shape[1])  # (N,)
        if allowed is not None:
            self.bias = self.bias.masked_fill(~allowed, -math.inf)
        self.width, self.kernel_sigma = width, kernel_sigma
        # The query's norm cancels in the softmax, but not in the search for the nearest query of a stored cell
        norms = -scale * queries.square().sum(1) if l2 else queries.new_zeros(len(queries))
        self.centres = self._centres(norms) if kernel_sigma is not None else None

    def rows(self, rows: slice) -> Tensor:
        """Shapes: -> (rows, N)."""
        similarity = affine(self.queries[rows], self.keys, self.bias)
        if self.centres is not None and self.kernel_sigma is not None:
            cells = torch.arange(len(self.queries), device=self.keys.device)[rows, None]  # (rows, 1)
            dy = cells // self.width - self.centres // self.width
            dx = cells % self.width - self.centres % self.width
            # exp(s - max) times a Gaussian, renormalised, is the softmax of s plus the Gaussian's logarithm
            similarity = similarity - (dy.square() + dx.square()) / (2 * self.kernel_sigma**2)
        return similarity

    def chunks(self) -> list[slice]:
        total, step = len(self.queries), max(_CHUNK_ROWS, _CHUNK_ELEMENTS // max(1, len(self.keys)))
        return [slice(start, min(start + step, total)) for start in range(0, total, step)]

    def _centres(self, query_bias: Tensor) -> Tensor:
        """The query cell that each stored cell matches best. Shapes: -> integer (N,)."""
        best = self.keys.new_full((len(self.keys),), -math.inf)
        centre = torch.zeros(len(self.keys), dtype=torch.long, device=self.keys.device)
        for rows in self.chunks():
            value, index = torch.addmm(query_bias[rows, None], self.queries[rows], self.keys.mT).max(0)
            better = value > best
            best, centre = torch.where(better, value, best), torch.where(better, index + rows.start, centre)
        return centre


def _recall_top_k(matcher: _Matcher, values: Tensor, k: int) -> Tensor:
    """Shapes: values (K, N, V) -> (K, P, V)."""
    weights, cells = [], []
    for rows in matcher.chunks():
        best, index = _top_k(matcher.rows(rows), k)
        weights.append(best.softmax(-1))
        cells.append(index)
    weight, cell = torch.cat(weights), torch.cat(cells)  # (P, k)
    # A weighted sum of k rows: what embedding_bag does without ever forming the (P, N) affinity
    return torch.stack([F.embedding_bag(cell, v, mode="sum", per_sample_weights=weight) for v in values])


def _top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact k largest of each row, about twenty times faster than `topk` on long rows.

    The k largest lie in the k groups with the largest maxima, and group maxima are a cheap vectorised pass; which
    groups these are is the same question on shorter rows. Groups are columns modulo m, so that the pass runs along
    memory.
    """
    n = x.shape[-1]
    m = n // _GROUP
    if m < 4 * k:
        return x.topk(k, dim=-1, sorted=False)
    _, columns = _top_k(x[:, : m * _GROUP].unflatten(1, (_GROUP, m)).amax(1), k)  # (rows, k)
    index = (columns[:, None, :] + m * torch.arange(_GROUP, device=x.device)[:, None]).flatten(1)  # (rows, g k)
    rest = torch.arange(m * _GROUP, n, device=x.device).expand(len(x), -1)
    index = torch.cat([index, rest], 1)
    best, position = x.gather(1, index).topk(k, dim=-1, sorted=False)
    return best, index.gather(1, position)
