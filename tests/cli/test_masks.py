"""`twospeed masks`: from one format into another, by the command line."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import SIZE, fails, twospeed
from twospeed.video.indexed_png import read_label_map, write_indexed_png


@pytest.fixture
def pngs(tmp_path):
    """A folder of three label PNGs, of two objects."""
    folder = tmp_path / "pngs"
    folder.mkdir()
    for index in range(3):
        labels = np.zeros(SIZE, np.uint8)
        labels[10:60, 20 + index : 70] = 1
        labels[30:90, 80 : 120 - index] = 5
        write_indexed_png(folder / f"{index:05d}.png", labels)
    return folder


@pytest.mark.parametrize("to", ["coco", "youtube-vis", "davis", "youtube-vos", "yolo-seg", "cvat", "labelme", "png"])
def test_there_and_back_gives_the_same_pngs(to, pngs, tmp_path):
    assert twospeed("masks", pngs, "--as", to, "-o", tmp_path / "out", "-q") == 0
    written = tmp_path / "out"
    files = [file for file in written.rglob("*") if file.is_file()]
    for number, source in enumerate([written, *files] if len(files) == 1 else [written]):
        back = tmp_path / f"back{number}"
        assert twospeed("masks", source, "--as", "png", "-o", back, "-q") == 0
        assert sorted(file.name for file in back.iterdir()) == ["00000.png", "00001.png", "00002.png"]
        for file in pngs.iterdir():
            np.testing.assert_array_equal(read_label_map(back / file.name), read_label_map(file))


APPLE = b"\x00\x05\x16\x07"  # begins the ._NAME that macOS puts beside each file


def test_folders_and_zips_are_read_as_computers_leave_them(pngs, tmp_path):
    (pngs / "00002.png").rename(pngs / "00002.PNG")
    (pngs / "._00000.png").write_bytes(APPLE)
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for file in pngs.iterdir():
            archive.write(file, f"{'__MACOSX/' * (file.name[0] == '.')}masks/{file.name}")
    for number, source in enumerate([pngs, tmp_path / "mac.zip"]):
        assert twospeed("masks", source, "--as", "png", "-o", tmp_path / str(number), "-q") == 0
        assert len(list((tmp_path / str(number)).iterdir())) == 3


def test_json_of_labelme_is_read_beside_its_images(pngs, tmp_path):
    assert twospeed("masks", pngs, "--as", "labelme", "-o", tmp_path / "out", "-q") == 0
    for file in (tmp_path / "out" / "labelme").iterdir():
        Image.new("L", SIZE[::-1], 7).save(file.with_suffix(".png"))  # an image, which could be labels of object 7
    assert twospeed("masks", tmp_path / "out" / "labelme", "--as", "png", "-o", tmp_path / "back", "-q") == 0
    assert set(np.unique(read_label_map(tmp_path / "back" / "00000.png"))) == {0, 1, 5}


def test_yolo_is_read_from_its_yaml_and_from_its_labels(pngs, tmp_path):
    out = tmp_path / "out"
    assert twospeed("masks", pngs, "--as", "yolo-seg", "-o", out, "-q") == 0
    (tmp_path / "set").mkdir()
    shutil.copytree(out / "labels", tmp_path / "set" / "labels" / "train")  # Ultralytics' layout
    (tmp_path / "set" / "images" / "train").mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "set" / "images" / "train" / f"{index:05d}.jpg")
    for number, source in enumerate([out / "yolo-seg.yaml", out / "labels", tmp_path / "set" / "labels" / "train"]):
        back = tmp_path / f"back{number}"
        assert twospeed("masks", source, "--as", "png", "-o", back, "-q") == 0
        np.testing.assert_array_equal(read_label_map(back / "00000.png"), read_label_map(pngs / "00000.png"))


def test_a_folder_of_sequences_becomes_one_submission_and_no_coco(pngs, tmp_path, capsys):
    (tmp_path / "many").mkdir()
    for name in ("bear", "cat"):
        pngs.rename(tmp_path / "many" / name) if name == "cat" else None
    (tmp_path / "many" / "bear").mkdir()
    write_indexed_png(tmp_path / "many" / "bear" / "00000.png", np.eye(20, dtype=np.uint8))
    assert twospeed("masks", tmp_path / "many", "--as", "youtube-vis", "-o", tmp_path / "all.json", "-q") == 0
    document = json.loads((tmp_path / "all.json").read_text())
    assert [(video["name"], video["length"]) for video in document["videos"]] == [("bear", 1), ("cat", 3)]
    assert "several videos" in fails(
        capsys, "masks", tmp_path / "many", "--as", "coco", "-o", tmp_path / "a.json", "-q"
    )
    assert not (tmp_path / "a.json").exists()


def test_nothing_is_replaced_unless_allowed(pngs, tmp_path, capsys):
    (tmp_path / "a.json").write_text("mine")
    assert "--overwrite" in fails(capsys, "masks", pngs, "--as", "coco", "-o", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "mine"
    assert twospeed("masks", pngs, "--as", "coco", "-o", tmp_path / "a.json", "--overwrite") == 0
    assert "not an empty folder" in fails(capsys, "masks", pngs, "--as", "png", "-o", pngs)
    assert "is not a format; choose from coco" in fails(capsys, "masks", pngs, "--as", "gif", "-o", tmp_path / "b")
