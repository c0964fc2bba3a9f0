"""One function makes any network fast, and leaves the one it is given as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twospeed import create_model
from twospeed.models.optimise import optimise
from twospeed.models.slowfast.inference import FusedSlowFast
from twospeed.models.slowfast_maskrcnn.inference import FusedMaskRCNN
from twospeed.models.stcn.inference import FusedSTCN
from twospeed.ops.bf16 import autocast

SMALL = {"backbone": "nano", "min_size": 48, "max_size": 80}


@pytest.mark.parametrize(("name", "options", "kind"), [
    ("track_tiny", {}, FusedSTCN),
    ("slow_r50_4x16", {"width": 8}, FusedSlowFast),
    ("slow_r50_4x16_ava", {"width": 8}, FusedSlowFast),
    ("slowfast_maskrcnn_1_1", SMALL, FusedMaskRCNN),
])  # fmt: skip
def test_each_family_has_its_own_form(name, options, kind):
    network = create_model(name, None, **options).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert isinstance(optimise(network), kind)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_networks_of_fused_parts_are_copies_of_their_own_class():
    network = create_model("segment_nano")
    fast = optimise(network)
    assert type(fast) is type(network)
    assert fast is not network


def test_what_is_not_known_comes_back_in_eval_mode():
    network = nn.Linear(2, 2)
    copied = optimise(network)
    assert network.training
    assert not copied.training
    assert optimise(network.eval()) is network
    segmenter = create_model("segment_nano")
    assert optimise(segmenter, torch.bfloat16) is segmenter, "for autocast"


@pytest.mark.parametrize("name", ["track_tiny", "track_small"])
def test_bfloat16_has_weights_of_its_own_and_agrees(name):
    network = create_model(name).eval()
    fast = optimise(network, torch.bfloat16)
    assert isinstance(fast, FusedSTCN)
    assert fast.decoder.compress.first.weight.dtype == torch.bfloat16
    torch.manual_seed(0)
    frame = network.normalise(F.interpolate(torch.rand(1, 3, 12, 16), (96, 128), mode="bilinear"))
    mask = torch.zeros(1, 1, 96, 128)
    mask[..., 20:60, 30:90] = 1
    values = []
    with torch.inference_mode():
        features = network.encode_key(frame)
        values.append(network.encode_value(frame, features.f16, mask))
        with autocast("cpu"):
            features = fast.encode_key(frame)
            values.append(fast.encode_value(frame, features.f16, mask).float())
    assert (values[1] - values[0]).abs().max() <= 0.05 * values[0].abs().max()
