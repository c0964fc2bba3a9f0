"""The bank that holds what a video has shown so far: keys and values of remembered frames.

Arrays are torch tensors or, behind exported graphs, NumPy arrays; torch is imported only where it is asked to read.
Letters: C key channels, V value channels, K objects, h/w cells, N stored cells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from twospeed.models.protocol import Similarity

_FRAMES_AT_ONCE = 64  # for which a bounded bank makes room at once

Array = Any
"""A tensor or a NumPy array, float."""


class ReadMemory(Protocol):
    """What recalls from stored cells: `models.memory.read_memory`, or an exported graph.

    Shapes: query_key (1, C, h, w), memory_key (1, C, N), memory_value (1, K, V, N), allowed bool (N,) or None, False
    hides a stored cell -> (1, K, V, h, w).
    """

    def __call__(
        self,
        query_key: Array,
        memory_key: Array,
        memory_value: Array,
        *,
        top_k: int | None,
        similarity: Similarity,
        kernel_sigma: float | None,
        allowed: Array | None,
    ) -> Array:
        """Recall what the stored cells say about each cell of the query."""
        ...


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
        read: ReadMemory | None = None,
    ):
        self.top_k, self.similarity = top_k, similarity
        self.max_frames, self.kernel_sigma = max_frames, kernel_sigma
        self._read = read or _read_with_torch
        self.slots: list[_Slot] = []  # frames kept, in storage order; a temporary one is last
        self._keys: Array = np.zeros((0, 0), np.float32)  # (capacity cells, C)
        self._values: Array = np.zeros((0, 0, 0), np.float32)  # (K, capacity cells, V)
        self._clock = 0
        self._cells = 0  # of a frame

    @property
    def frames(self) -> int:
        """How many frames are remembered, the temporary one included."""
        return len(self.slots)

    def add(
        self,
        key: Array,
        value: Array,
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
        new_keys = key.reshape(len(key), cells).swapaxes(0, 1)  # (h w, C)
        new_values = value.reshape(*value.shape[:2], cells).swapaxes(1, 2)  # (K, h w, V)
        self._reserve(len(self.slots) * cells, new_keys, new_values)
        rows = slice(index * cells, (index + 1) * cells)
        self._keys[rows] = new_keys
        self._values[: len(value), rows] = new_values
        self._values[len(value) :, rows] = 0
        self._clock += 1
        self.slots[index] = _Slot(len(value), self._clock, permanent, temporary, hidden)

    def read(self, query_key: Array) -> Array:
        """Recall for all objects. Shapes: (C, h, w), or only some of the rows -> (K, V, h, w)."""
        cells = self._cells
        stored = len(self.slots) * cells
        keys = self._keys[:stored].swapaxes(0, 1)[None]  # (1, C, N)
        groups = self._groups()
        result: Array = None
        for seen, rows in groups.items():
            allowed = None if all(seen) else self._cells_seen(seen, cells)
            values = self._values[rows[0] : rows[-1] + 1, :stored]
            if len(values) > len(rows):  # others lie between them
                values = _empty(values, len(rows), *values.shape[1:])
                for place, row in enumerate(rows):
                    values[place] = self._values[row, :stored]
            recalled = self._read(
                query_key[None],
                keys,
                values.swapaxes(1, 2)[None],
                top_k=self.top_k,
                similarity=self.similarity,
                kernel_sigma=self.kernel_sigma,
                allowed=allowed,
            )[0]
            if len(groups) == 1:
                return recalled
            if result is None:
                result = _empty(recalled, sum(map(len, groups.values())), *recalled.shape[1:])
            for row, one in zip(rows, recalled, strict=True):
                result[row] = one
        return result

    def _cells_seen(self, seen: tuple[bool, ...], cells: int) -> Array:
        """Whether each cell lies in a slot that is seen. Shapes: -> bool (slots cells,). No copy from the host."""
        allowed = self._keys[: len(seen) * cells, 0] == self._keys[: len(seen) * cells, 0]
        for slot, is_seen in enumerate(seen):
            allowed[slot * cells : (slot + 1) * cells] = is_seen
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
            if new != old:  # two slots never overlap
                self._keys[new], self._values[:, new] = self._keys[old], self._values[:, old]
        self.slots = [self.slots[i] for i in kept]

    def state(self) -> tuple[dict[str, Array], list[Any]]:
        """Return all that is remembered: arrays, and plain values, from which `restore` continues exactly."""
        stored = len(self.slots) * self._cells
        arrays = {"keys": self._keys[:stored], "values": self._values[:, :stored]} if self.slots else {}
        slots = [
            [slot.objects, slot.written, slot.permanent, slot.temporary, sorted(slot.forgotten)] for slot in self.slots
        ]
        return arrays, [self._clock, self._cells, slots]

    def restore(self, arrays: Mapping[str, Array], values: Sequence[Any]) -> None:
        """Take what `state` of a bank with the same options returned."""
        if arrays:
            self._keys, self._values = arrays["keys"], arrays["values"]
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

    def _reserve(self, cells: int, key: Array, value: Array) -> None:
        """Make room for so many rows, and for objects as they appear.

        Where the number of frames is bounded by not too many, for all at once, so that nothing is allocated or copied
        later; else rows grow by doubling.
        """
        if self._keys.shape[0] == 0:
            self._keys, self._values = _empty(key, 0, key.shape[1]), _empty(value, 0, 0, value.shape[2])
        capacity, objects = self._keys.shape[0], self._values.shape[0]
        frame = key.shape[0]
        wanted = capacity
        if cells > capacity:
            # An annotated frame, one that is not, and a temporary one are always possible
            bound = math.inf if self.max_frames is None else (max(2, self.max_frames) + 1) * frame
            wanted = max(cells, int(min(bound, max(2 * capacity, _FRAMES_AT_ONCE * frame if bound < math.inf else 0))))
        if wanted == capacity and len(value) <= objects:
            return
        keys = _empty(key, wanted, key.shape[1])
        values = _empty(value, max(objects, len(value)), wanted, value.shape[2])
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
        read: ReadMemory | None = None,
    ):
        self.top_k, self.similarity = top_k, similarity
        self.max_frames, self.kernel_sigma, self._read = max_frames, kernel_sigma, read
        self.banks: list[MemoryBank] = []

    @property
    def frames(self) -> int:
        """How many frames the first object's bank remembers, the temporary one included."""
        return self.banks[0].frames if self.banks else 0

    def add(
        self,
        key: Array,
        value: Array,
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

    def read(self, query_key: Array) -> Array:
        """Recall for all objects. Shapes: (C, h, w) -> (K, V, h, w)."""
        readouts = [bank.read(query_key) for bank in self.banks]
        result = _empty(readouts[0], len(readouts), *readouts[0].shape[1:])
        for row, readout in enumerate(readouts):
            result[row] = readout[0]
        return result

    def forget(self, objects: Collection[int]) -> None:
        """As `MemoryBank.forget`."""
        for row in objects:
            self.banks[row].forget([0])

    def forget_passing(self) -> None:
        """As `MemoryBank.forget_passing`."""
        for bank in self.banks:
            bank.forget_passing()

    def state(self) -> tuple[dict[str, Array], list[Any]]:
        """As `MemoryBank.state`."""
        states = [bank.state() for bank in self.banks]
        arrays = {f"{k}.{name}": value for k, (own, _) in enumerate(states) for name, value in own.items()}
        return arrays, [values for _, values in states]

    def restore(self, arrays: Mapping[str, Array], values: Sequence[Any]) -> None:
        """As `MemoryBank.restore`."""
        self.banks = [self._bank() for _ in values]
        for k, (bank, own) in enumerate(zip(self.banks, values, strict=True)):
            bank.restore({name: arrays[f"{k}.{name}"] for name in ("keys", "values") if f"{k}.{name}" in arrays}, own)

    def _bank(self) -> MemoryBank:
        return MemoryBank(
            top_k=self.top_k,
            similarity=self.similarity,
            max_frames=self.max_frames,
            kernel_sigma=self.kernel_sigma,
            read=self._read,
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


def _empty(like: Array, *shape: int) -> Array:
    """An array of the same kind, with any values."""
    return like.new_empty(shape) if hasattr(like, "new_empty") else np.empty(shape, like.dtype)


def _read_with_torch(query_key: Array, memory_key: Array, memory_value: Array, **options: Any) -> Array:
    from twospeed.models.memory import read_memory

    return read_memory(query_key, memory_key, memory_value, **options)
