"""Geometry of padding, and masks as one-hot planes and soft probabilities."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.ops.masks import one_hot, soft_aggregate
from twospeed.ops.on_torch import pad
from twospeed.ops.pad import padding_for, unpad


@given(height=st.integers(1, 70), width=st.integers(1, 70), stride=st.sampled_from([1, 8, 16, 32]))
def test_unpad_is_the_exact_inverse_of_pad(height, width, stride):
    x = torch.rand(2, height, width)
    padding = padding_for(height, width, stride)
    padded = pad(x, padding)
    assert padded.shape[-2] % stride == padded.shape[-1] % stride == 0
    assert padded.shape[-2] - height < stride
    assert padded.shape[-1] - width < stride
    assert torch.equal(unpad(padded, padding), x)


def test_the_odd_row_and_column_go_down_and_right():
    assert padding_for(15, 13, 16) == (1, 2, 0, 1)


def test_one_hot_follows_the_order_of_ids():
    labels = torch.tensor([[0, 7], [3, 7]])
    planes = one_hot(labels, [7, 3])
    assert planes.tolist() == [[[0, 1], [0, 1]], [[0, 0], [1, 0]]]


@settings(deadline=None)
@given(objects=st.integers(1, 5), seed=st.integers(0, 99))
def test_soft_aggregation_gives_probabilities(objects, seed):
    p = torch.rand(1, objects, 3, 4, generator=torch.Generator().manual_seed(seed))
    together = soft_aggregate(p).softmax(1)
    torch.testing.assert_close(together.sum(1), torch.ones(1, 3, 4))
    odds = torch.cat([(1 - p).prod(1, keepdim=True), p], 1).clamp(1e-7, 1 - 1e-7)
    odds = odds / (1 - odds)
    torch.testing.assert_close(together, odds / odds.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_one_object_alone_has_the_squared_odds():
    p = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).view(1, 1, 1, 5)
    expected = p**2 / (p**2 + (1 - p) ** 2)
    torch.testing.assert_close(soft_aggregate(p).softmax(1)[:, 1:], expected, rtol=1e-4, atol=1e-6)
