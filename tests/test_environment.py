"""Devices: the best that is there, and one line for those that are not."""

from __future__ import annotations

import pytest
import torch

from twospeed import InputError
from twospeed.environment import resolve_device


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: device)
    assert resolve_device(None) == torch.device(wanted)


@pytest.mark.parametrize("name", ["meta", "hpu", "cuda:99", "nonsense", "cpu:x", "vulkan", ""])
def test_devices_that_cannot_be_used(name):
    if not name:
        assert resolve_device(name).type in ("cpu", "cuda", "mps")
        return
    with pytest.raises(
        InputError, match=f"device '{name}' cannot be used here .* choose cpu, or leave it out"
    ) as error:
        resolve_device(name)
    assert str(error.value).isprintable()
