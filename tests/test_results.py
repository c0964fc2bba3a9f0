"""Results as their users hold them: short, lazy, and ready for JSON, pictures, files, COCO and supervision."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import cv2
import numpy as np
import pytest
import supervision
import torch
from pycocotools import mask as coco

from twospeed import ActionBoxes, ActionScores, ActionSpan, ClassMap, InputError, LabelMap, ObjectMasks
from twospeed.results import AnnotatedFrame, Result
from twospeed.video.indexed_png import read_label_map

LABELS = np.zeros((20, 30), np.uint8)
LABELS[2:8, 3:9], LABELS[10:19, 20:28] = 4, 9
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def planes() -> np.ndarray:
    found = np.stack([i == LABELS for i in (0, 4, 9)]).astype(np.float32)
    return found * 0.7 + 0.1


def masks() -> ObjectMasks:
    return ObjectMasks(LABELS, planes(), (4, 9), 7, 0.25)


def classes() -> ClassMap:
    names = LabelMap(tuple(f"thing {i}" for i in range(10)), tuple((i, 2 * i, 255) for i in range(10)))
    return ClassMap(LABELS, np.zeros((10, 2, 3), np.float32), True, 7, 0.25, names)


def actions() -> ActionScores:
    rows = np.full((3, 400), 1 / 400, np.float32)
    labels = tuple(f"action {i}" for i in range(400))
    return ActionScores(rows[0], labels, np.arange(3.0), rows, (ActionSpan("action 0", 0.0, 3.0, 0.5),))


def people() -> ActionBoxes:
    boxes = np.array([[1, 2, 11, 12], [5, 5, 25, 18]], np.float32)
    scores = np.array([[0.1, 0.9], [0.6, 0.2]], np.float32)
    return ActionBoxes(1.5, boxes, np.array([0.9, 0.8], np.float32), scores, ("sit", "walk"), (1, 2))


ALL = [masks, classes, actions, people]


@pytest.mark.parametrize("make", ALL)
def test_a_result_prints_in_one_short_line_and_leaves_as_json(make, tmp_path):
    result = make()
    assert isinstance(result, Result)
    assert len(repr(result)) < 120
    assert "array" not in repr(result)
    result.save(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    with pytest.raises(InputError, match="a result of kind"):
        result.save(tmp_path / "result.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("make", ALL)
def test_a_result_is_drawn_on_its_frame(make):
    before = IMAGE.copy()
    large = cv2.resize(IMAGE, (300, 200)) if make in (actions, people) else IMAGE
    drawn = make().draw(large)
    assert drawn.shape == large.shape
    assert (drawn != large).any()
    assert (before == IMAGE).all()
    assert (make().draw(torch.from_numpy(large)) == drawn).all()
    assert (make().draw(torch.from_numpy(large).permute(2, 0, 1) / 255) == drawn).all()


@pytest.mark.parametrize("make", [masks, classes])
def test_labels_come_back_from_a_png_and_show_in_notebooks(make, tmp_path):
    make().save(tmp_path / "00007.png")
    assert (read_label_map(tmp_path / "00007.png") == LABELS).all()
    shown = cv2.imdecode(np.frombuffer(make()._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (20, 30, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 3


def test_probabilities_given_as_a_function_are_made_once_when_they_are_read():
    made: list[int] = []
    result = ObjectMasks(LABELS, lambda: made.append(1) or planes(), (4, 9))
    assert repr(result)
    assert not made
    assert result.probabilities is result.probabilities
    assert made == [1]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_holds_the_arrays(again):
    result = again(ObjectMasks(LABELS, planes, (4, 9), 7, 0.25))
    np.testing.assert_array_equal(result.probabilities, planes())
    assert (result.frame_index, result.time_s, result.object_ids) == (7, 0.25, (4, 9))


def test_confidence_is_the_soft_overlap_of_probabilities_and_labels():
    result = masks()
    p = planes()
    for number, i in enumerate(result.object_ids):
        inside = p[number + 1][i == LABELS].sum()
        expected = inside / (p[number + 1].sum() + (i == LABELS).sum() - inside)
        assert result.confidence[number] == pytest.approx(expected)
    assert ObjectMasks(np.zeros_like(LABELS), planes(), (4, 9)).confidence.tolist() == [0, 0]
    assert ObjectMasks(np.zeros_like(LABELS), np.ones((1, 20, 30), np.float32)).confidence.shape == (0,)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_coco_annotations_are_pycocotools():
    annotations = masks().to_coco(image_id=3)
    assert [a["category_id"] for a in annotations] == [4, 9]
    for annotation in annotations:
        found = coco.decode(annotation["segmentation"])
        assert (found == (annotation["category_id"] == LABELS)).all()
        assert annotation["area"] == coco.area(annotation["segmentation"])
        np.testing.assert_array_equal(coco.toBbox(annotation["segmentation"]), annotation["bbox"])
        assert annotation["image_id"] == 3
    assert [a["category_id"] for a in classes().to_coco()] == [0, 4, 9]
    assert people().to_coco()[0]["bbox"] == [1, 2, 10, 10]
    with pytest.raises(InputError, match="ActionScores holds no objects of an image"):
        actions().to_coco()


def test_supervision_gets_masks_boxes_and_ids():
    found = masks().to_supervision()
    assert found.tracker_id.tolist() == [4, 9]
    assert found.xyxy.tolist() == [[3, 2, 9, 8], [20, 10, 28, 19]]
    assert (found.mask[0] == (LABELS == 4)).all()
    assert classes().to_supervision().data["class_name"].tolist() == ["thing 0", "thing 4", "thing 9"]
    assert people().to_supervision().data["class_name"].tolist() == ["walk", "sit"]
    assert isinstance(actions().to_supervision(), supervision.Classifications)


def test_without_supervision_one_line_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="the package supervision is not installed"):
        masks().to_supervision()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../a", "a\0b", None, 3])
def test_annotations_cannot_name_files_outside_of_their_folder(name):
    masks = ObjectMasks(np.zeros((2, 2), np.uint8), np.zeros((1, 2, 2), np.float32), (), 0, 0.0)
    for video, frame in ((name, "00000"), ("clip", name)):
        with pytest.raises(InputError, match="no name of a video or frame"):
            AnnotatedFrame(video, frame, 0, masks)
