"""Images and masks of one warp end at the same place, and a spline goes through its points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.transforms.spatial import draw_affine
from twospeed.transforms.warp import (
    Warp,
    compose,
    crop_matrix,
    cut_box,
    cut_labels,
    draw_resized_crop,
    draw_spline,
    fit_spline,
)

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(24, 60), st.integers(24, 60))


def blob(seed: int, height: int, width: int) -> np.ndarray:
    """A mask of 0 and 255 made of a few rectangles."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(3):
        y1, y2 = sorted(rng.integers(0, height + 1, 2))
        x1, x2 = sorted(rng.integers(0, width + 1, 2))
        mask[y1:y2, x1:x2] = 255
    return mask


def flat_around(image: np.ndarray, reach: int = 2) -> np.ndarray:
    """Where an image has one value in the whole neighbourhood."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = 2 * reach + 1
    return maximum_filter(image, size) == minimum_filter(image, size)


@given(sizes, seeds, st.booleans())
@settings(deadline=None, max_examples=60)
def test_labels_go_where_the_image_goes(size, seed, bent):
    rng = np.random.default_rng(seed)
    turn = draw_affine(rng, *size, degrees=30, shear_degrees=15, scale=(0.7, 1.4), shift=0.1)
    spline = draw_spline(rng, points=6, spread=0.01) if bent else None
    warp = Warp(np.array(turn.matrix), 40, 48, spline)
    mask = blob(seed, *size)
    labels, image = warp.labels(mask), warp.image(np.dstack([mask] * 3))[..., 0]
    assert set(np.unique(labels)) <= {0, 255}
    sure = flat_around(image)  # away from edges nothing is blended, and a pixel's shift shows
    np.testing.assert_array_equal(labels[sure], image[sure])


@given(sizes, st.booleans(), st.data())
@settings(deadline=None, max_examples=40)
def test_a_crop_at_the_same_scale_moves_pixels_unchanged(size, flip, data):
    height, width = size
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = image[top : top + h, left : left + w][:, :: -1 if flip else 1]
    warp = Warp(crop_matrix(top, left, h, w, (h, w), flip=flip), h, w)
    np.testing.assert_array_equal(warp.image(image), expected)
    np.testing.assert_array_equal(warp.labels(image[..., 0].copy()), expected[..., 0])


@given(seeds, st.booleans())
@settings(deadline=None, max_examples=30)
def test_cut_box_and_cut_labels_agree(seed, enlarge):
    rng = np.random.default_rng(seed)
    mask = blob(seed, 60, 80)
    box = (int(rng.integers(10)), int(rng.integers(10)), int(rng.integers(20, 50)), int(rng.integers(20, 70)))
    side = 90 if enlarge else 24
    labels, image = cut_labels(mask, box, side), cut_box(np.dstack([mask] * 3), box, side)[..., 0]
    sure = flat_around(image)
    np.testing.assert_array_equal(labels[sure], image[sure])


def test_what_was_outside_takes_the_fill():
    warp = Warp(crop_matrix(-4, -4, 12, 12, (12, 12)), 12, 12, fill=(1, 2, 3))
    image = warp.image(np.full((4, 4, 3), 200, np.uint8))
    assert image[0, 0].tolist() == [1, 2, 3]
    assert image[5, 5].tolist() == [200] * 3
    assert warp.labels(np.full((4, 4), 7, np.uint8), fill=9)[0, 0] == 9


def test_composed_matrices_apply_the_earlier_one_first():
    shift, double = np.array([[1.0, 0, 3], [0, 1, 5]]), np.array([[2.0, 0, 0], [0, 2, 0]])
    np.testing.assert_allclose(compose(double, shift) @ (1, 1, 1), (8, 12))
    np.testing.assert_allclose(compose(shift, double) @ (1, 1, 1), (5, 7))


def test_a_flat_matrix_is_refused():
    with pytest.raises(InputError, match="cannot be inverted"):
        Warp(np.array([[1.0, 0, 0], [0, 0, 0]]), 4, 4).labels(np.zeros((4, 4), np.uint8))


@given(seeds)
@settings(deadline=None, max_examples=40)
def test_a_spline_moves_its_points_as_asked(seed):
    rng = np.random.default_rng(seed)
    points = (np.stack(np.meshgrid([0.2, 0.5, 0.8], [0.2, 0.5, 0.8]), -1) + rng.uniform(-0.1, 0.1, (3, 3, 2))).reshape(
        9, 2
    )
    moves = rng.normal(0, 0.03, (9, 2))
    np.testing.assert_allclose(fit_spline(points, moves).displacement(points), moves, atol=1e-9)


@given(seeds, st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)))
@settings(deadline=None, max_examples=20)
def test_a_spline_of_equal_moves_is_a_shift(seed, move):
    points = np.random.default_rng(seed).random((5, 2))
    spline = fit_spline(points, np.tile(move, (5, 1)))
    np.testing.assert_allclose(
        spline.displacement(np.random.default_rng(1).random((20, 2))), np.tile(move, (20, 1)), atol=1e-6
    )


def test_the_coarse_grid_stands_for_the_exact_spline():
    rows, columns = np.mgrid[0:96, 0:128]
    places = np.stack([(columns + 0.5) / 128, (rows + 0.5) / 96], -1).reshape(-1, 2)
    worst, mean = [], []
    for seed in range(20):
        spline = draw_spline(np.random.default_rng(seed))
        exact = spline.displacement(places).reshape(96, 128, 2) * (128, 96)
        away = np.abs(spline.grid(96, 128) - exact)  # pixels
        worst.append(away.max())
        mean.append(away.mean())
    assert max(mean) < 0.2
    assert np.median(worst) < 0.6  # points that nearly touch leave a steeper spot now and then


def test_points_that_make_no_spline_are_refused():
    for points in ([[0, 0], [1, 1]], [[0, 0], [0.5, 0.5], [1, 1]], [[0, 0], [0, 0], [1, 0], [0, 1]]):
        with pytest.raises(InputError, match="needs three or more, all apart"):
            fit_spline(np.array(points, float), np.zeros((len(points), 2)))


@given(st.integers(2, 300), st.integers(2, 300), seeds)
@settings(max_examples=100)
def test_resized_crops_lie_inside_with_area_and_aspect_in_range(height, width, seed):
    top, left, h, w = draw_resized_crop(np.random.default_rng(seed), height, width, area=(0.36, 1.0))
    assert top >= 0
    assert left >= 0
    assert 1 <= h <= height - top
    assert 1 <= w <= width - left
    if min(height, width) > 20 and 3 / 4 <= width / height <= 4 / 3:
        assert 0.34 <= h * w / (height * width) <= 1
    if min(h, w) > 20:
        assert 0.7 <= w / h <= 1.43


def test_crops_are_spread_over_their_range():
    rng = np.random.default_rng(0)
    shares = [h * w / 480**2 for _, _, h, w in (draw_resized_crop(rng, 480, 480, area=(0.25, 1.0)) for _ in range(400))]
    assert min(shares) < 0.3
    assert max(shares) > 0.85
    with pytest.raises(InputError, match="low <= high"):
        draw_resized_crop(rng, 10, 10, area=(0.0, 1.0))
