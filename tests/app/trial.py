"""`python -m tests.app.trial VIDEO FOLDER X,Y,W,H [FRAME,X,Y,W,H]`: somebody opens the page for the first time.

From the list of videos to a cut-out with alpha on disk: every click and key is counted and timed, with a picture of
each step in FOLDER. X,Y,W,H: a box around the object in the first frame, in pixels of the video. FRAME,X,Y,W,H: a
second box, to correct the mask of a later frame, after which the frames around it are updated.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import av
from playwright.sync_api import sync_playwright

from tests.app.client import App, Client
from tests.app.conftest import FLAGS
from tests.app.page import Page

Box = tuple[float, float, float, float]


def trial(video: Path, target: Path, box: Box, correction: tuple[int, Box] | None = None, last: int = 60) -> None:
    """Print each step with the seconds since the start, and the clicks in total."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(video, folder / video.name)
        begun = time.monotonic()
        clicks = 0

        def step(text: str, number: int = 1) -> None:
            nonlocal clicks
            clicks += number
            page.page.screenshot(path=target / f"{clicks:02d}.png")
            print(f"{time.monotonic() - begun:7.1f} s  {clicks:2d} clicks  {text}", flush=True)

        app = App(folder, quick=False)
        try:
            client = Client(app)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                page = Page(browser, app)
                page.page.get_by_role("heading", name="Videos").wait_for()
                step("the page is open", 0)
                page.page.get_by_role("button", name=f"Open {video.name}").click()
                page.shows(0)
                project = client.open(video.name)
                state = client("GET", f"p/{project}")
                page.size = (state["height"], state["width"])
                step(f"opened: {state['frames']} frames of {state['width']}x{state['height']}")
                if state["frames"] - 1 > last:
                    slider = page.page.get_by_role("slider", name="Frame")
                    slider.focus()
                    for _ in range(last // 10):
                        page.key("Shift+ArrowRight")
                    page.shows(last // 10 * 10)
                    page.page.get_by_role("button", name="Set the out point here").click()
                    page.page.get_by_role("button", name="To the in point").click()
                    page.shows(0)
                    step(f"only the first {last} frames", 2 + last // 10)
                x, y, width, height = box
                page.drag((x, y), (x + width, y + height))
                while client.mask(project, 0) is None:
                    time.sleep(0.1)
                page.page.wait_for_timeout(500)
                step("a box is drawn: there is a mask")
                page.page.get_by_role("button", name="Track forward").click()
                page.page.locator(".progress").get_by_text(re.compile("frames/s")).wait_for(timeout=60_000)
                step("tracking: the first masks are there")
                page.page.locator(".progress").get_by_text(re.compile("^done")).wait_for(timeout=500_000)
                step("tracked", 0)
                page.key(".")
                page.page.wait_for_timeout(800)
                step("the least certain frame")
                if correction is not None:
                    frame, (x, y, width, height) = correction
                    now = int(str(page.stage.get_attribute("data-frame")))
                    for _ in range(abs(frame - now)):
                        page.key("ArrowRight" if frame > now else "ArrowLeft")
                    page.shows(frame)
                    page.drag((x, y), (x + width, y + height))
                    update = page.page.get_by_role("button", name=re.compile("^Update "))
                    update.wait_for(timeout=60_000)
                    step(f"frame {frame} is corrected by a box", 1 + abs(frame - now))
                    update.click()
                    update.wait_for(state="hidden", timeout=500_000)
                    page.page.locator(".progress").get_by_text(re.compile("^done")).wait_for(timeout=500_000)
                    step("the frames around it are updated")
                page.page.get_by_role("button", name="Export…").click()
                page.page.get_by_role("dialog", name="Export").wait_for()
                step("the list of exports")
                with page.page.expect_download(timeout=300_000) as download:
                    page.page.get_by_role("button", name="Write ProRes 4444").click()
                    page.page.get_by_role("link", name="Download").click(timeout=300_000)
                file = target / download.value.suggested_filename
                download.value.save_as(file)
                step(f"saved {file.name}", 2)
                page.close()
                browser.close()
        finally:
            app.close()
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            print(f"{file.name}: {stream.codec_context.name}, {stream.codec_context.pix_fmt}, {frames} frames")


if __name__ == "__main__":
    left, top, wide, high = (float(part) for part in sys.argv[3].split(","))
    second = None
    if len(sys.argv) > 4:
        at, *corners = (float(part) for part in sys.argv[4].split(","))
        second = (int(at), (corners[0], corners[1], corners[2], corners[3]))
    trial(Path(sys.argv[1]), Path(sys.argv[2]), (left, top, wide, high), second)
