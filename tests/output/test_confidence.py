"""Which frames are worth a look."""

from __future__ import annotations

import numpy as np

from twospeed.output.areas import MOST_FRAMES, frames_worth_a_look


def test_the_deepest_dips_come_first_whatever_the_level():
    first, second = np.full(60, 0.9, np.float32), np.full(60, 0.4, np.float32)
    first[20:23] = 0.8, 0.6, 0.8
    second[40:43] = 0.3, 0.2, 0.3
    first[50] = 0.85
    second[:3] = np.nan
    found = frames_worth_a_look({1: first, 7: second}, range(100, 160), np.arange(60) / 10)
    assert [(one["frame"], one["object"]) for one in found] == [(121, 1), (141, 7), (150, 1)]
    assert [one["drop"] for one in found] == [0.3, 0.2, 0.05]
    assert found[0]["time_s"] == 2.1


def test_a_steady_curve_and_an_unseen_object_have_none():
    curves = {1: np.full(30, 0.5, np.float32), 2: np.full(30, np.nan, np.float32)}
    assert frames_worth_a_look(curves, range(30), range(30)) == []


def test_neighbours_and_the_number_are_limited():
    curve = np.tile(np.float32([0.9, 0.9, 0.8]), 40)
    found = frames_worth_a_look({1: curve}, range(120), range(120))
    assert len(found) == MOST_FRAMES
    frames = sorted(one["frame"] for one in found)
    assert min(np.diff(frames)) >= 5
