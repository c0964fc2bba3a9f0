"""The page in a real browser: what people do there, and that it sees what the server has."""

from __future__ import annotations

import io
import re
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.app.client import App, Client, disc, write_clip
from tests.app.page import Page, until
from tests.cli.commands import twospeed
from twospeed.video.indexed_png import read_label_map


@pytest.mark.slow
def test_mark_track_correct_export(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    page.drag((8, 26), (52, 70))
    (first,) = until(lambda: [m] if (m := client.mask(project, 0)) is not None else None)
    assert ((first == 1) & disc(0)).sum() / ((first == 1) | disc(0)).sum() > 0.7
    # An observer sees every frame that the page shows: asking from here would miss those of a fast machine
    page.stage.evaluate(
        "stage => { window.framesShown = new Set(); new MutationObserver("
        "() => window.framesShown.add(stage.dataset.frame)).observe(stage, {attributeFilter: ['data-frame']}) }"
    )
    page.page.get_by_role("button", name="Track forward").click()
    until(lambda: client.states(project)[:1] == ["done"], 250)
    # The page follows what is tracked; masks come a quarter of a second at a time, on a fast machine all in two parts
    until(lambda: page.page.evaluate("window.framesShown.size") > 0, 20)
    page.page.locator(".progress").get_by_text("done: 23 frames").wait_for()
    # Correct frame 12 with the brush: later frames are out of date, earlier ones, too, up to the keyframe
    page.page.get_by_role("slider", name="Frame").focus()
    page.key("Home")
    page.shows(0)
    for _ in range(12):
        page.key("ArrowRight")
    page.shows(12)
    before = client.mask(project, 12)
    page.key("b")
    page.drag((100, 20), (110, 20))
    painted = until(lambda: (now := client.mask(project, 12)) is not None and (now != before).any() and [now])[0]
    assert painted[20, 105] == 1
    page.page.get_by_role("button", name=re.compile("^Update 22 frames")).wait_for()
    page.key("Control+z")
    until(lambda: (client.mask(project, 12) == before).all())
    page.key("Control+Shift+z")
    until(lambda: (client.mask(project, 12) == painted).all())
    page.page.get_by_role("button", name="Export…").click()
    with page.page.expect_download(timeout=120_000) as download:
        page.page.get_by_role("button", name=re.compile("^Write palette PNGs")).click()
        page.page.get_by_role("link", name=re.compile("^Download")).click(timeout=120_000)
    assert download.value.suggested_filename.endswith("masks.zip")


@pytest.mark.slow
def test_points_polygon_eraser_and_keyboard(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    page.key("p")
    page.page.mouse.click(*page.at(30, 48))
    page.page.get_by_text("preview: Enter keeps it").wait_for(timeout=120_000)
    assert client.mask(project, 0) is None
    page.key("Escape")
    page.page.mouse.click(*page.at(30, 48))
    page.page.get_by_text("preview: Enter keeps it").wait_for(timeout=120_000)
    page.key("Enter")
    until(lambda: client.mask(project, 0) is not None)
    assert client("GET", f"p/{project}")["marks"][0]["points"][0][2] == 1
    page.key("ArrowRight", "g")
    page.shows(1)
    for corner in ((10, 10), (60, 10), (60, 40)):
        page.page.mouse.click(*page.at(*corner))
    page.key("Enter")
    drawn = until(lambda: [m] if (m := client.mask(project, 1)) is not None else None)[0]
    assert drawn[15, 50] == 1
    assert drawn[35, 15] == 0
    page.key("e")
    page.drag((50, 15), (52, 15))
    until(lambda: client.mask(project, 1)[15, 50] == 0)
    # By the keyboard alone: crosshair, Enter, Enter
    page.key("ArrowRight")
    page.shows(2)
    page.key("n", "k", "Enter")
    page.page.get_by_text("preview: Enter keeps it").wait_for(timeout=120_000)
    page.key("k", "Enter")
    until(lambda: client.mask(project, 2) is not None)
    for tool in ("Delete", "h", "l"):
        page.key(tool)
    until(lambda: client("GET", f"p/{project}")["objects"][1]["locked"])
    for key in ("i", "m", "x", "Control+0", "Shift+ArrowRight", "q", "w", "Period", "Shift+Slash"):
        page.key(key)
    page.page.get_by_role("dialog", name="Shortcuts").wait_for()


def test_a_point_is_moved_by_dragging_and_taken_away_by_a_click(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    preview = page.page.get_by_text("preview: Enter keeps it")

    def points():
        return [point for mark in client("GET", f"p/{project}")["marks"] for point in mark["points"]]

    page.key("p")
    page.page.mouse.click(*page.at(30, 48))
    preview.wait_for(timeout=120_000)
    page.page.mouse.click(*page.at(80, 20), button="right")
    page.key("Enter")
    until(lambda: len(points()) == 2)
    page.drag((30, 48), (26, 44), (24, 40))
    preview.wait_for(timeout=120_000)
    page.key("Enter")
    until(lambda: abs(points()[0][0] - 24) < 2)
    assert [round(value) for value in points()[0]] == pytest.approx([24, 40, 1], abs=1)
    assert points()[1][2] == -1  # the other stays as it was
    page.page.mouse.click(*page.at(80, 20))
    preview.wait_for(timeout=120_000)
    page.key("Enter")
    until(lambda: len(points()) == 1)


def test_what_follows_an_edit_at_once_builds_on_it(open_page, client, clip):
    """A stroke, or the removal of the object, before the answer of a box is there: neither lost nor a conflict."""
    page = open_page(clip)
    project = client.open(clip)
    page.delay("/objects", 1.0)  # the box makes the first object, which the stroke is of, too
    page.delay("/marks", 1.0)
    page.drag((8, 26), (52, 70))
    page.key("b")
    page.drag((100, 20), (110, 20))
    both = until(lambda: (m := client.mask(project, 0)) is not None and m[20, 105] == 1 and [m])[0]
    assert ((both == 1) & disc(0)).sum() / disc(0).sum() > 0.7
    assert [entry["id"] for entry in client("GET", f"p/{project}")["objects"]] == [1]
    page.key("ArrowRight", "r")
    page.shows(1)
    page.drag((8, 26), (52, 70))
    page.key("e")
    page.drag((30, 48), (32, 48))  # before the mask is seen: of what comes, this is wiped off
    erased = until(lambda: (m := client.mask(project, 1)) is not None and m.any() and m[48, 31] == 0 and [m])[0]
    assert ((erased == 1) & disc(1)).sum() / disc(1).sum() > 0.3
    page.key("ArrowRight", "r")
    page.shows(2)
    page.drag((8, 26), (56, 70))
    page.key("Delete")
    until(lambda: any(mark.get("gone") for mark in client("GET", f"p/{project}")["marks"]))
    assert not client.mask(project, 2).any()


def test_a_stroke_right_after_undo_is_on_what_undo_left(open_page, client, clip):
    """Neither asked about, as if it met another's change, nor on the masks that were undone."""
    page = open_page(clip)
    project = client.open(clip)
    page.drag((8, 26), (52, 70))
    until(lambda: client.mask(project, 0) is not None)
    page.page.get_by_text("marked", exact=True).wait_for()
    page.delay("/undo", 1.0)
    page.delay("/redo", 1.0)
    page.key("Control+z", "b")
    page.drag((100, 20), (110, 20))
    mask = until(lambda: (m := client.mask(project, 0)) is not None and m[20, 105] == 1 and [m])[0]
    assert not mask[26:70, 8:52].any()  # the box's is gone
    page.key("Control+z")
    until(lambda: client.mask(project, 0) is None)
    page.key("Control+Shift+z", "e")
    page.drag((100, 20), (100, 20))
    mask = until(lambda: (m := client.mask(project, 0)) is not None and m[20, 100] == 0 and [m])[0]
    assert mask.any()
    assert page.page.get_by_role("dialog").count() == 0


def test_who_moves_right_after_starting_a_job_is_not_taken_along(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    page.page.get_by_label("Name of object 1").wait_for()
    page.delay("/jobs", 1.0)
    page.page.get_by_role("button", name="Track forward").click()
    page.stage.focus()
    page.key("ArrowRight")
    until(lambda: client.states(project) == ["done"], 250)
    page.page.locator(".progress").get_by_text(re.compile("^done")).wait_for()
    assert page.stage.get_attribute("data-frame") == "1"


def test_a_job_starts_at_the_frame_of_the_click(open_page, client, clip):
    """However long the preview takes that is kept first, and wherever the playhead is by then."""
    page = open_page(clip)
    project = client.open(clip)
    client.import_mask(project, 0, disc(0))
    page.page.get_by_label("Name of object 1").wait_for()
    page.key("p")
    page.page.mouse.click(*page.at(30, 48))
    page.page.get_by_text("preview: Enter keeps it").wait_for()
    page.delay("/marks", 1.0)
    page.page.get_by_role("button", name="Track forward").click()
    page.stage.focus()
    page.key("ArrowRight")
    (job,) = until(lambda: client("GET", f"p/{project}")["jobs"])
    assert job["options"]["frame"] == 0
    until(lambda: client.states(project) == ["done"], 250)


def test_a_stroke_makes_the_first_object(open_page, client, clip):
    """Two strokes before the server has numbered it: both are of it. The eraser makes none."""
    page = open_page(clip)
    project = client.open(clip)
    page.delay("/objects", 1.0)
    page.key("e")
    page.drag((20, 20), (30, 20))
    page.key("b")
    page.drag((100, 20), (110, 20))
    page.drag((20, 70), (30, 70))
    mask = until(lambda: (m := client.mask(project, 0)) is not None and m[70, 25] == 1 and [m])[0]
    assert mask[20, 105] == 1
    assert set(np.unique(mask)) == {0, 1}
    assert [entry["id"] for entry in client("GET", f"p/{project}")["objects"]] == [1]


def test_playing_at_another_speed(open_page, client, app_folder):
    write_clip(app_folder / "played.mp4", 300, [index / 100 for index in range(300)])
    try:
        page = open_page("played.mp4")
        seconds = {}
        for speed in ("0.25x", "2x"):
            page.page.get_by_label("Speed of playing").select_option(speed)
            page.stage.focus()
            page.key("Home")
            page.shows(0)
            begun = time.monotonic()
            page.key("Space")
            where = page.page.locator(".where")
            until(lambda: int(where.inner_text().split("/")[0]) >= 50)  # noqa: B023 (called in this turn)
            seconds[speed] = time.monotonic() - begun
            page.key("Space")
        assert seconds["0.25x"] >= 2  # half a second of the video takes two
        assert seconds["2x"] < seconds["0.25x"]
        page.leave()
    finally:
        (app_folder / "played.mp4").unlink()


def test_chosen_objects_are_exported(open_page, client, clip):
    project = client.open(clip)
    labels = disc(0).astype(np.uint8)
    labels[:8, 80:] = 2
    client.import_mask(project, 0, labels)
    page = open_page(project=project)
    page.page.get_by_role("button", name="Export…").click()
    write = page.page.get_by_role("button", name="Write palette PNGs")
    first, second = (page.page.get_by_label(f"Export object {number}") for number in (1, 2))
    first.uncheck()
    second.uncheck()
    write.click()
    page.page.get_by_text("Choose at least one object above.").wait_for()
    second.check()
    with page.page.expect_download(timeout=120_000) as download:
        write.click()
        page.page.get_by_role("link", name=re.compile("^Download")).click(timeout=120_000)
    with zipfile.ZipFile(download.value.path()) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".png"))
        written = np.array(Image.open(io.BytesIO(archive.read(name))))
    assert ((written == 2) == (labels == 2)).all()
    assert not (written == 1).any()


def test_a_scrub_storm_ends_at_the_last_frame(open_page, clip):
    page = open_page(clip)
    slider = page.page.get_by_role("slider", name="Frame").bounding_box()
    page.page.mouse.move(slider["x"] + 6, slider["y"] + 5)
    page.page.mouse.down()
    wanted = np.random.default_rng(1).uniform(0, 1, 200)
    for share in [*wanted, 1.0]:
        page.page.mouse.move(slider["x"] + 6 + share * (slider["width"] - 12), slider["y"] + 5)
    page.page.mouse.up()
    page.shows(23)


@pytest.mark.slow
def test_two_tabs_see_each_other_and_conflicts(open_page, client, clip):
    one = open_page(clip)
    project = client.open(clip)
    two = open_page(project=project)
    one.key("n")
    two.page.get_by_label("Name of object 1").wait_for()
    one.key("g")
    for corner in ((10, 10), (60, 10), (60, 40)):
        one.page.mouse.click(*one.at(*corner))
    one.key("Enter")
    until(lambda: client.mask(project, 0) is not None)
    # The second tab must not know of the next change while it edits: its requests find that the frame has changed
    two.page.route("**/marks**", lambda route: (client.import_mask(project, 0, disc(0)), route.continue_()))
    two.key("g")
    for corner in ((70, 10), (100, 10), (100, 40)):
        two.page.mouse.click(*two.at(*corner))
    two.key("Enter")
    two.page.get_by_role("dialog", name="This frame was changed meanwhile").wait_for()
    two.page.unroute("**/marks**")
    two.page.get_by_role("button", name="Keep mine").click()
    until(lambda: client.mask(project, 0)[20, 90] == 1)
    two.problems.clear()  # the browser reports the 409


def test_a_new_size_never_shows_an_empty_image(open_page, clip):
    """Setting a canvas' size clears it: it has to be painted before the browser shows the next frame."""
    page = open_page(clip)
    page.shows(0)
    alpha = page.page.evaluate(
        """() => new Promise((done) => {
            const box = document.querySelector(".stage-box"), canvas = document.querySelector("canvas.stage");
            box.style.flex = "none";
            box.style.height = `${box.clientHeight - 40}px`;
            const at = () => [canvas.width / 2, canvas.height / 2, 1, 1];
            const middle = () => canvas.getContext("2d").getImageData(...at()).data[3];
            requestAnimationFrame(() => requestAnimationFrame(() => done([canvas.height, middle()])));
        })"""
    )
    assert alpha[1] == 255
    assert alpha[0] == round(page.stage.evaluate("one => one.parentElement.clientHeight * devicePixelRatio"))


def test_names_are_text(open_page, client, app_folder):
    name = "<img src=x onerror=alert(1)>.mp4"
    shutil.copy(app_folder / "clip.mp4", app_folder / name)
    try:
        page = open_page(name)
        project = client.open(name)
        client("POST", f"p/{project}/objects", {"name": "<b onclick=alert(1)>x</b>"})
        page.page.get_by_label("Name of object 1").wait_for()
        assert page.page.get_by_label("Name of object 1").input_value() == "<b onclick=alert(1)>x</b>"
        assert page.page.locator("img, b").count() == 0
        assert page.page.get_by_text(name).first.is_visible()
        page.leave()
    finally:
        (app_folder / name).unlink()


def test_other_pages_cannot_use_it(browser, app, client):
    """A page of another origin in the same browser, logged in: neither requests nor a web socket work."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>evil</title>")

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Evil)
    Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(app.url)
        page.get_by_role("heading", name="Videos").wait_for()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        tried = page.evaluate(
            """async (port) => {
              const base = `http://127.0.0.1:${port}/api`, told = [];
              for (const [path, options] of [["/home", {}], ["/home", {mode: "no-cors"}],
                ["/projects", {method: "POST", body: "{}", mode: "no-cors"}]]) {
                try { const r = await fetch(base + path, {credentials: "include", ...options});
                  told.push(r.type === "opaque" ? "opaque" : await r.text()); } catch { told.push("refused"); }
              }
              told.push(await new Promise((resolve) => {
                const socket = new WebSocket(`ws://127.0.0.1:${port}/api/p/x/live`);
                socket.onopen = () => resolve("open"); socket.onerror = () => resolve("refused"); }));
              return told;
            }""",
            app.port,
        )
        assert tried[0] == "refused"
        assert "refused" in tried[1] or tried[1] == "opaque"  # nothing of it can be read
        assert tried[3] == "refused"
    finally:
        context.close()
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_davis_sequence_equals_the_command_line(browser, davis16, tmp_path):
    """Mark by a mask image, track, correct, track on, export: the command line's masks, bit for bit."""
    name = sorted(path.name for path in (davis16 / "JPEGImages" / "480p").iterdir())[0]
    frames = sorted((davis16 / "JPEGImages" / "480p" / name).glob("*.jpg"))[:8]
    masks = [davis16 / "Annotations" / "480p" / name / f"{frame.stem}.png" for frame in frames]
    video = tmp_path / "videos" / name
    video.mkdir(parents=True)
    for frame in frames:
        shutil.copy(frame, video)
    app = App(tmp_path / "videos")
    try:
        client = Client(app)
        page = Page(browser, app, name)
        project = client.open(name)

        def seen(jobs):
            return [(job["state"], job["options"]["frame"]) for job in jobs]

        def mark(index):
            with page.page.expect_file_chooser() as opened:
                page.page.get_by_role("button", name="Import…").click()
            opened.value.set_files(masks[index])
            until(lambda: index in client("GET", f"p/{project}")["keyframes"])
            page.page.get_by_role("button", name="Track forward").click()
            jobs = [("done", at) for at in (5, 0) if at <= index]
            until(lambda: seen(client("GET", f"p/{project}")["jobs"]) == jobs, 250)

        mark(0)
        first = {index: client.mask(project, index) for index in range(8)}
        page.page.get_by_role("slider", name="Frame").focus()
        page.key("Home", *["ArrowRight"] * 5)
        page.shows(5)
        mark(5)
        page.page.get_by_role("button", name="Export…").click()
        with page.page.expect_download(timeout=120_000) as download:
            page.page.get_by_role("button", name="Write palette PNGs").click()
            page.page.get_by_role("link", name="Download").click(timeout=120_000)
        archive = zipfile.ZipFile(download.value.path())
        exported = [np.array(Image.open(io.BytesIO(archive.read(entry)))) for entry in sorted(archive.namelist())]
        page.close()
    finally:
        app.close()
    options = ["--size", "96", "--max-memory-frames", "20", "--no-overlay", "-q"]
    again = ["--mask", f"5={masks[5]}", "--direction", "both"]
    for folder, more in (("once", []), ("corrected", again)):
        assert twospeed("track", video, "--mask", f"0={masks[0]}", *more, "-o", tmp_path / folder, *options) == 0
    written = [
        [read_label_map(file, allow_empty=True) for file in sorted((tmp_path / folder / "masks").iterdir())]
        for folder in ("once", "corrected")
    ]
    for index in range(8):
        if index in (0, 5):  # the page keeps what is marked; the command line writes it as the network has seen it
            assert (exported[index] == read_label_map(masks[index])).all(), index
            continue
        assert (first[index] == written[0][index]).all(), index
        assert (exported[index] == written[0 if index < 5 else 1][index]).all(), index
