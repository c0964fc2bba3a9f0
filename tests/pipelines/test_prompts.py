"""A first mask from a box or a point."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from twospeed import MaskError
from twospeed.pipelines.prompts import mask_from_box, mask_from_point


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 110, (120, 160, 3), dtype=np.uint8)
    truth = np.zeros((120, 160), np.uint8)
    cv2.ellipse(truth, (90, 60), (30, 20), 20, 0, 360, 1, -1)
    image[truth > 0] = rng.integers(0, 40, (int(truth.sum()), 3), dtype=np.uint8) + np.array([200, 120, 0], np.uint8)
    return image, truth > 0


def iou(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


def test_a_box_cuts_out_what_fills_it(scene):
    image, truth = scene
    assert iou(mask_from_box(image, (55, 32, 70, 56)), truth) > 0.9


def test_a_point_finds_the_object_under_it(scene):
    image, truth = scene
    assert iou(mask_from_point(image, (90, 60)), truth) > 0.9


def test_nothing_is_marked_outside_the_box(scene):
    mask = mask_from_box(scene[0], (80, 50, 20, 20))
    assert mask.any()
    assert not mask[:50].any()
    assert not mask[:, 100:].any()


def test_a_flat_image_still_gives_a_mask():
    assert mask_from_box(np.zeros((50, 50, 3), np.uint8), (10, 10, 20, 20)).any()


def test_the_same_prompt_gives_the_same_mask(scene):
    assert (mask_from_box(scene[0], (55, 32, 70, 56)) == mask_from_box(scene[0], (55, 32, 70, 56))).all()


def test_prompts_outside_the_image_are_refused(scene):
    with pytest.raises(MaskError, match="box 200,10,20,20 covers no 4x4 pixels of the 160x120 image"):
        mask_from_box(scene[0], (200, 10, 20, 20))
    with pytest.raises(MaskError, match="point 160,10 lies outside the 160x120 image"):
        mask_from_point(scene[0], (160, 10))
