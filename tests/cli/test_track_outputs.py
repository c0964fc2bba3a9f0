"""`twospeed track`: exports, mattes and censored videos, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.cli.commands import SIZE, fails, twospeed
from tests.video.test_sound_and_alpha import film_with_sound
from twospeed.data.annotations import read_annotations
from twospeed.pipelines.classify import videos_in
from twospeed.video.indexed_png import read_label_map, write_indexed_png
from twospeed.video.writer import VideoWriter

EVERYTHING = "coco,youtube-vis,davis,youtube-vos,yolo-seg,cvat,labelme"


@pytest.fixture(scope="module")
def everything(scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("everything")
    options = ("--export", EVERYTHING, "--export-images", "--matte", "prores4444", "--matte-layers")
    options += ("--blur", "--pixelate", "--remove-background", "#00ff00", "--size", 64, "-q")
    assert twospeed("track", scene / "clip.mp4", "--mask", scene / "mask0.png", "-o", out, *options) == 0
    return out


@pytest.mark.parametrize("name", ["coco.json", "youtube-vis.json", "davis.zip", "youtube-vos.zip", "cvat.xml"])
def test_every_export_holds_the_masks_of_the_pngs(name, everything):
    back = list(read_annotations(everything / "exports" / name))
    assert [frame.index for frame in back] == [*range(12)]
    for frame in back:
        png = read_label_map(everything / "masks" / f"{frame.name}.png", allow_empty=True)
        np.testing.assert_array_equal(frame.masks.labels, png)


def test_all_files_are_listed_and_none_is_unfinished(everything):
    record = json.loads((everything / "run.json").read_text())
    listed = {path.relative_to(everything).as_posix() for path in everything.rglob("*") if path.is_file()}
    assert set(record["files"]) == listed - {"run.json"}
    assert {"exports/labels/00011.txt", "exports/labelme/00003.json", "exports/images/00000.jpg"} <= listed
    assert not list(everything.rglob(".*"))


def test_mattes_are_one_layer_an_object_with_alpha_along_its_mask(everything):
    for number in (1, 2):
        with av.open(str(everything / "matte" / f"object_{number}.mov")) as video:
            frames = [frame.to_ndarray(format="rgba") for frame in video.decode(video=0)]
        assert len(frames) == 12
        inside = read_label_map(everything / "masks" / "00005.png") == number
        core = cv2.erode(inside.astype(np.uint8), np.ones((7, 7))) > 0
        far = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) == 0
        assert core.any()
        assert frames[5][..., 3][core].min() > 250
        assert frames[5][..., 3][far].max() < 5


def test_the_removed_background_is_the_colour(everything):
    with av.open(str(everything / "background.mp4")) as video:
        image = next(video.decode(video=0)).to_ndarray(format="rgb24")
    outside = (
        cv2.dilate((read_label_map(everything / "masks" / "00000.png") > 0).astype(np.uint8), np.ones((15, 15))) == 0
    )
    assert np.abs(image[outside].astype(int) - (0, 255, 0)).mean() < 8
    for name in ("blurred.mp4", "pixelated.mp4"):
        with av.open(str(everything / name)) as video:
            assert sum(1 for _ in video.decode(video=0)) == 12


def test_sound_is_kept_unless_dropped(tmp_path):
    film_with_sound(tmp_path / "film.mp4", "aac", seconds=1)
    with av.open(str(tmp_path / "film.mp4")) as video:
        first = next(video.decode(video=0))
    mask = np.zeros((first.height, first.width), np.uint8)
    mask[4:20, 4:20] = 1
    write_indexed_png(tmp_path / "mask.png", mask)
    arguments = ("track", tmp_path / "film.mp4", "--mask", tmp_path / "mask.png", "-q", "--blur", "--end", 6)
    assert twospeed(*arguments, "-o", tmp_path / "with") == 0
    assert twospeed(*arguments, "-o", tmp_path / "without", "--no-audio") == 0
    for name in ("overlay.mp4", "blurred.mp4"):
        with av.open(str(tmp_path / "with" / name)) as video, av.open(str(tmp_path / "without" / name)) as silent:
            assert [stream.type for stream in video.streams] == ["video", "audio"]
            assert [stream.type for stream in silent.streams] == ["video"]


def test_unknown_formats_and_half_descriptions_are_refused_at_once(scene, tmp_path, capsys):
    arguments = ("track", scene / "clip.mp4", "--mask", scene / "mask0.png", "-o", tmp_path / "out")
    assert "'avi' is not a format; choose from coco" in fails(capsys, *arguments, "--export", "coco,avi")
    assert "neither a colour" in fails(capsys, *arguments, "--remove-background", "nothing.png")
    assert "--matte" in fails(capsys, *arguments, "--matte-layers")
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_exports_the_same(scene, tmp_path, monkeypatch):
    """Frames whose masks were read from files have the confidence that they had."""
    from twospeed.cli import track_job as command

    arguments = ("track", scene / "clip.mp4", "--mask", scene / "mask0.png", "--size", 64, "-q", "--no-overlay")
    arguments += ("--export", "coco")
    assert twospeed(*arguments, "-o", tmp_path / "whole") == 0
    monkeypatch.setattr(command, "SECONDS_BETWEEN_STATES", 0.0)
    from twospeed.output.exports.coco import CocoExport

    add = CocoExport.add

    def broken(self, frame):
        if frame.index == 7:
            raise KeyboardInterrupt
        add(self, frame)

    with monkeypatch.context() as patch:
        patch.setattr(CocoExport, "add", broken)
        assert twospeed(*arguments, "-o", tmp_path / "parts") == 130
    assert len(json.loads((tmp_path / "parts" / "exports" / "coco.json").read_text())["images"]) == 7
    assert twospeed(*arguments, "-o", tmp_path / "parts", "--resume") == 0
    whole, parts = (json.loads((tmp_path / n / "exports" / "coco.json").read_text()) for n in ("whole", "parts"))
    assert whole == parts
    assert SIZE == (96, 128)


def test_times_of_a_video_whose_rate_varies_are_kept_to_the_millisecond(tmp_path):
    times = [0.0, 0.04, 0.25, 0.3, 1.013, 1.05]
    labels = np.zeros(SIZE, np.uint8)
    labels[20:60, 20:60] = 1
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for number, time_s in enumerate(times):
            image = np.full((*SIZE, 3), 30 * number, np.uint8)
            image[labels > 0] = (200, 40, 40)
            writer.write(image, time_s)
    write_indexed_png(tmp_path / "mask.png", labels)
    arguments = ("track", tmp_path / "clip.mp4", "--mask", tmp_path / "mask.png", "-o", tmp_path / "out", "-q")
    assert twospeed(*arguments, "--matte", "webm", "--pixelate") == 0
    for name in ("overlay.mp4", "matte.webm", "pixelated.mp4"):
        with av.open(str(tmp_path / "out" / name)) as video:
            found = [float(frame.pts * frame.time_base) for frame in video.decode(video=0)]
        assert found == pytest.approx(times, abs=1e-3)


def test_what_runs_wrote_is_not_among_the_videos_of_a_folder(scene, tmp_path):
    clip = shutil.copy(scene / "clip.mp4", tmp_path)
    for output in (tmp_path, tmp_path / "out"):
        given = ["--mask", scene / "mask0.png", "--size", 64, "-q", "--matte", "webm", "--matte-layers", "--end", 2]
        assert twospeed("track", clip, *given, "-o", output) == 0
        assert {"overlay.mp4", "matte"} <= {file.name for file in output.iterdir()}
    assert videos_in([tmp_path]) == [Path(clip)]
