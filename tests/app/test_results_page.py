"""Actions, people, classes, keyboard and sound in a real browser."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.app.client import write_clip
from tests.app.page import until
from tests.app.test_runs import actions_of, people_of, run_folder
from tests.video.test_sound_and_alpha import film_with_sound

SPANS = """async (threshold) => (await import("/static/results.js")).spansOf([
  {time_s: 1, top: [["run", 0.6], ["walk", 0.3]]}, {time_s: 2, top: [["run", 0.8], ["walk", 0.1]]},
  {time_s: 4, top: [["walk", 0.9], ["run", 0.1]]}], threshold, 5)"""
PEOPLE = """async (time) => (await import("/static/results.js")).peopleAt([
  {time_s: 0, people: [{id: 1, box_xyxy: [0, 0, 10, 10], actions: []}, {id: 2, box_xyxy: [5, 5, 9, 9], actions: []}]},
  {time_s: 2, people: [{id: 1, box_xyxy: [20, 0, 30, 10], actions: []}]}], time)"""


def test_spans_and_boxes_in_between(open_page):
    page = open_page().page
    assert page.evaluate(SPANS, 0.5) == [
        {"label": "run", "start": 0, "end": 3, "p": pytest.approx(0.7)},
        {"label": "walk", "start": 3, "end": 5, "p": 0.9},
    ]
    assert [span["label"] for span in page.evaluate(SPANS, 0.2)] == ["run", "walk", "walk"]
    found = page.evaluate(PEOPLE, 0.5)
    assert [(one["id"], one["box"], one["exact"]) for one in found] == [(1, [5, 0, 15, 10], False)]
    assert [one["exact"] for one in page.evaluate(PEOPLE, 0)] == [True, True]
    assert page.evaluate(PEOPLE, 3) == []  # nobody knows what comes behind the last keyframe


def test_actions_and_people_are_shown(open_page, client, app_folder):
    video = app_folder / "clip.mp4"
    folders = [
        run_folder(app_folder / "actions", "classify", video, results=actions_of(video)),
        run_folder(app_folder / "people", "detect", video, results=people_of(video)),
    ]
    try:
        page = open_page()
        page.page.get_by_role("button", name="Show actions").click()
        page.shows(0)
        page.page.get_by_role("button", name=re.compile(r"^0:00\.0 to 0:00\.8\s*juggling\s*0\.90$")).wait_for()
        page.page.get_by_label("Search actions").fill("walk")
        page.page.get_by_text("No action reaches this probability.").wait_for()
        page.page.get_by_title("All videos").click()
        page.page.get_by_role("button", name="Show people").click()
        page.shows(0)
        page.page.get_by_role("cell", name="stand 0.80").first.wait_for()
        page.page.get_by_role("button", name="0:01.0").click()
        page.shows(12)
        assert page.page.locator(".timeline-box").get_attribute("data-rows") == "3"
        page.page.get_by_label("Filter people").fill("nobody does this")
        page.page.get_by_text("Nobody matches.").wait_for()
        page.page.get_by_role("button", name="Export…").click()
        page.page.get_by_role("button", name="Write CVAT tracks of boxes").click()
        page.page.get_by_role("link", name="Download people_people.xml").wait_for()
    finally:
        for folder in folders:
            shutil.rmtree(folder)


@pytest.mark.slow
def test_classes_are_shown(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    page.shows(0)
    coloured = "stage => [...stage.getContext('2d').getImageData(stage.width / 2, stage.height / 2, 1, 1).data]"
    bare = page.stage.evaluate(coloured)
    page.page.get_by_role("tab", name="Pixels").click()
    page.page.get_by_role("button", name="Label pixels").click()
    until(lambda: client.states(project) == ["done"], 250)
    page.page.locator(".progress").get_by_text("done: 24 frames").wait_for()
    legend = page.page.locator(".legend")
    legend.get_by_role("button", name="Only road").wait_for()
    until(lambda: page.page.evaluate("document.querySelector('.legend').textContent.includes('%')"))
    assert page.page.evaluate("""[...document.querySelectorAll('.legend li')].every(row => {
      const [show, only] = row.querySelectorAll('button'), name = show.querySelector('.grow');
      return name.clientWidth >= name.scrollWidth && name.clientWidth > 20 && row.offsetHeight < 40
        && show.getBoundingClientRect().right <= only.getBoundingClientRect().left;
    })"""), "names of classes are cut off"
    until(lambda: page.stage.evaluate(coloured) != bare)
    before = page.stage.evaluate(coloured)
    for button in legend.get_by_title("Show or hide").all():
        button.click()
    until(lambda: page.stage.evaluate(coloured) != before)
    page.page.get_by_role("button", name="Show all", exact=True).click()
    until(lambda: page.stage.evaluate(coloured) == before)
    areas = json.loads(client.export(project, "areas"))
    assert len(areas["time_s"]) == 24
    for kind in ("labels", "areas-plot", "labels-overlay"):
        assert client.export(project, kind)


def test_sound_is_made_for_playback(client, app_folder, open_page):
    name = "sound.mkv"
    film_with_sound(app_folder / name, "pcm_s16le", seconds=20)
    try:
        project = client.open(name)
        assert client("GET", f"p/{project}/sound") == {"sound": True}
        status, headers, part = client.raw("GET", f"/api/p/{project}/audio", headers={"Range": "bytes=0-99"})
        assert (status, len(part), headers["content-type"]) == (206, 100, "audio/mp4")
        silent = client.open("clip.mp4")
        assert client("GET", f"p/{silent}/sound") == {"sound": False}
        assert client.refused("GET", f"p/{silent}/audio") == (404, "there is no sound in this video")
        page = open_page(project=project)
        page.size = (48, 96)
        page.page.get_by_role("button", name="Sound").wait_for()
        page.key("Space")
        until(lambda: int(page.stage.get_attribute("data-frame")) > 10, 60)
        heard = page.page.evaluate("performance.getEntriesByType('resource').some(e => e.name.includes('/audio'))")
        assert heard
        page.key("Space")
        where = page.page.locator(".where").inner_text()
        page.shows(int(where.split("/")[0]))  # pausing shows the exact frame
        page.leave()
    finally:
        (app_folder / name).unlink()


FOCUS = """() => { const e = document.activeElement, s = getComputedStyle(e);
  const label = e.labels?.[0]?.textContent.trim();
  return [e.getAttribute("aria-label") || e.textContent.trim() || label || e.title || e.id, e.tagName,
          s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0, e.matches(":focus-visible")]; }"""


@pytest.mark.slow
def test_everything_by_the_keyboard_alone(browser, open_page, client, clip):
    """From the list of videos to an exported file without the mouse; every stop has a name and visible focus."""
    page = open_page()
    stops = []

    def tab_to(name, key="Tab", most=80):
        for _ in range(most):
            page.key(key)
            label, tag, outlined, visible = page.page.evaluate(FOCUS)
            stops.append((label, tag, outlined, visible))
            if label.startswith(name):
                return
        raise AssertionError(f"{name!r} is not reached: {[stop[0] for stop in stops[-most:]]}")

    page.page.get_by_role("heading", name="Videos").wait_for()
    tab_to(f"Open {clip}")
    page.key("Enter")
    page.shows(0)
    project = client.open(clip)
    page.key("p", "k")  # points, then a crosshair in the middle, on the disc after some steps left
    for _ in range(4):
        page.key("Shift+ArrowLeft" if _ == 0 else "ArrowLeft")
    page.key("Enter")
    page.page.get_by_text("preview: Enter keeps it").wait_for(timeout=120_000)
    page.key("k", "Enter")
    until(lambda: client.mask(project, 0) is not None)
    tab_to("Track forward")
    page.key("Enter")
    until(lambda: client.states(project) == ["done"], 250)
    tab_to("Track", "Shift+Tab")
    tab_to("Frame")
    page.key("Home")
    page.shows(0)
    page.key("ArrowRight")
    page.shows(1)
    tab_to("Track", "Shift+Tab")
    while page.page.evaluate(FOCUS)[0] != "Track":
        page.key("Shift+Tab")
    page.key("ArrowRight", "ArrowRight")
    assert page.page.evaluate(FOCUS)[0] == "Actions"
    tab_to("Export…", "Shift+Tab")
    page.key("Enter")
    tab_to("Write palette PNGs")
    page.key("Enter")
    page.page.get_by_role("link", name="Download").wait_for(timeout=120_000)
    page.key("Escape")
    until(lambda: page.page.evaluate(FOCUS)[0] == "Export…")  # a closed dialog gives the focus back
    unnamed_stops = {tag for label, tag, _, _ in stops if not label}
    assert not unnamed_stops, f"stops without a name: {unnamed_stops}"
    hidden = {label for label, tag, outlined, visible in stops if not (outlined and visible) and tag != "BODY"}
    assert not hidden, f"focus is not seen on {hidden}"
    unnamed = page.page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), select, canvas[tabindex]")]
        .filter((e) => !e.hidden)
        .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.title || e.labels?.length))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_a_located_video_is_shown(open_page, client, app_folder):
    write_clip(app_folder / "before.mp4", 6)
    project = client.open("before.mp4")
    (app_folder / "before.mp4").rename(app_folder / "after.mp4")
    try:
        page = open_page()
        page.page.get_by_role("button", name="Open before.mp4").click()
        page.page.get_by_role("button", name="Locate file…").click()
        page.page.get_by_role("button", name="Take after.mp4").click()
        until(lambda: "problem" not in client("GET", f"p/{project}"))
        page.page.locator(".badge:not(.under)").wait_for(state="hidden")
        page.leave()
        page.problems.clear()  # the browser reports the images that were not there
    finally:
        (app_folder / "after.mp4").unlink()
