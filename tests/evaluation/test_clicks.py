"""Clicks until a mask is good: counted as the protocol says, by the function and by the command."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from twospeed.cli.main import exit_code
from twospeed.errors import DatasetError
from twospeed.evaluation.clicks import evaluate_clicks


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    for name, shift in (("ant", 0), ("bee", 30)):
        images, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(3):
            image = np.full((80, 120, 3), 40, np.uint8)
            mask = np.zeros((80, 120), np.uint8)
            mask[20:50, 10 + shift : 50 + shift] = 255
            image[mask > 0] = (30, 60, 220)
            cv2.imwrite(str(images / f"{t:05d}.jpg"), image)
            cv2.imwrite(str(masks / f"{t:05d}.png"), mask)
    return root


class OneColumnMore:
    """Finds a tenth of the object more with every click; a box gives all of it and as much again."""

    def __init__(self, davis) -> None:
        self.truth = None
        self.calls = 0

    def predict(self, image, points=(), box=None, start=None):
        self.calls += 1
        truth = image[..., 0] > 120
        xs = np.nonzero(truth.any(0))[0]
        mask = truth.copy()
        if box is not None:
            assert (box[0], box[1], box[2], box[3]) == pytest.approx((xs[0], 20, xs[-1] + 1, 50), abs=2)
            mask[50:80] = truth[20:50]
            return mask
        assert (start is None) == (len(points) == 1)
        mask[:, xs[0] + round(len(xs) * len(points) / 10) :] = False
        return mask


def test_clicks_are_counted(davis):
    report = evaluate_clicks(davis, model=OneColumnMore(davis), sequences=["ant"], every=2)
    scores = report.scores
    assert scores["NoC85"] == 9
    assert scores["NoC90"] in (9, 10)
    assert scores["IoU_box"] == pytest.approx(0.5, abs=0.05)
    assert scores["IoU_click1"] == pytest.approx(0.1, abs=0.04)
    assert list(scores["sequences"]) == ["ant"]


class Never:
    def predict(self, image, points=(), box=None, start=None):
        return np.zeros(image.shape[:2], bool)


def test_what_never_gets_there_counts_twenty(davis):
    scores = evaluate_clicks(davis, model=Never(), sequences=["bee"], every=100).scores
    assert (scores["NoC85"], scores["NoC90"], scores["IoU_box"], scores["IoU_click1"]) == (20, 20, 0, 0)


def test_a_mask_of_another_size_is_named(davis, tmp_path):
    copied = shutil.copytree(davis, tmp_path / "davis")
    cv2.imwrite(str(copied / "Annotations/480p/bee/00000.png"), np.full((40, 50), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"bee.00000\.png: the mask is 50x40, its frame 120x80"):
        evaluate_clicks(copied, model=Never(), sequences=["bee"])


def test_the_command_scores_colours_alone(davis, tmp_path, capsys):
    command = ["evaluate", "clicks", "--data", str(davis), "--model", "grabcut", "--sequences", "ant,bee", "--quiet"]
    assert exit_code([*command, "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["IoU_box"] > 0.8  # one flat colour on another
    assert scores["NoC85"] < 20
    assert set(scores["sequences"]) == {"ant", "bee"}


def test_the_shipped_network_is_run_by_name(davis):
    scores = evaluate_clicks(davis, model="click_nano", sequences=["ant"], every=100).scores
    assert scores["IoU_box"] > 0.7  # a red box on grey
    assert scores["NoC85"] < 20
