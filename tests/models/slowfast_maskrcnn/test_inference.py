"""The network prepared to run fast finds what the plain one finds, and the stream stays bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.slowfast_maskrcnn.test_goldens import module_of, window_of
from twospeed.models.slowfast_maskrcnn.inference import FusedPathways, for_inference
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.models.slowfast_maskrcnn.pathways import PathwayStream, SlowFastModule


def randomise_norms(network: torch.nn.Module) -> None:
    """Statistics and affine at which folding shows."""
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.4, 0.9)
            torch.nn.init.normal_(module.bias, std=0.1)


@pytest.mark.parametrize("winograd", [True, False])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (3, 5), (3, 7), (7, 7)])
@torch.inference_mode()
def test_the_fused_stream_gives_every_window(m, n, winograd):
    """Clips shorter and longer than the window, odd sizes, wide enough for Winograd's algorithm."""
    torch.manual_seed(m + n)
    module = SlowFastModule(m, n, channels=128).eval()
    randomise_norms(module)
    fused = FusedPathways(module, winograd)
    for length in (1, 2, n + 3):
        frames = torch.randn(length, 1, 128, 9, 13)
        border = torch.zeros(n // 2, 1, 128, 9, 13)
        padded = torch.cat([border, frames, border])
        windows = torch.stack([module(padded[t : t + n].permute(1, 2, 0, 3, 4))[:, :, 0] for t in range(length)])
        stream = PathwayStream(fused)
        results = [result for frame in frames if (result := stream.push(frame)) is not None] + stream.finish()
        torch.testing.assert_close(torch.stack(results), windows, rtol=0, atol=1e-4 * float(windows.abs().max()))


@torch.inference_mode()
def test_a_long_fused_stream_holds_no_more_than_a_short_one():
    stream, held = PathwayStream(FusedPathways(SlowFastModule(3, 7, channels=8).eval(), True)), []
    for _ in range(30):
        stream.push(torch.randn(1, 8, 2, 2))
        held.append(sum(len(q) for q in (*stream._spans.values(), *stream._waiting.values())))
    assert len(set(held[6:])) == 1


@pytest.mark.parametrize("configuration", ["1-1", "3-3", "7-7", "1-7", "3-7"])
@torch.inference_mode()
def test_the_fused_stream_gives_the_recorded_window(golden, configuration):
    case = golden("vos/slowfast_vos_layers")
    stream = PathwayStream(FusedPathways(module_of(case, configuration), True))
    window = window_of(configuration)
    results = [r for frame in window.unbind(2) if (r := stream.push(frame)) is not None] + stream.finish()
    np.testing.assert_allclose(
        results[len(results) // 2], case.outputs[f"out.{configuration}"], **case.case["tolerance"]
    )


@pytest.mark.parametrize("backbone", [pytest.param("resnet50", marks=pytest.mark.slow), "nano"])
@torch.inference_mode()
def test_detections_are_those_of_the_plain_network(backbone):
    torch.manual_seed(0)
    network = SlowFastMaskRCNN(1, 3, backbone=backbone, min_size=48, max_size=96, score_thresh=0.0, proposals=20).eval()
    randomise_norms(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fast = for_inference(network)
    frames = torch.rand(4, 3, 45, 61)
    for frame in frames:
        plain, fused = network.encode(frame), fast.encode(frame)
        for name, level in plain.pyramid.items():
            torch.testing.assert_close(fused.pyramid[name], level, rtol=0, atol=1e-4 * float(level.abs().max()))
        torch.testing.assert_close(fused.proposals, plain.proposals, rtol=0, atol=1e-2)
    for found, expected in zip(fast(frames), network(frames), strict=True):
        assert len(found["scores"]) == len(expected["scores"]) > 0
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-2)
        assert float((found["masks"] - expected["masks"]).abs().mean()) < 1e-3
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (fast.window, fast.min_size) == (3, 48)
