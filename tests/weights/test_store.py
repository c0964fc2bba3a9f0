"""Default weights: fetched once, resumed, checked; offline, one line says what to do."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from twospeed import WeightsUnavailable
from twospeed.weights.catalog import Entry, WeightsFile
from twospeed.weights.store import default_weights

CONTENT = bytes(range(256)) * 5000


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; `/cut` breaks off in the middle."""

    requests: ClassVar[list[str | None]] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "application/octet-stream")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" and not wanted else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("TWOSPEED_CACHE", str(tmp_path / "cache"))
    Server.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def entry(url: str | None, sha256: str | None = None) -> Entry:
    weights = WeightsFile(file="w.pth", url=url, sha256=sha256)
    return Entry(name="m", task="track", summary="", builder="", converter="", paper="", weights=weights)


def test_fetched_once(server):
    path = default_weights(entry(server + "/w.pth", hashlib.sha256(CONTENT).hexdigest()))
    assert path.read_bytes() == CONTENT
    default_weights(entry(server + "/w.pth"))
    assert len(Server.requests) == 1


def test_a_broken_fetch_is_resumed(server):
    with pytest.raises(WeightsUnavailable, match="ended after 640000 of 1280000 bytes; try again"):
        default_weights(entry(server + "/cut"))
    path = default_weights(entry(server + "/cut", hashlib.sha256(CONTENT).hexdigest()[:8]))
    assert path.read_bytes() == CONTENT
    assert Server.requests == [None, "bytes=640000-"]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"has SHA-256 .*, expected 0000"):
        default_weights(entry(server + "/w.pth", "0000"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_says_where_to_put_it(server):
    with pytest.raises(WeightsUnavailable, match=r"answered 404; fetch http.* elsewhere and put it at .*w\.pth"):
        default_weights(entry(server + "/missing"))


def test_a_web_page_is_not_taken_for_weights(server, tmp_path):
    with pytest.raises(WeightsUnavailable, match="answered with a web page"):
        default_weights(entry(server + "/page"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TWOSPEED_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"cannot reach http://127\.0\.0\.1:9/w\.pth .* put it at"):
        default_weights(entry("http://127.0.0.1:9/w.pth"))


def test_no_weights_published():
    bare = Entry(name="m", task="track", summary="", builder="", converter="", paper="")
    with pytest.raises(WeightsUnavailable, match="no weights are published for m; pass weights=FILE"):
        default_weights(bare)
