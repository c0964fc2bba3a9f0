"""Reading the memory: one function for training and use, and the bank that holds what a video has shown so far.

What the families that segment from masks share (STCN: one bank; STM: one for each object).
Source: STCN (Cheng 2021) section 3.3 and appendix; dot product: STM (Oh 2019); kernel: KMN (Seong 2020).
Letters: C key channels, V value channels, K objects, h/w cells, P = h w query cells, N stored cells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Similarity = Literal["l2", "dot"]

_CHUNK_ELEMENTS = 1 << 21  # similarities held at once by the top-k read: 8 MB in fp32, within a last-level cache
_CHUNK_ROWS = 96  # but no fewer query cells: each chunk passes over all keys, with 32 rows at half the speed
_FRAMES_AT_ONCE = 64  # for which a bounded bank makes room at once
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
        self.queries = queries * (2 * scale if l2 else scale)  # (P, C)
        self.keys = keys  # (C, N)
        self.bias = -scale * keys.square().sum(0) if l2 else keys.new_zeros(keys.shape[1])  # (N,)
        if allowed is not None:
            self.bias = self.bias.masked_fill(~allowed, -math.inf)
        self.width, self.kernel_sigma = width, kernel_sigma
        # The query's norm cancels in the softmax, but not in the search for the nearest query of a stored cell
        norms = -scale * queries.square().sum(1) if l2 else queries.new_zeros(len(queries))
        self.centres = self._centres(norms) if kernel_sigma is not None else None

    def rows(self, rows: slice, buffer: Tensor | None = None) -> Tensor:
        """Shapes: buffer, to write into, at least (rows, N) -> (rows, N)."""
        queries = self.queries[rows]
        similarity = torch.addmm(self.bias, queries, self.keys, out=None if buffer is None else buffer[: len(queries)])
        if self.centres is not None and self.kernel_sigma is not None:
            cells = torch.arange(len(self.queries), device=self.keys.device)[rows, None]  # (rows, 1)
            dy = cells // self.width - self.centres // self.width
            dx = cells % self.width - self.centres % self.width
            # exp(s - max) times a Gaussian, renormalised, is the softmax of s plus the Gaussian's logarithm
            similarity = similarity - (dy.square() + dx.square()) / (2 * self.kernel_sigma**2)
        return similarity

    def chunks(self) -> list[slice]:
        total, step = len(self.queries), max(_CHUNK_ROWS, _CHUNK_ELEMENTS // max(1, self.keys.shape[1]))
        return [slice(start, min(start + step, total)) for start in range(0, total, step)]

    def buffer(self) -> Tensor | None:
        """Room for one chunk's rows, used for all: fresh pages for each would double their cost. None in training."""
        kinds = {x.dtype for x in (self.bias, self.queries, self.keys)}
        if len(kinds) > 1 or (torch.is_grad_enabled() and (self.queries.requires_grad or self.keys.requires_grad)):
            return None
        return self.keys.new_empty(self.chunks()[0].stop, self.keys.shape[1])

    def _centres(self, query_bias: Tensor) -> Tensor:
        """The query cell that each stored cell matches best. Shapes: -> integer (N,)."""
        best = self.keys.new_full((self.keys.shape[1],), -math.inf)
        centre = torch.zeros(self.keys.shape[1], dtype=torch.long, device=self.keys.device)
        for rows in self.chunks():
            value, index = torch.addmm(query_bias[rows, None], self.queries[rows], self.keys).max(0)
            better = value > best
            best, centre = torch.where(better, value, best), torch.where(better, index + rows.start, centre)
        return centre


def _recall_top_k(matcher: _Matcher, values: Tensor, k: int) -> Tensor:
    """Shapes: values (K, N, V) -> (K, P, V)."""
    weights, cells, buffer = [], [], matcher.buffer()
    for rows in matcher.chunks():
        best, index = _top_k(matcher.rows(rows, buffer), k)
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


class MemoryBank:
    """Keys and values of remembered frames in preallocated rows: nothing is concatenated per frame.

    A slot holds one frame's h w cells. Annotated frames are permanent. With `max_frames`, the oldest frame that is
    not permanent gives its slot to the newest, so memory does not grow with the length of a video; at least one slot
    is always kept for such frames. A temporary frame (the last one, `include_last`) lives until the next is added.
    Objects may appear at any time: an object sees the slots written since it appeared (STCN, YouTube-VOS protocol), but
    for those in which it was forgotten.
    """

    def __init__(
        self,
        *,
        top_k: int | None = 20,
        similarity: Similarity = "l2",
        max_frames: int | None = None,
        kernel_sigma: float | None = None,
    ):
        self.top_k, self.similarity = top_k, similarity
        self.max_frames, self.kernel_sigma = max_frames, kernel_sigma
        self.slots: list[_Slot] = []  # frames kept, in storage order; a temporary one is last
        self._keys = torch.empty(0)  # (capacity cells, C)
        self._values = torch.empty(0)  # (K, capacity cells, V)
        self._clock = 0
        self._cells = 0  # of a frame

    @property
    def frames(self) -> int:
        """How many frames are remembered, the temporary one included."""
        return len(self.slots)

    def add(
        self,
        key: Tensor,
        value: Tensor,
        *,
        permanent: bool = False,
        temporary: bool = False,
        hidden: Collection[int] = (),
    ) -> None:
        """Remember a frame. Shapes: key (C, h, w), value (K, V, h, w); K may have grown since the last call.

        hidden: rows of objects of which the frame says nothing.
        """
        cells = self._cells = key.shape[-2] * key.shape[-1]
        if self.slots and self.slots[-1].temporary:
            self.slots.pop()
        index = self._slot_to_overwrite() if not (permanent or temporary) else None
        if index is None:
            index = len(self.slots)
            self.slots.append(_Slot())
        self._reserve(len(self.slots) * cells, key.flatten(1).mT, value.flatten(2).mT)
        rows = slice(index * cells, (index + 1) * cells)
        self._keys[rows] = key.flatten(1).mT
        self._values[: len(value), rows] = value.flatten(2).mT
        self._values[len(value) :, rows] = 0
        self._clock += 1
        self.slots[index] = _Slot(len(value), self._clock, permanent, temporary, hidden)

    def read(self, query_key: Tensor) -> Tensor:
        """Recall for all objects. Shapes: (C, h, w) -> (K, V, h, w)."""
        cells = query_key.shape[-2] * query_key.shape[-1]
        stored = len(self.slots) * cells
        keys = self._keys[:stored].mT[None]  # (1, C, N)
        groups = self._groups()
        readouts = []
        for seen, rows in groups.items():
            allowed = None if all(seen) else self._cells_seen(seen, cells)
            values = self._values[rows[0] : rows[-1] + 1, :stored]
            if len(values) > len(rows):  # others lie between them
                values = torch.stack([self._values[row, :stored] for row in rows])
            readouts.append(
                read_memory(
                    query_key[None],
                    keys,
                    values.mT[None],
                    top_k=self.top_k,
                    similarity=self.similarity,
                    kernel_sigma=self.kernel_sigma,
                    allowed=allowed,
                )[0]
            )
        if len(readouts) == 1:
            return readouts[0]
        pairs = zip(groups.values(), readouts, strict=True)
        by_row = {row: one for rows, readout in pairs for row, one in zip(rows, readout, strict=True)}
        return torch.stack([by_row[row] for row in sorted(by_row)])

    def _cells_seen(self, seen: tuple[bool, ...], cells: int) -> Tensor:
        """Whether each cell lies in a slot that is seen. Shapes: -> bool (slots cells,). No copy from the host."""
        allowed = torch.ones(len(seen) * cells, dtype=torch.bool, device=self._keys.device)
        for slot, is_seen in enumerate(seen):
            if not is_seen:
                allowed[slot * cells : (slot + 1) * cells] = False
        return allowed

    def forget(self, objects: Collection[int]) -> None:
        """Forget these objects, by row, in all frames so far; frames that show no other are freed.

        A frame that shows them must be added before the next `read`.
        """
        for slot in self.slots:
            slot.forgotten |= set(objects)
        self._keep([i for i, slot in enumerate(self.slots) if any(map(slot.shows, range(slot.objects)))])

    def forget_passing(self) -> None:
        """Forget all frames that are not permanent."""
        self._keep([i for i, slot in enumerate(self.slots) if slot.permanent])

    def _keep(self, kept: list[int]) -> None:
        """Free the slots that are not listed."""
        if len(kept) == len(self.slots):
            return
        cells = self._cells
        for place, i in enumerate(kept):
            new, old = (slice(at * cells, (at + 1) * cells) for at in (place, i))
            self._keys[new], self._values[:, new] = self._keys[old].clone(), self._values[:, old].clone()
        self.slots = [self.slots[i] for i in kept]

    def state(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return all that is remembered: tensors, and plain values, from which `restore` continues exactly."""
        tensors = {"keys": self._keys, "values": self._values}
        if self.slots:
            stored = len(self.slots) * self._cells
            tensors = {"keys": self._keys[:stored], "values": self._values[:, :stored]}
        slots = [
            [slot.objects, slot.written, slot.permanent, slot.temporary, sorted(slot.forgotten)] for slot in self.slots
        ]
        return {name: value.contiguous() for name, value in tensors.items()}, [self._clock, self._cells, slots]

    def restore(self, tensors: Mapping[str, Tensor], values: Sequence[Any]) -> None:
        """Take what `state` of a bank with the same options returned."""
        self._keys, self._values = tensors["keys"], tensors["values"]
        self._clock, self._cells, slots = values
        self.slots = [_Slot(*slot) for slot in slots]

    def _groups(self) -> dict[tuple[bool, ...], list[int]]:
        """Which slots are seen -> the rows of the objects that see these, rising."""
        groups = dict[tuple[bool, ...], list[int]]()
        for row in range(max(slot.objects for slot in self.slots)):
            groups.setdefault(tuple(slot.shows(row) for slot in self.slots), []).append(row)
        return groups

    def _slot_to_overwrite(self) -> int | None:
        passing = [i for i, slot in enumerate(self.slots) if not slot.permanent]
        if self.max_frames is None or not passing or len(self.slots) < self.max_frames:
            return None
        return min(passing, key=lambda i: self.slots[i].written)

    def _reserve(self, cells: int, key: Tensor, value: Tensor) -> None:
        """Make room for so many rows, and for objects as they appear.

        Where the number of frames is bounded by not too many, for all at once, so that nothing is allocated or copied
        later; else rows grow by doubling.
        """
        if self._keys.shape[0] == 0:
            self._keys, self._values = key.new_zeros(0, key.shape[1]), value.new_zeros(0, 0, value.shape[2])
        capacity, objects = self._keys.shape[0], self._values.shape[0]
        frame = key.shape[0]
        wanted = capacity
        if cells > capacity:
            # An annotated frame, one that is not, and a temporary one are always possible
            bound = math.inf if self.max_frames is None else (max(2, self.max_frames) + 1) * frame
            wanted = max(cells, int(min(bound, max(2 * capacity, _FRAMES_AT_ONCE * frame if bound < math.inf else 0))))
        if wanted == capacity and len(value) <= objects:
            return
        keys = key.new_empty(wanted, key.shape[1])
        values = value.new_empty(max(objects, len(value)), wanted, value.shape[2])
        keys[:capacity], values[:objects, :capacity] = self._keys, self._values
        values[objects:, :capacity] = 0  # what is hidden is read with weight 0, and must be a number
        self._keys, self._values = keys, values


class ObjectBanks:
    """One `MemoryBank` for each object, for networks whose keys depend on the object too (STM): one affinity each.

    Takes the options of `MemoryBank`, and is used in its place. An object that appears later has a bank from then on.
    """

    def __init__(
        self,
        *,
        top_k: int | None = None,
        similarity: Similarity = "dot",
        max_frames: int | None = None,
        kernel_sigma: float | None = None,
    ):
        self.top_k, self.similarity = top_k, similarity
        self.max_frames, self.kernel_sigma = max_frames, kernel_sigma
        self.banks: list[MemoryBank] = []

    @property
    def frames(self) -> int:
        """How many frames the first object's bank remembers, the temporary one included."""
        return self.banks[0].frames if self.banks else 0

    def add(
        self,
        key: Tensor,
        value: Tensor,
        *,
        permanent: bool = False,
        temporary: bool = False,
        hidden: Collection[int] = (),
    ) -> None:
        """As `MemoryBank.add`, but key (K, C, h, w)."""
        while len(self.banks) < len(key):
            self.banks.append(self._bank())
        for row, bank in enumerate(self.banks):
            if row not in hidden:
                bank.add(key[row], value[row][None], permanent=permanent, temporary=temporary)

    def read(self, query_key: Tensor) -> Tensor:
        """Recall for all objects. Shapes: (C, h, w) -> (K, V, h, w)."""
        return torch.cat([bank.read(query_key) for bank in self.banks])

    def forget(self, objects: Collection[int]) -> None:
        """As `MemoryBank.forget`."""
        for row in objects:
            self.banks[row].forget([0])

    def forget_passing(self) -> None:
        """As `MemoryBank.forget_passing`."""
        for bank in self.banks:
            bank.forget_passing()

    def state(self) -> tuple[dict[str, Tensor], list[Any]]:
        """As `MemoryBank.state`."""
        states = [bank.state() for bank in self.banks]
        tensors = {f"{k}.{name}": value for k, (own, _) in enumerate(states) for name, value in own.items()}
        return tensors, [values for _, values in states]

    def restore(self, tensors: Mapping[str, Tensor], values: Sequence[Any]) -> None:
        """As `MemoryBank.restore`."""
        self.banks = [self._bank() for _ in values]
        for k, (bank, own) in enumerate(zip(self.banks, values, strict=True)):
            bank.restore({name: tensors[f"{k}.{name}"] for name in ("keys", "values")}, own)

    def _bank(self) -> MemoryBank:
        return MemoryBank(
            top_k=self.top_k, similarity=self.similarity, max_frames=self.max_frames, kernel_sigma=self.kernel_sigma
        )


class _Slot:
    """One remembered frame: how many objects it has values for, when it was written, whether it may be dropped.

    forgotten: rows of objects whose values no longer count.
    """

    def __init__(
        self,
        objects: int = 0,
        written: int = 0,
        permanent: bool = False,
        temporary: bool = False,
        forgotten: Collection[int] = (),
    ):
        self.objects, self.written = objects, written
        self.permanent, self.temporary = permanent, temporary
        self.forgotten = set(forgotten)

    def shows(self, row: int) -> bool:
        return row < self.objects and row not in self.forgotten
