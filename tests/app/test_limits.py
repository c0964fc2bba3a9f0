"""A full disk, and a video of ten minutes."""

from __future__ import annotations

import sqlite3
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.app.client import App, Client, disc, number_in, worker_of, write_clip
from tests.app.page import Page, until
from twospeed.app.library import Library
from twospeed.app.store import Project
from twospeed.errors import OutputError

FRAMES = 18_000


def test_a_full_disk_loses_nothing(tmp_path):
    project = Project(tmp_path)
    source = {"name": "clip", "path": "clip.mp4", "height": 96, "width": 128, "fingerprint": ""}
    project.describe(source, np.arange(40) / 10)
    k = project.add_object()
    noise = np.random.default_rng(0).random((40, 96, 128)) > 0.5
    pages = project._db.execute("PRAGMA page_count").fetchone()[0]
    project._db.execute(f"PRAGMA max_page_count={pages + 20}")  # SQLite reports a full disk
    stored = 0
    try:
        while stored < 40:
            project.paint(stored, k, noise[stored])
            stored += 1
    except OutputError as error:
        assert "free space, then try again" in str(error)  # noqa: PT017  # which frame is the first is not known
    assert 0 < stored < 40
    for frame in range(stored):
        assert ((project.labels(frame) == k) == noise[frame]).all()
    assert not project.labels(stored).any()
    assert project._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    project._db.execute("PRAGMA max_page_count=1000000")
    project.paint(39, k, noise[39])
    assert project.undo().frames == [39]
    project.close()


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of a running process")
def test_edits_on_a_full_disk(tmp_path, browser):
    """A stroke that could not be saved stays, and is saved once there is room."""
    import resource

    write_clip(tmp_path / "clip.mp4")
    app = App(tmp_path)
    limits = resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE)
    try:
        client = Client(app)
        project = client.open("clip.mp4")
        client.import_mask(project, 0, disc(0))
        page = Page(browser, app, project=project)
        held = (tmp_path / "twospeed_projects" / project / "project.db-wal").stat().st_size
        resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, (held, limits[1]))
        status, _, content = client.raw("DELETE", f"/api/p/{project}/mask/0?object=1")
        assert (status, b"free space" in content) == (507, True)
        page.key("b")
        page.drag((100, 20), (110, 20))
        page.page.get_by_role("button", name="Save again").wait_for()
        assert client.mask(project, 0)[20, 105] == 0
        resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, limits)
        page.page.get_by_role("button", name="Save again").click()
        until(lambda: client.mask(project, 0)[20, 105] == 1)
        page.problems.clear()  # the browser reports the 507
        page.close()
    finally:
        assert app.close() == 130
    with sqlite3.connect(tmp_path / "twospeed_projects" / project / "project.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_few_decoders_are_open_however_many_videos_are_shown(tmp_path):
    for number in range(6):
        write_clip(tmp_path / f"{number}.mp4", 4)
    library = Library(tmp_path)
    try:
        sources = [library.source(library.open_video(video.id)) for video in library.videos()]
        for index in (3, 1):
            for number in range(6):
                source = library.source(library.project(library.projects()[number]["id"]))
                assert source is sources[number]
                assert (
                    number_in(cv2.imdecode(np.frombuffer(source.jpeg(index, 96), np.uint8), cv2.IMREAD_COLOR)) == index
                )
                assert sum(one.is_open for one in sources) <= 3
    finally:
        library.close()


def memory_of(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no memory is stated")


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory):
    """Ten minutes at 30 frames a second: a clip of 600 frames, muxed 30 times without encoding it anew."""
    import av

    folder = tmp_path_factory.mktemp("long")
    write_clip(folder / "part.mp4", 600)
    with av.open(str(folder / "part.mp4")) as part:
        stream = part.streams.video[0]
        packets = [
            (bytes(one), round(one.pts * one.time_base * 12), round(one.dts * one.time_base * 12), one.is_keyframe)
            for one in part.demux(stream)
            if one.pts is not None
        ]
        with av.open(str(folder / "long.mp4"), "w") as out:
            target = out.add_stream_from_template(stream)
            for begin in range(0, FRAMES, len(packets)):
                for data, pts, dts, is_key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.is_keyframe, packet.time_base = target, is_key, Fraction(1, 30)
                    packet.pts, packet.dts = begin + pts, begin + dts
                    out.mux(packet)
    (folder / "part.mp4").unlink()
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_minutes_at_constant_memory(long_folder):
    """Opening, scrubbing everywhere, tracking a piece: images are right, and neither process grows."""
    app = App(long_folder)
    try:
        client = Client(app)
        project = client.open("long.mp4")
        state = client("GET", f"p/{project}")
        assert state["frames"] == FRAMES
        rng = np.random.default_rng(1)
        held = []
        import io

        from PIL import Image

        for _ in range(3):
            for index in [*rng.integers(0, FRAMES, 40).tolist(), FRAMES - 1]:
                picture = np.array(Image.open(io.BytesIO(client("GET", f"p/{project}/frame/{index}?h=96"))))
                assert number_in(picture) == index % 600
            held.append(memory_of(app.process.pid))
        assert held[2] < held[1] * 1.1 + 5, held
        client.import_mask(project, 9000, disc(9000 % 600))
        client("PATCH", f"p/{project}/range", {"first": 9000, "last": 9150})
        client("POST", f"p/{project}/jobs", {"kind": "track", "frame": 9000})
        worker = worker_of(app)
        seen: list[tuple[int, float, float]] = []
        while (job := client.job(project))["state"] in ("queued", "running"):
            if job["done"] >= 40:
                seen.append((job["done"], memory_of(worker), memory_of(app.process.pid)))
            time.sleep(0.3)
        assert (job["state"], job["done"]) == ("done", 150)
        assert seen[-1][1] < seen[0][1] * 1.1 + 20, seen
        assert seen[-1][2] < held[2] * 1.1 + 20, (held, seen)
        assert memory_of(app.process.pid) < 250
    finally:
        assert app.close() == 130
