"""Frame-mAP of scored keyframes in memory: the same number as from the files that hold them."""

import io

import numpy as np
import pytest

from tests.conftest import GOLDENS
from twospeed.data.benchmarks.ava import default_label_map, read_ground_truth, write_detections
from twospeed.data.benchmarks.ava_keyframes import keyframes_of
from twospeed.evaluation.ava import evaluate_ava, keyframe_ap

TRUTH = GOLDENS / "ava_metric" / "groundtruth.csv"


def test_memory_and_files_give_the_same_score(tmp_path):
    truth = keyframes_of(read_ground_truth(TRUTH))
    people = truth[3:]  # nobody was found in the first ones
    rng = np.random.default_rng(0)
    scores = [np.round(rng.random((len(keyframe), 80)), 6) for keyframe in people]
    result = keyframe_ap(truth, people, scores, list(default_label_map()))
    text = io.StringIO()
    for keyframe, found in zip(people, scores, strict=True):
        write_detections(text, keyframe.video, keyframe.second, keyframe.boxes_xyxy, found)
    (tmp_path / "detections.csv").write_text(text.getvalue())
    report = evaluate_ava(tmp_path / "detections.csv", TRUTH)
    low, high = report.scores["mAP_interval_of_ties"]
    assert low - 1e-9 <= result.mean <= high + 1e-9
    assert result.mean == pytest.approx(report.scores["mAP"], abs=1e-6)


def test_right_scores_are_perfect_and_no_people_score_nothing():
    truth = keyframes_of(read_ground_truth(TRUTH))
    right = [np.array([[action in found for action in range(1, 81)] for found in k.actions], float) for k in truth]
    assert keyframe_ap(truth, truth, right, list(default_label_map())).mean == 1.0
    assert keyframe_ap(truth, [], [], list(default_label_map())).mean == 0.0
