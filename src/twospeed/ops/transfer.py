"""Copies between this process's memory and a device that neither waits for the other more than it must."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. To CUDA from pinned memory, so that the host works on while the copy is made."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)  # torch keeps the pinned memory until the copy is made


class HostCopy:
    """A tensor on its way to the host: the copy is queued behind the work that makes the tensor, `numpy` waits for it.

    Copies that are begun before the first is waited for cost one wait together.
    """

    def __init__(self, x: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if x.device.type == "cuda":
            self._host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(x.device))
        else:
            self._host = x.cpu()

    def tensor(self) -> Tensor:
        """Return the values on the host."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return self._host

    def numpy(self) -> NDArray[Any]:
        """Return the values as an array."""
        array: NDArray[Any] = self.tensor().numpy()
        return array
