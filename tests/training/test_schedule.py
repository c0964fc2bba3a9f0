"""Learning rates at the points that the papers name."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.training.schedule import half_cosine, scaled_lr, steps, with_warm_up


def kinetics_400(epoch: float) -> float:
    """196 epochs at 0.1, 34 of warm-up from 0.01."""
    return with_warm_up(epoch, lambda e: half_cosine(e, base=0.1, length=196), warm_up=34, start=0.01)


def test_kinetics_400_schedule():
    assert kinetics_400(0) == pytest.approx(0.01)
    at_34 = 0.05 * (math.cos(math.pi * 34 / 196) + 1)
    assert kinetics_400(17) == pytest.approx((0.01 + at_34) / 2)
    assert kinetics_400(34) == pytest.approx(at_34)
    assert kinetics_400(98) == pytest.approx(0.05)
    assert kinetics_400(196) == pytest.approx(0.0, abs=1e-12)


@given(st.floats(0, 196), st.floats(0, 196))
def test_it_rises_then_falls(a, b):
    low, high = sorted((a, b))
    if high <= 34:
        assert kinetics_400(low) <= kinetics_400(high) + 1e-12
    elif low >= 34:
        assert kinetics_400(low) >= kinetics_400(high) - 1e-12


def test_steps_fall_at_their_boundaries():
    rate = [steps(e, base=0.1, boundaries=(94, 154, 196)) for e in (0, 93.99, 94, 154, 200)]
    assert rate == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.0001])


def test_linear_scaling():
    assert scaled_lr(0.1, batch=512, reference_batch=64) == pytest.approx(0.8)
    with pytest.raises(InputError, match="batch=0"):
        scaled_lr(0.1, batch=0, reference_batch=64)
