"""The network rearranged for speed: equal outputs, and the trainable one stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.fused import Maker, WinogradConv
from twospeed.models.stcn.builders import track_small, track_tiny
from twospeed.models.stcn.inference import for_inference
from twospeed.models.stcn.network import STCN
from twospeed.pipelines.tracker import Tracker


def trained(network: STCN) -> STCN:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return network.eval()


def bottlenecks(**options) -> STCN:
    """The published layout at a quarter of the width: max pooling, bottlenecks, widths that meet Winograd's."""
    return STCN(
        ResNetFeatures("bottleneck", (1, 2, 2), width=32),
        ResNetFeatures("basic", (1, 1, 2), width=32, channels_in=5, bias=True),
        key_channels=32,
        value_channels=128,
        thin_channels=128,
        decoder_channels=(128, 96, 96),
        **options,
    )


@pytest.fixture(params=["tiny", "small", "bottlenecks", "aspp", "same_width"])
def network(request) -> STCN:
    torch.manual_seed(1)
    if request.param == "same_width":  # blocks whose skip is the identity, on a concatenation too
        return trained(
            STCN(
                ResNetFeatures("basic", (1, 1, 1), width=16, stem_width=16, stem_stride=4),
                ResNetFeatures("basic", (1, 1, 1), width=16, stem_width=16, channels_in=5, stem_stride=4),
                value_channels=128,
                thin_channels=64,
                decoder_channels=(192, 96, 96),
            )
        )
    makers = {
        "tiny": track_tiny,
        "small": track_small,
        "bottlenecks": bottlenecks,
        "aspp": lambda: bottlenecks(aspp=True),
    }
    return trained(makers[request.param]())


@pytest.mark.parametrize("winograd", [True, False])
@pytest.mark.parametrize(("batch", "objects"), [(1, 1), (1, 3), (2, 2)])
def test_outputs_are_equal_to_rounding(network, winograd, batch, objects):
    fast = for_inference(network, winograd=winograd)
    frames, masks = torch.randn(batch, 3, 96, 144), torch.rand(batch, objects, 96, 144)
    with torch.no_grad():
        expected, actual = network.encode_key(frames), fast.encode_key(frames)
        pairs = list(zip(expected, actual, strict=True))
        value = network.encode_value(frames, expected.f16, masks)
        pairs.append((value, fast.encode_value(frames, actual.f16, masks)))
        readouts = [net.recall_recent(value, expected.key, expected.key, masks) for net in (network, fast)]
        pairs.append((readouts[0], readouts[1]))
        pairs.append((network.decode(readouts[0], expected), fast.decode(readouts[0], actual)))
    for wanted, got in pairs:
        assert got.shape == wanted.shape
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_wide_convolutions_run_by_winograd():
    layers = [m for m in for_inference(bottlenecks(), winograd=True).modules() if isinstance(m, WinogradConv)]
    assert len(layers) >= 8
    assert not any(isinstance(m, WinogradConv) for m in for_inference(bottlenecks(), winograd=False).modules())
    chosen = Maker(None, torch.device("cpu"))
    assert isinstance(chosen.convolution([nn.Conv2d(256, 256, 3, padding=1)]), WinogradConv)
    assert not isinstance(chosen.convolution([nn.Conv2d(32, 32, 3, padding=1)]), WinogradConv)


def test_the_trainable_network_is_untouched():
    network = trained(track_tiny())
    before = copy.deepcopy(network.state_dict())
    frame = (torch.rand(64, 96, 3) * 255).to(torch.uint8).numpy()
    labels = torch.zeros(64, 96, dtype=torch.uint8)
    labels[16:48, 16:64] = 1
    tracker = Tracker(network, size=None)
    tracker.step(frame, labels)
    first = tracker.step(frame).probabilities
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())

    features = network.encode_key(torch.randn(1, 3, 64, 96))
    value = network.encode_value(torch.randn(1, 3, 64, 96), features.f16, torch.rand(1, 1, 64, 96))
    (network.decode(value, features).square().sum() + features.key.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())

    with torch.no_grad():  # training on does not move the copy that the tracker holds
        for p in network.parameters():
            p.add_(1)
    tracker.reset()
    tracker.step(frame, labels)
    assert (tracker.step(frame).probabilities == first).all()


def test_nothing_of_the_copy_is_trainable():
    assert not any(p.requires_grad for p in for_inference(trained(track_tiny())).parameters())
