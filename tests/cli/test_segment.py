"""`twospeed segment` as people type it."""

from __future__ import annotations

import csv
import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from twospeed.cli.main import exit_code
from twospeed.video.writer import VideoWriter
from twospeed.weights.load import create_model, save_model


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A clip of five frames, and a whole GSVNet of six classes with random weights."""
    folder = tmp_path_factory.mktemp("scene")
    random = np.random.default_rng(0)
    background = random.integers(0, 256, (72, 104, 3), dtype=np.uint8)
    with VideoWriter(folder / "clip.mp4", 10) as writer:
        for shift in range(5):
            writer.write(np.ascontiguousarray(np.roll(background, shift, 1)))
    torch.manual_seed(0)
    model = create_model("gsvnet_swiftnet_r18", None, num_classes=6)
    save_model(model, folder / "gsv.safetensors", model_name="gsvnet_swiftnet_r18")
    return folder


def fails(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert exit_code([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert captured.out == ""
    return captured.err


def test_writes_all_it_promises(scene, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["segment", scene / "clip.mp4", "--weights", scene / "gsv.safetensors", "--keyframe-every", 2]
    assert exit_code([str(a) for a in [*arguments, "-o", out, "--json"]]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 5
    assert summary["keyframes"] == 3
    assert sum(summary["mean_area"].values()) == pytest.approx(1, abs=1e-4)
    files = sorted((out / "labels").glob("*.png"))
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(5)]
    labels = np.asarray(Image.open(files[2]))
    assert labels.shape == (72, 104)
    areas = json.loads((out / "areas.json").read_text())
    assert areas["areas"][f"class {labels[0, 0]}"][2] > 0
    assert len(areas["time_s"]) == 5
    with Image.open(out / "areas.png") as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 300
    with av.open(str(out / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5
    with (out / "frames.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["output_index"] for row in rows] == list("01234")
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)
    record = json.loads((out / "run.json").read_text())
    assert record["finished"]
    # The clock stops with the last frame: what is drawn afterwards does not count
    assert record["seconds"] == pytest.approx(summary["seconds"], abs=0.05)
    assert record["options"]["keyframe_every"] == 2
    assert len(record["weights_sha256"]) == 64


def test_the_shipped_network_needs_nothing_but_a_video(scene, tmp_path, capsys):
    assert exit_code(["segment", str(scene / "clip.mp4"), "-o", str(tmp_path), "--json", "--no-overlay"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["keyframes"] == 2
    assert {"road", "car", "sky"} <= set(summary["mean_area"])
    assert json.loads((tmp_path / "run.json").read_text())["model"] == "segment_nano"


def test_bad_input_is_one_line(scene, tmp_path, capsys):
    clip, weights = scene / "clip.mp4", scene / "gsv.safetensors"
    out = tmp_path / "out"
    none = fails(capsys, "segment", clip, "--model", "gsvnet_swiftnet_r18", "-o", out)
    assert "no weights are shipped or published for gsvnet_swiftnet_r18; pass --weights FILE" in none
    assert "track_tiny does not segment" in fails(capsys, "segment", clip, "--model", "track_tiny")
    assert "no checkpoint at" in fails(capsys, "segment", clip, "--weights", tmp_path / "gone.pt")
    assert "does not fit" in fails(capsys, "segment", clip, "--model", "swiftnet_r18", "--weights", weights)
    assert "gone.mp4" in fails(capsys, "segment", tmp_path / "gone.mp4", "--weights", weights)
    assert "'-1' is not a number above 0" in fails(capsys, "segment", clip, "--weights", weights, "--drift", -1)
    assert not out.exists()


def test_bench_times_whole_intervals(capsys):
    arguments = ["bench", "segment_nano", "--size", "96x64", "--frames", "4", "--keyframe-every", "2", "--json"]
    assert exit_code(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["clock_counts"] == "Segmenter.step, a keyframe every 2"
    assert facts["median_s"] > 0


def test_an_unknown_device_is_one_line(scene, tmp_path, capsys):
    told = fails(capsys, "segment", scene / "clip.mp4", "--device", "gpu", "-o", tmp_path / "out")
    assert "device 'gpu' cannot be used here" in told
    assert not (tmp_path / "out").exists()


def test_keyframes_are_seen_at_the_size_that_is_asked_for(scene, tmp_path):
    arguments = ["segment", scene / "clip.mp4", "--weights", scene / "gsv.safetensors", "--end", "1"]
    for scale in ("0.5", "1"):
        words = [*arguments, "--keyframe-scale", scale, "-o", tmp_path / scale]
        assert exit_code([str(word) for word in words]) == 0
        assert json.loads((tmp_path / scale / "run.json").read_text())["options"]["keyframe_scale"] == float(scale)
    half, whole = (np.asarray(Image.open(tmp_path / scale / "labels" / "00000.png")) for scale in ("0.5", "1"))
    assert (half != whole).any()
