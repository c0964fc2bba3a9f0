"""`twospeed evaluate camvid`, as people type it."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from PIL import Image

from tests.data.driving_trees import make_camvid
from twospeed.cli.main import exit_code
from twospeed.weights.load import create_model, save_model


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
    assert set(scores["step_seconds"]) == {"flow", "warp", "features", "fusion"}
    assert min(scores["step_seconds"].values()) > 0
    assert sum(scores["step_seconds"].values()) < 10 * scores["speed"]["step_seconds"]
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


def test_keyframes_at_another_size_cost_more_or_less(scene, capsys):
    model = ["--model", "gsvnet_swiftnet_r18", "--weights", scene / "gsv.safetensors", "--keyframe-every", 2]
    costs = {}
    for scale in ("", "0.5", "1"):
        given = ["--keyframe-scale", scale] if scale else []
        assert evaluate(scene, *model, *given, "--json", "-") == 0
        costs[scale] = json.loads(capsys.readouterr().out)["gmacs"]["keyframe"]
    assert costs[""] == pytest.approx(costs["1"] * 0.75**2, rel=0.1)  # as published
    assert costs["0.5"] == pytest.approx(costs["1"] / 4, rel=0.1)


def test_what_has_no_meaning_is_one_line(scene, tmp_path, capsys):
    model = ["--model", "gsvnet_swiftnet_r18", "--weights", scene / "gsv.safetensors"]
    for arguments, message in (
        (["--predictions", tmp_path, "--keyframe-every", 2], "--keyframe-every belongs to a run of a model"),
        ([*model, "--memory-every", 5], "No such option: --memory-every"),
        ([*model, *model], "this benchmark takes one --weights, 2 are given"),
        ([*model, "--keyframe-scale", 3], "keyframe_scale is 3; give a factor above 0, at most 2 (--keyframe-scale)"),
        (
            ["--model", "swiftnet_r18", "--weights", scene / "gsv.safetensors", "--keyframe-scale", 1],
            "keyframe_scale is 1, but swiftnet_r18 is no GSVNet",
        ),
        ([*model, "--image-scales", "half"], "--image-scales half: expected numbers separated by commas"),
        ([*model, "--plot", tmp_path / "gone" / "plot.png"], "there is no folder"),
        ([*model, "--split", "night"], "split 'night' of CamVid"),
        ([], "give either predictions"),
    ):
        capsys.readouterr()
        assert evaluate(scene, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
