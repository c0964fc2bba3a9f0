"""Winograd's convolution equals the direct one, whatever the image's size and the way it is called."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from twospeed.ops.winograd import Kernel, Scratch, convolve_3x3

# Of the largest output; the direct convolution itself is 3e-6 from the exact result
TOLERANCE = {2: 5e-6, 4: 2e-5, 6: 4e-5}


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tile: int) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE[tile] * max(1.0, float(expected.abs().max()))


sizes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 29), st.integers(1, 31))


@settings(max_examples=60, deadline=None)
@given(size=sizes, out=st.integers(1, 7), tile=st.sampled_from([2, 4, 6]), seed=st.integers(0, 9999))
def test_equals_the_direct_convolution(size, out, tile, seed):
    x, weight, bias = numbers(seed, *size), numbers(seed + 1, out, size[1], 3, 3), numbers(seed + 2, out)
    actual = convolve_3x3([x], Kernel(weight, tile), bias)
    assert_close(actual, F.conv2d(x, weight, bias, padding=1), tile)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tile", [4, 6])
def test_blocks_of_tiles_join_without_a_seam(tile):
    """More tiles than are worked on at once, in height and in batch, one row of tiles ragged."""
    x, weight = numbers(0, 3, 4, 131, 75), numbers(1, 5, 4, 3, 3)
    assert_close(convolve_3x3([x], Kernel(weight, tile)), F.conv2d(x, weight, padding=1), tile)


@pytest.mark.parametrize("tile", [2, 4, 6])
def test_several_inputs_are_a_concatenation(tile):
    a, b, residual = numbers(0, 2, 3, 10, 13), numbers(1, 2, 6, 10, 13), numbers(2, 2, 5, 10, 13)
    weight, bias = numbers(3, 5, 9, 3, 3), numbers(4, 5)
    actual = convolve_3x3([a, b], Kernel(weight, tile), bias, rectify_inputs=[True, False], add=residual, rectify=True)
    expected = F.conv2d(torch.cat([a.relu(), b], 1), weight, bias, padding=1) + residual
    assert_close(actual, expected.relu(), tile)


def test_part_of_a_kernel_and_a_shared_addend():
    """As a decoder uses it for many objects: the shared part once, added to each."""
    own, shared = numbers(0, 3, 4, 7, 9), numbers(1, 1, 2, 7, 9)
    weight = numbers(2, 5, 6, 3, 3)
    kernel = Kernel(weight, 6)
    common = convolve_3x3([shared], kernel.part(slice(4, None)))
    actual = convolve_3x3([own], kernel.part(slice(0, 4)), add=common.expand(3, -1, -1, -1))
    assert_close(actual, F.conv2d(torch.cat([own, shared.expand(3, -1, -1, -1)], 1), weight, padding=1), 6)


def test_scratch_is_reused_and_carries_nothing_over():
    scratch, kernel = Scratch(), Kernel(numbers(0, 3, 2, 3, 3), 4)
    large, small = numbers(1, 1, 2, 40, 40), numbers(2, 1, 2, 5, 5)
    expected = convolve_3x3([small], kernel)
    convolve_3x3([large * torch.inf], kernel, scratch=scratch)  # leaves infinities and NaN behind
    for _ in range(2):
        torch.testing.assert_close(convolve_3x3([small], kernel, scratch=scratch), expected, rtol=0, atol=0)


def test_scratch_made_in_inference_mode_serves_outside_it():
    scratch, x, kernel = Scratch(), numbers(0, 1, 2, 6, 6), Kernel(numbers(1, 3, 2, 3, 3), 6)
    with torch.inference_mode():
        first = convolve_3x3([x], kernel, scratch=scratch).clone()
    with torch.no_grad():
        assert torch.equal(convolve_3x3([x], kernel, scratch=scratch), first)


def test_double_precision_is_exact_to_its_rounding():
    x, weight = numbers(0, 1, 3, 20, 20).double(), numbers(1, 4, 3, 3, 3).double()
    for tile in (2, 4, 6):
        actual = convolve_3x3([x], Kernel(weight, tile))
        torch.testing.assert_close(actual, F.conv2d(x, weight, padding=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(12, 18), (13, 7)])
def test_in_place_the_addend_becomes_the_result(size):
    x, weight = numbers(0, 2, 3, *size), numbers(1, 5, 3, 3, 3)
    residual = numbers(2, 2, 5, *size).contiguous(memory_format=torch.channels_last)
    expected = (F.conv2d(x, weight, padding=1) + residual).relu()
    actual = convolve_3x3([x], Kernel(weight, 6), add=residual, in_place=True, rectify=True)
    assert actual.data_ptr() == residual.data_ptr()
    assert_close(actual, expected, 6)
