"""Fused convolutions and products equal torch's own, where they run and where they do not."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from twospeed.ops import onednn
from twospeed.ops.onednn import affine, convolve, grouped_product, packed
from twospeed.ops.winograd import Kernel, convolve_3x3


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def close(a: torch.Tensor, b: torch.Tensor, most: float = 1e-5) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= most * max(1.0, float(b.abs().max()))


RECTIFIERS = {"none": lambda y: y, "relu": torch.relu, "relu6": lambda y: y.clamp(0, 6)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(1, 2), st.integers(3, 12), st.integers(3, 12)),
    channels=st.sampled_from([(3, 5, 1), (16, 16, 16), (8, 24, 2), (24, 8, 1)]),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    activation=st.sampled_from(list(RECTIFIERS)),
    added=st.booleans(),
    ours=st.booleans(),
)
def test_convolve_is_the_convolution_its_sum_and_its_activation(
    seed, size, channels, kernel, stride, activation, added, ours
):
    inputs, outputs, groups = channels
    x = last(3 * drawn(seed, size[0], inputs, *size[1:]))
    weight, bias = last(drawn(seed + 1, outputs, inputs // groups, kernel, kernel)), drawn(seed + 2, outputs)
    where = ((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    expected = F.conv2d(x, weight, bias, *where, groups)
    add_to = last(drawn(seed + 3, *expected.shape)) if added else None
    if add_to is not None:
        expected = expected + add_to
    with pytest.MonkeyPatch.context() as patch:
        if not ours:
            patch.setattr(onednn, "works", lambda dtype: False)
        actual = convolve(x, weight, bias, *where, groups, activation=activation, add_to=add_to)
    assert close(actual, RECTIFIERS[activation](expected))
    assert add_to is None or torch.equal(actual, add_to)


def test_a_volume_is_convolved_too():
    x, weight, bias = drawn(0, 1, 4, 5, 8, 8), drawn(1, 6, 4, 3, 3, 3), drawn(2, 6)
    actual = convolve(x, weight, bias, (1, 2, 2), (1, 1, 1), (1, 1, 1), activation="relu")
    assert close(actual, F.conv3d(x, weight, bias, (1, 2, 2), 1).relu())


def test_gradients_pass_where_they_are_wanted():
    x, weight = drawn(0, 1, 4, 6, 6), drawn(1, 3, 4, 1, 1).requires_grad_()
    convolve(x, weight, None, (1, 1), (0, 0), (1, 1)).sum().backward()
    assert weight.grad is not None
    queries = drawn(2, 5, 4).requires_grad_()
    affine(queries, drawn(3, 7, 4), drawn(4, 7)).sum().backward()
    assert queries.grad is not None


@pytest.mark.filterwarnings("ignore:.*trace.*deprecated:FutureWarning")
def test_an_exported_graph_holds_torchs_own_operators(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    weight = drawn(1, 3, 4, 1, 1)
    traced = torch.jit.trace(lambda x: convolve(x, weight, None, (1, 1), (0, 0), (1, 1)), drawn(0, 1, 4, 6, 6))
    assert "mkldnn" not in str(traced.graph)
    assert "conv" in str(traced.graph)


def test_autocast_decides_over_convolutions_but_not_over_affine():
    x, weight, bias = drawn(0, 1, 4, 6, 6), drawn(1, 3, 4, 1, 1), drawn(2, 3)
    expected = drawn(3, 5, 4) @ drawn(4, 7, 4).T + drawn(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, weight, bias, (1, 1), (0, 0), (1, 1)).dtype == torch.bfloat16
        for works in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onednn, "works", lambda dtype, works=works: works and dtype == torch.float32)
                product = affine(drawn(3, 5, 4), drawn(4, 7, 4), drawn(5, 7))
            assert product.dtype == torch.float32
            assert close(product, expected)


@pytest.mark.skipif(not onednn.works(torch.bfloat16), reason="this torch has no fused kernels for bfloat16")
def test_a_large_weight_is_brought_into_order_once_for_each_shape_and_dtype(monkeypatch):
    made = []
    reordered = onednn._reordered
    monkeypatch.setattr(onednn, "_reordered", lambda *a: made.append(a[0].dtype) or reordered(*a))
    weight, orders, where = last(drawn(0, 512, 256, 1, 1)), onednn.Orders(), ((1, 1), (0, 0), (1, 1))
    x = last(drawn(1, 1, 256, 6, 6))
    for _ in range(3):
        assert close(convolve(x, weight, None, *where, orders=orders), F.conv2d(x, weight), 1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = convolve(x, weight, None, *where, orders=orders)
        assert half.dtype == torch.bfloat16
        assert close(half.float(), F.conv2d(x, weight), 0.03)
    assert made == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_affine(ours, contiguous, monkeypatch):
    if not ours:
        monkeypatch.setattr(onednn, "works", lambda dtype: False)
    x, weight, bias = drawn(0, 33, 20), drawn(1, 50, 20), drawn(2, 50)
    given = weight if contiguous else weight.T.contiguous().T
    assert close(affine(x, given, bias), torch.addmm(bias, x, weight.T))


@pytest.mark.skipif(not onednn.works(torch.float32), reason="this torch has no fused kernels")
@pytest.mark.parametrize("rows", [1, 7, 180])
def test_grouped_product_with_an_order_made_for_any_number_of_rows(rows):
    x, weights = drawn(0, rows, 6, 40), drawn(1, 6, 40, 24)
    expected = torch.einsum("ngc,gco->ngo", x, weights)
    for made_for in (rows, 48):
        assert close(grouped_product(x, packed(weights, made_for)), expected)


def test_what_is_found_wrong_is_not_used(monkeypatch):
    onednn.works.cache_clear()
    monkeypatch.setattr(onednn, "grouped_product", lambda x, weights: torch.zeros(len(x), 4, 24))
    assert not onednn.works(torch.float32)
    onednn.works.cache_clear()


@pytest.mark.parametrize("ours", [True, False])
def test_a_kernel_serves_images_of_all_sizes_and_its_copies(ours, monkeypatch):
    if not ours:
        monkeypatch.setattr(onednn, "works", lambda dtype: False)
    weight = drawn(0, 24, 16, 3, 3)
    kernel = Kernel(weight, 4)
    for size in ((9, 9), (40, 30), (80, 90), (9, 9), (17, 33)):
        x = last(drawn(1, 2, 16, *size))
        for one in (kernel, copy.deepcopy(kernel)):
            assert close(convolve_3x3([x], one), F.conv2d(x, weight, padding=1), 4e-5)
