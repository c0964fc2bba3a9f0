"""Several tabs on one project, and a server that ends and comes back: nothing is overwritten or lost in silence."""

from __future__ import annotations

from tests.app.client import App, Client, disc, write_clip
from tests.app.page import Page, until


def test_tabs_know_of_each_other(open_page, client, clip):
    one = open_page(clip)
    project = client.open(clip)
    chip = one.page.locator(".others")
    assert chip.is_hidden()
    two = open_page(project=project)
    for page in (one, two):
        page.page.locator(".others").get_by_text("open in 2 tabs").wait_for()
    status, error = client.refused("DELETE", f"p/{project}")
    assert (status, "open in another tab" in error) == (400, True)
    two.page.goto("about:blank")
    chip.wait_for(state="hidden")


def test_undo_does_not_take_back_what_another_tab_did(open_page, client, clip):
    one = open_page(clip)
    project = client.open(clip)
    two = open_page(project=project)
    one.key("n")
    two.page.get_by_label("Name of object 1").wait_for()
    two.key("Control+z")
    two.page.get_by_role("dialog", name="The last change is of another tab").wait_for()
    assert len(client("GET", f"p/{project}")["objects"]) == 1
    two.page.get_by_role("button", name="Undo it").click()
    until(lambda: not client("GET", f"p/{project}")["objects"])
    two.problems.clear()  # the browser reports the 409
    one.key("Control+Shift+z")
    until(lambda: len(client("GET", f"p/{project}")["objects"]) == 1)  # nobody else's: its own object again


def test_a_preview_does_not_overwrite_what_came_meanwhile(open_page, client, clip):
    """Although the page has been told of the other change by the time the preview is kept."""
    page = open_page(clip)
    project = client.open(clip)
    page.key("p")
    page.page.mouse.click(*page.at(30, 48))
    page.page.get_by_text("preview: Enter keeps it").wait_for(timeout=120_000)
    client.import_mask(project, 0, disc(20))
    page.page.get_by_text("marked", exact=True).wait_for()
    page.page.wait_for_timeout(300)
    page.key("Enter")
    page.page.get_by_role("dialog", name="This frame was changed meanwhile").wait_for()
    assert (client.mask(project, 0) == disc(20)).all()
    page.page.get_by_role("button", name="Keep theirs").click()
    page.problems.clear()  # the browser reports the 409


def test_a_stroke_outlives_the_server(tmp_path, browser):
    """Painted while the server is gone: kept, and saved by itself once somebody has logged in to the next one."""
    write_clip(tmp_path / "clip.mp4")
    first = App(tmp_path)
    client = Client(first)
    project = client.open("clip.mp4")
    client.import_mask(project, 0, disc(0))
    page = Page(browser, first, project=project)
    try:
        first.kill()
        page.page.get_by_text("The connection is lost").wait_for()
        page.key("b")
        page.drag((100, 20), (110, 20))
        page.page.locator(".wrong").get_by_text("not saved").wait_for()
        second = App(tmp_path, "--port", str(first.port))
        try:
            page.page.get_by_role("dialog", name="Log in again").wait_for()
            page.page.get_by_label("Token").fill(second.url)
            page.page.keyboard.press("Enter")
            client = Client(second)
            until(lambda: client.mask(project, 0)[20, 105] == 1, 20)
            page.page.locator(".bar").get_by_text("saved", exact=True).wait_for()
            page.problems.clear()  # the browser reports what was not answered
            page.close()
        finally:
            second.close()
    finally:
        first.kill()
