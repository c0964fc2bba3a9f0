"""Frame-mAP: the official scripts' own numbers, and the rules one by one."""

import json

import numpy as np
import pytest

from tests.conftest import GOLDENS
from twospeed.errors import InputError
from twospeed.evaluation.ava import evaluate_ava
from twospeed.metrics.frame_ap import FrameBoxes, average_precision, frame_ap

AVA = GOLDENS / "ava_metric"
BOX = (0.1, 0.1, 0.5, 0.5)


def boxes(*rows):
    """Rows of (frame, box, class, score)."""
    frames, corners, classes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return FrameBoxes(
        np.array(frames, np.int64),
        np.array(corners, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(scores, np.float64),
    )


@pytest.mark.parametrize("rules", ["activitynet", "pyslowfast"])
def test_the_official_scripts_numbers(rules):
    expected = json.loads((AVA / "expected.json").read_text())["results"][rules]
    report = evaluate_ava(
        AVA / "detections.csv",
        AVA / "groundtruth.csv",
        labels=AVA / "label_map.pbtxt",
        exclusions=AVA / "excluded_timestamps.csv",
        rules=rules,
    )
    found = report.to_json()
    assert set(found["class_AP"]) == {entry["name"] for entry in expected["per_class"].values()}
    for entry in expected["per_class"].values():
        value = found["class_AP"][entry["name"]]
        assert entry["ap_low"] - 1e-6 <= value <= entry["ap_high"] + 1e-6, entry["name"]
        if entry["ap_low"] == entry["ap_high"]:
            assert value == pytest.approx(entry["ap"], abs=1e-6), entry["name"]
        assert found["ground_truth_boxes"][entry["name"]] == entry["num_groundtruth"]
    assert found["mAP_interval_of_ties"] == pytest.approx([expected["mAP_low"], expected["mAP_high"]], abs=1e-9)
    assert expected["mAP_low"] - 1e-6 <= found["mAP"] <= expected["mAP_high"] + 1e-6


def test_average_precision_is_the_area_under_the_monotone_envelope():
    hits = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), hits, 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0.0


def test_a_second_detection_of_a_box_is_wrong_even_if_another_box_overlaps_too():
    shifted = (0.1, 0.1, 0.45, 0.5)
    truth = boxes((0, BOX, 1, 1), (0, shifted, 1, 1))
    found = boxes((0, BOX, 1, 0.9), (0, BOX, 1, 0.8))
    assert frame_ap(truth, found, [1]).mean == pytest.approx(0.5)


def test_who_comes_first_is_the_score_or_the_file():
    worse = (0.1, 0.1, 0.5, 0.4)
    truth = boxes((0, BOX, 1, 1), (1, BOX, 1, 1))
    found = boxes((0, worse, 1, 0.3), (0, BOX, 1, 0.9), (1, BOX, 1, 0.5))
    assert frame_ap(truth, found, [1]).mean == pytest.approx(1.0)
    # By file order the row of 0.3 takes the box, the row of 0.9 is wrong: precision 1/2 then 2/3
    assert frame_ap(truth, found, [1], rules="pyslowfast").mean == pytest.approx(2 / 3)


def test_frames_without_ground_truth_and_excluded_frames():
    truth, found = boxes((0, BOX, 1, 1), (7, BOX, 1, 1)), boxes((3, BOX, 1, 0.9), (0, BOX, 1, 0.5), (7, BOX, 1, 0.4))
    assert frame_ap(truth, found, [1]).mean == 1.0
    assert frame_ap(truth, found, [1], rules="pyslowfast").mean == pytest.approx(2 / 3)
    assert frame_ap(truth, found, [1], rules="pyslowfast", excluded=[3]).mean == 1.0
    result = frame_ap(truth, found, [1], rules="pyslowfast", excluded=[7])
    assert result.ground_truth == {1: 1}
    assert result.mean == pytest.approx(0.5)


def test_only_the_best_50_of_a_frame_count_by_the_servers_rule():
    truth = boxes((0, BOX, 1, 1))
    far = (0.8, 0.8, 0.9, 0.9)
    crowd = [(0, far, 2, 0.9)] * 50
    found = boxes((0, BOX, 1, 0.5), *crowd)
    assert frame_ap(truth, found, [1, 2]).mean == 0.0
    assert frame_ap(truth, found, [1]).mean == 1.0  # classes that are not scored take no place
    assert frame_ap(truth, found, [1, 2], rules="pyslowfast").mean == 1.0


def test_classes_without_ground_truth_are_left_out_and_missed_ones_are_zero():
    truth = boxes((0, BOX, 1, 1), (0, BOX, 2, 1))
    result = frame_ap(truth, boxes((0, BOX, 1, 0.5), (0, BOX, 3, 0.5)), [1, 2, 3])
    assert result.by_class == {1: 1.0, 2: 0.0}
    assert result.detections == {1: 1, 2: 0, 3: 1}
    nothing = frame_ap(truth, boxes(), [1, 2])
    assert nothing.mean == 0.0
    assert np.isnan(frame_ap(truth, boxes(), [9]).mean)


def test_the_limit_of_overlap_is_a_hit_and_flat_boxes_are_dropped():
    half, less, flat = (0.0, 0.0, 1.0, 0.5), (0.0, 0.0, 1.0, 0.49), (0.5, 0.4, 0.5, 0.3)
    truth = boxes((0, (0.0, 0.0, 1.0, 1.0), 1, 1))
    assert frame_ap(truth, boxes((0, half, 1, 0.5)), [1]).mean == 1.0
    assert frame_ap(truth, boxes((0, less, 1, 0.5)), [1]).mean == 0.0
    assert frame_ap(truth, boxes((0, flat, 1, 0.9), (0, half, 1, 0.5)), [1]).mean == 1.0


def test_frames_and_classes_far_apart_are_told_apart():
    truth = boxes((10**9, BOX, 80, 1), (5, BOX, 1, 1))
    found = boxes((10**9, BOX, 80, 0.5), (5, BOX, 80, 0.4), (4, BOX, 1, 0.9), (10**9 + 1, BOX, 1, 0.9))
    assert frame_ap(truth, found, [1, 80]).by_class == {1: 0.0, 80: 1.0}


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="rules='ava': choose activitynet or pyslowfast"):
        frame_ap(boxes(), boxes(), [1], rules="ava")
    with pytest.raises(InputError, match="must be finite"):
        boxes((0, (0, 0, float("nan"), 1), 1, 1))
    with pytest.raises(InputError, match="one of each for every row"):
        FrameBoxes(np.zeros(2, np.int64), np.zeros((1, 4)), np.zeros(2, np.int64), np.zeros(2))
