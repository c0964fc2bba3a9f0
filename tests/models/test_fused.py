"""`for_inference`: equal results, the trainable network stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from twospeed.models.fused import FusedConv, FusedConvNorm, WinogradConv, for_inference
from twospeed.models.pixels import ImageNetwork
from twospeed.weights.load import create_model

NAMES = ["swiftnet_r18", "swiftnet_r18_pyramid", "bisenet_r18", "gsvnet_swiftnet_r18", "gsvnet_bisenet_r18"]


def trained(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.4, 0.9, generator=generator)
    return network.eval()


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return actual.shape == expected.shape and bool((actual - expected).abs().max() < 1e-4 * expected.abs().max())


@pytest.mark.parametrize("winograd", [True, False])
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_results_are_equal_to_rounding(name, winograd):
    network = trained(create_model(name, None, num_classes=5))
    fast = for_inference(network, winograd=winograd)
    assert type(fast) is type(network)
    assert any(isinstance(m, WinogradConv) for m in fast.modules()) == winograd
    image, other = torch.rand(2, 1, 3, 136, 168, generator=torch.Generator().manual_seed(1)) * 255
    if not name.startswith("gsvnet"):
        assert close(fast(image), network(image))
        return
    scores = network.keyframe(image)
    assert close(fast.keyframe(image), scores)
    assert close(fast.propagate(scores, image, other), network.propagate(scores, image, other))


def test_training_on_does_not_move_the_copy():
    network = trained(create_model("gsvnet_swiftnet_r18", None, num_classes=5))
    before = copy.deepcopy(network.state_dict())
    fast = for_inference(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad for name, p in network.named_parameters() if name != "delays")
    assert not any(p.requires_grad for p in fast.parameters())
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        scores = fast.keyframe(image)
        first = fast.propagate(scores, image, image.flip(3))
    network.train()
    with torch.no_grad():
        for value in [*network.parameters(), *network.buffers()]:
            value.add_(1)
    with torch.inference_mode():
        assert torch.equal(fast.keyframe(image), scores)
        assert torch.equal(fast.propagate(scores, image, image.flip(3)), first)


def test_a_network_of_others_stays_itself():
    network = ImageNetwork(nn.Conv2d(3, 4, 3))
    assert for_inference(network) is None


@torch.inference_mode()
def test_tiny_images_are_convolved_directly():
    network = trained(create_model("gsvnet_swiftnet_r18", None, num_classes=5))
    fast = for_inference(network, winograd=True)
    wide = next(m for m in fast.modules() if isinstance(m, FusedConvNorm) and isinstance(m.layer, WinogradConv))
    x = torch.randn(1, wide.layer.kernel.weight.shape[1], 3, 5)
    assert isinstance(wide.layer.direct, FusedConv)
    assert torch.equal(wide.layer([x]), wide.layer.direct([x]))
