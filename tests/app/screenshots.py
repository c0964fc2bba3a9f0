"""`python -m tests.app.screenshots FOLDER [--docs]`: the page at three sizes, light and dark, on a rendered clip.

--docs: only the pictures of docs/howto/app.md, `python -m tests.app.screenshots docs/images --docs`.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.app.client import App, Client
from tests.app.conftest import FLAGS
from tests.app.page import until
from tests.app.test_runs import run_folder
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.writer import VideoWriter

DOCS = {"app_tracking", "app_editor_medium_light", "app_export_small_light", "app_editor_large_dark"}
SIZES = {"small": (1280, 720), "medium": (1600, 900), "large": (1920, 1080)}


def write_demo(folder: Path) -> np.ndarray:
    """Render a clip as `twospeed demo` does; returns the labels of its first frame."""
    first: np.ndarray | None = None
    with VideoWriter(folder / "clip.mp4", 12) as writer:
        for picture, labels in render_clip(2, frames=48, height=480, width=854):
            writer.write(picture)
            first = labels if first is None else first
    assert first is not None
    return first


def shots(target: Path, docs: bool = False, chromium: str = "/usr/bin/chromium") -> None:
    """Mark, track and export, with a picture of each step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = write_demo(folder)
        app = App(folder, quick=False)  # as a user has it
        try:
            client = Client(app)
            _write_runs(folder)
            project = client.open("clip.mp4")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                for theme in ("light", "dark"):
                    for size, (width, height) in SIZES.items():
                        if docs and not any(name.endswith(f"{size}_{theme}") for name in DOCS):
                            continue
                        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                        page = context.new_page()
                        page.goto(app.url)
                        page.get_by_role("heading", name="Videos").wait_for()
                        images = page.locator(".videos img")
                        until(lambda images=images: images.evaluate_all("all => all.every((one) => one.naturalWidth)"))
                        _save(page, target / f"app_home_{size}_{theme}.png")
                        page.goto(f"http://127.0.0.1:{app.port}/?p={project}")
                        page.locator("canvas.stage[data-frame='0']").wait_for()
                        if not client("GET", f"p/{project}")["keyframes"]:
                            _mark_and_track(page, client, project, labels, target)
                        page.get_by_role("slider", name="Frame").focus()
                        page.keyboard.press("Home")
                        for _ in range(3):
                            page.keyboard.press("Shift+ArrowRight")
                        page.locator("canvas.stage[data-frame='30']").wait_for()
                        page.wait_for_timeout(700)
                        _save(page, target / f"app_editor_{size}_{theme}.png")
                        page.get_by_role("button", name="Export…").click()
                        _save(page, target / f"app_export_{size}_{theme}.png")
                        if docs:
                            context.close()
                            continue
                        page.keyboard.press("Escape")
                        page.get_by_role("tab", name="Pixels").click()
                        if not client("GET", f"p/{project}/result/segment"):
                            page.get_by_role("button", name="Label pixels").click()
                            page.locator(".progress").get_by_text(re.compile("^done")).wait_for(timeout=300_000)
                        page.get_by_role("button", name="Only road").wait_for()
                        page.wait_for_timeout(700)
                        _save(page, target / f"app_pixels_{size}_{theme}.png")
                        page.get_by_role("tab", name="Actions").click()
                        _save(page, target / f"app_actions_{size}_{theme}.png")
                        for run in ("actions", "people"):
                            page.goto(f"http://127.0.0.1:{app.port}/")
                            page.get_by_role("button", name=f"Show {run}").click()
                            page.locator("canvas.stage[data-frame='0']").wait_for()
                            page.get_by_role("slider", name="Frame").focus()
                            page.keyboard.press("Shift+ArrowRight")
                            page.keyboard.press("Shift+ArrowRight")
                            page.locator("canvas.stage[data-frame='20']").wait_for()
                            page.wait_for_timeout(700)
                            _save(page, target / f"app_run_{run}_{size}_{theme}.png")
                        page.goto(f"http://127.0.0.1:{app.port}/?p={project}")
                        page.locator("canvas.stage[data-frame='0']").wait_for()
                        page.keyboard.press("Shift+Slash")
                        _save(page, target / f"app_help_{size}_{theme}.png")
                        context.close()
                browser.close()
        finally:
            app.close()


def _write_runs(folder: Path) -> None:
    """Invented results of `classify` and `detect`, to look at how the page shows such."""
    video = folder / "clip.mp4"
    names = ["juggling balls", "dancing ballet", "playing drums", "walking the dog", "riding a bike"]
    views = []
    for place in range(8):
        shares = [(1 + (place * 7 + 3 * i) % 5) / 16 for i in range(5)]
        top = [
            {"label": name, "class_id": i, "probability": p}
            for i, (name, p) in enumerate(zip(names, shares, strict=True))
        ]
        views.append({"time_s": 0.25 + place / 2, "top": sorted(top, key=lambda one: -float(str(one["probability"])))})
    run_folder(folder / "actions", "classify", video, results={"video": "clip", "top": views[0]["top"], "views": views})
    keyframes = []
    for second in range(4):
        people = []
        for number in range(1, 4):
            left = 60 + 220 * (number - 1) + 30 * second
            actions = [
                {"label": name, "class_id": i, "score": 0.9 - 0.2 * i}
                for i, name in enumerate(("stand", "talk to", "watch"))
            ]
            person = {"id": number, "box_xyxy": [left, 120, left + 130, 430], "person_score": 0.95, "actions": actions}
            if number != 2 or second != 2:
                people.append(person)
        keyframes.append({"time_s": float(second), "people": people})
    run_folder(folder / "people", "detect", video, results={"video": "clip", "people": [], "keyframes": keyframes})


def _mark_and_track(page: Page, client: Client, project: str, labels: np.ndarray, target: Path) -> None:
    client.import_mask(project, 0, labels)
    page.get_by_role("button", name="Track forward").click()
    page.locator(".progress").get_by_text(re.compile(r"tracked [1-3]\d of 47 · ")).wait_for(timeout=120_000)
    _save(page, target / "app_tracking.png")
    page.locator(".progress").get_by_text(re.compile("^done: 47")).wait_for(timeout=300_000)


def _save(page: Page, path: Path) -> None:
    """Save what is shown in 256 colours, a quarter of the bytes; the few of texts and buttons among them."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


if __name__ == "__main__":
    only = "--docs" in sys.argv
    shots(Path(sys.argv[1]), docs=only)
    for extra in Path(sys.argv[1]).glob("app_*.png") if only else ():
        if extra.stem not in DOCS:
            extra.unlink()
