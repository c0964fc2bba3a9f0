"""The pyramid variant: its names, its norms, any size."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from twospeed import create_model
from twospeed.weights.load import recognise


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("swiftnet_r18_pyramid", None, num_classes=5)


def in_authors_names(state):
    renames = (
        (r"^backbone\.", "backbone."), (r"^laterals\.", "backbone.upsample_bottlenecks."),
        (r"^blends\.(\d)\.", r"backbone.upsample_blends.\1.blend_conv."), (r"^classifier\.", "logits."),
        (r"^pixel_(mean|std)$", r"backbone.img_\1"),
    )  # fmt: skip
    theirs = {}
    for name, value in state.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        theirs[name] = value.view(1, 3, 1, 1) if "img_" in name else value
    return theirs


@torch.inference_mode()
def test_authors_names_load(model):
    theirs = in_authors_names(model.state_dict())
    assert recognise(theirs) == "swiftnet_r18_pyramid"
    again = create_model("swiftnet_r18_pyramid", theirs)
    image = torch.rand(1, 3, 64, 96) * 255
    assert torch.equal(again(image), model(image))


def test_one_set_of_norms_is_given_to_every_level(model):
    state = {name: torch.rand(value.shape) for name, value in in_authors_names(model.state_dict()).items()}
    single = {}
    for name, value in state.items():
        if re.search(r"bn\d\.[12]\.", name):
            continue
        single[re.sub(r"(bn\d)\.0\.", r"\1.", name)] = value
    loaded = create_model("swiftnet_r18_pyramid", single)
    for level in range(3):
        assert torch.equal(loaded.backbone.layer2[1].bn2[level].weight, state["backbone.layer2.1.bn2.0.weight"])
        assert torch.equal(loaded.backbone.bn1[level].running_mean, state["backbone.bn1.0.running_mean"])


@pytest.mark.parametrize("size", [(64, 64), (45, 61), (90, 132), (33, 130)])
@torch.inference_mode()
def test_any_size(model, size):
    assert model(torch.rand(1, 3, *size) * 255).shape == (1, 5, *size)


@torch.inference_mode()
def test_laterals_are_taken_before_the_relu(model):
    features = model.backbone(torch.randn(1, 3, 64, 64), 0)
    assert all((feature < 0).any() for feature in features)
    assert [feature.shape[-1] for feature in features] == [16, 8, 4, 2]
    single = create_model("swiftnet_r18", None).backbone(torch.randn(1, 3, 64, 64))
    assert all((feature >= 0).all() for feature in single)


@torch.inference_mode()
def test_every_level_matters(model):
    image = F.interpolate(torch.rand(1, 3, 8, 8), (64, 64)) * 255
    before = model(image)
    for level in range(3):
        norm = model.backbone.bn1[level]
        kept = norm.bias.clone()
        norm.bias += 1
        assert not torch.allclose(model(image), before, atol=1e-3)
        norm.bias.copy_(kept)
