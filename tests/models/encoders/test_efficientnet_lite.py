"""EfficientNet-Lite0: published weights give the published network's features; strips change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twospeed.models.encoders.efficientnet_lite import EfficientNetLite, imagenet_state

# blocks, kernel, stride, expansion, channels: as the paper's table has them
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112)]


def published() -> dict[str, Tensor]:
    """Random weights in the published names."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        state[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (1 / fan_in) ** 0.5
        for name, low, high in (("weight", 0.2, 0.5), ("bias", -0.2, 0.6), ("running_mean", -0.2, 0.2)):
            state[f"{norm}.{name}"] = torch.empty(shape[0]).uniform_(low, high, generator=generator)
        state[f"{norm}.running_var"] = torch.empty(shape[0]).uniform_(0.05, 1, generator=generator)

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    channels, number = 32, 0
    for blocks, kernel, _, expansion, out in STAGES:
        for _ in range(blocks):
            inner, name = channels * expansion, f"_blocks.{number}"
            if expansion > 1:
                add(f"{name}._expand_conv", f"{name}._bn0", (inner, channels, 1, 1))
            add(f"{name}._depthwise_conv", f"{name}._bn1", (inner, 1, kernel, kernel))
            add(f"{name}._project_conv", f"{name}._bn2", (out, inner, 1, 1))
            channels, number = out, number + 1
    return state


def reference(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The published network: batch norm apart, TensorFlow's padding. Features at strides 4, 8, 16."""

    def unit(x: Tensor, conv: str, norm: str, *, stride: int = 1, groups: int = 1, act: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        spare = weight.shape[-1] - stride  # of an even input: half above and left, the rest below and right
        before = spare // 2 if stride == 2 else (weight.shape[-1] - 1) // 2
        after = spare - before if stride == 2 else before
        x = F.conv2d(F.pad(x, (before, after, before, after)), weight, None, stride, groups=groups)
        statistics = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *statistics, eps=1e-3)
        return F.relu6(x) if act else x

    x = unit(x, "_conv_stem", "_bn0", stride=2)
    number, features = 0, []
    for blocks, _, first_stride, expansion, _ in STAGES:
        for index in range(blocks):
            name, stride = f"_blocks.{number}", first_stride if index == 0 else 1
            y = unit(x, f"{name}._expand_conv", f"{name}._bn0") if expansion > 1 else x
            y = unit(y, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, groups=y.shape[1])
            y = unit(y, f"{name}._project_conv", f"{name}._bn2", act=False)
            x = y + x if y.shape == x.shape else y
            number += 1
        features.append(x)
    return [features[1], features[2], features[4]]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return published()


@pytest.fixture(scope="module")
def encoder(weights) -> EfficientNetLite:
    encoder = EfficientNetLite()
    encoder.load_state_dict(imagenet_state(weights, encoder))
    return encoder


def test_inner_cells_are_the_published_networks_for_the_image_moved_by_less_than_a_cell(weights, encoder):
    # The receptive field at stride 16 reaches 180 pixels to either side
    image = torch.rand(1, 3, 592, 592, generator=torch.Generator().manual_seed(1)) * 2 - 1
    features = encoder(image)
    for level, (ours, moved, border) in enumerate(zip(features, (3, 7, 15), (20, 14, 15), strict=True)):
        theirs = reference(weights, image.roll((moved, moved), (2, 3)))[level]
        inner = (slice(None), slice(None), slice(border, -border), slice(border, -border))
        assert ours[inner].numel() > 0
        assert torch.allclose(ours[inner], theirs[inner], atol=1e-4 * float(theirs.abs().max()))


def test_sizes_and_channels():
    features = EfficientNetLite(stride=32)(torch.rand(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, 24, 16, 24),
        (2, 40, 8, 12),
        (2, 112, 4, 6),
        (2, 320, 2, 3),
    ]
    with pytest.raises(ValueError, match="stride is 8; choose 16 or 32"):
        EfficientNetLite(stride=8)


def test_strips_compute_the_same(encoder):
    image = torch.rand(2, 3, 240, 432)
    whole = encoder(image)
    with torch.no_grad():
        assert encoder.stages[1][0].depthwise.in_channels * 120 * 216 * 4 * 2 > 16 << 20  # several strips
        for expected, actual in zip(whole, encoder(image), strict=True):
            assert torch.allclose(actual, expected, atol=1e-4 * float(expected.abs().max()))


def test_a_missing_weight_is_named(weights, encoder):
    with pytest.raises(KeyError, match=r"_blocks\.3\._bn2\.weight"):
        imagenet_state({k: v for k, v in weights.items() if k != "_blocks.3._bn2.weight"}, encoder)


def test_context_starts_as_nothing_and_is_added_at_stride_16():
    images = torch.rand(1, 3, 80, 112)
    plain, deep = EfficientNetLite(), EfficientNetLite(stride=32, context=True)
    deep.load_state_dict(plain.state_dict(), strict=False)
    for ours, expected in zip(deep(images), plain(images), strict=True):
        assert torch.equal(ours, expected)
    torch.nn.init.ones_(deep.context.bias)
    *rest, f16 = deep(images)
    assert torch.allclose(f16, plain(images)[-1] + 1, atol=1e-5)
    assert all(torch.equal(ours, expected) for ours, expected in zip(rest, plain(images), strict=False))
    with pytest.raises(ValueError, match="set stride=32"):
        EfficientNetLite(context=True)
