from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `app` is not installed")
pytest.importorskip("uvicorn", reason="the extra `app` is not installed")

from tests.app.client import App, Client, write_clip
from tests.app.page import Page

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def app_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "clip.mp4")
    return folder


@pytest.fixture(scope="module")
def app(app_folder) -> Iterator[App]:
    """One server for the tests of a file that do not end it; each test has videos of its own."""
    running = App(app_folder)
    yield running
    assert running.close() == 130


@pytest.fixture(scope="module")
def client(app) -> Client:
    return Client(app)


@pytest.fixture
def clip(app_folder, request) -> Iterator[str]:
    """A clip of the test's own; its name."""
    name = f"{request.node.name[:40]}.mp4".replace("[", "_").replace("]", "_")
    shutil.copy(app_folder / "clip.mp4", app_folder / name)
    yield name
    (app_folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def browser():
    required = os.environ.get("TWOSPEED_REQUIRE_BROWSER") == "1"
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not required:
        pytest.importorskip("playwright", reason="playwright is not installed")
        if found is None:
            pytest.skip("no chromium on this machine (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser, app, request):
    if "clip" in request.fixturenames:  # so that it outlives the pages, which read frames ahead to their end
        request.getfixturevalue("clip")
    pages = []

    def opened(clip=None, project=None, app=app):
        pages.append(Page(browser, app, clip, project))
        return pages[-1]

    yield opened
    for page in pages:
        page.close()
