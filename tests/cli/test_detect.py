"""`twospeed detect` and `twospeed evaluate ava` as people type them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import twospeed
from tests.cli.commands import decoded_images, fails
from tests.conftest import GOLDENS
from tests.video.footage import numbered
from twospeed.cli.main import exit_code
from twospeed.data.benchmarks.ava import read_detections
from twospeed.output import action_overlay
from twospeed.output.exports.actions import FILES
from twospeed.weights.load import save_model

AVA = GOLDENS / "ava_metric"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a clip of 2.4 s, a file of boxes, and weights of a small detector."""
    folder = tmp_path_factory.mktemp("place")
    numbered(folder / "clip.mp4", 60, size=(32, 48))
    (folder / "people.csv").write_text(
        "time_s,x1,y1,x2,y2,score\n0,4,4,20,30,0.9\n0,26,4,44,30,0.9\n1,6,4,22,30,0.9\n2,6,4,22,30,0.5\n"
    )
    torch.manual_seed(0)
    network = twospeed.create_model("slow_r50_4x16_ava", None, width=8)
    save_model(network, folder / "small.safetensors", model_name="slow_r50_4x16_ava")
    return folder


def images(path: Path) -> list[np.ndarray]:
    with twospeed.open_video(path) as frames:
        return [frame.image for frame in frames]


def model(place: Path) -> tuple[object, ...]:
    return ("--model", "slow_r50_4x16_ava", "--weights", place / "small.safetensors")


def run(*arguments: object) -> int:
    return exit_code([str(argument) for argument in arguments])


def test_detect_writes_all_it_promises_and_its_csv_can_be_scored(place, tmp_path, capsys):
    out = tmp_path / "out"
    code = run(
        "detect",
        place / "clip.mp4",
        "--boxes",
        place / "people.csv",
        *model(place),
        "-o",
        out,
        "--json",
        "--export",
        "jsonl,vtt,srt,cvat",
    )
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((out / "results.json").read_text())
    assert [(person["id"], person["keyframes"]) for person in document["people"]] == [(1, 2), (2, 1)]
    assert [len(keyframe["people"]) for keyframe in document["keyframes"]] == [2, 1, 0]
    rows = read_detections(out / "detections.csv")
    assert len(rows) == 3 * 80
    assert set(rows.videos) == {"clip"}
    assert rows.boxes_xyxy[0] == pytest.approx([4 / 48, 4 / 32, 20 / 48, 30 / 32], abs=1e-6)
    with av.open(str(out / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 60
    assert len((out / "frames.csv").read_text().splitlines()) == 1 + 60
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] is True
    assert record["inputs"].keys() == {"video", "boxes"}
    assert set(record["files"]) == {
        "results.json",
        "detections.csv",
        "overlay.mp4",
        "frames.csv",
        "report.html",
        *FILES.values(),
    }
    lines = (out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == document["keyframes"]
    assert (out / "people.xml").read_text().count("<track ") == 2
    assert record["model"] == "slow_r50_4x16_ava"
    assert len(record["weights_sha256"]) == 64
    truth = tmp_path / "truth.csv"
    truth.write_text("clip,0,0.08,0.12,0.42,0.94,12,0\n")
    scores = tmp_path / "scores.json"
    files = ("--predictions", out / "detections.csv", "--ground-truth", truth)
    assert run("evaluate", "ava", *files, "--rules", "pyslowfast", "--json", scores) == 0
    # Three boxes have a score for standing and one is right: AP is 1, 1/2 or 1/3, by its place
    assert json.loads(scores.read_text())["class_AP"]["stand"] == pytest.approx(0.6, abs=0.401)


def test_a_box_by_hand_and_no_overlay(place, tmp_path, capsys):
    code = run(
        "detect", place / "clip.mp4", "--box", "4,4,16,26", *model(place), "-o", tmp_path, "--no-overlay", "--every", 2
    )
    assert code == 0
    shown = capsys.readouterr()
    assert "person 1 (4 4 20 30)" in shown.out
    assert "2 keyframes, 1 person\n" in shown.err
    assert not (tmp_path / "overlay.mp4").exists()


def test_a_video_is_decoded_once_for_its_people_and_its_overlay(place, tmp_path, monkeypatch):
    decoded = decoded_images(monkeypatch)
    assert run("detect", place / "clip.mp4", "--box", "4,4,16,26", *model(place), "-o", tmp_path, "--every", 2) == 0
    assert 60 <= len(decoded) <= 61


def test_sizes_mirrored_clips_and_networks_are_averaged(place, tmp_path, capsys):
    out = tmp_path / "out"
    twice = (*model(place), *model(place))
    options = ("--box", "4,4,16,26", "--scales", "32,48", "--flip", "--every", 2, "--no-overlay", "-o", out)
    assert run("detect", place / "clip.mp4", *twice, *options) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == "slow_r50_4x16_ava + slow_r50_4x16_ava"
    assert record["weights_sha256"].count(" + ") == 1
    assert (record["options"]["scales"], record["options"]["flip"]) == ("32,48", True)
    scores = [read_detections(out / "detections.csv").scores]
    for size in (32, 48):
        size_options = ("--box", "4,4,16,26", "--size", size, "--flip", "--every", 2, "--no-overlay", "-o", out)
        assert run("detect", place / "clip.mp4", *model(place), *size_options, "-q") == 0
        scores.append(read_detections(out / "detections.csv").scores)
    assert scores[0] == pytest.approx((scores[1] + scores[2]) / 2, abs=2e-6)
    assert abs(scores[1] - scores[2]).max() > 1e-4
    both = ("--size", 48, "--scales", "32,48")
    assert "exclude each other" in fails(capsys, "detect", place / "clip.mp4", *model(place), *both)
    assert "--scales 32,x" in fails(capsys, "detect", place / "clip.mp4", *model(place), "--scales", "32,x")


def test_a_part_of_a_video_and_a_finished_run(place, tmp_path, capsys):
    options = ("--boxes", place / "people.csv", *model(place), "-o", tmp_path, "--json", "-q")
    assert run("detect", place / "clip.mp4", *options, "--start", "0.5s", "--end", "00:01.9") == 0
    document = json.loads(capsys.readouterr().out)
    assert [keyframe["time_s"] for keyframe in document["keyframes"]] == [1]
    frames = len((tmp_path / "frames.csv").read_text().splitlines()) - 1
    assert frames == len(images(tmp_path / "overlay.mp4")) == 35
    again = ("--start", "0.5s", "--end", "00:01.9", "--resume")
    assert run("detect", place / "clip.mp4", *options, *again) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert "end '00:01.9', now it is None" in fails(
        capsys, "detect", place / "clip.mp4", *options, "--start", "0.5s", "--resume"
    )


def test_a_pipe_has_an_overlay_too(place, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with (place / "clip.mp4").open("rb") as pipe:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe))
        assert run("detect", "-", "--box", "4,4,16,26", *model(place), "-o", out, "-q", "--min-score", 0) == 0
    frames = images(out / "overlay.mp4")
    assert len(frames) == 60
    plain = images(place / "clip.mp4")
    outline = [np.abs(a[4:30, 3:5].astype(int) - b[4:30, 3:5]).mean() for a, b in zip(frames, plain, strict=True)]
    assert min(outline) > 20  # the box is drawn in every frame, before, between and after keyframes


def test_a_video_that_breaks_off_leaves_the_keyframes_before(place, tmp_path, capsys):
    whole = numbered(tmp_path / "whole.mkv", 100, size=(32, 48), options={"g": "5", "qp": "10"}).read_bytes()
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole[: len(whole) * 7 // 10])
    out = tmp_path / "out"
    options = ("--box", "4,4,16,26", *model(place), "-o", out, "-q")
    assert "broken.mkv" in fails(capsys, "detect", broken, *options)
    keyframes = json.loads((out / "results.json").read_text())["keyframes"]
    assert [keyframe["time_s"] for keyframe in keyframes] == [0, 1, 2]
    assert len(images(out / "overlay.mp4")) > 20
    assert json.loads((out / "run.json").read_text())["finished"] is False


def test_frames_before_a_late_keyframe_and_behind_the_last_are_in_the_overlay(place, tmp_path, monkeypatch):
    monkeypatch.setattr(action_overlay, "MOST_BYTES", 20_000)
    boxes = tmp_path / "late.csv"
    boxes.write_text("time_s,x1,y1,x2,y2\n1.5,4,4,20,30\n")
    clip = place / "clip.mp4"
    assert run("detect", clip, "--boxes", boxes, *model(place), "-o", tmp_path, "-q", "--every", 0.3) == 0
    frames, plain = images(tmp_path / "overlay.mp4"), images(clip)
    assert len(frames) == 60
    drawn = [np.abs(a[4:30, 3:5].astype(int) - b[4:30, 3:5]).mean() > 20 for a, b in zip(frames, plain, strict=True)]
    assert drawn.index(True) in range(30, 40)
    assert len(drawn) - drawn[::-1].index(True) in range(44, 48)


def test_bad_input_is_one_line(place, tmp_path, capsys):
    clip, out = place / "clip.mp4", tmp_path / "out"
    late, outside, broken = tmp_path / "late.csv", tmp_path / "outside.csv", tmp_path / "broken.csv"
    late.write_text("time_s,x1,y1,x2,y2\n1,4,4,20,30\n9,4,4,20,30\n")
    outside.write_text("time_s,x1,y1,x2,y2\n1,4,4,200,30\n")
    broken.write_text("clip,1,0.1,0.1,0.2,0.2,,0.9\nclip,1,0.1,0.1,0.2,0.2\n")
    said = {
        late: "late.csv:3: the keyframe at 9 s is out of range",
        outside: "outside.csv:2: box 4, 4, 200, 30 lies outside of the image of 48x32 pixels",
        broken: "broken.csv:2: 6 columns; a row of predicted boxes is",
        tmp_path / "none.csv": "none.csv: no such file",
    }
    for file, message in said.items():
        assert message in fails(capsys, "detect", clip, "--boxes", file, *model(place), "-o", out, "-q")
    assert "--box is '1,2,3'" in fails(capsys, "detect", clip, "--box", "1,2,3", *model(place), "-o", out)
    both = ("--box", "1,2,3,4", "--boxes", late)
    assert "exclude each other" in fails(capsys, "detect", clip, *both, *model(place), "-o", out)
    assert "no such file" in fails(capsys, "detect", tmp_path / "x.mp4", "--box", "1,2,3,4", *model(place), "-o", out)
    assert not out.exists()


def test_evaluate_ava_by_both_rules(tmp_path, capsys):
    files = ("--predictions", AVA / "detections.csv", "--ground-truth", AVA / "groundtruth.csv")
    files += ("--labels", AVA / "label_map.pbtxt", "--exclusions", AVA / "excluded_timestamps.csv")
    expected = json.loads((AVA / "expected.json").read_text())["results"]
    for rules in ("activitynet", "pyslowfast"):
        options = () if rules == "activitynet" else ("--rules", rules)
        assert run("evaluate", "ava", *files, *options, "--json", tmp_path / "scores.json") == 0
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert expected[rules]["mAP_low"] - 1e-6 <= scores["mAP"] <= expected[rules]["mAP_high"] + 1e-6
        assert len(scores["class_AP"]) == expected[rules]["classes_counted"]
        excluded = [note for note in scores["notes"] if "excluded keyframes are annotated" in note]
        assert bool(excluded) == (rules == "activitynet")
    assert "mean over 30 of 60 classes" in capsys.readouterr().out


def test_evaluate_ava_says_what_is_missing_or_broken(tmp_path, capsys):
    found, truth = ("--predictions", AVA / "detections.csv"), ("--ground-truth", AVA / "groundtruth.csv")
    assert "give --predictions" in fails(capsys, "evaluate", "ava", *truth)
    assert "give --ground-truth" in fails(capsys, "evaluate", "ava", *found)
    assert "'coco' is not one of 'activitynet', 'pyslowfast'" in fails(
        capsys, "evaluate", "ava", *found, *truth, "--rules", "coco"
    )
    assert "No such option: --top-k" in fails(capsys, "evaluate", "ava", *found, *truth, "--top-k", 3)
    assert "--size belongs to a run of a --model" in fails(capsys, "evaluate", "ava", *found, *truth, "--size", 3)
    assert "No such option: --rules" in fails(capsys, "evaluate", "davis16", "--rules", "coco")
    other = tmp_path / "other.csv"
    other.write_text("other,0902,0.1,0.1,0.5,0.5,12,0\n")
    assert "share no keyframe" in fails(capsys, "evaluate", "ava", *found, "--ground-truth", other)
    other.write_text("other,0902,0.1,0.1,0.5,0.5,2,0\n")
    assert "none of its 1 rows has a class that is scored" in fails(
        capsys, "evaluate", "ava", *found, "--ground-truth", other
    )
