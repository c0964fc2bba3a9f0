"""Finished runs of the command line, shown by the page."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.app.client import App, Client, disc, image, write_clip
from tests.cli.commands import twospeed
from twospeed.app.library import Library
from twospeed.errors import InputError, VideoError
from twospeed.output.record import identify
from twospeed.video.indexed_png import read_label_map, write_indexed_png


def run_folder(folder, command, video, **files):
    """Write a run's folder as the command line leaves it."""
    folder.mkdir()
    record = {
        "command": command, "model": {"classify": "slowfast_r50_8x8", "detect": "slowfast_r50_8x8_ava"}[command],
        "weights_sha256": None, "options": {}, "inputs": {"video": {"path": str(video), **identify([video])}},
        "frames": 24, "finished": True, "files": {},
    }  # fmt: skip
    for name, content in {"run": record, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def masks_run(folder, video, first=0):
    write_indexed_png(folder / "first.png", disc(first).astype(np.uint8))
    options = ["--size", "96", "--max-memory-frames", "20", "--no-overlay", "-q"]
    assert twospeed("track", video, "--mask", folder / "first.png", "-o", folder / "clip_track", *options) == 0
    return folder / "clip_track"


@pytest.mark.slow
def test_a_run_of_track_becomes_a_project_that_can_be_corrected(tmp_path):
    """All masks are there bit for bit, the marked frame is a keyframe, and tracking continues from it."""
    write_clip(tmp_path / "clip.mp4", 10)
    run = masks_run(tmp_path, tmp_path / "clip.mp4")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    app = App(run)
    try:
        client = Client(app)
        home = client("GET", "home")
        assert [video["name"] for video in home["videos"]] == ["clip.mp4"]  # nothing that the run has written
        assert [one["name"] for one in home["runs"]] == ["clip_track"]
        project = client("POST", "projects", {"run": home["open_run"]})["project"]
        state = client("GET", f"p/{project}")
        assert "problem" not in state
        assert (state["keyframes"], state["tracked"], state["run"]) == ([0], [[1, 9]], "track")
        for index in range(10):
            kept = read_label_map(run / "masks" / f"{index:05d}.png", allow_empty=True)
            assert (client.mask(project, index) == kept).all(), index
        client.import_mask(project, 5, disc(5))
        assert client.track(project, 5)["state"] == "done"
        assert client("GET", f"p/{project}")["stale"] == [[1, 4]]
    finally:
        assert app.close() == 130
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_a_run_of_segment_is_shown(tmp_path):
    write_clip(tmp_path / "clip.mp4", 4)
    assert twospeed("segment", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--no-overlay", "-q") == 0
    library = Library(tmp_path)
    ((identity, _),) = library.runs()
    project = library.open_run(identity)
    try:
        assert project.result_frames("segment") == project.result_frames("areas") == [0, 1, 2, 3]
        ((_, classes),) = project.results("classes")
        areas = json.loads(project.result("areas", 2))
        assert len(json.loads(classes)["colours"]) == len(areas)
        assert sum(areas) == pytest.approx(1, abs=0.01)
    finally:
        library.close()


def actions_of(video):
    views = [
        {"time_s": t, "top": [{"label": "juggling", "class_id": 3, "probability": p}]}
        for t, p in [(0.5, 0.9), (1, 0.2)]
    ]
    return {"video": str(video), "model": "m", "top": views[0]["top"], "timeline": [], "views": views}


def people_of(video):
    def keyframe(time_s, left):
        actions = [{"label": "stand", "class_id": 12, "score": 0.8}]
        person = {"id": 1, "box_xyxy": [left, 10, left + 30, 80], "person_score": 0.9, "actions": actions}
        return {"time_s": time_s, "people": [person]}

    return {"video": "clip", "model": "m", "people": [], "keyframes": [keyframe(0, 10), keyframe(1, 22)]}


def test_runs_of_classify_and_detect_are_shown_and_exported(client, app_folder):
    video = app_folder / "clip.mp4"
    made = [
        run_folder(app_folder / "actions", "classify", video, results=actions_of(video)),
        run_folder(app_folder / "people", "detect", video, results=people_of(video)),
    ]
    try:
        runs = {one["command"]: one["id"] for one in client("GET", "home")["runs"]}
        actions = client("POST", "projects", {"run": runs["classify"]})["project"]
        ((_, content),) = client("GET", f"p/{actions}/result/classify")
        assert content["windows"][1] == {"time_s": 1.0, "top": [["juggling", 0.2]]}
        subtitles = client.export(actions, "actions-vtt", threshold=0.5).decode()
        assert "juggling 90 %" in subtitles
        assert subtitles.count("-->") == 1
        for kind in ("actions", "actions-jsonl", "actions-srt", "actions-plot", "actions-overlay"):
            assert client.export(actions, kind)
        people = client("POST", "projects", {"run": runs["detect"]})["project"]
        rows = client("GET", f"p/{people}/result/detect")
        assert [one["time_s"] for _, one in rows] == [0, 1]
        csv = client.export(people, "people-csv").decode().splitlines()
        assert csv[0] == "clip,0000,0.078125,0.104167,0.312500,0.833333,12,0.800000"
        for kind in ("people", "people-jsonl", "people-srt", "people-cvat", "people-overlay"):
            assert client.export(people, kind)
        assert "there is nothing of this kind" in failure(client, people, "areas")
    finally:
        for folder in made:
            shutil.rmtree(folder)


def failure(client, project, kind):
    import time

    client("POST", f"p/{project}/exports", {"as": kind})
    for _ in range(300):
        found = client("GET", f"p/{project}/exports").get(kind)
        if found and found["state"] == "failed":
            return found["error"]
        time.sleep(0.1)
    raise AssertionError("the export did not fail")


def test_a_video_outside_of_the_folder_is_read_only_where_somebody_named_its_run(tmp_path):
    """A record may come from anyone: what it names is not read because it says so."""
    video = write_clip(tmp_path / "elsewhere.mp4", 3)
    opened = tmp_path / "opened"
    opened.mkdir()
    run = run_folder(opened / "run", "classify", video, results=actions_of(video))
    library = Library(opened)
    ((identity, _),) = library.runs()
    with pytest.raises(VideoError, match="is not here"):
        library.open_run(identity)
    library.close()
    named = Library(opened, run)
    try:
        assert named.path_of(named.open_run(identity)) == video.resolve()
    finally:
        named.close()
    again = Library(opened)
    try:
        with pytest.raises(VideoError, match="leads out of the folder"):
            again.path_of(again.open_run(identity))
    finally:
        again.close()
    write_clip(tmp_path / "elsewhere.mp4", 4)  # another content than the run has recorded
    assert not Library(opened, run)._granted


@pytest.mark.slow
def test_masks_without_their_video_wait_for_it(tmp_path):
    opened = tmp_path / "opened"
    opened.mkdir()
    write_clip(tmp_path / "clip.mp4", 6)
    run = masks_run(tmp_path, tmp_path / "clip.mp4")
    run.rename(opened / "clip_track")
    library = Library(opened)
    try:
        ((identity, _),) = library.runs()
        project = library.open_run(identity)
        assert (project.labels(0) > 0).any()
        with pytest.raises(VideoError, match="locate it"):
            library.source(project)
        shutil.copy(tmp_path / "clip.mp4", opened / "moved.mp4")
        (video,) = library.videos()
        with pytest.raises(VideoError, match="is not the same file") as caught:
            library.locate(project, video.id)
        assert caught.value.option == "anyway"
        library.locate(project, video.id, anyway=True)
        assert library.source(project).jpeg(5, 96)
    finally:
        library.close()


def test_a_video_that_moved_is_located(client, app_folder, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    (app_folder / clip).rename(app_folder / "moved.mp4")
    write_clip(app_folder / "short.mp4", 5)
    try:
        assert "locate it" in client("GET", f"p/{project}")["problem"]
        videos = {video["name"]: video["id"] for video in client("GET", "home")["videos"]}
        status, error = client.refused("POST", f"p/{project}/locate", {"video": videos["short.mp4"]})
        assert status == 400
        assert "has 5 frames of 128x96, the project 24" in error
        client("POST", f"p/{project}/locate", {"video": videos["moved.mp4"]})
        assert "problem" not in client("GET", f"p/{project}")
        assert client("GET", f"p/{project}/frame/3?h=96")[:2] == b"\xff\xd8"
    finally:
        (app_folder / "moved.mp4").unlink()
        (app_folder / "short.mp4").unlink()


@pytest.mark.parametrize("change", ["link", "name", "size", "record"])
def test_hostile_runs_are_refused(tmp_path, change):
    from PIL import Image

    video = write_clip(tmp_path / "clip.mp4", 3)
    run = run_folder(tmp_path / "run", "classify", video)
    record = json.loads((run / "run.json").read_text()) | {"command": "track", "model": "track_tiny"}
    (run / "run.json").write_text(json.dumps(record))
    (run / "masks").mkdir()
    table = "output_index,source_index,file_name,time_s,pts,keyframe,confidence\n"
    name = "../../secret" if change == "name" else ""
    (run / "frames.csv").write_text(table + f"0,0,{name},0,0,1,1:0.5\n")
    mask = np.ones((48, 64) if change == "size" else (96, 128), np.uint8)
    if change == "link":
        write_indexed_png(tmp_path / "secret.png", mask)
        (run / "masks" / "00000.png").symlink_to(tmp_path / "secret.png")
    else:
        write_indexed_png(run / "masks" / "00000.png", mask)
    Image.fromarray(image(0)).save(tmp_path / "secret.png")
    if change == "record":
        (run / "run.json").write_text('{"command": "track", "inputs": []}')
    library = Library(tmp_path)
    try:
        if change == "record":
            assert library.runs() == []
            return
        ((identity, _),) = library.runs()
        message = {"link": "no regular file", "name": "outside of its folder", "size": "the mask is 64x48"}[change]
        with pytest.raises(InputError, match=message):
            library.open_run(identity)
        assert not list((tmp_path / "twospeed_projects").iterdir())
    finally:
        library.close()


@pytest.mark.slow
def test_a_project_is_an_input_of_the_command_line(client, clip, app_folder, tmp_path):
    """`masks PROJECT` writes all its masks; `track --mask PROJECT` tracks from the marked ones."""
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    client.import_mask(project, 12, disc(12) * 2)
    client.track(project)
    folder = app_folder / "twospeed_projects" / project
    assert twospeed("masks", folder, "--as", "png", "-o", tmp_path / "masks", "-q") == 0
    assert len(list((tmp_path / "masks").iterdir())) == 13  # up to the second mark
    for index in (0, 7, 12):
        assert (read_label_map(tmp_path / "masks" / f"{index:05d}.png") == client.mask(project, index)).all()
    options = ["--size", "96", "--max-memory-frames", "20", "--no-overlay", "-q", "--end", "13"]
    assert twospeed("track", app_folder / clip, "--mask", folder, "-o", tmp_path / "out", *options) == 0
    found = [read_label_map(tmp_path / "out" / "masks" / f"{i:05d}.png", allow_empty=True) for i in range(13)]
    assert (found[0] == disc(0)).all()
    assert set(np.unique(found[7])) <= {0, 1}  # tracked, not read
    assert ((found[12] == 2) == disc(12)).all()  # the first object, of which this mark says nothing, may be beside it
