from __future__ import annotations

import pytest
import torch
from torch import nn

from twospeed.ops.fuse import fuse_batch_norm


def trained(norm: nn.Module) -> nn.Module:
    """A norm in eval mode with statistics and scales that a mistake in folding would show."""
    generator = torch.Generator().manual_seed(0)
    norm.running_mean.normal_(0, 1, generator=generator)
    norm.running_var.uniform_(0.1, 3, generator=generator)
    if norm.affine:
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    return norm.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_fused_convolution_is_both(bias, affine):
    for conv, norm, x in (
        (nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine, eps=1e-3), torch.randn(2, 3, 6, 7)),
        (nn.Conv3d(3, 4, 3, bias=bias), nn.BatchNorm3d(4, affine=affine), torch.randn(2, 3, 5, 6, 7)),
    ):
        norm = trained(norm)
        weight, shift = fuse_batch_norm(conv, norm)
        fused = type(conv)(3, 4, 3)
        fused.load_state_dict({"weight": weight, "bias": shift})
        torch.testing.assert_close(fused(x), norm(conv(x)), rtol=1e-5, atol=1e-5)


def test_without_a_norm_the_convolution_is_copied():
    conv = nn.Conv2d(2, 3, 1, bias=False)
    weight, bias = fuse_batch_norm(conv, None)
    assert torch.equal(weight, conv.weight)
    assert weight.data_ptr() != conv.weight.data_ptr()
    assert not bias.any()
    assert not weight.requires_grad


def test_a_norm_without_statistics_is_refused():
    with pytest.raises(ValueError, match="running statistics"):
        fuse_batch_norm(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
