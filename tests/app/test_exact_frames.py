"""Which frame is on the screen, and which one is marked: never another than the page says."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.app.client import number_in, write_clip
from tests.app.page import until
from twospeed.app.frames import FrameSource, JpegCache
from twospeed.app.proxy import is_slow
from twospeed.errors import VideoError
from twospeed.video.seeking import index_packets


def frame_of(client, project, index, query=""):
    """The number that the server states, and the one in the image."""
    status, headers, content = client.raw("GET", f"/api/p/{project}/frame/{index}?h=96{query}")
    assert status == 200
    return int(headers["x-frame"]), number_in(np.array(Image.open(io.BytesIO(content)))), headers["cache-control"]


def number_on(page):
    """The number in the image on the canvas."""
    return page.stage.evaluate(
        """(canvas, [height, width]) => {
          const scale = Math.min(canvas.width / width, canvas.height / height), context = canvas.getContext("2d");
          const left = (canvas.width - width * scale) / 2, top = (canvas.height - height * scale) / 2;
          let number = 0;
          for (let bit = 0; bit < 16; bit++) {
            const at = [left + (bit + 0.5) * 8 * scale, top + 92 * scale];
            if (context.getImageData(...at, 1, 1).data[0] > 127) number |= 1 << bit;
          }
          return number;
        }""",
        page.size,
    )


def drag_to(page, frame, last=23):
    slider = page.page.get_by_role("slider", name="Frame").bounding_box()
    page.page.mouse.move(slider["x"] + 6 + frame / last * (slider["width"] - 12), slider["y"] + 8)
    page.page.mouse.down()


def hold(page, pattern, but=None):
    """Hold requests that match, but for those with `but` in the address; returns how to let them pass, or fail."""
    held, passing = [], []

    def holding(route):
        if passing or (but is not None and but in route.request.url):
            route.continue_()
        else:
            held.append(route)

    def release(*, fail=False):
        passing.append(True)
        for route in held:
            route.abort() if fail else route.continue_()

    page.page.route(pattern, holding)
    return release


def seen(page, condition, seconds=30):
    """`until`, while the browser's requests go on to be routed."""
    for _ in range(seconds * 20):
        if condition():
            return
        page.page.wait_for_timeout(50)
    raise AssertionError("this did not happen in time")


def test_a_near_frame_says_which_it_is(client, clip):
    project = client.open(clip)
    stated, seen, kept = frame_of(client, project, 20, "&near=1")
    assert (stated, kept) == (0, "no-store")  # the only keyframe
    assert seen == 0
    assert frame_of(client, project, 17)[:2] == (17, 17)
    assert frame_of(client, project, 20, "&near=1")[:2] == (17, 17)
    assert frame_of(client, project, 5, "&near=1")[:2] == (0, 0)
    assert frame_of(client, project, 17, "&near=1")[:2] == (17, 17)
    assert "immutable" in frame_of(client, project, 20)[2]


def test_the_whole_image_of_a_frame_that_was_seen_small_is_the_same_frame(client, clip):
    project = client.open(clip)
    for index in (12, 13, 4, 3, 3, 20):
        for height in (48, 96):
            content = client("GET", f"p/{project}/frame/{index}?h={height}")
            assert number_in(np.array(Image.open(io.BytesIO(content)))) == index


def test_while_dragging_a_near_frame_is_shown_and_named_and_takes_no_marks(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    page.key("n")
    page.page.get_by_label("Name of object 1").wait_for()
    release = hold(page, "**/frame/**", but="near=1")
    drag_to(page, 20)
    badge = page.page.locator(".badge:not(.under)")
    badge.get_by_text("≈ frame 0 is shown, 20 is being decoded").wait_for()
    page.page.mouse.up()
    page.key("b")
    page.drag((100, 20), (110, 20))
    page.page.get_by_text("Frame 20 is still being decoded; mark it when it is shown.").wait_for()
    assert (page.stage.get_attribute("data-frame"), number_on(page)) == ("0", 0)
    release()
    page.shows(20)
    until(lambda: number_on(page) == 20, 5)
    assert badge.is_hidden()
    page.drag((100, 20), (110, 20))
    seen(page, lambda: client("GET", f"p/{project}")["keyframes"] == [20])


def test_a_frame_that_is_shown_stays_when_it_cannot_be_fetched_again(open_page, client, clip):
    """As when the server is gone before the frame's own size has come: it is the right one, and takes marks."""
    page = open_page(clip)
    project = client.open(clip)
    assert frame_of(client, project, 20)[:2] == (20, 20)  # so that it is the nearest to itself
    release = hold(page, "**/frame/20?**", but="near=1")
    drag_to(page, 20)
    page.page.mouse.up()
    page.shows(20)
    release(fail=True)
    page.page.wait_for_timeout(300)
    assert number_on(page) == 20
    page.key("b")
    page.drag((100, 20), (110, 20))
    seen(page, lambda: client("GET", f"p/{project}")["keyframes"] == [20])
    page.problems.clear()  # the browser reports what was not answered


def test_marks_stay_on_the_frame_on_which_they_were_made(open_page, client, clip):
    """However long the first click takes, and wherever the playhead is by then."""
    page = open_page(clip)
    project = client.open(clip)
    release = hold(page, "**/marks**")
    page.key("p")
    page.page.mouse.click(*page.at(30, 48))
    page.page.mouse.click(*page.at(50, 60))
    page.key("ArrowRight")
    page.shows(1)
    page.key("ArrowRight")
    page.shows(2)
    release()

    def points():
        return {mark["frame"]: len(mark["points"]) for mark in client("GET", f"p/{project}")["marks"]}

    seen(page, lambda: points() == {0: 2})
    page.page.wait_for_timeout(700)
    assert points() == {0: 2}
    # A click on a point takes it away again
    page.key("ArrowLeft", "ArrowLeft")
    page.shows(0)
    page.page.mouse.click(*page.at(50, 60))
    page.page.get_by_text("preview: Enter keeps it").wait_for(timeout=120_000)
    page.key("Enter")
    seen(page, lambda: points() == {0: 1})


def test_two_strokes_in_a_row_are_both_kept(open_page, client, clip):
    page = open_page(clip)
    project = client.open(clip)
    page.key("n", "b")
    page.page.get_by_label("Name of object 1").wait_for()
    release = hold(page, "**/mask/0**")
    for row in (20, 50, 80):
        page.drag((90, row), (110, row))
    release()
    seen(page, lambda: (mask := client.mask(project, 0)) is not None and all(mask[row, 100] for row in (20, 50, 80)))
    assert page.page.get_by_role("dialog").count() == 0


def test_a_slow_video_gets_a_copy_to_jump_in(open_page, client, app_folder):
    """With it every frame is there at once, and is the one that was asked for."""
    write_clip(app_folder / "slow.mp4", 60)
    try:
        project = client.open("slow.mp4")
        assert not client("GET", f"p/{project}")["quick"]
        client("POST", f"p/{project}/objects", {})
        page = open_page("slow.mp4")
        seen(page, lambda: client("GET", f"p/{project}")["quick"])
        (copy,) = (app_folder / "twospeed_projects" / project).glob("proxy-*.mp4")
        assert len(index_packets(copy).keyframes) == 5
        for index in (59, 13, 0, 30, 31, 29, 12):
            assert frame_of(client, project, index, "&near=1")[:2] == (index, index)
        drag_to(page, 40, 59)
        page.shows(40)
        assert page.page.locator(".badge:not(.under)").is_hidden()
        seen(page, lambda: number_on(page) == 40, 5)
        page.page.mouse.up()
        page.key("b")
        page.drag((100, 20), (110, 20))
        seen(page, lambda: client("GET", f"p/{project}")["keyframes"] == [40])
        # Who rests sees the video's own image
        with page.page.expect_request(lambda one: "/frame/41?" in one.url and "near=1" not in one.url):
            page.key("ArrowRight")
        page.shows(41)
        page.leave()
    finally:
        (app_folder / "slow.mp4").unlink()


def test_a_copy_of_another_length_is_not_used(tmp_path):
    cache = JpegCache()
    source = FrameSource("clip", write_clip(tmp_path / "clip.mp4", 6), 6, cache)
    with pytest.raises(VideoError, match="has not the 6 frames"):
        source.use_proxy(write_clip(tmp_path / "proxy.mp4", 5))
    assert not source.has_proxy


@pytest.mark.parametrize(("frames", "slow"), [(20, False), (40, True)])
def test_which_videos_are_slow(tmp_path, frames, slow):
    assert is_slow(write_clip(tmp_path / "clip.mp4", frames)) is slow
