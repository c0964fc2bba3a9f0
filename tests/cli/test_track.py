"""`twospeed track`, `demo`, `convert`, `models`, `bench` as people type them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.commands import SIZE, fails, twospeed
from tests.conftest import heed_ctrl_c
from twospeed.data.clips.synthetic import render_clip
from twospeed.models.stcn.builders import track_small, track_tiny
from twospeed.pipelines.tracker import Tracker
from twospeed.video.indexed_png import read_label_map
from twospeed.video.writer import VideoWriter
from twospeed.weights.load import create_model


def test_track_looks_at_frames_on_another_thread(scene, tmp_path, monkeypatch, two_threads):
    looked = []
    look = Tracker.look

    def noted(self, image):
        looked.append(threading.current_thread() is not threading.main_thread())
        return look(self, image)

    monkeypatch.setattr(Tracker, "look", noted)
    track = ("track", scene / "clip.mp4", "--mask", scene / "mask0.png", "--size", 64)
    assert twospeed(*track, "-o", tmp_path / "out") == 0
    assert looked == [True] * 12


def test_track_writes_all_it_promises(scene, tmp_path, capsys):
    out = tmp_path / "out"
    assert twospeed("track", scene / "clip.mp4", "--mask", scene / "mask0.png", "-o", out, "--size", 64, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 12
    assert [o["id"] for o in summary["objects"]] == [1, 2]
    masks = sorted((out / "masks").glob("*.png"))
    assert [m.name for m in masks] == [f"{i:05d}.png" for i in range(12)]
    assert (read_label_map(masks[0]) == read_label_map(scene / "mask0.png")).mean() > 0.97
    with Image.open(masks[5]) as image:
        assert image.mode == "P"
        assert image.size == SIZE[::-1]
        assert image.getpalette()[3:6] == [128, 0, 0]  # the DAVIS palette
    with av.open(str(out / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] is True
    assert record["frames"] == 12
    assert record["model"] == "track_small"
    assert len(record["weights_sha256"]) == 64
    assert record["options"]["memory_every"] == 5
    assert record["versions"]["torch"] == metadata.version("torch")
    listed = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"run.json"}
    assert set(record["files"]) == listed
    for name in ("masks/00003.png", "frames.csv"):
        content = (out / name).read_bytes()
        assert record["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    clip = (scene / "clip.mp4").read_bytes()
    assert len(clip) < 1 << 20
    assert record["inputs"]["video"]["sha256"] == hashlib.sha256(clip).hexdigest()
    assert record["inputs"]["mask of frame 0"]["path"] == str(scene / "mask0.png")
    assert record["summary"]["objects"] == summary["objects"]
    rows = list(csv.DictReader((out / "frames.csv").read_text().splitlines()))
    assert [int(row["output_index"]) for row in rows] == [int(row["source_index"]) for row in rows] == [*range(12)]
    assert [float(row["time_s"]) for row in rows] == pytest.approx([i / 10 for i in range(12)], abs=1e-6)
    assert rows[0]["keyframe"] == "1"
    assert rows[0]["file_name"] == ""
    assert len({row["pts"] for row in rows}) == 12
    assert not list(out.rglob(".*"))


def test_a_folder_a_mask_for_a_later_frame_and_a_box(scene, tmp_path):
    arguments = ("--mask", f"6={scene / 'mask6.png'}", "--box", "10,10,40,40", "--size", 0, "-q", "--no-overlay")
    assert twospeed("track", scene / "frames", *arguments, "-o", tmp_path) == 0
    assert (read_label_map(tmp_path / "masks" / "00006.png") == read_label_map(scene / "mask6.png")).mean() > 0.95
    assert set(np.unique(read_label_map(tmp_path / "masks" / "00000.png"))) == {0, 1}
    assert not (tmp_path / "overlay.mp4").exists()


def test_a_folder_of_masks_named_by_frame(scene, tmp_path):
    masks = tmp_path / "given"
    masks.mkdir()
    for index in (0, 6):
        (masks / f"{index:05d}.png").write_bytes((scene / f"mask{index}.png").read_bytes())
    assert twospeed("track", scene / "clip.mp4", "--mask", masks, "--size", 64, "-q", "-o", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["first_masks"] == [0, 6]


def test_results_of_an_earlier_run_are_replaced(scene, tmp_path):
    command = ("track", scene / "clip.mp4", "--point", "30,30", "--size", 64, "-q", "--no-overlay", "-o", tmp_path)
    assert twospeed(*command) == 0
    assert (tmp_path / "masks" / "00011.png").exists()
    (tmp_path / "masks" / "notes.txt").write_text("of somebody")
    assert twospeed(*command, "--end", 5) == 0
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [f"{i:05d}.png" for i in range(5)] + [
        "notes.txt"
    ]
    record = json.loads((tmp_path / "run.json").read_text())
    masks = [f"masks/{i:05d}.png" for i in range(5)]
    assert sorted(record["files"]) == ["confidence.png", "frames.csv", *masks, "report.html"]


def test_the_report_links_to_all_that_was_written(scene, tmp_path):
    options = ("--size", 64, "--export", "coco", "--matte", "png", "-q", "-o", tmp_path)
    assert twospeed("track", scene / "clip.mp4", "--point", "30,30", *options) == 0
    linked = re.findall('href="(.*?)"', (tmp_path / "report.html").read_text())
    beside = {f"{path.name}/" if path.is_dir() else path.name for path in tmp_path.iterdir()}
    assert set(linked) == beside - {"report.html"} >= {"exports/", "masks/", "matte/", "overlay.mp4", "run.json"}


def test_masks_are_named_after_the_images_of_a_folder_and_a_part_keeps_its_numbers(scene, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(5):
        (frames / f"shot_{i + 1:03d}.jpg").write_bytes((scene / "frames" / f"{i:05d}.jpg").read_bytes())
    options = ("--mask", scene / "mask0.png", "--size", 64, "-q", "--no-overlay")
    assert twospeed("track", frames, *options, "-o", tmp_path / "a", "--start", 2) == 0
    assert sorted(path.stem for path in (tmp_path / "a" / "masks").iterdir()) == ["shot_003", "shot_004", "shot_005"]
    rows = [list(row.values())[:3] for row in csv.DictReader((tmp_path / "a" / "frames.csv").read_text().splitlines())]
    assert rows == [["0", "2", "shot_003"], ["1", "3", "shot_004"], ["2", "4", "shot_005"]]
    clip = ("track", scene / "clip.mp4", *options, "-o", tmp_path / "b")
    assert twospeed(*clip, "--start", "0.2s", "--end", "00:00:00.5") == 0
    assert sorted(path.stem for path in (tmp_path / "b" / "masks").iterdir()) == ["00002", "00003", "00004"]
    assert json.loads((tmp_path / "b" / "run.json").read_text())["options"]["first_masks"] == [2]
    # Masks named as the images of the folder are prompts for those images
    assert twospeed("track", frames, "--mask", tmp_path / "a" / "masks", *options[2:], "-o", tmp_path / "c") == 0
    assert json.loads((tmp_path / "c" / "run.json").read_text())["options"]["first_masks"] == [2, 3, 4]


def broken_file(scene: Path, folder: Path) -> dict[str, list[object]]:
    """Bad inputs by name -> arguments of `track`."""
    clip, mask = scene / "clip.mp4", scene / "mask0.png"
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "none").mkdir()
    Image.fromarray(np.ones((10, 10), np.uint8)).save(folder / "small.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "blank.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(folder / "colours.png")
    Image.fromarray(np.full(SIZE, 1000, np.uint16)).save(folder / "deep.png")
    torch.save({"a": torch.zeros(1)}, folder / "wrong.pth")
    state = track_small().state_dict()
    state["decoder.predict.bias"][:] = float("nan")
    torch.save(state, folder / "nan.pth")
    (folder / "file").write_text("")
    (folder / "twice").mkdir()
    for name in ("0.png", "00000.png"):
        (folder / "twice" / name).write_bytes(mask.read_bytes())
    return {
        "missing video": [folder / "gone.mp4", "--mask", mask],
        "not a video": [folder / "text.mp4", "--mask", mask],
        "empty video": [folder / "empty.mp4", "--mask", mask],
        "empty folder": [folder / "none", "--mask", mask],
        "missing mask": [clip, "--mask", folder / "gone.png"],
        "mask of another size": [clip, "--mask", folder / "small.png"],
        "mask without objects": [clip, "--mask", folder / "blank.png"],
        "coloured mask": [clip, "--mask", folder / "colours.png"],
        "mask of 16 bits": [clip, "--mask", folder / "deep.png"],
        "two masks for a frame": [clip, "--mask", mask, "--mask", f"0={mask}"],
        "two masks named for a frame": [clip, "--mask", folder / "twice"],
        "a frame of 5000 digits": [clip, "--mask", "9" * 5000 + f"={mask}"],
        "no mask at all": [clip, "--model", "track_tiny"],
        "wrong checkpoint": [clip, "--mask", mask, "--weights", folder / "wrong.pth"],
        "NaN weights": [clip, "--mask", mask, "--weights", folder / "nan.pth"],
        "unknown model": [clip, "--mask", mask, "--model", "stnc"],
        "bad box": [clip, "--box", "1,2,3"],
        "box outside": [clip, "--box", "500,500,20,20"],
        "point outside": [clip, "--point", "500,2"],
        "unknown option": [clip, "--msk", mask],
        "wrong choice": [clip, "--mask", mask, "--quality", "fastest"],
        "bad number": [clip, "--mask", mask, "--memory-every", "often"],
        "output is a file": [clip, "--mask", mask, "-o", folder / "file"],
        "output without a name": [clip, "--mask", mask, "-o", ""],
    }


EXPECTED = {
    "missing video": "gone.mp4",
    "not a video": "text.mp4",
    "empty video": "empty.mp4",
    "empty folder": "none",
    "missing mask": "gone.png: no such file",
    "mask of another size": "small.png: the mask is 10x10, its frame 128x96",
    "mask without objects": "blank.png: the mask has no object",
    "coloured mask": "--snap",
    "mask of 16 bits": "1000",
    "two masks for a frame": "is a second mask for frame 0",
    "two masks named for a frame": "00000.png is a second mask for frame 0, beside 0.png",
    "a frame of 5000 digits": "a frame whose number has 5000 digits",
    "no mask at all": "give --mask FIRST.png, --box x,y,w,h or --point x,y",
    "wrong checkpoint": "does not fit track_small",
    "NaN weights": "decoder.predict.bias holds NaN",
    "unknown model": "did you mean stcn",
    "bad box": "--box is '1,2,3'; give x,y,width,height",
    "box outside": "the box from 500,500 to 520,520 covers no pixel of the 128x96 image",
    "point outside": "lies outside the 128x96 image",
    "unknown option": "--msk",
    "wrong choice": "Invalid value for '--quality': 'fastest' is not one of 'fast', 'good', 'best'",
    "bad number": "'--memory-every'",
    "output is a file": "(a file has that name)",
    "output without a name": "-o is empty, as where a variable of the shell is not set",
}


@pytest.mark.parametrize("what", EXPECTED)
def test_bad_input_is_one_line_and_leaves_nothing(scene, tmp_path, capsys, what):
    arguments = broken_file(scene, tmp_path)[what]
    before = sorted(tmp_path.rglob("*"))
    out = [] if "-o" in arguments else ["-o", tmp_path / "out"]
    assert EXPECTED[what] in fails(capsys, "track", *arguments, *out)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_weights_says_its_model(scene, tmp_path):
    torch.save(create_model("track_tiny").state_dict(), tmp_path / "w.pth")
    arguments = (scene / "clip.mp4", "--mask", scene / "mask0.png", "--weights", tmp_path / "w.pth", "--end", 2)
    assert twospeed("track", *arguments, "--size", 64, "--no-overlay", "-q", "-o", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["model"] == "track_tiny"


def test_a_mask_for_a_frame_beyond_the_end_is_said(scene, tmp_path, capsys):
    masks = ("--mask", scene / "mask0.png", "--mask", f"40={scene / 'mask6.png'}")
    for part, last in ((), 11), (("--end", 3), 2):
        line = fails(capsys, "track", scene / "clip.mp4", *masks, *part, "--size", 64, "-q", "-o", tmp_path / "out")
        assert f"a prompt is for frame 40, but the frames that are tracked are 0 to {last}" in line
        assert not (tmp_path / "out").exists()  # it is said before anything is tracked


def test_a_full_disk_is_one_line_and_keeps_finished_frames(scene, tmp_path, capsys, monkeypatch):
    import errno

    from twospeed.video import indexed_png

    save, calls = Image.Image.save, []

    def full_after_three(self, *arguments, **options):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, *arguments, **options)

    monkeypatch.setattr(indexed_png.Image.Image, "save", full_after_three)
    line = fails(
        capsys, "track", scene / "clip.mp4", "--mask", scene / "mask0.png", "--size", 64, "-q", "-o", tmp_path / "out"
    )
    assert "No space left on device" in line
    assert [m.name for m in sorted((tmp_path / "out" / "masks").iterdir())] == [f"{i:05d}.png" for i in range(3)]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"] is False


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(scene, tmp_path):
    """A real process, a real signal: exit code 130, whole masks, a playable overlay."""
    video = tmp_path / "long.mp4"
    with VideoWriter(video, 10) as writer:
        for image, _ in render_clip(2, frames=400, height=SIZE[0], width=SIZE[1], objects=2):
            writer.write(image)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "twospeed", "track", str(video), "--mask", str(scene / "mask0.png")]
    command += ["-o", str(out), "--size", "96"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.glob("masks/*.png"))) < 5:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "finished frames are kept" in errors
    masks = sorted((out / "masks").glob("*.png"))
    assert 5 <= len(masks) < 400
    assert all(read_label_map(m, allow_empty=True).shape == SIZE for m in masks)
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] is False
    with av.open(str(out / "overlay.mp4")) as overlay:
        assert abs(sum(1 for _ in overlay.decode(video=0)) - len(masks)) <= 1


@pytest.mark.slow
def test_what_corrects_masks_is_chosen_and_noted(scene, tmp_path, capsys):
    first = ["track", scene / "clip.mp4", "--mask", scene / "mask0.png"]
    assert "find_nano" in fails(capsys, *first, "--finder", "track_tiny", "-o", tmp_path / "out")
    assert "--finder" in fails(capsys, "track", scene / "clip.mp4", "--finder", "none", "-o", tmp_path / "out")
    assert twospeed(*first, "--finder", "none", "-o", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["options"]["finder"] is None


def test_a_video_on_standard_input(scene, tmp_path):
    command = [sys.executable, "-m", "twospeed", "track", "-", "--mask", str(scene / "mask0.png"), "-q", "--size", "64"]
    with (scene / "clip.mp4").open("rb") as video:
        done = subprocess.run([*command, "-o", str(tmp_path / "out")], stdin=video, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 12


def test_demo_scores_itself(tmp_path, capsys):
    assert twospeed("demo", "-o", tmp_path / "demo", "--frames", 6, "--json", "-q") == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0.5 < scores["J&F"] <= 1
    assert set(scores["objects"]) == {"1", "2", "3"}
    for name in ("clip.mp4", "overlay.mp4", "run.json", "masks/00005.png"):
        assert (tmp_path / "demo" / name).is_file()
    assert twospeed("demo", "-o", tmp_path / "demo", "--frames", 6, "-q") == 0
    assert "".join(capsys.readouterr()) == ""


def test_convert_recognises_and_keeps_every_weight(tmp_path, capsys):
    state = track_tiny().state_dict()
    torch.save({"network": state, "it": 3}, tmp_path / "checkpoint.pth")
    target = tmp_path / "nano.safetensors"
    assert twospeed("convert", tmp_path / "checkpoint.pth", "-o", target) == 0
    assert "track_tiny" in capsys.readouterr().err
    from twospeed import create_model

    assert all(torch.equal(v, state[k]) for k, v in create_model("track_tiny", target).state_dict().items())
    assert "must end in .safetensors" in fails(capsys, "convert", target, "-o", tmp_path / "a.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    assert "name the model (--model)" in fails(capsys, "convert", tmp_path / "other.pth", "-o", target)


def test_models_lists_and_tells(capsys):
    assert twospeed("models") == 0
    assert "stcn" in capsys.readouterr().out
    assert twospeed("models", "stcn") == 0
    text = capsys.readouterr().out
    assert "54,434,180" in text
    assert "multiply-adds" in text
    assert twospeed("models", "--task", "track", "--json") == 0
    assert {"stcn", "track_tiny"} <= {line["name"] for line in json.loads(capsys.readouterr().out)}
    assert "did you mean" in fails(capsys, "models", "stcnn")


def test_bench_says_what_the_clock_counts(capsys):
    assert twospeed("bench", "track_tiny", "--size", "64x48", "--frames", 3, "--memory-frames", 2, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["clock_counts"] == "Tracker.step"
    assert facts["per_second"] > 0


@pytest.mark.parametrize("command", ["", "evaluate", "batch"])
def test_help_is_shown_where_no_command_is_given(command, capsys):
    assert twospeed(*command.split()) == 2
    captured = capsys.readouterr()
    assert "Commands" in captured.out
    where = f"twospeed {command}".strip()
    assert captured.err == f"twospeed: no command is given (`{where} --help` lists the options)\n"


@pytest.mark.parametrize("command", ["", "track", "demo", "convert", "models", "bench"])
def test_help_is_there_and_teaches(command):
    environment = {**os.environ, "COLUMNS": "120"}
    arguments = [sys.executable, "-m", "twospeed", *([command] if command else []), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "Usage: twospeed" in done.stdout
    if command == "track":
        assert "Examples" in done.stdout
        *_, prompts, network, results, folder = re.split("\n╭─ ", done.stdout)
        assert prompts.startswith("Prompts ")
        for panel, options in (
            (prompts, ["--mask", "--background-point", "--direction", "--preview"]),
            (network, ["--size", "--memory-every"]),
            (results, ["--matte", "--export"]),
            (folder, ["--output", "--start", "--resume"]),
        ):
            assert all(f"│ {option} " in panel for option in options)
