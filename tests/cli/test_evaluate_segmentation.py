"""`twospeed evaluate camvid` and the comparison of keyframe policies, as people type them."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.driving_trees import make_camvid
from tests.evaluation.test_semseg import video_network
from twospeed.cli.main import exit_code
from twospeed.weights.load import create_model, save_model

SCRIPT = Path(__file__).parents[2] / "examples" / "segmentation_intervals.py"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Five labelled frames, and a whole GSVNet of eleven classes with random weights."""
    folder = tmp_path_factory.mktemp("scene")
    make_camvid(folder / "camvid", frames=5)
    torch.manual_seed(0)
    model = create_model("gsvnet_swiftnet_r18", None, num_classes=11)
    save_model(model, folder / "gsv.safetensors", model_name="gsvnet_swiftnet_r18")
    return folder


def evaluate(scene, *arguments: object) -> int:
    return exit_code(["evaluate", "camvid", "--data", str(scene / "camvid"), *map(str, arguments)])


def test_one_command_gives_scores_labels_and_the_plot(scene, tmp_path, capsys):
    model = ["--model", "gsvnet_swiftnet_r18", "--weights", scene / "gsv.safetensors", "--keyframe-every", 2]
    out = tmp_path / "labels"
    plot = ["--image-scales", "0.5", "--plot", tmp_path / "plot.png"]
    assert evaluate(scene, *model, *plot, "-o", out, "--json", tmp_path / "scores.json") == 0
    assert "keyframe every 2 " in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["by_distance"]) == {"0", "1"}
    parts = scores["parts"]
    assert parts["propagation"]["bytes"] == 4 * parts["propagation"]["parameters"]
    assert scores["parameters"] == parts["propagation"]["parameters"] + parts["image_network"]["parameters"]
    assert len(list((out / "distance_1").glob("*.png"))) == 4
    with (tmp_path / "plot.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["keyframe every 1", "keyframe every 2", "image network alone at 0.5"]
    assert float(rows[1]["average mIoU"]) == scores["average_mIoU"]
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
    assert evaluate(scene, "--predictions", out / "distance_0", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["mIoU"] == scores["by_distance"]["0"]


def test_what_has_no_meaning_is_one_line(scene, tmp_path, capsys):
    model = ["--model", "gsvnet_swiftnet_r18", "--weights", scene / "gsv.safetensors"]
    for arguments, message in (
        (["--predictions", tmp_path, "--keyframe-every", 2], "--keyframe-every belongs to a run of a model"),
        ([*model, "--memory-every", 5], "camvid has no --memory-every; leave it out"),
        ([*model, *model], "camvid runs one model at a time"),
        ([*model, "--image-scales", "half"], "--image-scales half: expected numbers separated by commas"),
        ([*model, "--plot", tmp_path / "gone" / "plot.png"], "there is no folder"),
        ([*model, "--split", "night"], "split 'night' of CamVid"),
        ([], "give either --predictions"),
    ):
        capsys.readouterr()
        assert evaluate(scene, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_policies_are_compared_at_equal_cost(scene, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("segmentation_intervals", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # dataclasses look their module up
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "create_model", lambda *arguments: video_network().eval())
    options = ["--intervals", "1", "2", "4", "--thresholds", "0.0001", "100", "--starts", "2", "--pieces", "3"]
    monkeypatch.setattr(sys, "argv", ["script", str(scene / "camvid"), str(tmp_path / "out"), *options])
    script.main()
    with (tmp_path / "out" / "intervals.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["keyframe_share"]) for row in rows]
    assert shares[:2] == [1.0, 0.5]
    assert shares[3] == 1.0, "any drift is more than nothing"
    assert shares[4] < 0.2, "only the first frame"
    assert float(rows[0]["mIoU"]) == float(rows[0]["fixed_mIoU_at_this_cost"]) == float(rows[3]["mIoU"])
    assert "fixed interval at this cost" in capsys.readouterr().out
    assert (tmp_path / "out" / "intervals.png").stat().st_size > 5000


def test_the_cost_between_two_intervals_is_interpolated():
    spec = importlib.util.spec_from_file_location("segmentation_intervals_2", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    fixed = [script.Result("interval", n, 1 / n, gmacs, miou) for n, gmacs, miou in ((1, 8.0, 0.6), (2, 4.0, 0.5))]
    assert script.in_pieces(list(range(7)), 2) == [2, 3, 6, 0, 1, 4, 5]
    assert script.fixed_at(5.0, fixed) == pytest.approx(0.525)
    assert script.fixed_at(9.0, fixed) != script.fixed_at(9.0, fixed)  # beyond what was measured
