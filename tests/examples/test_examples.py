"""Every script of examples/ does what its first lines say, on tiny inputs."""

from __future__ import annotations

import ast
import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import twospeed
from twospeed.data.clips.synthetic import render_clip
from twospeed.models.slowfast import builders
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter
from twospeed.weights.load import save_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A clip of a second, masks of two of its frames, boxes, and weights of small networks."""
    folder = tmp_path_factory.mktemp("scene")
    film = list(render_clip(0, frames=30, height=64, width=96, objects=1))
    with VideoWriter(folder / "clip.mp4", 30) as writer:
        for image, _ in film:
            writer.write(image)
    for index in (0, 20):
        write_indexed_png(folder / f"{index}.png", film[index][1])
    (folder / "people.csv").write_text("time_s,x1,y1,x2,y2,score\n0,10,4,50,60,0.9\n")
    torch.manual_seed(0)
    small = builders.slow_r50_4x16(width=8, num_classes=5)
    save_model(small, folder / "actions.safetensors", model_name="slow_r50_4x16")
    detector = twospeed.create_model("slow_r50_4x16_ava", None, width=8)
    save_model(detector, folder / "ava.safetensors", model_name="slow_r50_4x16_ava")
    for video in range(3):
        frames, masks = (folder / "own" / kind / "480p" / f"v{video}" for kind in ("JPEGImages", "Annotations"))
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (image, labels) in enumerate(render_clip(video, frames=5, height=96, width=128, objects=2)):
            Image.fromarray(image).save(frames / f"{t:05d}.jpg")
            write_indexed_png(masks / f"{t:05d}.png", labels)
    return folder


@pytest.fixture
def run(monkeypatch):
    def run(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_cut_out_an_object(run, scene, tmp_path):
    run("cut_out_an_object.py", scene / "clip.mp4", scene / "0.png", tmp_path / "out")
    images = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("?????.png"))]
    assert len(images) == 30
    assert all(image.shape == (64, 96, 4) and image[..., 3].max() > 127 for image in images)
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 30


def test_correct_a_mask(run, scene, tmp_path, capsys):
    masks = [f"0={scene / '0.png'}", f"20={scene / '20.png'}"]
    run("correct_a_mask.py", scene / "clip.mp4", tmp_path / "out.mp4", "--masks", *masks)
    assert capsys.readouterr().out.count("pixels of each object {1:") == 30
    with twospeed.open_video(tmp_path / "out.mp4") as frames:
        assert sum(1 for _ in frames) == 30


def test_label_a_drive(run, scene, tmp_path):
    run("label_a_drive.py", scene / "clip.mp4", tmp_path / "shares.csv")
    with (tmp_path / "shares.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["keyframe"] for row in rows[:5]] == ["1", "0", "0", "0", "1"]
    assert len(rows) == 30
    assert {"road", "sky", "car"} <= set(rows[0])
    for row in rows:
        assert sum(float(value) for name, value in row.items() if name not in ("time_s", "keyframe")) == pytest.approx(
            1, abs=0.01
        )


def test_sort_clips_by_action(run, scene, tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").write_bytes((scene / "clip.mp4").read_bytes())
    (clips / "b.mp4").write_bytes(b"no video")
    table = tmp_path / "actions.csv"
    run("sort_clips_by_action.py", clips, table, "--weights", scene / "actions.safetensors")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == ["a.mp4"] * 3
    assert "b.mp4" in capsys.readouterr().out


def test_find_people_and_actions(run, scene, capsys):
    model = ("--model", "slow_r50_4x16_ava", "--weights", scene / "ava.safetensors")
    run("find_people_and_actions.py", scene / "clip.mp4", scene / "people.csv", *model)
    out = capsys.readouterr().out
    assert "0.0 s: 1 people" in out
    assert "person 1 at [10, 4, 50, 60]" in out


def test_train_on_your_own_masks(run, scene, tmp_path, capsys):
    run("train_on_your_own_masks.py", scene / "own", tmp_path / "run", "--iterations", 2, "--crop", 64)
    assert "ready" in capsys.readouterr().out
    with (tmp_path / "run" / "validation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert set(row) == {"step", "minutes", "v2", "mean"}


def test_a_network_of_ones_own_runs_in_each_job(run, capsys):
    run("own_network.py")
    objects, classes, best, people = map(ast.literal_eval, capsys.readouterr().out.splitlines())
    assert objects[0]["box_xywh"] == [48, 32, 32, 32], "the square moved 46 pixels, cells are 16 wide"
    assert [found["name"] for found in classes] == ["other", "red"]
    assert classes[1]["share"] == 32 * 32 / (96 * 128)
    assert best[0][0] == "red"
    assert people[0]["actions"][0]["label"] == "red"


def test_each_is_short_and_tested():
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 7
    for script in scripts:
        assert len(script.read_text().splitlines()) < 60, script.name
        assert f'"{script.name}"' in Path(__file__).read_text()
