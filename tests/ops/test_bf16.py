"""bfloat16 convolutions: those that the machine computes wrongly are found and computed in single precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twospeed.ops import bf16


def gradients(layer: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    with bf16.autocast("cpu", dtype):
        y = layer(x)
    layer.zero_grad()
    y.float().square().sum().backward()
    return [y.detach().float(), x.grad, layer.weight.grad]


@pytest.mark.parametrize(("kernel", "frames"), [(3, 2), (5, 4), (3, 8)])
def test_kernels_longer_than_the_clip_learn_what_single_precision_learns(kernel, frames):
    torch.manual_seed(3)
    layer = nn.Conv3d(32, 32, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
    x = torch.randn(4, 32, frames, 4, 4)
    for _ in range(3):  # uninitialised memory differs from time to time
        for half, single in zip(gradients(layer, x, torch.bfloat16), gradients(layer, x, torch.float32), strict=True):
            assert (half - single).abs().max() <= 0.03 * single.abs().max()


def test_a_wrong_kernel_is_noticed_and_single_precision_used_instead(monkeypatch, caplog):
    right = F.conv2d

    def wrong(x, weight, *rest, **named):
        y = right(x, weight, *rest, **named)
        return y * float("nan") if x.dtype == torch.bfloat16 else y

    monkeypatch.setattr(bf16, "CONVOLUTIONS", (wrong,))
    x, weight = torch.randn(1, 3, 9, 9), torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = bf16.CheckedConvolutions().__torch_function__(wrong, (), (x, weight), {"padding": 1})
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), right(x, weight, padding=1), atol=0.1)
    assert "is wrong on this machine" in caplog.text


def test_the_self_test_leaves_random_numbers_alone_and_runs_once(monkeypatch):
    layer, x = nn.Conv2d(5, 7, 3), torch.randn(1, 5, 11, 13)
    before = torch.get_rng_state()
    with bf16.autocast("cpu"), torch.inference_mode():
        layer(x)
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(bf16, "_largest_error", None)  # would be called for a new shape
    with bf16.autocast("cpu"), torch.inference_mode():
        layer(x)


def test_single_precision_stays_single():
    with bf16.autocast("cpu", torch.float32):
        assert nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2)).dtype == torch.float32
