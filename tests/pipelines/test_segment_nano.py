"""The shipped labeller works at once, offline, and labels what it was trained for."""

from __future__ import annotations

import numpy as np
import pytest

import twospeed
from tests.conftest import require_data
from twospeed.data.benchmarks.camvid import CLASSES, CamVid
from twospeed.metrics.confusion import confusion_matrix, mean_iou, pixel_accuracy
from twospeed.weights.catalog import find
from twospeed.weights.store import default_weights


def test_default_weights_are_in_the_package_and_small() -> None:
    path = default_weights(find("segment_nano"))
    assert path.stat().st_size < 25e6
    model = twospeed.create_model("segment_nano", "default")
    assert (model.num_classes, model.keyframe_scale, model.input_order) == (11, 4 / 3, "rgb")
    with pytest.raises(twospeed.CheckpointError, match="num_classes"):
        twospeed.create_model("segment_nano", "default", num_classes=19)


def test_the_catalogue_says_where_the_weights_come_from() -> None:
    entry = find("segment_nano")
    assert entry.weights is not None
    assert "CC BY-NC 4.0" in entry.weights.licence
    assert "CamVid" in entry.weights.trained_on
    assert "Apache-2.0" in entry.weights.trained_on


def test_segmenter_and_segment_take_it_by_default() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    result = twospeed.Segmenter().step(frame)
    assert result.labels.shape == (50, 70)
    assert result.scores.shape == (11, 17, 17)
    assert twospeed.Segmenter().labels in (None, CLASSES)


def test_a_drive_is_labelled_well_on_keyframes_and_between() -> None:
    frames = CamVid(require_data("camvid"), "val").frames[20:28]
    segmenter = twospeed.Segmenter(keyframe_every=4)
    matrices = {True: np.zeros((11, 11), np.int64), False: np.zeros((11, 11), np.int64)}
    for frame in frames:
        result = segmenter.step(frame.image())
        matrices[result.is_keyframe] += confusion_matrix(frame.labels(), result.labels, 11)
    assert pixel_accuracy(matrices[True]) > 0.85
    assert pixel_accuracy(matrices[False]) > 0.85
    assert mean_iou(matrices[True], absent="skip") > 0.6
    assert mean_iou(matrices[False], absent="skip") > 0.55
