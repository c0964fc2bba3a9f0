"""`precision="auto"`: bfloat16 where the device is made for it."""

from __future__ import annotations

import pytest
import torch

from twospeed import InputError, Tracker
from twospeed.ops import bf16
from twospeed.pipelines.inputs import used_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("instruction", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_processor_with_either_instruction_multiplies_bf16(monkeypatch, instruction):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda found=name == instruction: found, raising=False)
    assert bf16.multiplies_bf16(CPU)
    assert used_precision("auto", CPU) == "bf16"


def test_without_them_or_with_wrong_products_it_does_not(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert used_precision("auto", CPU) == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(bf16, "_product_is_right", lambda: False)
    assert used_precision("auto", CPU) == "fp32"
    assert not bf16.multiplies_bf16(torch.device("meta"))


def test_what_is_asked_for_is_used():
    assert [used_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(InputError, match="precision is 'fp16'; choose 'fp32', 'bf16' or 'auto'"):
        used_precision("fp16", CPU)


@pytest.mark.parametrize("wide", [False, True])
def test_a_tracker_says_which_precision_auto_is(monkeypatch, wide):
    monkeypatch.setattr("twospeed.ops.bf16.multiplies_bf16", lambda device: wide)
    tracker = Tracker("track_tiny", weights=None, precision="auto", device="cpu")
    assert tracker.precision == ("bf16" if wide else "fp32")
