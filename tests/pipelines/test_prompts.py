"""A first mask from a box or a point."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from twospeed import InputError, MaskError
from twospeed.pipelines.grabcut import GrabCutSegmenter
from twospeed.pipelines.prompts import mask_from_prompts as from_prompts


def mask_from_prompts(image, *arguments, **options):
    return from_prompts(image, *arguments, **{"network": GrabCutSegmenter(), **options})


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
    assert iou(mask_from_prompts(image, box=(55, 32, 125, 88)), truth) > 0.9


def test_a_point_finds_the_object_under_it(scene):
    image, truth = scene
    assert iou(mask_from_prompts(image, [(90, 60, 1)]), truth) > 0.9


def test_nothing_is_marked_outside_the_box(scene):
    mask = mask_from_prompts(scene[0], box=(80, 50, 100, 70))
    assert mask.any()
    assert not mask[:50].any()
    assert not mask[:, 100:].any()


def test_a_flat_image_still_gives_a_mask():
    assert mask_from_prompts(np.zeros((50, 50, 3), np.uint8), box=(10, 10, 30, 30)).any()


def test_the_same_prompt_gives_the_same_mask(scene):
    first, second = (mask_from_prompts(scene[0], box=(55, 32, 125, 88)) for _ in range(2))
    assert (first == second).all()


def test_several_points_make_one_mask_of_two_pieces(scene):
    image, truth = scene
    image[8:28, 10:40] = (200, 120, 0)
    both = truth.copy()
    both[8:28, 10:40] = True
    assert iou(mask_from_prompts(image, [(90, 60, 1)]), truth) > 0.9
    assert iou(mask_from_prompts(image, [(90, 60, 1), (25, 18, 1)]), both) > 0.9


def test_a_point_beside_the_object_takes_its_piece_away(scene):
    image, truth = scene
    image[56:64, 118:150] = (200, 120, 0)  # something of its colour touches it
    with_tail = mask_from_prompts(image, box=(50, 30, 155, 90))
    assert with_tail[58:62, 130:145].mean() > 0.9
    without = mask_from_prompts(image, [(x, 60, -1) for x in (126, 132, 138, 144)], box=(50, 30, 155, 90))
    assert without[58:62, 130:145].mean() < 0.1
    assert iou(without, truth) > iou(with_tail, truth)


def test_a_mask_is_corrected_by_points(scene):
    image, truth = scene
    half = truth.copy()
    half[:, 90:] = False
    assert iou(mask_from_prompts(image, [(105, 65, 1)], start=half), truth) > 0.9


def test_a_network_takes_the_place_of_grabcut(scene):
    seen = []

    class Network:
        def predict(self, image, points=(), box=None, start=None):
            seen.append((image.shape, list(points), box, start))
            return np.ones(image.shape[:2], bool)

    assert mask_from_prompts(scene[0], [(5, 6, 1)], network=Network()).all()
    assert seen == [((120, 160, 3), [(5, 6, 1)], None, None)]


@pytest.mark.parametrize(("prompts", "message"), [
    ({"box": (200, 10, 220, 30)}, "the box from 200,10 to 220,30 covers no pixel of the 160x120 image"),
    ({"box": (20, 10, 22, 30)}, "box 20,10 to 22,30 covers no 4x4 pixels of the 160x120 image"),
    ({"points": [(160, 10, 1)]}, "point 160,10 lies outside the 160x120 image"),
    ({"points": [(16, 10, 2)]}, "point 16,10 has sign 2"),
    ({"points": [(16, 10, -1)]}, "all points are beside the object"),
    ({}, "no prompt: give points"),
    ({"start": np.ones((10, 10), bool)}, "the mask to correct is 10x10, the 160x120 image is not"),
    ({"start": np.ones((120, 160))}, "the mask to correct is not \\(H, W\\) of bool or integers"),
    ({"points": [(16, 10)]}, "point \\(16, 10\\) is not \\(x, y, sign\\)"),
    ({"box": (16, 10, 20)}, "is not x0, y0, x1, y1 in pixels"),
    ({"box": (16, 10, 20, float("nan"))}, "is not x0, y0, x1, y1 in pixels"),
])  # fmt: skip
def test_prompts_that_are_refused(scene, prompts, message):
    with pytest.raises(MaskError, match=message):
        mask_from_prompts(scene[0], **prompts)


def test_arrays_and_tensors_say_the_same(scene):
    image, truth = scene
    half = truth.copy()
    half[:, 90:] = False
    wanted = mask_from_prompts(image, [(105, 65, 1)], (50, 30, 130, 90), half)
    points, box = np.array([[105, 65, 1]]), np.array([50, 30, 130, 90])
    assert (mask_from_prompts(image, points, box, half.astype(np.uint8) * 3) == wanted).all()
    tensors = torch.from_numpy(image), torch.from_numpy(points), torch.from_numpy(box), torch.from_numpy(half)
    assert (mask_from_prompts(*tensors) == wanted).all()
    assert (mask_from_prompts(tensors[0].permute(2, 0, 1) / 255, *tensors[1:]) == wanted).all()


def test_an_image_of_another_kind_is_refused():
    with pytest.raises(InputError, match="image is float64"):
        mask_from_prompts(np.zeros((9, 9, 3)), [(1, 1, 1)])
