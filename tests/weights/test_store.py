"""Default weights: downloaded once, resumed, checked; offline, one line says what to do."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import types
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from twospeed import InputError, WeightsUnavailable, create_model
from twospeed.results import Progress
from twospeed.weights import store
from twospeed.weights.entries import Entry, PublishedFile, WeightsFile
from twospeed.weights.store import default_weights, local_file

Answer = Callable[["Handler", int], None]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.headers.get("Range"))
        self.server.answer(self, len(self.server.requests))

    def send(
        self, content: bytes, *, status: int = 200, length: int | None = -1, kind="application/octet-stream", **headers
    ):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(content) if length == -1 else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def send_rest(self, content: bytes) -> None:
        """The rest that the Range header asks for, as a good server sends it."""
        wanted = self.headers.get("Range")
        if wanted is None:
            self.send(content, ETag='"1"')
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        stated = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(content[start:], status=206, Content_Range=stated, ETag='"1"')

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save({"a.weight": torch.randn(1000, 900)}, path)
    return path.read_bytes()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TWOSPEED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(store, "_PAUSE_S", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def serve(cache):
    """`serve(answer)` starts a server, returns the entry whose weights it has; `.requests`: ranges asked for."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})

        def start(answer: Answer, sha256: str | None = None) -> Entry:
            server.answer = answer
            if not thread.is_alive():
                thread.start()
            start.requests = server.requests
            return entry(f"http://127.0.0.1:{server.server_port}/w.pth", sha256)

        yield start
        if thread.is_alive():
            server.shutdown()
            thread.join()


def entry(url: str | None, sha256: str | None = None) -> Entry:
    weights = WeightsFile(file="w.pth", url=url, sha256=sha256)
    return Entry(name="m", task="track", summary="", builder="", converter="", paper="", weights=weights)


def visible(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_downloaded_once_and_recorded(serve, cache, content):
    one = serve(lambda handler, _: handler.send(content))
    path = default_weights(one)
    assert path.read_bytes() == content
    assert default_weights(one) == path
    assert serve.requests == [None]
    record = json.loads((cache / "checksums.json").read_text())["w.pth"]
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["bytes"] == len(content)
    assert visible(cache) == ["checksums.json", "w.pth"]


def test_progress_is_an_event(serve, content):
    events: list[Progress] = []
    default_weights(serve(lambda handler, _: handler.send(content)), on_progress=events.append)
    assert events[-1].done == events[-1].total == len(content)
    assert {(e.task, e.unit, e.message) for e in events} == {("download", "bytes", "w.pth")}


def test_a_broken_download_is_resumed(serve, content):
    half = len(content) // 2

    def answer(handler, number):
        if number == 1:
            handler.send(content[:half], length=len(content), ETag='"1"')
        else:
            handler.send_rest(content)

    path = default_weights(serve(answer, hashlib.sha256(content).hexdigest()[:8]))
    assert path.read_bytes() == content
    assert serve.requests == [None, f"bytes={half}-"]


def test_attempts_are_bounded_and_the_part_is_kept_for_later(serve, cache, content):
    one = serve(lambda handler, _: handler.send(b"", status=503))
    with pytest.raises(WeightsUnavailable, match="answered 503; try again later"):
        default_weights(one)
    assert len(serve.requests) == store._ATTEMPTS
    one = serve(lambda handler, number: handler.send(content[:1000], length=len(content)))
    with pytest.raises(WeightsUnavailable, match=f"ended after 1000 of {len(content)} bytes; try again later"):
        default_weights(one)
    assert not (cache / "w.pth").exists()
    one = serve(lambda handler, number: handler.send_rest(content))
    assert default_weights(one).read_bytes() == content
    assert serve.requests[-1] == "bytes=1000-"


def test_a_rest_of_another_file_is_not_appended(serve, content):
    def answer(handler, number):
        if number == 1:
            handler.send(content[:1000], length=len(content))
        elif number == 2:  # bytes of elsewhere
            handler.send(content[5000:], status=206, Content_Range=f"bytes 5000-{len(content) - 1}/{len(content)}")
        else:
            handler.send_rest(content)

    assert default_weights(serve(answer)).read_bytes() == content
    assert serve.requests == [None, "bytes=1000-", None]


@pytest.mark.parametrize("stale", [b"x" * 10, b"x" * 10_000_000])
def test_a_part_of_unknown_origin_is_not_used(serve, cache, content, stale):
    cache.mkdir()
    (cache / "w.pth.part").write_bytes(stale)
    assert default_weights(serve(lambda handler, _: handler.send_rest(content))).read_bytes() == content
    assert serve.requests == [None]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_cut_off_without_a_length_never_stays(serve, cache, content, share):
    one = serve(lambda handler, _: handler.send(content[: int(len(content) * share)], length=None))
    with pytest.raises(WeightsUnavailable, match="sent is not a whole file of weights"):
        default_weights(one)
    assert visible(cache) == []


def test_more_than_stated_never_stays(serve, cache, content):
    """A whole file whose length is stated too short is cut by the protocol, and then is no file of weights."""
    with pytest.raises(WeightsUnavailable, match="not a whole file of weights"):
        default_weights(serve(lambda handler, _: handler.send(content, length=len(content) - 1000)))
    assert visible(cache) == []


def test_a_wrong_checksum_leaves_nothing(serve, cache, content):
    with pytest.raises(WeightsUnavailable, match=r"has SHA-256 .*, expected 0000"):
        default_weights(serve(lambda handler, _: handler.send(content), "0000"))
    assert visible(cache) == []


def test_another_file_at_the_same_address_is_noticed(serve, cache, content, tmp_path):
    path = default_weights(serve(lambda handler, _: handler.send(content)))
    path.unlink()
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsUnavailable, match="another one now"):
        default_weights(serve(lambda handler, _: handler.send((tmp_path / "other.pth").read_bytes())))


def test_a_cached_file_that_changed_is_refused(serve, content):
    one = serve(lambda handler, _: handler.send(content))
    path = default_weights(one)
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(WeightsUnavailable, match=r"has changed since it was first used .* remove it"):
        default_weights(one)


def test_a_missing_file_says_where_to_put_it(serve):
    with pytest.raises(WeightsUnavailable, match=r"answered 404; download http.* elsewhere and put it at .*w\.pth"):
        default_weights(serve(lambda handler, _: handler.send(b"", status=404)))


def test_what_is_put_there_by_hand_is_checked(cache, content):
    cache.mkdir()
    (cache / "w.pth").write_bytes(content)
    assert default_weights(entry("http://127.0.0.1:9/w.pth")).read_bytes() == content
    (cache / "checksums.json").unlink()
    (cache / "w.pth").write_bytes(content[:5000])
    with pytest.raises(WeightsUnavailable, match="remove it, and it is downloaded again"):
        default_weights(entry("http://127.0.0.1:9/w.pth"))


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_a_page_is_not_taken_for_weights(serve, cache, kind):
    with pytest.raises(WeightsUnavailable, match="answered with"):
        default_weights(serve(lambda handler, _: handler.send(b"<html>quota</html>", kind=kind)))
    assert visible(cache) == []


def test_two_downloads_at_once_fetch_once(serve, content):
    one, paths = serve(lambda handler, _: handler.send(content)), []
    threads = [threading.Thread(target=lambda: paths.append(default_weights(one))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 4
    assert serve.requests == [None]


def test_offline_says_where_to_put_it(cache):
    with pytest.raises(WeightsUnavailable, match=r"cannot reach http://127\.0\.0\.1:9/w\.pth .* put it at"):
        default_weights(entry("http://127.0.0.1:9/w.pth"))


def test_no_weights_published():
    bare = Entry(name="m", task="track", summary="", builder="", converter="", paper="")
    with pytest.raises(WeightsUnavailable, match="no weights are published for m; pass weights=FILE"):
        default_weights(bare)


def test_files_of_the_hub(monkeypatch, tmp_path):
    asked = []

    def download(repository, name, *, revision):
        asked.append((repository, name, revision))
        path = tmp_path / "track_tiny.safetensors"
        path.write_bytes(default_weights_of("track_tiny"))
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    model = create_model("track_tiny", "hf://me/nets/small/track.safetensors")
    assert torch.equal(model.key_projection.weight, create_model("track_tiny").key_projection.weight)
    local_file("hf://me/nets@v1/track.safetensors")
    assert asked == [("me/nets", "small/track.safetensors", None), ("me/nets", "track.safetensors", "v1")]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsUnavailable, match=r"needs the package huggingface_hub: pip install 'twospeed\[hub\]'"):
        local_file("hf://me/nets/a.safetensors")
    for wrong in ("hf://me", "hf://me/nets", "https://example.org/w.pth", "s3://bucket/w.pth"):
        with pytest.raises(InputError, match="give a file, hf://user/repository/file, or an address"):
            local_file(wrong)


def test_listed_addresses(serve, content, cache, monkeypatch):
    """A file that the catalogue lists is downloaded once, under a name that no file of another folder has."""
    address = serve(lambda handler, _: handler.send(content)).weights.url
    listed = PublishedFile(what="start", url=address, models=("m",))
    monkeypatch.setattr(store, "PUBLISHED", (listed,))
    path = local_file(address)
    assert path.read_bytes() == content
    assert path.parent == cache
    assert path.name.endswith(f"_{address.rpartition('/')[2]}")
    assert local_file(address) == path
    assert serve.requests == [None]


def default_weights_of(name: str) -> bytes:
    from twospeed.weights.catalog import find

    return default_weights(find(name)).read_bytes()
