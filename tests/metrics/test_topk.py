"""Top-k accuracy by hand, by property, and with ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.metrics.topk import hits, topk


def test_by_hand():
    scores = np.array([[0.1, 0.7, 0.2, 0, 0, 0], [0.3, 0.25, 0.2, 0.15, 0.1, 0.0], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    labels = np.array([1, 5, 5])  # best · worst of six · sixth among equals
    result = topk(scores, labels)
    assert (result.top1, result.top5) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert result.average_error == pytest.approx(2 / 3)
    assert result.count == 3
    assert topk(scores, np.array([1, 4, 0])).average_error == pytest.approx((1 / 3 + 0) / 2)


def test_a_constant_score_hits_one_class_only():
    assert hits(np.zeros((4, 4)), np.arange(4), 1).tolist() == [True, False, False, False]
    assert hits(np.zeros((4, 4)), np.arange(4), 9).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12), st.integers(1, 6))
def test_agrees_with_sorting(seed, n, classes, k):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (n, classes)) / 3, rng.integers(0, classes, n)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert hits(scores, labels, k).tolist() == (best == labels[:, None]).any(axis=1).tolist()


@given(st.integers(0, 2**32 - 1))
def test_bounds_and_order(seed):
    rng = np.random.default_rng(seed)
    result = topk(rng.random((20, 8)), rng.integers(0, 8, 20))
    assert 0 <= result.top1 <= result.top5 <= 1
    assert result.average_error == pytest.approx(1 - (result.top1 + result.top5) / 2)


def test_wrong_tables_are_refused():
    with pytest.raises(InputError, match="label 3 is outside the 3 classes"):
        hits(np.zeros((2, 3)), np.array([0, 3]), 1)
    with pytest.raises(InputError, match="row 1 of the scores holds NaN"):
        hits(np.array([[0.0], [np.nan]]), np.array([0, 0]), 1)
    with pytest.raises(InputError, match="do not fit"):
        hits(np.zeros((2, 3)), np.array([0]), 1)
    with pytest.raises(InputError, match="no video"):
        topk(np.zeros((0, 3)), np.zeros(0, dtype=int))
