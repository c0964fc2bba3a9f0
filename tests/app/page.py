"""A page of a real browser on a project."""

from __future__ import annotations

import time

from tests.app.client import SIZE


class Page:
    """A page of a browser on a project. Errors on the console, or of the content security policy, fail the test."""

    def __init__(self, browser, app, clip=None, project=None, size=SIZE):
        self.app, self.problems, self.refused, self.size = app, [], [], size
        self.context = browser.new_context(viewport={"width": 1280, "height": 720})
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("response", self.note_refusal)
        self.page.goto(app.url)
        if clip is not None:
            self.page.get_by_role("button", name=f"Open {clip}", exact=True).click()
        elif project is not None:
            self.page.get_by_role("heading", name="Videos").wait_for()
            self.page.goto(f"http://127.0.0.1:{app.port}/?p={project}")
        self.stage = self.page.locator("canvas.stage")
        if clip or project:
            self.shows(0)

    def note_refusal(self, response):
        """Which request was refused, since the console's message does not say it."""
        if response.status >= 400:
            request = response.request
            self.refused.append(f"{response.status}: {request.method} {request.url} {(request.post_data or '')[:200]}")

    def leave(self):
        """Ask the server for nothing more: a page reads frames ahead, of a video that may be about to be gone."""
        self.page.goto("about:blank")

    def shows(self, frame):
        self.page.locator(f"canvas.stage[data-frame='{frame}']").wait_for()

    def at(self, x, y):
        """Where a pixel of the image is on the screen."""
        box = self.stage.bounding_box()
        scale = min(box["width"] / self.size[1], box["height"] / self.size[0])
        left = box["x"] + (box["width"] - self.size[1] * scale) / 2
        top = box["y"] + (box["height"] - self.size[0] * scale) / 2
        return left + x * scale, top + y * scale

    def drag(self, *points):
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=3)
        self.page.mouse.up()

    def key(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def delay(self, part, seconds):
        """Send requests with `part` in their address so much later.

        In the page itself: a route of Playwright answers only while a call of Playwright runs, and not in `until`.
        """
        self.page.evaluate(
            """([part, seconds]) => {
                const send = window.fetch;
                window.fetch = async (address, options) => {
                    if (String(address).includes(part)) await new Promise((go) => setTimeout(go, 1000 * seconds));
                    return send(address, options);
                };
            }""",
            [part, seconds],
        )

    def close(self):
        self.context.close()
        assert not self.problems, (self.problems, self.refused)


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.05)
    return found
