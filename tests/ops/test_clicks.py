"""Prompts as planes, and where a user would click next."""

from __future__ import annotations

import numpy as np

from twospeed.ops.clicks import next_click, prompt_planes


def test_planes_hold_what_was_said():
    mask = np.full((40, 60), 0.25, np.float32)
    planes = prompt_planes(40, 60, [(10.5, 20.5, 1), (50.5, 5.5, -1)], (4, 6, 30, 36), mask)
    assert planes[0, 20, 10] == 1
    assert planes[0, 20, 20] == 0
    assert planes[1, 5, 50] == 1
    assert planes[1, 20, 10] == 0
    assert planes[2].sum() == 26 * 30
    assert planes[2, 6, 4] == 1
    assert planes[2, 5, 4] == 0
    assert (planes[3] == 1).all()
    assert (planes[4] == 0.25).all()
    assert not prompt_planes(40, 60, [], None, None).any()


def test_boxes_that_reach_out_are_cut():
    planes = prompt_planes(40, 60, [], (-5, -5, 70, 10), None)
    assert planes[2].sum() == 60 * 10


def test_the_next_click_is_in_the_middle_of_the_thickest_error():
    truth = np.zeros((60, 80), bool)
    truth[10:31, 20:41] = True
    assert next_click(truth, np.zeros_like(truth)) == (30.5, 20.5, 1)
    too_much = truth.copy()
    too_much[40:59, 50:79] = True
    x, y, sign = next_click(truth, too_much)
    assert sign == -1
    assert (50 < x < 79, 48 <= y <= 50.5) == (True, True)
    assert next_click(truth, truth) is None


def test_a_place_is_not_clicked_twice():
    truth = np.zeros((20, 20), bool)
    truth[5:8, 5:8] = True
    first = next_click(truth, np.zeros_like(truth))
    second = next_click(truth, np.zeros_like(truth), [first])
    assert second is not None
    assert second != first


def test_an_object_that_fills_the_image_is_clicked_in_its_middle():
    assert next_click(np.ones((21, 31), bool), np.zeros((21, 31), bool))[1] == 10.5
