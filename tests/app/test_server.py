"""Marks, tracking, correcting and exporting through the requests that the page makes."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.app.client import SIZE, App, Client, disc, image, number_in, worker_of, write_clip
from tests.cli.commands import twospeed
from twospeed.video.indexed_png import read_label_map, write_indexed_png


def overlap(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_frames_are_those_that_were_asked_for(client, clip):
    project = client.open(clip)
    order = [0, 1, 2, 17, 16, 15, 3, 23, 22, 0, 9, 10]
    for index in order:
        picture = np.array(Image.open(io.BytesIO(client("GET", f"p/{project}/frame/{index}?h=96"))))
        assert number_in(picture) == index
    status, error = client.refused("GET", f"p/{project}/frame/24")
    assert status == 400
    assert "frames 0 to 23" in error


@pytest.mark.slow
def test_tracking_and_export_equal_the_command_line(client, clip, app_folder, tmp_path):
    mask = disc(0).astype(np.uint8)
    write_indexed_png(tmp_path / "first.png", mask)
    project = client.open(clip)
    client.import_mask(project, 0, mask)
    job = client.track(project)
    assert (job["state"], job["done"], job["total"]) == ("done", 23, 23)
    archive = zipfile.ZipFile(io.BytesIO(client.export(project, "png")))
    options = ["--size", "96", "--max-memory-frames", "20", "--no-overlay", "-q"]
    assert twospeed("track", app_folder / clip, "--mask", tmp_path / "first.png", "-o", tmp_path / "out", *options) == 0
    files = sorted((tmp_path / "out" / "masks").glob("*.png"))
    assert [file.name for file in files] == sorted(archive.namelist())
    for file in files:
        exported = np.array(Image.open(io.BytesIO(archive.read(file.name))))
        assert (exported == read_label_map(file, allow_empty=True)).all(), file.name
    assert overlap(client.mask(project, 23) > 0, disc(23)) > 0.8


@pytest.mark.slow
def test_box_points_and_correction(client, clip):
    """Mark by a box, track, correct in the middle: frames before it and other objects stay as they were."""
    project = client.open(clip)
    k = client("POST", f"p/{project}/objects", {"name": "disc"})["id"]
    client("POST", f"p/{project}/marks", {"frame": 0, "object": k, "box": [12, 30, 48, 66]})
    assert overlap(client.mask(project, 0) == k, disc(0)) > 0.8
    preview = client("POST", f"p/{project}/marks", {"frame": 5, "object": k, "points": [[40, 48, 1]], "preview": True})
    assert preview
    assert client.mask(project, 5) is None
    client.track(project)
    before = {frame: client.mask(project, frame) for frame in range(24)}
    client.import_mask(project, 12, np.where(disc(12), k, 0))
    state = client("GET", f"p/{project}")
    assert state["keyframes"] == [0, 12]
    assert state["stale"] == [[1, 11], [13, 23]]
    client.track(project, 12)
    for frame in range(12):
        assert (client.mask(project, frame) == before[frame]).all()
    assert client("GET", f"p/{project}")["stale"] == [[1, 11]]
    client("POST", f"p/{project}/jobs", {"kind": "stale"})
    client.finished(project)
    assert client("GET", f"p/{project}")["stale"] == []
    for _ in range(2):
        client("POST", f"p/{project}/undo", {})
    assert (client.mask(project, 20) == before[20]).all()
    for _ in range(2):
        client("POST", f"p/{project}/redo", {})
    assert client("GET", f"p/{project}")["stale"] == []


@pytest.mark.slow
def test_backward_and_both_within_in_and_out(client, clip):
    project = client.open(clip)
    client.import_mask(project, 12, disc(12))
    client("PATCH", f"p/{project}/range", {"first": 4, "last": 18})
    job = client.track(project, 12, "both")
    assert job["total"] == job["done"] == 14
    assert client("GET", f"p/{project}")["tracked"] == [[4, 11], [13, 18]]
    for frame in (4, 18):
        assert overlap(client.mask(project, frame) > 0, disc(frame)) > 0.8
    status, error = client.refused("POST", f"p/{project}/jobs", {"kind": "track", "direction": "forward", "frame": 20})
    assert status == 400
    assert "nothing to track" in error


@pytest.mark.slow
def test_locked_objects_and_gone_ones(client, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0) + 2 * (np.indices(SIZE)[1] > 110))
    client.track(project)
    kept = client.mask(project, 9) == 1
    client("PATCH", f"p/{project}/objects/1", {"locked": True})
    client("DELETE", f"p/{project}/mask/5?object=2")
    client.track(project, 5)
    assert ((client.mask(project, 9) == 1) == kept).all()
    assert not (client.mask(project, 9) == 2).any()
    status, error = client.refused("DELETE", f"p/{project}/mask/9?object=1")
    assert status == 400
    assert "locked" in error


@pytest.mark.slow
def test_a_killed_worker_costs_the_job_alone(app, client, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    client("POST", f"p/{project}/jobs", {"kind": "track", "frame": 0, "size": 480})
    while client.job(project)["done"] < 1:
        time.sleep(0.05)
    os.kill(worker_of(app), 9)
    job = client.finished(project)
    assert job["state"] == "failed"
    assert "was killed" in job["error"]
    assert job["done"] >= 1
    client("POST", f"p/{project}/jobs", {"kind": "resume"})
    job = client.finished(project)
    assert job["state"] == "done"
    assert client("GET", f"p/{project}")["tracked"] == [[1, 23]]


@pytest.mark.slow
def test_a_killed_server_loses_nothing_that_it_had_committed(tmp_path):
    write_clip(tmp_path / "clip.mp4", 60)
    app = App(tmp_path)
    client = Client(app)
    project = client.open("clip.mp4")
    client.import_mask(project, 0, disc(0))
    client("POST", f"p/{project}/jobs", {"kind": "track", "frame": 0})
    while (done := client.job(project)["done"]) < 3:
        time.sleep(0.02)
    worker = worker_of(app)
    app.kill()
    until = time.monotonic() + 60
    while is_running(worker):
        assert time.monotonic() < until, "the worker outlives the server"
        time.sleep(0.05)
    file = tmp_path / "twospeed_projects" / project / "project.db"
    with sqlite3.connect(file) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    again = App(tmp_path)
    try:
        client = Client(again)
        state = client("GET", f"p/{project}")
        assert state["jobs"][0]["state"] == "interrupted"
        assert state["tracked"][0][1] >= done
        client("POST", f"p/{project}/jobs", {"kind": "resume"})
        assert client.finished(project)["state"] == "done"
        assert client("GET", f"p/{project}")["tracked"] == [[1, 59]]
        assert overlap(client.mask(project, 30) > 0, disc(30)) > 0.7
    finally:
        assert again.close() == 130


def test_stop_keeps_what_is_done(client, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    job = client("POST", f"p/{project}/jobs", {"kind": "track", "frame": 0, "size": 720})["job"]
    client("DELETE", f"p/{project}/jobs/{job}")
    found = client.finished(project)
    assert found["state"] in ("stopped", "done")
    assert (found["state"] == "done") == (found["done"] == 23)
    other = client.open("clip.mp4")  # its first job has the same number
    client.import_mask(other, 0, disc(0))
    client("PATCH", f"p/{other}/range", {"first": 0, "last": 3})
    assert client.track(other)["state"] == "done"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_exports(client, clip, tmp_path):
    from pycocotools import mask as coco_mask

    project = client.open(clip)
    for frame in range(0, 24, 2):
        client.import_mask(project, frame, disc(frame))
    client("PATCH", f"p/{project}/range", {"first": 2, "last": 9})
    client("PATCH", f"p/{project}/objects/1", {"name": "<img src=x onerror=alert(1)>"})
    content = json.loads(client.export(project, "coco"))
    frames = {one["id"]: int(one["file_name"].partition(".")[0]) for one in content["images"]}
    assert list(frames.values()) == list(range(2, 10))
    for annotation in content["annotations"]:
        assert (coco_mask.decode(annotation["segmentation"]) == disc(frames[annotation["image_id"]])).all()
    for kind in ("youtube-vis", "davis", "youtube-vos", "yolo-seg", "cvat", "labelme", "png"):
        assert client.export(project, kind)
    for kind, suffix in (("overlay", "mp4"), ("matte", "mp4"), ("webm", "webm"), ("prores", "mov")):
        file = tmp_path / f"{kind}.{suffix}"
        file.write_bytes(client.export(project, kind))
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 8
        if kind == "matte":
            assert overlap(frames[0][..., 0] > 127, disc(2)) > 0.95
    _, headers, _ = client.raw("GET", f"/api/p/{project}/exports/{clip[:-4]}_coco.json")
    assert headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>.mp4", "a'b\"c;d.mp4", "трек 🐕.mp4", "-rf.mp4", "take:2.mp4"]
)
def test_hostile_file_names(client, app_folder, name):
    shutil.copy(app_folder / "clip.mp4", app_folder / name)
    try:
        project = client.open(name)
        assert client("GET", f"p/{project}")["name"] == name
        assert client("GET", f"p/{project}/frame/3?h=96")[:2] == b"\xff\xd8"
    finally:
        (app_folder / name).unlink()


def test_folders_of_images_and_uneven_times(client, app_folder):
    folder = app_folder / "shots"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(image(index)).save(folder / f"{index:03d}.png")
    write_clip(app_folder / "uneven.mp4", 6, [0, 0.1, 0.15, 0.6, 0.61, 1.2])
    write_clip(app_folder / "one.mp4", 1)
    (app_folder / "cut.mp4").write_bytes((app_folder / "clip.mp4").read_bytes()[:3000])
    for name, frames in (("shots", 5), ("uneven.mp4", 6), ("one.mp4", 1)):
        project = client.open(name)
        state = client("GET", f"p/{project}")
        assert state["frames"] == frames
        picture = np.array(Image.open(io.BytesIO(client("GET", f"p/{project}/frame/{frames - 1}?h=96"))))
        assert number_in(picture) == frames - 1
        client.import_mask(project, 0, disc(0))
    with pytest.raises(AssertionError, match="400"):
        client.open("cut.mp4")


def test_a_source_that_is_gone_or_changed_is_said(client, clip, app_folder):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    (app_folder / clip).unlink()
    state = client("GET", f"p/{project}")
    assert "is not there any more" in state["problem"]
    assert (client.mask(project, 0) > 0).any()


def test_imported_masks_are_checked(client, clip):
    project = client.open(clip)
    blurred = io.BytesIO()
    Image.fromarray((disc(0) * 255).astype(np.uint8)).resize((64, 48)).resize((128, 96), Image.BILINEAR).save(
        blurred, "PNG"
    )
    status, _, content = client.raw("PUT", f"/api/p/{project}/import/0", blurred.getvalue())
    assert (status, json.loads(content)["option"]) == (400, "snap")
    client("PUT", f"p/{project}/import/0?snap=1", blurred.getvalue())
    assert overlap(client.mask(project, 0) > 0, disc(0)) > 0.9
    assert "is not an image" in client.refused("PUT", f"p/{project}/import/0", b"no image")[1]


@pytest.mark.slow
def test_find_and_pixels_run_too(client, clip):
    """segment_nano is shipped; networks without weights here are refused with a reason."""
    project = client.open(clip)
    client("POST", f"p/{project}/jobs", {"kind": "segment", "model": "segment_nano"})
    assert client.finished(project)["state"] == "done"
    assert client("GET", f"p/{project}/result/segment") == list(range(24))
    ((_, classes),) = client("GET", f"p/{project}/result/classes")
    assert "road" in [name.lower() for name in classes["names"]]
    for kind, model in (
        ("classify", "slowfast_r50_4x16"),
        ("detect", "slow_r50_4x16_ava"),
        ("find", "slowfast_maskrcnn_1_1"),
    ):
        status, error = client.refused("POST", f"p/{project}/jobs", {"kind": kind, "model": model})
        assert status == 400
        assert "put their file into the folder" in error


def test_the_server_loads_no_torch(app):
    maps = Path(f"/proc/{app.process.pid}/maps")
    if not maps.exists():
        pytest.skip("reads /proc")
    assert "libtorch" not in maps.read_text()


def test_a_video_is_opened_at_once(tmp_path):
    write_clip(tmp_path / "clip.mp4", 3)
    app = App(tmp_path / "clip.mp4")
    try:
        client = Client(app)
        (video,) = client("GET", "home")["videos"]
        assert client("POST", "projects", {"video": video["id"]})["project"].startswith("clip-")
    finally:
        assert app.close() == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no such file or folder"),
        (["--model", "segment_nano"], "does not track"),
        (["--max-upload", "lots"], "'lots' is no size"),
        (["--port", "70000"], "70000"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, capsys, monkeypatch, arguments, message):
    from tests.cli.commands import fails

    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "app", *arguments)
    assert not list(tmp_path.iterdir())
