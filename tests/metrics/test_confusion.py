"""mIoU and its relatives against both official tools (provenance in expected.json)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import GOLDENS
from twospeed import InputError
from twospeed.metrics.confusion import (
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_class_accuracy,
    mean_iou,
    over_interval,
    pixel_accuracy,
)

FOLDER = GOLDENS / "miou_metric"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
MAPS = np.load(FOLDER / "maps.npz")
CLOSE = {"abs": EXPECTED["tolerance"]}


@pytest.mark.parametrize("name", EXPECTED["results"])
def test_official_numbers(name):
    case = EXPECTED["results"][name]
    matrix = confusion_matrix(MAPS[f"{name}/labels"], MAPS[f"{name}/predictions"], case["classes"])
    one, other = case["gsvnet"], case["swiftnet"]
    if "confusion_matrix" in one:
        assert matrix.tolist() == one["confusion_matrix"]
    assert matrix.sum() == other["pixels_counted"]
    assert np.nan_to_num(class_iou(matrix)) == pytest.approx(one["class_IoU"], **CLOSE)
    theirs = [np.nan if value is None else value for value in other["class_IoU"]]
    assert class_iou(matrix) == pytest.approx(theirs, nan_ok=True, **CLOSE)
    assert mean_iou(matrix) == pytest.approx(one["mIoU"], **CLOSE)
    assert mean_iou(matrix, "nan") == pytest.approx(
        np.nan if other["mIoU"] is None else other["mIoU"], nan_ok=True, **CLOSE
    )
    assert mean_iou(matrix, "skip") == pytest.approx(case["mIoU_over_classes_present"], **CLOSE)
    assert pixel_accuracy(matrix) == pytest.approx(other["pixel_accuracy"], **CLOSE)
    assert mean_class_accuracy(matrix) == pytest.approx(one["mean_class_accuracy"], **CLOSE)
    assert frequency_weighted_iou(matrix) == pytest.approx(one["frequency_weighted_IoU"], **CLOSE)


def test_average_and_minimum_over_distances():
    case = EXPECTED["results"]["distances"]
    matrices = [
        confusion_matrix(labels, found, case["classes"])
        for labels, found in zip(MAPS["distances/labels"], MAPS["distances/predictions"], strict=True)
    ]
    assert [mean_iou(matrix) for matrix in matrices] == pytest.approx(case["by_distance"], **CLOSE)
    average, minimum = over_interval(matrices)
    assert average == pytest.approx(case["average_mIoU_pooled_matrix"], **CLOSE)
    assert minimum == pytest.approx(case["last_distance_mIoU"], **CLOSE)
    assert abs(average - case["average_mIoU_mean_of_values"]) > 1e-3


def test_void_alone_counts_nothing():
    matrix = confusion_matrix(np.full((4, 5), 255), np.zeros((4, 5), int), 3)
    assert matrix.sum() == 0
    assert np.isnan(mean_iou(matrix))
    assert np.isnan(pixel_accuracy(matrix))


def test_bad_input_is_one_clear_line():
    with pytest.raises(InputError, match=r"labels are \(2, 2\), predictions \(2, 3\)"):
        confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 3)
    with pytest.raises(InputError, match="prediction holds class 7; the 3 classes are 0 to 2"):
        confusion_matrix(np.zeros((2, 2), int), np.full((2, 2), 7), 3)
    with pytest.raises(InputError, match="no distance was evaluated"):
        over_interval([])


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_perfect_and_bounded(classes, seed):
    random = np.random.default_rng(seed)
    labels, found = random.integers(0, classes, (2, 50))
    assert mean_iou(confusion_matrix(labels, labels, classes), "skip") == 1
    matrix = confusion_matrix(labels, found, classes)
    assert 0 <= mean_iou(matrix) <= mean_iou(matrix, "skip") <= 1
    assert np.allclose(class_iou(matrix), class_iou(matrix.T), equal_nan=True)
