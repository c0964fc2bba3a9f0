"""The list of the folder: thumbnails of all videos, projects of those that were renamed, deletion."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.app.client import disc, image, number_in, write_clip
from tests.app.page import until
from twospeed.app.uploads import add_chunk
from twospeed.errors import OutputError


def listed(client, name):
    return next(video["id"] for video in client("GET", "home")["videos"] if video["name"] == name)


def test_thumbnails_of_videos_that_were_never_opened(client, app_folder, clip, tmp_path):
    (app_folder / "broken.mp4").write_bytes(b"\0" * 4000)
    (app_folder / "outside.mp4").symlink_to(write_clip(tmp_path / "outside.mp4", 2))
    folder = app_folder / "images"
    folder.mkdir()
    for index in (3, 4):
        Image.fromarray(image(index)).save(folder / f"{index}.png")
    try:
        seen = client("GET", f"videos/{listed(client, clip)}/thumbnail")
        assert number_in(np.array(Image.open(io.BytesIO(seen)))) == 0
        seen = client("GET", f"videos/{listed(client, 'images')}/thumbnail")
        assert number_in(np.array(Image.open(io.BytesIO(seen)))) == 3
        for name in ("broken.mp4", "outside.mp4"):
            assert client.raw("GET", f"/api/videos/{listed(client, name)}/thumbnail")[0] == 204
        assert client.refused("GET", "videos/0123456789abcdef/thumbnail")[0] == 404
        with (app_folder / "broken.mp4").open("wb") as file:  # written anew: looked at anew
            file.write((app_folder / clip).read_bytes())
        assert client("GET", f"videos/{listed(client, 'broken.mp4')}/thumbnail")[:2] == b"\xff\xd8"
    finally:
        (app_folder / "broken.mp4").unlink()
        (app_folder / "outside.mp4").unlink()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_a_renamed_video_keeps_its_project(open_page, client, app_folder, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    page = open_page(project=project)
    (app_folder / clip).rename(app_folder / "renamed.mp4")
    try:
        page.page.get_by_role("slider", name="Frame").focus()
        page.key("End")
        page.page.get_by_role("button", name="Locate file…").click()
        page.page.get_by_role("button", name="Take renamed.mp4").click()
        page.shows(23)
        page.page.get_by_role("button", name="twospeed").click()
        page.page.get_by_role("button", name="Open renamed.mp4").click()  # the same project
        until(lambda: page.page.url.endswith(project))
        write_clip(app_folder / clip, 6)  # another video takes the name
        assert client.open(clip) != project
        assert client.open("renamed.mp4") == project
        page.leave()
        page.problems.clear()  # the browser reports the image that was not there
    finally:
        (app_folder / "renamed.mp4").unlink()


def test_a_moved_video_is_said_by_whichever_answer_comes_first(open_page, client, app_folder, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    page = open_page(project=project)
    (app_folder / clip).rename(app_folder / "moved.mp4")
    try:
        client("PATCH", f"p/{project}/objects/1", {"name": "dancer"})  # the page fetches the state anew, and no frame
        page.page.get_by_role("button", name="Locate file…").wait_for()
        page.leave()
        page.problems.clear()
    finally:
        (app_folder / "moved.mp4").rename(app_folder / clip)


def test_a_project_is_deleted_after_asking(open_page, client, app_folder, clip):
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    page = open_page()
    until(lambda: page.page.locator("li", has_text=clip).locator("img").evaluate("one => one.naturalWidth > 0"))
    page.page.get_by_role("button", name=f"Delete the project of {clip}").click()
    page.page.get_by_role("button", name="Delete the project", exact=True).click()
    until(lambda: project not in [one["id"] for one in client("GET", "home")["projects"]])
    assert (app_folder / clip).exists()
    assert list((app_folder / "twospeed_projects" / ".trash").glob(f"{project}.*/project.db"))
    assert client.open(clip) == project  # a new one
    assert client("GET", f"p/{project}")["objects"] == []


def test_an_export_can_be_stopped(client, app_folder):
    write_clip(app_folder / "long.mp4", 400)
    try:
        project = client.open("long.mp4")
        client.import_mask(project, 0, disc(0))
        name = client("POST", f"p/{project}/exports", {"as": "exr"})["file"]
        client("DELETE", f"p/{project}/exports/{name}")
        until(lambda: client("GET", f"p/{project}/exports")["exr"]["state"] == "stopped")
        assert client.raw("GET", f"/api/p/{project}/exports/{name}")[0] == 404
        client("PATCH", f"p/{project}/range", {"first": 0, "last": 1})
        assert client.export(project, "exr")
        assert not list((app_folder / "twospeed_projects" / project / "exports").glob(".*"))
    finally:
        (app_folder / "long.mp4").unlink()


def test_an_upload_onto_a_full_disk_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("twospeed.app.uploads._OLD_S", float("inf"))  # the device is older than any part
    (tmp_path / ".twospeed" / "uploads").mkdir(parents=True)
    part = tmp_path / ".twospeed" / "uploads" / "clip.mp4.10.part"
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        add_chunk(tmp_path, "clip.mp4", 0, 10, b"12345", 100)
