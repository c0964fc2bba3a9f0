"""Places for results: a bucket has one owner, requests that fail are made again, and a whole batch runs against S3."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from tests.batch.stub import run_batch, write_videos
from twospeed.batch import storage as storages
from twospeed.batch.driver import Batch, Policy
from twospeed.batch.inputs import Video, find_videos
from twospeed.batch.storage import BucketStorage, fetch, file_system, open_storage, tried
from twospeed.errors import InputError, OutputError


@pytest.fixture
def bucket():
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(storages, "_FIRST_PAUSE_S", 0.0)


def test_objects(bucket, tmp_path):
    storage = open_storage(bucket)
    assert storage.read("a/b.json") is None
    assert storage.names("a") == []
    storage.write("a/b.json", b"1")
    assert storage.read("a/b.json") == b"1"
    assert storage.names("a") == ["b.json"]
    assert isinstance(storage, BucketStorage)
    assert storage.create("a/c", b"mine")
    assert not storage.create("a/c", b"yours")
    (tmp_path / "clip" / "labels").mkdir(parents=True)
    (tmp_path / "clip" / "labels" / "0.png").write_bytes(b"x")
    (tmp_path / "clip" / "run.json").write_bytes(b"{}")
    assert not storage.exists("videos/clip")
    storage.deliver(tmp_path / "clip", "videos/clip")
    assert storage.exists("videos/clip")
    assert storage.read("videos/clip/labels/0.png") == b"x"
    storage.remove("videos/clip")
    assert storage.read("videos/clip/labels/0.png") is None


def test_one_owner_of_a_bucket(bucket):
    """A second run waits as long as a lease for a sign of life, and takes over where none comes."""
    dead = open_storage(bucket)
    beat = dead.hold(0.2).__enter__()
    living = open_storage(bucket)
    with living.hold(0.2):
        time.sleep(0.1)
        with pytest.raises(OutputError, match="another run has taken"):
            beat()
        stop = threading.Event()
        with living_signs(bucket, stop), pytest.raises(InputError, match="is held by process"):
            open_storage(bucket).hold(1.0).__enter__()
    owner = json.loads(open_storage(bucket).read("owner/00000002.json"))
    assert not owner["alive"]


class living_signs:  # noqa: N801
    """Let the newest owner of a bucket show life, from a thread."""

    def __init__(self, bucket: str, stop: threading.Event) -> None:
        self.storage, self.stop = open_storage(bucket), stop

    def _beat(self) -> None:
        number = 0
        while not self.stop.wait(0.05):
            name = self.storage.names("owner")[-1]
            owner = json.loads(self.storage.read(f"owner/{name}"))
            number += 1
            self.storage.write(f"owner/{name}", json.dumps({**owner, "beats": owner["beats"] + number}).encode())

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._beat)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def test_requests_are_tried_again(no_pause):
    failures = iter([OSError("reset"), TimeoutError()])

    def request() -> str:
        for error in failures:
            raise error
        return "answer"

    assert tried(request, "s3://b/k") == "answer"

    def always() -> None:
        raise ConnectionError("refused")

    with pytest.raises(OutputError, match=r"s3://b/k: the storage fails \(ConnectionError: refused\)"):
        tried(always, "s3://b/k")


def test_credentials_and_rights_are_named(no_pause):
    class NoCredentialsError(Exception): ...

    def without() -> None:
        raise NoCredentialsError("Unable to locate credentials")

    def refused() -> None:
        raise PermissionError("Access Denied")

    with pytest.raises(InputError, match=r"s3://b: no credentials .*AWS_ACCESS_KEY_ID"):
        tried(without, "s3://b")
    with pytest.raises(InputError, match="access is refused"):
        tried(refused, "s3://b")
    with pytest.raises(InputError, match="nosuch://b"):
        file_system("nosuch://b/c")


def test_fetch(bucket, tmp_path):
    open_storage(bucket).write("clip.mp4", b"video")
    assert fetch(f"{bucket}/clip.mp4", tmp_path).read_bytes() == b"video"
    with pytest.raises(InputError, match="no such file"):
        fetch(f"{bucket}/other.mp4", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


class Unreliable:
    """Put before a server, it fails one request in ten."""

    def __init__(self, app) -> None:
        self.app, self.requests, self.failed = app, 0, 0

    def __call__(self, environ, start_response):
        self.requests += 1
        if self.requests % 10 == 0:
            self.failed += 1
            start_response("503 Slow Down", [("Content-Type", "text/plain")])
            return [b"slow down"]
        return self.app(environ, start_response)


@pytest.fixture
def s3(monkeypatch):
    """A local S3 that fails one request in ten, with a bucket `data`."""
    server = pytest.importorskip("moto.server")
    serving = pytest.importorskip("werkzeug.serving")
    s3fs = pytest.importorskip("s3fs")
    app = Unreliable(server.DomainDispatcherApplication(server.create_backend_app))
    http = serving.make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{http.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()  # of earlier tests, with the credentials that they had
    tried(lambda: file_system("s3://data")[0].mkdir("data"), "s3://data")
    yield app
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="stub jobs need POSIX")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_batch_in_an_unreliable_bucket(s3, tmp_path, monkeypatch):
    """Inputs from a bucket, results into one that fails one request in ten: everything done once, as on a disk."""
    monkeypatch.setenv("TWOSPEED_STUB_LOG", str(tmp_path / "in" / "all.log"))
    local = write_videos(tmp_path / "in", a="ok", b="bad", c="fault 1")
    fs = file_system("s3://data")[0]
    for video in local:
        tried(lambda video=video: fs.put_file(video.source, f"data/in/{Path(video.source).name}"), "upload")
    videos = find_videos(["s3://data/in/"], lambda cells: [])
    assert [video.source for video in videos] == [f"s3://data/in/{name}.mp4" for name in "abc"]
    counts, _ = run_batch("s3://data/out", videos, workers=1, lease_s=5.0)
    assert counts == {"pending": 0, "running": 0, "done": 2, "failed": 1}
    assert s3.failed > 5
    again, _ = run_batch("s3://data/out", [Video(video.source) for video in videos], workers=1, lease_s=5.0)
    assert again == counts
    log = (tmp_path / "in" / "all.log").read_text().split("\n")
    assert log.count("end a") == log.count("end c") == 1
    run_batch(str(tmp_path / "out"), local[:1], workers=1)
    storage = open_storage("s3://data/out")
    assert storage.read("videos/a/labels/00000.png") == (tmp_path / "out/videos/a/labels/00000.png").read_bytes()
    assert json.loads(storage.read("videos/a/run.json"))["inputs"]["video"]["path"] == "s3://data/in/a.mp4"
    assert storage.read("results.parquet")[:4] == b"PAR1"
    with Batch(storage, "segment", [], Policy(lease_s=5.0)) as reopened:
        assert reopened.manifest.counts() == counts
