"""Prompts of any frame, both directions, and previews, as people type them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import SIZE, fails, twospeed
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.indexed_png import read_label_map, write_indexed_png
from twospeed.video.reader import open_video


def track(scene, out, *arguments: object) -> list[object]:
    return ["track", scene / "clip.mp4", *arguments, "--size", 64, "-q", "--no-overlay", "-o", out]


def masks(out) -> list[np.ndarray]:
    return [read_label_map(path, allow_empty=True) for path in sorted((out / "masks").glob("*.png"))]


def truth() -> list[np.ndarray]:
    return [labels for _, labels in render_clip(2, frames=12, height=SIZE[0], width=SIZE[1], objects=2)]


def box_of(labels: np.ndarray, number: int) -> str:
    ys, xs = np.nonzero(labels == number)
    return f"{xs.min()},{ys.min()},{np.ptp(xs) + 1},{np.ptp(ys) + 1}"


def test_boxes_and_points_of_one_object_make_one_mask(scene, tmp_path):
    box = box_of(truth()[0], 1)
    assert twospeed(*track(scene, tmp_path / "one", "--box", f"4@{box}", "--point", "4@3=30,30", "--end", 5)) == 0
    found = masks(tmp_path / "one")
    assert set(np.unique(found[0])) == {0, 4}
    assert all(set(np.unique(labels)) <= {0, 4} for labels in found)
    assert found[3][30, 30] == 4
    assert twospeed(*track(scene, tmp_path / "two", "--box", box, "--point", "3=30,30", "--end", 5)) == 0
    assert set(np.unique(masks(tmp_path / "two")[3])) >= {2}, "without OBJECT@ each is a new object"


def test_a_polygon_is_what_it_encloses(scene, tmp_path):
    corners = "10,20,50,20,50,60,10,60"
    assert twospeed(*track(scene, tmp_path, "--polygon", corners, "--end", 1)) == 0
    expected = np.zeros(SIZE, np.uint8)
    expected[20:60, 10:50] = 1
    assert (masks(tmp_path)[0] == expected).mean() > 0.97  # resized to the network's size and back


def test_a_background_point_belongs_to_the_object_of_its_frame(scene, tmp_path, capsys):
    box = box_of(truth()[0], 1)
    x, y = (int(v) for v in np.argwhere(truth()[0] == 1)[:, ::-1].mean(0))
    assert twospeed(*track(scene, tmp_path / "with", "--box", box, "--background-point", f"{x},{y}", "--end", 1)) == 0
    assert masks(tmp_path / "with")[0][y, x] == 0
    line = fails(capsys, *track(scene, tmp_path / "x", "--box", box, "--box", "5,5,9,9", "--background-point", "1,1"))
    assert "2 objects are marked in frame 0; say which one with OBJECT@, such as 1@0=1,1" in line


@pytest.mark.parametrize(("arguments", "message"), [
    (["--box", "300@1,2,30,40"], "objects are numbered from 1 to 254"),
    (["--box", "1@1,2,30,40", "--box", "1@2,2,30,40"], "a second box for this object and frame"),
    (["--polygon", "1,2,3,4"], "give x,y of three corners or more"),
    (["--point", "9,9", "--gone", "1=3"], "--gone is '1=3'; give OBJECT@FRAME"),
    (["--point", "9,9", "--gone", "2@3"], "gone names object 2, which was never given"),
    (["--point", "40=9,9", "--direction", "both"], "for frame 40, but the frames that are tracked are 0 to 11"),
    (["--background-point", "9,9"], "find_nano finds objects without prompts; leave --background-point out"),
])  # fmt: skip
def test_prompts_that_are_refused(scene, tmp_path, capsys, arguments, message):
    assert message in fails(capsys, *track(scene, tmp_path / "out", *arguments))


def test_both_directions_from_the_middle(scene, tmp_path, capsys):
    middle = f"6={scene / 'mask6.png'}"
    command = ["track", scene / "clip.mp4", "--mask", middle, "--size", 0, "--no-overlay"]
    assert twospeed(*command, "-o", tmp_path / "forward") == 0
    assert "frames 0 to 5 come before the first mask and stay empty; --direction both" in capsys.readouterr().err
    assert [labels.any() for labels in masks(tmp_path / "forward")] == [False] * 6 + [True] * 6
    assert twospeed(*command, "--direction", "backward", "-o", tmp_path / "backward") == 0
    assert "frames 7 to 11 come after the last mask" in capsys.readouterr().err
    assert [labels.any() for labels in masks(tmp_path / "backward")] == [True] * 7 + [False] * 5
    assert twospeed(*command, "--direction", "both", "-o", tmp_path / "both") == 0
    assert "stay empty" not in capsys.readouterr().err
    both = masks(tmp_path / "both")
    for index, labels in enumerate(truth()):
        wanted, found = labels == 1, both[index] == 1
        assert (wanted & found).sum() / (wanted | found).sum() > 0.5
    for index in range(7):
        assert (both[index] == masks(tmp_path / "backward")[index]).all()
    rows = list(csv.DictReader((tmp_path / "both" / "frames.csv").read_text().splitlines()))
    assert [int(row["source_index"]) for row in rows] == list(range(12))


def test_backward_begins_at_the_last_frame(scene, tmp_path):
    command = track(scene, tmp_path, "--mask", scene / "mask6.png", "--direction", "backward", "--end", 7)
    assert twospeed(*command) == 0
    assert json.loads((tmp_path / "run.json").read_text())["options"]["first_masks"] == [6]


@pytest.mark.parametrize("at", [2, 8, 11])
def test_both_directions_are_resumed_bit_for_bit(scene, tmp_path, monkeypatch, at):
    prompts = ["--mask", f"4={scene / 'mask0.png'}", "--mask", f"9={scene / 'mask6.png'}", "--gone", "2@10"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = track(scene, out, *prompts, "--direction", "both")
    with monkeypatch.context() as patch:
        from twospeed.output.run import Run

        write = Run.write_labels

        def stopping(self, into, frame, result):
            if frame.index == at:
                raise KeyboardInterrupt
            write(self, into, frame, result)

        patch.setattr(Run, "write_labels", stopping)
        assert twospeed(*command) == 130
    assert len(masks(out)) == at
    assert twospeed(*command, "--resume") == 0
    assert twospeed(*track(scene, whole, *prompts, "--direction", "both")) == 0
    assert all((a == b).all() for a, b in zip(masks(out), masks(whole), strict=True))
    assert (out / "frames.csv").read_bytes() == (whole / "frames.csv").read_bytes()
    records = [json.loads((folder / "run.json").read_text()) for folder in (out, whole)]
    assert records[0]["summary"] == records[1]["summary"]


def test_gone_objects_are_gone(scene, tmp_path):
    assert twospeed(*track(scene, tmp_path, "--mask", scene / "mask0.png", "--gone", "1@5")) == 0
    assert [bool((labels == 1).any()) for labels in masks(tmp_path)] == [True] * 5 + [False] * 7


def test_annotations_are_prompts(scene, tmp_path, capsys):
    document = {
        "version": "5.0", "imagePath": "00003.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1],
        "shapes": [{"label": "dog", "shape_type": "polygon", "points": [[10, 20], [50, 20], [50, 60], [10, 60]]}],
    }  # fmt: skip
    (tmp_path / "00003.json").write_text(json.dumps(document))
    (tmp_path / "first.json").write_text(json.dumps(document))
    options = ["--size", 0, "-q", "--no-overlay", "--end", 5]
    frames = ["track", scene / "frames", *options]
    assert twospeed(*frames, "--mask", tmp_path / "00003.json", "-o", tmp_path / "out") == 0
    found = masks(tmp_path / "out")
    assert [labels.any() for labels in found] == [False] * 3 + [True] * 2
    expected = np.zeros(SIZE, bool)
    expected[20:60, 10:50] = True
    assert ((found[3] > 0) == expected).mean() > 0.99
    line = fails(capsys, *frames, "--mask", tmp_path / "first.json", "-o", tmp_path / "none")
    assert "first is no frame of" in line
    assert "FRAME=" in line
    assert twospeed(*frames, "--mask", f"1={tmp_path / 'first.json'}", "-o", tmp_path / "at1") == 0
    assert [labels.any() for labels in masks(tmp_path / "at1")] == [False] + [True] * 4
    clip = ["track", scene / "clip.mp4", *options]
    assert twospeed(*clip, "--mask", tmp_path / "first.json", "-o", tmp_path / "clip") == 0
    assert masks(tmp_path / "clip")[0].any()


def test_a_folder_of_labelme_and_a_run_are_prompts(scene, tmp_path):
    for index, mask in (0, "mask0.png"), (6, "mask6.png"):
        (tmp_path / "pngs").mkdir(exist_ok=True)
        shutil.copy(scene / mask, tmp_path / "pngs" / f"{index:05d}.png")
    assert twospeed("masks", tmp_path / "pngs", "--as", "labelme", "-o", tmp_path / "notes", "-q") == 0
    for source in (tmp_path / "pngs", tmp_path / "notes" / "labelme", tmp_path / "first"):
        out = tmp_path / ("first" if source.name == "pngs" else source.parent.name + "_out")
        assert twospeed(*track(scene, out, "--mask", source)) == 0
        given = json.loads((out / "run.json").read_text())["options"]["first_masks"]
        assert given == (list(range(12)) if source.name == "first" else [0, 6])
        assert (masks(out)[6] != truth()[6]).mean() < 0.02


def test_hidden_files_do_not_change_which_frames_masks_are_of(scene, tmp_path):
    frames, masks = tmp_path / "frames", tmp_path / "masks"
    for folder in (frames, masks):
        folder.mkdir()
    for frame in open_video(scene / "clip.mp4", end=3):
        Image.fromarray(frame.image).save(frames / f"{1 + frame.index:05d}.jpg")
    shutil.copy(scene / "mask0.png", masks / "00001.png")  # of the first image
    (masks / "._00001.png").write_bytes(b"\x00\x05\x16\x07")
    assert twospeed("track", frames, "--mask", masks, "-o", tmp_path / "out", "-q", "--size", 64) == 0
    assert sorted(file.name for file in (tmp_path / "out/masks").iterdir()) == ["00001.png", "00002.png", "00003.png"]


def test_masks_of_sixty_objects_are_tracked(scene, tmp_path):
    labels = np.zeros(SIZE, np.uint8)
    for k in range(60):
        labels[16 * (k // 10) + 3 : 16 * (k // 10) + 13, 12 * (k % 10) + 2 : 12 * (k % 10) + 11] = k + 1
    write_indexed_png(tmp_path / "sixty.png", labels)
    assert (
        twospeed(*track(scene, tmp_path / "out", "--mask", tmp_path / "sixty.png", "--end", 2, "--max-objects", 60))
        == 0
    )
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["summary"]["objects"]) == 60


def test_a_preview_draws_masks_and_loads_no_torch(scene, tmp_path, capsys):
    code = (
        "import sys; from twospeed.cli.main import exit_code; "
        "code = exit_code(sys.argv[1:]); "
        "from twospeed.pipelines.prompts import default_network; "
        "free = 'torch' not in sys.modules or type(default_network()).__name__ == 'ClickSegmenter'; "
        "sys.exit(code or (0 if free else 99))"
    )
    box = box_of(truth()[3], 1)
    command = track(scene, tmp_path / "out", "--box", f"3={box}", "--preview")
    assert subprocess.run([sys.executable, "-c", code, *map(str, command)], check=False).returncode == 0
    written = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == ["out/preview/masks/00003.png", "out/preview/overlay.png"]
    assert read_label_map(tmp_path / "out" / "preview" / "masks" / "00003.png").any()
    overlay = cv2.imread(str(tmp_path / "out" / "preview" / "overlay.png"))
    assert overlay.shape == (*SIZE, 3)
    assert twospeed(*command) == 0, "again, over the earlier one"
    assert twospeed(*(part for part in command if part != "-q")) == 0
    assert "frame 3, 1 object\n" in capsys.readouterr().err


def test_quality_chooses_and_says_its_rate(scene, tmp_path, capsys):
    command = ["track", scene / "clip.mp4", "--mask", scene / "mask0.png", "--no-overlay", "-o", tmp_path]
    assert twospeed(*command, "--quality", "fast", "--memory-every", 4) == 0
    assert "quality fast (track_nano, size 480, fp32): " in (err := capsys.readouterr().err)
    assert "frames/s on this machine" in err
    options = json.loads((tmp_path / "run.json").read_text())["options"]
    assert (options["size"], options["max_memory_frames"], options["memory_every"]) == (480, 10, 4)
    assert twospeed(*command, "--quality", "fast", "--size", 64, "-q") == 0
    assert json.loads((tmp_path / "run.json").read_text())["options"]["size"] == 64


def test_a_run_of_another_quality_is_not_resumed(scene, tmp_path, capsys):
    command = ["track", scene / "clip.mp4", "--mask", scene / "mask0.png", "--no-overlay", "-q", "-o", tmp_path]
    assert twospeed(*command, "--end", 2, "--quality", "fast") == 0
    line = fails(capsys, *command, "--end", 2, "--quality", "good", "--resume")
    assert "holds a run of quality fast, now it is good; " in line
    assert line.endswith("(--quality)")
    assert "max_memory_frames" in fails(capsys, *command, "--end", 2, "--max-memory-frames", 7, "--resume")


def test_no_rate_is_promised_where_objects_are_found_before_the_first_result(scene, tmp_path, capsys):
    command = ["track", scene / "clip.mp4", "--quality", "fast", "--size", 64, "--no-overlay", "-o", tmp_path]
    assert twospeed(*command) == 0
    assert "on this machine" not in (err := capsys.readouterr().err)
    assert "12 frames, found" in err


def test_memory_is_bounded_unless_told_otherwise(scene, tmp_path):
    for given, expected in (([], 20), (["--max-memory-frames", "none"], None)):
        assert twospeed(*track(scene, tmp_path, "--mask", scene / "mask0.png", "--end", 2, *given)) == 0
        assert json.loads((tmp_path / "run.json").read_text())["options"]["max_memory_frames"] == expected


def test_json_names_the_frames_that_are_worth_a_look(scene, tmp_path, capsys):
    assert twospeed(*track(scene, tmp_path, "--mask", scene / "mask0.png", "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["worth_a_look"]
    for one in summary["worth_a_look"]:
        assert set(one) == {"frame", "time_s", "object", "confidence", "drop"}
        assert 0 < one["frame"] < 12
    with Image.open(tmp_path / "confidence.png") as image:
        assert image.width > 500


def test_a_box_of_a_file_is_as_good_as_a_typed_one(scene, tmp_path):
    document = {
        "images": [{"id": 1, "file_name": "00000.jpg", "width": SIZE[1], "height": SIZE[0]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    options = ["--size", "64", "--no-overlay", "-q", "--end", "3"]
    assert twospeed("track", scene / "clip.mp4", "--mask", tmp_path / "boxes.json", "-o", tmp_path / "a", *options) == 0
    assert twospeed("track", scene / "clip.mp4", "--box", "10,20,30,40", "-o", tmp_path / "b", *options) == 0
    for index in range(3):
        one, other = (read_label_map(tmp_path / n / "masks" / f"{index:05d}.png", allow_empty=True) for n in "ab")
        assert (one == other).all()
