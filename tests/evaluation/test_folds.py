"""Clips are left out evenly, with their source, and a share of few hits says how little it says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from twospeed.evaluation.folds import interval, leave_out, source_of


def test_sources_are_read_from_names():
    assert source_of(Path("Diving/v_Diving_g01_c03.avi")) == "v_Diving_g01"
    assert source_of(Path("x/abcdefghijk_000010_000020.mp4")) == "abcdefghijk"
    assert source_of(Path("garden_part2.mp4")) == "garden"
    assert source_of(Path("a/clip_01.mp4")) != source_of(Path("a/clip_02.mp4"))


def test_every_clip_is_left_out_once_and_classes_are_spread_evenly():
    labels = [0] * 10 + [1] * 5 + [2] * 7
    folds = leave_out(labels, [str(n) for n in range(22)], 5, seed=3)
    assert folds.count == 5
    assert not folds.by_source
    assert not folds.shared
    for label in range(3):
        sizes = Counter(fold for fold, own in zip(folds.of, labels, strict=True) if own == label)
        assert max(sizes.values()) - min(sizes[f] for f in range(5)) <= 1


def test_clips_of_one_source_stay_together():
    labels = [0] * 6 + [1] * 6
    sources = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e", "f", "f"]
    folds = leave_out(labels, sources, 5)
    assert folds.count == 3
    assert folds.by_source
    for source in "abcdef":
        assert len({fold for fold, own in zip(folds.of, sources, strict=True) if own == source}) == 1


def test_a_class_of_one_source_is_split_and_said_so():
    folds = leave_out([0, 0, 0, 1, 1, 1], ["a", "a", "a", "b", "c", "d"], 5)
    assert folds.shared
    assert not folds.by_source
    assert folds.count == 3


def test_the_interval_is_wilson_s():
    assert interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert interval(15, 15)[0] == pytest.approx(0.7961, abs=1e-3)
    assert interval(0, 4)[0] == 0.0
    assert np.diff(interval(50, 100)) < np.diff(interval(5, 10))
