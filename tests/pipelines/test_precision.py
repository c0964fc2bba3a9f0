"""`precision="auto"`: bfloat16 where the device is made for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twospeed import InputError, Segmenter, Tracker
from twospeed.ops import bf16
from twospeed.pipelines.inputs import used_precision
from twospeed.weights.load import create_model

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_of_a_segmenter_the_image_network_alone_is_in_bf16(precision):
    torch.manual_seed(0)
    network = create_model("gsvnet_swiftnet_r18", None, num_classes=5)
    segmenter = Segmenter(network, 2, precision=precision, device="cpu")
    exact = Segmenter(network, 2, device="cpu")
    found: dict[str, torch.dtype] = {}
    for name, part in (
        ("image", segmenter.model.keyframe_network.classifier),
        ("flow", segmenter.model.flow_network),
        ("intra", segmenter.model.intra),
    ):
        part.register_forward_hook(lambda part, given, result, name=name: found.update({name: result.dtype}))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    for image in images:
        result, expected = segmenter.step(image), exact.step(image)
        assert result.scores.dtype == np.float32
        np.testing.assert_allclose(result.scores, expected.scores, atol=0.03 * float(np.abs(expected.scores).max()))
    wanted = torch.bfloat16 if precision == "bf16" else torch.float32
    assert found == {"image": wanted, "flow": torch.float32, "intra": torch.float32}
