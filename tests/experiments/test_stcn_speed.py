"""Frames per second by number of objects, on a tiny set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.stcn_speed import speed_table, strips
from tests.data.vos_trees import moving_squares, write_davis
from twospeed.errors import InputError


def test_speed_is_measured_for_each_number_of_objects(tmp_path: Path):
    root = write_davis(tmp_path, {"a": moving_squares(3, 2)})
    table, notes = speed_table(root, networks=["stcn-l2"], objects=(1, 3), frames=3, sequences=["a"], device="cpu")
    assert [name for name, _ in table.rows] == ["stcn-l2, 1 obj.", "stcn-l2, 3 obj."]
    assert all(value > 0 for _, values in table.rows for value in values)
    assert "the clock counts Tracker.step" in notes[0]
    with pytest.raises(InputError, match="no network 'resnet'"):
        speed_table(root, networks=["resnet"])
    with pytest.raises(InputError, match="at least 1 object"):
        speed_table(root, objects=(0,))


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_strips_cover_the_foreground_evenly(count, seed):
    labels = (np.random.default_rng(seed).random((20, 64)) < 0.6).astype(np.uint8) * 3
    labels[0] = 255  # void
    cut = strips(labels, count)
    np.testing.assert_array_equal(cut > 0, labels == 3)
    areas = np.bincount(cut.ravel(), minlength=count + 1)[1:]
    assert len(areas) == count
    assert areas.max() - areas.min() <= 2 * 20
