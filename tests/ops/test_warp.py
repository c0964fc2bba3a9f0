"""Warping, shrinking, and labels at full size from coarse scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from twospeed.ops.full_labels import best_class, full_size_labels
from twospeed.ops.warp import backward_warp, shrink

SIZES = st.integers(1, 24)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES, st.integers(0, 2**31))
def test_zero_flow_is_the_identity(height, width, seed):
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(backward_warp(x, torch.zeros(2, 2, height, width)), x, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 20), st.integers(4, 20), st.integers(-3, 3), st.integers(-3, 3))
def test_whole_flow_shifts_and_reads_zeros_from_outside(height, width, dx, dy):
    x = torch.rand(1, 2, height, width) + 1
    flow = torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand(1, 2, height, width)
    padded = F.pad(x, (3, 3, 3, 3))
    expected = padded[..., 3 + dy : 3 + dy + height, 3 + dx : 3 + dx + width]
    assert torch.allclose(backward_warp(x, flow), expected, atol=1e-4)


def test_half_a_pixel_is_the_mean_of_neighbours():
    x = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 5, 5)
    flow = torch.zeros(1, 2, 5, 5)
    flow[:, 0] = 0.5
    assert torch.allclose(backward_warp(x, flow)[..., :4], x[..., :4] + 0.5, atol=1e-5)


def test_warp_is_differentiable_in_both():
    x, flow = torch.rand(1, 2, 6, 7, requires_grad=True), torch.rand(1, 2, 6, 7, requires_grad=True)
    backward_warp(x, flow).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert flow.grad.abs().sum() > 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), SIZES, SIZES, st.booleans())
def test_shrink_is_interpolate(height, width, new_height, new_width, channels_last):
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    if channels_last:  # as images come: (H, W, 3), turned without copying
        image = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    expected = F.interpolate(image.float(), (new_height, new_width), mode="bilinear", align_corners=True)
    assert torch.allclose(shrink(image, (new_height, new_width)), expected, atol=1e-2)


def agrees(scores: torch.Tensor, size: tuple[int, int], align_corners: bool) -> bool:
    """Equal to argmax of the resized scores, but where the two classes' scores agree to rounding."""
    labels = full_size_labels(scores, size, align_corners=align_corners).long()
    resized = F.interpolate(scores[None], size, mode="bilinear", align_corners=align_corners)[0]
    best = resized.argmax(0)
    gap = resized.gather(0, best[None]) - resized.gather(0, labels[None])
    return labels.shape == size and bool((gap <= 1e-5 * scores.abs().max()).all())


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 14), st.integers(1, 14), st.integers(1, 90), st.integers(1, 90),
    st.booleans(), st.integers(0, 2**31), st.booleans(),
)  # fmt: skip
def test_full_size_labels_are_the_argmax_of_resized_scores(classes, h, w, height, width, corners, seed, blocky):
    scores = torch.randn(classes, h, w, generator=torch.Generator().manual_seed(seed))
    if blocky:  # regions, as real scores have
        scores = scores[:, :: max(1, h // 2)][:, :, :: max(1, w // 2)].repeat_interleave(h, 1)[:, :h]
        scores = scores.repeat_interleave(w, 2)[:, :, :w]
    assert agrees(scores, (height, width), corners)


@pytest.mark.parametrize("corners", [True, False])
def test_full_size_labels_of_smooth_scores(corners):
    scores = F.interpolate(torch.randn(1, 19, 6, 8), (45, 60), mode="bicubic")[0]
    assert agrees(scores, (360, 480), corners)


def test_a_class_that_wins_only_between_the_corners_is_found():
    scores = torch.tensor([[[10.0, 0.0]], [[0.0, 10.0]], [[8.0, 8.0]]])  # (3, 1, 2)
    assert full_size_labels(scores, (1, 9)).unique().tolist() == [0, 1, 2]


def test_equal_scores_go_to_the_first_class():
    assert not full_size_labels(torch.zeros(5, 3, 4), (20, 30)).any()
    assert best_class(torch.ones(3, 2, 2)).tolist() == [[0, 0], [0, 0]]


def test_more_classes_than_eight_bits_hold():
    with pytest.raises(ValueError, match="257 classes do not fit"):
        full_size_labels(torch.zeros(257, 2, 2), (4, 4))


def test_scores_that_are_no_numbers_do_not_stop_the_others():
    scores = torch.randn(4, 6, 7)
    expected = full_size_labels(scores, (48, 56))
    scores[:, 0, 0] = float("nan")
    labels = full_size_labels(scores, (48, 56))
    assert torch.equal(labels[16:], expected[16:])
