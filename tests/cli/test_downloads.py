"""Commands report the download of default weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
import torch

from tests.cli.commands import fails, twospeed
from twospeed.weights.catalog import CATALOG


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def remote(monkeypatch, tmp_path):
    """The networks that ship come from a server, and neither cache has them."""
    monkeypatch.setenv("TWOSPEED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = Path(str(resources.files("twospeed"))) / "weights" / "shipped"
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever).start()
        for name in ("track_small", "segment_nano"):
            entry = CATALOG[name]
            file = entry.weights.file
            sha256 = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            address = f"http://127.0.0.1:{server.server_port}/{file}"
            weights = dataclasses.replace(entry.weights, url=address, sha256=sha256)
            monkeypatch.setitem(CATALOG, name, dataclasses.replace(entry, weights=weights))
        yield
        server.shutdown()


@pytest.mark.parametrize(("command", "model"), [("track", "track_small"), ("segment", "segment_nano")])
def test_downloads_are_shown(remote, scene, tmp_path, capsys, command, model):
    given = ["--mask", scene / "mask0.png"] if command == "track" else []
    arguments = [command, scene / "clip.mp4", *given, "-o", tmp_path / "out", "--end", "2"]
    assert twospeed(*arguments) == 0
    shown = capsys.readouterr().err
    assert "download: " in shown
    assert model in shown
    assert twospeed(*arguments) == 0
    assert "download: " not in capsys.readouterr().err  # it is kept


def test_weights_on_a_hub_are_no_missing_file(scene, tmp_path, capsys):
    arguments = ["segment", scene / "clip.mp4", "-o", tmp_path / "out", "--weights", "hf://nobody/nothing"]
    assert "give a file, hf://user/repository/file" in fails(capsys, *arguments)
