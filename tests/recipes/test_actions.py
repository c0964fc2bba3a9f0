"""`twospeed train actions`: a few clips of one's own classes become a network; what cannot is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.commands import fails, twospeed
from twospeed.errors import CheckpointError, DatasetError, InputError
from twospeed.models.slowfast import builders
from twospeed.pipelines.classify import Classifier
from twospeed.recipes.actions import ActionsConfig, fit, train
from twospeed.video.writer import VideoWriter
from twospeed.weights.load import create_model, model_of, save_model

WAYS = {"left": (-3, 0), "right": (3, 0), "up": (0, -3)}


def write_square(path, seed: int, way: tuple[int, int], frames: int = 18) -> None:
    """Write a square that moves over a surface; where it is in the middle of the time shows nothing of its way."""
    rng = np.random.default_rng(seed)
    surface = rng.integers(0, 110, (9, 9, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    colour, (x, y) = rng.integers(150, 256, 3), rng.integers(24, 34, 2)
    with VideoWriter(path, 30) as writer:
        for t in range(frames):
            image = surface.copy()
            left, top = (int(np.clip(p + w * (t - frames / 2), 0, 58)) for p, w in zip((x, y), way, strict=True))
            image[top : top + 14, left : left + 14] = colour
            writer.write(image)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    for number, (name, way) in enumerate(WAYS.items()):
        (root / name).mkdir()
        for clip in range(5):
            write_square(root / name / f"{clip}.mp4", 10 * number + clip, way)
    return root


@pytest.fixture(scope="module")
def run(squares, tmp_path_factory):
    return train(ActionsConfig(data=squares, out=tmp_path_factory.mktemp("run") / "actions", device="cpu"))


def test_a_few_clips_are_enough_for_motion(run):
    report = json.loads((run / "cross_validation.json").read_text())
    assert report["accuracy"] >= 0.8  # a third of the clips are of the most frequent class
    assert report["most_frequent_class"] == pytest.approx(1 / 3)
    low, high = report["interval_95"]
    assert low < report["accuracy"] <= high
    assert report["clips"] == 15
    assert set(report["recall"]) == set(WAYS)
    rows = (run / "predictions.csv").read_text().splitlines()
    assert len(rows) == 16
    with Image.open(run / "confusion.png") as drawn:
        assert drawn.size[0] > 200


def test_the_file_knows_its_model_and_its_classes(run, tmp_path, capsys):
    weights = run / "weights.safetensors"
    assert model_of(weights) == "slowfast_lite0"
    network = create_model("slowfast_lite0", weights)
    assert network.class_names == ("left", "right", "up")
    assert network.frame_stride == 1  # clips of 0.6 seconds
    write_square(tmp_path / "new.mp4", 77, WAYS["right"])
    assert Classifier(weights=str(weights), device="cpu").classify(tmp_path / "new.mp4").top(1)[0][0] == "right"
    assert twospeed("classify", tmp_path / "new.mp4", "--weights", weights, "--timeline", "--device", "cpu", "-q") == 0
    assert capsys.readouterr().out.split()[0] == "right"


def test_a_run_that_was_stopped_continues_to_the_same_result(run, squares, tmp_path):
    config = ActionsConfig(data=squares, out=tmp_path / "halves", device="cpu", stop_after_steps=7)
    train(config)
    assert not (config.out / "weights.safetensors").exists()
    with pytest.raises(InputError, match="holds a run already"):
        train(config)
    train(dataclasses.replace(config, stop_after_steps=None), resume=True)
    for name in ("predictions.csv", "cross_validation.json"):
        assert (config.out / name).read_text() == (run / name).read_text()


def test_any_slowfast_network_can_be_the_start(squares, tmp_path):
    torch.manual_seed(0)
    start = builders.slow_r50_4x16(width=8, num_classes=5, zero_init_final_bn=False, frames=4, crop_size=64)
    save_model(start, tmp_path / "start.safetensors", model_name="slow_r50_4x16")
    config = ActionsConfig(
        data=squares, weights=tmp_path / "start.safetensors", out=tmp_path / "run", views=1, folds=2, device="cpu"
    )
    train(config)
    network = create_model("slow_r50_4x16", tmp_path / "run" / "weights.safetensors")
    assert network.class_names == ("left", "right", "up")
    assert torch.allclose(
        network.s1.pathway0_stem.conv.weight, start.s1.pathway0_stem.conv.weight, atol=1e-3
    )  # written in 16 bits
    with pytest.raises(CheckpointError, match=r"it holds weights of slow_r50_4x16; choose that model"):
        create_model("slow_r50_8x8", tmp_path / "run" / "weights.safetensors")
    with pytest.raises(CheckpointError, match="it holds weights of slow_r50_4x16"):
        train(dataclasses.replace(config, model="slow_r50_8x8", out=tmp_path / "other"))
    with pytest.raises(InputError, match="slow_r50_4x16 has its own"):
        train(dataclasses.replace(config, frame_stride=2, out=tmp_path / "other"))


def test_folders_that_are_no_set_of_classes_are_refused(squares, tmp_path, capsys):
    def refused(folder):
        return fails(capsys, "train", "actions", folder, "--out", tmp_path / "out")

    assert "no such folder of class folders" in refused(tmp_path / "missing")
    assert "which folder?" in fails(capsys, "train", "actions", "--out", tmp_path / "out")
    (tmp_path / "set").mkdir()
    assert "holds no class folders" in refused(tmp_path / "set")
    shutil.copytree(squares / "left", tmp_path / "set" / "left")
    assert "holds one class, 'left'; a training needs at least two" in refused(tmp_path / "set")
    other = tmp_path / "set" / "other"
    other.mkdir()
    assert f"{other}: the class folder is empty" in refused(tmp_path / "set")
    Image.new("RGB", (8, 8)).save(other / "photo.jpg")
    assert "holds images, not videos" in refused(tmp_path / "set")
    (other / "photo.jpg").unlink()
    (other / "train").mkdir()
    shutil.copy(squares / "up" / "0.mp4", other / "train" / "0.mp4")
    assert f"is {other} the folder to give" in refused(tmp_path / "set")
    shutil.move(other / "train" / "0.mp4", other / "0.mp4")
    assert "class 'other' has 1 clip that can be read; give at least 2" in refused(tmp_path / "set")
    for number in range(1, 4):
        (other / f"{number}.mp4").write_bytes(b"no video" * 50)
    line = refused(tmp_path / "set")
    assert "class 'other' has 1 clip that can be read" in line
    assert str(other / "1.mp4") in line
    assert not (tmp_path / "out").exists()


def test_a_clip_that_cannot_be_read_is_left_out_and_listed(squares, tmp_path):
    root = tmp_path / "a\nb ünïcode $x$"
    shutil.copytree(squares / "left", root / "first\nline")
    shutil.copytree(squares / "right", root / "zweite Klasse ü $y")
    (root / "first\nline" / "9.mp4").write_bytes(b"no video" * 50)
    run = train(ActionsConfig(data=root, out=tmp_path / "run", folds=2, device="cpu"))
    assert "9.mp4" in (run / "unreadable.csv").read_text()
    assert json.loads((run / "cross_validation.json").read_text())["clips"] == 10
    assert create_model("slowfast_lite0", run / "weights.safetensors").class_names[0] == "first\nline"


def test_validate_takes_one_clip_and_leaves_nothing(squares, tmp_path, capsys):
    assert twospeed("train", "actions", squares, "--out", tmp_path / "run", "--validate", "--device", "cpu") == 0
    assert "settings, data and start weights are usable" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="folds is 1"):
        ActionsConfig(folds=1)
    with pytest.raises(InputError, match="views is 0"):
        ActionsConfig(views=0)
    with pytest.raises(DatasetError, match="no such folder"):
        train(ActionsConfig(data=tmp_path / "none", out=tmp_path / "run"))


def test_the_last_layer_holds_for_a_thousand_classes():
    rng = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(1000, 64, generator=rng)
    features = [(means[c] + 0.3 * torch.randn(2, 64, generator=rng)) for c in range(1000) for _ in range(2)]
    labels = [c for c in range(1000) for _ in range(2)]
    layer = fit(features, labels, 1000, (48, 16), 1e-4)
    with torch.no_grad():
        right = [int(layer(rows).mean(0).argmax()) == label for rows, label in zip(features, labels, strict=True)]
    assert np.mean(right) > 0.95
