"""J and F: against the official scorer's recorded numbers, against a slow plain reading of the formulas, and
by their laws."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.conftest import GOLDENS
from twospeed.errors import InputError
from twospeed.metrics.regions import (
    Outline,
    boundary_map,
    contour_accuracies,
    contour_accuracy,
    dilate_with_disk,
    match_proposals,
    outline,
    outlines,
    region_similarity,
    score_frame,
    score_frame_pairs,
    statistics,
    tolerance_pixels,
)

CASE = GOLDENS / "davis_metric" / "synthetic_three_objects"
RECORDED = json.loads((CASE / "scores.json").read_text())


def read_folder(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


# a slow plain implementation, pixel by pixel, of the definitions


def plain_j(a: np.ndarray, b: np.ndarray) -> float:
    union = np.sum(a | b)
    return float(np.sum(a & b) / union) if union else 1.0


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            neighbours = [(0, 1), (1, 0), (1, 1)]
            if y == height - 1:
                neighbours = [(0, 1)]
            if x == width - 1:
                neighbours = [(1, 0)]
            if y == height - 1 and x == width - 1:
                neighbours = []
            boundary[y, x] = any(mask[y, x] != mask[y + dy, x + dx] for dy, dx in neighbours)
    return boundary


def plain_near(boundary: np.ndarray, radius: int) -> np.ndarray:
    ys, xs = np.nonzero(boundary)
    near = np.zeros_like(boundary)
    for y, x in np.ndindex(*boundary.shape):
        near[y, x] = bool(np.any((ys - y) ** 2 + (xs - x) ** 2 <= radius * radius))
    return near


def plain_f(result: np.ndarray, annotation: np.ndarray, radius: int) -> float:
    found, wanted = plain_boundary(result), plain_boundary(annotation)
    if not found.any() and not wanted.any():
        return 1.0
    precision = np.sum(found & plain_near(wanted, radius)) / found.sum() if found.any() else 1.0
    recall = np.sum(wanted & plain_near(found, radius)) / wanted.sum() if wanted.any() else 1.0
    if not found.any():
        recall = 0.0
    if not wanted.any():
        precision = 0.0
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@st.composite
def masks(draw: st.DrawFn, side: int = 14) -> np.ndarray:
    """Blobs rather than noise: a few rectangles added and taken away, often touching the image's edges."""
    mask = np.zeros((side, side + 3), dtype=bool)
    for _ in range(draw(st.integers(0, 3))):
        top, left = draw(st.integers(0, side - 1)), draw(st.integers(0, side + 2))
        height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
        mask[top : top + height, left : left + width] = draw(st.booleans())
    return mask


label_maps = arrays(np.uint8, (12, 15), elements=st.sampled_from([0, 0, 0, 1, 2, 255]))

# recorded numbers of the official scorer


def test_semi_supervised_scores_equal_the_official_ones():
    annotations, results = read_folder(CASE / "annotations"), read_folder(CASE / "results_semi")
    frames = [score_frame(r, a, 3) for r, a in zip(results[1:-1], annotations[1:-1], strict=True)]
    j, f = (np.stack(part, axis=1) for part in zip(*frames, strict=True))  # (K, T)
    recorded = RECORDED["tasks"]["semi-supervised"]
    np.testing.assert_allclose(j, recorded["per_frame_J"], atol=1e-6)
    np.testing.assert_allclose(f, recorded["per_frame_F"], atol=1e-6)
    for k, expected in enumerate(recorded["per_object"]):
        for name, values in (("J", j[k]), ("F", f[k])):
            got = statistics(values)
            assert [got.mean, got.recall, got.decay] == pytest.approx(
                [expected[f"{name}_mean"], expected[f"{name}_recall"], expected[f"{name}_decay"]], abs=1e-6
            )


def test_unsupervised_scores_and_matching_equal_the_official_ones():
    annotations, results = read_folder(CASE / "annotations"), read_folder(CASE / "results_unsup")
    frames = [score_frame_pairs(r, a, 7, 3) for r, a in zip(results, annotations, strict=True)]
    j, f = (np.stack(part, axis=2) for part in zip(*frames, strict=True))  # (P, K, T)
    recorded = RECORDED["tasks"]["unsupervised"]
    quality = (j.mean(axis=2) + f.mean(axis=2)) / 2
    np.testing.assert_allclose(quality, recorded["score_matrix_proposal_by_object"], atol=1e-6)
    matches = match_proposals(j, f)
    assert [[p + 1, k + 1] for p, k in matches] == recorded["matched_proposal_object"]
    rows, columns = zip(*matches, strict=True)
    np.testing.assert_allclose(j[rows, columns], recorded["per_frame_J"], atol=1e-6)
    np.testing.assert_allclose(f[rows, columns], recorded["per_frame_F"], atol=1e-6)


# the fast way equals the plain way


@settings(max_examples=60, deadline=None)
@given(masks(), masks(), st.integers(1, 6))
def test_crops_give_what_whole_images_give(a: np.ndarray, b: np.ndarray, radius: int):
    first, second = outline(a, radius), outline(b, radius)
    assert region_similarity(first, second) == pytest.approx(plain_j(a, b), abs=1e-12)
    assert contour_accuracy(first, second) == pytest.approx(plain_f(a, b, radius), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(masks(), masks()), max_size=9), st.integers(0, 6))
def test_many_pairs_at_once_give_what_each_gives_alone(pairs: list[tuple[np.ndarray, np.ndarray]], radius: int):
    cut = [(outline(a, radius), outline(b, radius)) for a, b in pairs]
    found = contour_accuracies(cut)
    assert found == [contour_accuracy(*pair) for pair in cut]
    assert found == pytest.approx([plain_f(a, b, radius) for a, b in pairs], abs=1e-12)


def test_pairs_of_other_sizes_and_tolerances_are_not_mixed():
    """An object at the lower edge of its image has no boundary there; in a taller image it has."""
    pairs = []
    for height, width, radius in ((12, 17, 1), (12, 17, 3), (15, 17, 1), (12, 20, 1), (12, 17, 1)):
        a, b = np.zeros((2, height, width), bool)
        a[5:12, 4:17] = b[7:12, 6:17] = True
        pairs.append((a, b, radius))
    found = contour_accuracies([(outline(a, radius), outline(b, radius)) for a, b, radius in pairs])
    assert found == pytest.approx([plain_f(*pair) for pair in pairs], abs=1e-12)
    assert len(set(found)) == 4


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (11, 9)), st.integers(0, 4))
def test_eight_masks_in_a_plane_are_each_as_one_alone(plane: np.ndarray, radius: int):
    for bit in range(8):
        mask = (plane >> bit & 1).astype(bool)
        np.testing.assert_array_equal(boundary_map(plane) >> bit & 1, boundary_map(mask))
        np.testing.assert_array_equal(dilate_with_disk(plane, radius) >> bit & 1, dilate_with_disk(mask, radius))


@settings(max_examples=60, deadline=None)
@given(label_maps, label_maps, st.tuples(*[st.integers(0, 5)] * 4), st.sampled_from([1, 2]))
def test_a_part_of_an_image_gives_what_the_image_gives(
    first: np.ndarray, second: np.ndarray, margins: tuple[int, int, int, int], count: int
):
    top, bottom, left, right = margins

    def part(labels: np.ndarray) -> list[Outline]:
        height, width = labels.shape
        inside = labels[top : height - bottom, left : width - right]
        return outlines(inside, count, top=top, left=left, size=(height, width))

    for labels in (first, second):  # 0 outside of the part, and in its outermost rows and columns inside the image
        labels[: top + 1 if top else 0] = labels[:, : left + 1 if left else 0] = 0
        labels[len(labels) - bottom - 1 if bottom else len(labels) :] = 0
        labels[:, labels.shape[1] - right - 1 if right else labels.shape[1] :] = 0
    whole = list(zip(outlines(first, count), outlines(second, count), strict=True))
    parts = list(zip(part(first), part(second), strict=True))
    for measure in (region_similarity, contour_accuracy):
        assert [measure(*pair) for pair in parts] == [measure(*pair) for pair in whole]
    assert contour_accuracies(parts) == contour_accuracies(whole)


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, (11, 9)))
def test_boundary_map_follows_the_neighbour_rule(mask: np.ndarray):
    np.testing.assert_array_equal(boundary_map(mask), plain_boundary(mask))


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 8, 13, 18])
def test_dilation_is_by_the_euclidean_disk(radius: int):
    rng = np.random.default_rng(radius)
    mask = rng.random((19, 23)) < 0.03
    mask[0, 0] = mask[-1, -1] = mask[0, -1] = True  # corners, where shifted rows would run into each other
    widened = np.pad(mask, radius)
    np.testing.assert_array_equal(dilate_with_disk(mask, radius), plain_near(widened, radius))


@settings(max_examples=40, deadline=None)
@given(label_maps, label_maps)
def test_void_pixels_belong_to_no_mask_in_the_unsupervised_task(result: np.ndarray, annotation: np.ndarray):
    result = np.where(result == 255, 1, result).astype(np.uint8)
    j, f = score_frame_pairs(result, annotation, 2, 2)
    valid = annotation != 255
    radius = tolerance_pixels(*result.shape)
    for p in (1, 2):
        for k in (1, 2):
            found, wanted = (result == p) & valid, (annotation == k) & valid
            assert j[p - 1, k - 1] == pytest.approx(plain_j(found, wanted), abs=1e-12)
            assert f[p - 1, k - 1] == pytest.approx(plain_f(found, wanted, radius), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(label_maps, label_maps)
def test_void_pixels_are_background_in_the_semi_supervised_task(result: np.ndarray, annotation: np.ndarray):
    j, f = score_frame(result, annotation, 2)
    j_background, f_background = score_frame(result, np.where(annotation == 255, 0, annotation).astype(np.uint8), 2)
    np.testing.assert_array_equal(j, j_background)
    np.testing.assert_array_equal(f, f_background)
    for k in (1, 2):
        assert j[k - 1] == pytest.approx(plain_j(result == k, annotation == k), abs=1e-12)


# laws


@settings(max_examples=60, deadline=None)
@given(masks(), masks())
def test_measures_are_symmetric_bounded_and_one_for_the_same_mask(a: np.ndarray, b: np.ndarray):
    first, second = outline(a), outline(b)
    for measure in (region_similarity, contour_accuracy):
        assert measure(first, second) >= 0.0
        assert measure(first, second) == pytest.approx(measure(second, first))
        assert measure(first, second) <= 1.0
        assert measure(first, outline(a)) == 1.0


def test_contour_accuracy_falls_as_a_mask_is_moved_away():
    mask = np.zeros((120, 160), dtype=bool)
    mask[40:80, 40:80] = True
    scores = [contour_accuracy(outline(np.roll(mask, shift, axis=1)), outline(mask)) for shift in range(0, 24, 2)]
    assert scores[0] == 1.0
    assert all(later <= earlier for earlier, later in pairwise(scores))
    assert scores[-1] < 0.6


def test_empty_masks():
    empty, full = np.zeros((20, 30), dtype=bool), np.ones((20, 30), dtype=bool)
    part = empty.copy()
    part[5:9, 5:9] = True
    assert region_similarity(outline(empty), outline(empty)) == 1.0
    assert contour_accuracy(outline(empty), outline(empty)) == 1.0
    assert region_similarity(outline(empty), outline(part)) == 0.0
    assert contour_accuracy(outline(empty), outline(part)) == contour_accuracy(outline(part), outline(empty)) == 0.0
    # A mask of the whole image has no boundary either.
    assert contour_accuracy(outline(full), outline(empty)) == 1.0


def test_tolerance_is_eight_pixels_at_480p():
    assert tolerance_pixels(480, 854) == 8
    assert tolerance_pixels(300, 400) == 4  # exactly 0.008 * 500: not rounded up further


def test_recall_is_strict_and_decay_compares_quarters_that_share_border_frames():
    values = np.array([0.5, 0.5, 0.9, 0.1, 0.6])
    got = statistics(values)
    assert got.recall == pytest.approx(2 / 5)
    assert got.decay == pytest.approx(np.mean(values[:2]) - np.mean(values[3:]))


def test_decay_counts_past_256_frames():
    values = np.linspace(1.0, 0.0, 601)  # an index kept in 8 bits would wrap
    assert statistics(values).decay == pytest.approx(0.75)


def test_mean_ignores_nan():
    assert statistics(np.array([0.2, math.nan, 0.4])).mean == pytest.approx(0.3)


def test_each_object_gets_its_own_proposal():
    j = np.zeros((3, 2, 4))
    j[0, 0], j[0, 1], j[2, 0] = 0.9, 0.8, 0.7  # one proposal is best for both objects
    assert match_proposals(j, j) == [(0, 1), (2, 0)]


def test_sizes_that_differ_are_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"result is 30x20 pixels, its annotation 40x20"):
        score_frame(np.zeros((20, 30), np.uint8), np.zeros((20, 40), np.uint8), 1)


def test_one_hot_stacks_are_refused():
    with pytest.raises(InputError, match=r"expected a label map"):
        score_frame(np.zeros((2, 20, 30), np.uint8), np.zeros((20, 30), np.uint8), 1)
