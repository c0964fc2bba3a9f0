"""What a source can be, and where in it reading begins and ends."""

import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.video.footage import number_of, numbered, numbered_image
from twospeed.errors import InputError, VideoError
from twospeed.results import Frame
from twospeed.video import network, pixels, sources
from twospeed.video.reader import frame_times, open_video, probe, read_frames, read_reverse
from twospeed.video.sources import find_source, parse_position

TS = {"options": {"g": "8", "bf": "0"}, "format": "mpegts"}


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("120", 120), (120, 120), (np.int64(3), 3), (0, 0), ("007", 7),
        ("3.5s", 3.5), ("3s", 3.0), (3.5, 3.5), ("3.5", 3.5), (np.float32(0.5), 0.5),
        ("01:02", 62.0), ("00:01:02.250", 62.25), ("1:00:00", 3600.0), ("100:00:01", 360_001.0), ("90:05", 5405.0),
    ],
)  # fmt: skip
def test_positions(text, position):
    found = parse_position(text)
    assert found == position
    assert type(found) is type(position) or isinstance(text, np.generic)


@pytest.mark.parametrize(
    "wrong",
    [-1, -0.5, float("nan"), float("inf"), "", "-3", "3,5s", "1:2", "00:60", "01:60:00", "1:2:3", "3.5 s", "1e3", "²",
     "٣", "9" * 99, "s", "::", None, True, b"3", [3]],
)  # fmt: skip
def test_what_is_no_position(wrong):
    with pytest.raises(InputError, match=r"start=") as caught:
        parse_position(wrong, "start")
    assert caught.value.option == "start"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("clip") / "clip.mp4", 50, options={"g": "10", "bf": "2"})


PARTS = [
    (5, 9, (5, 9)), (5, None, (5, 50)), (None, 3, (0, 3)), (1.0, 1.2, (25, 30)), ("1s", "00:01.2", (25, 30)),
    ("00:00:01", 28, (25, 28)), (48, 99, (48, 50)), (0.041, 0.079, (2, 2)), (0.0399, 0.0801, (1, 2)),
    (45, "1.96s", (45, 49)),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "stream", "arrays"])
@pytest.mark.parametrize(("start", "end", "part"), PARTS)
def test_start_and_end(clip, kind, start, end, part):
    source = {"file": clip, "stream": clip.read_bytes(), "arrays": [numbered_image(i) for i in range(50)]}[kind]
    if part[0] == part[1]:
        with pytest.raises(VideoError, match="no frame from start"), open_video(source, start, end) as reader:
            list(reader)
        return
    with open_video(source, start, end) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == list(range(*part))
    assert [number_of(frame.image) for frame in frames] == list(range(*part))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(*part)])
    if kind == "file":
        backwards = [frame.index for frame in read_reverse(source, start, end, chunk=3)]
        assert backwards == list(range(*part))[::-1]


def test_part_that_is_not_there(clip):
    with pytest.raises(VideoError, match=r"its last frame is at 1\.960 s, so none at start=3"):
        open_video(clip, "3s")
    with pytest.raises(InputError, match="end=5 is not after start=5"):
        open_video(clip, 5, 5)
    with pytest.raises(VideoError, match="no frame from start"):
        read_reverse(clip, 60)
    with open_video(clip) as reader, pytest.raises(InputError, match="open already"):
        open_video(reader, 3)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(VideoError, match="the name of the video is empty"):
        next(iter(open_video("")))


def test_an_open_reader_is_a_source(clip):
    with open_video(clip) as reader:
        assert open_video(reader) is reader


def test_reverse_holds_one_chunk(clip):
    frames = read_reverse(clip, chunk=4)
    assert [number_of(next(frames).image) for _ in range(6)] == [49, 48, 47, 46, 45, 44]
    frames.close()


def test_images_and_frames_from_python():
    with open_video(numbered_image(number) for number in range(4)) as reader:
        assert [(f.index, f.time_s, number_of(f.image)) for f in reader] == [(i, i / 25, i) for i in range(4)]
        assert (reader.info.width, reader.info.height, reader.info.name) == (96, 48, "the given frames")
    frames = [Frame(7, 0.5, numbered_image(1), name="a"), Frame(9, 0.7, numbered_image(2))]
    with open_video(frames, start=8) as reader:
        assert [frame.index for frame in reader] == [9]
    with open_video(np.stack([numbered_image(3)] * 2), rate=10) as reader:
        assert [frame.time_s for frame in reader] == [0, 0.1]
    with (
        pytest.raises(InputError, match=r"frame 1 .* float64 \(48, 96, 3\), not uint8"),
        open_video([numbered_image(0), numbered_image(0) / 255]) as reader,
    ):
        list(reader)
    with pytest.raises(VideoError, match="0 frames came"):
        open_video([])
    with pytest.raises(InputError, match="by index in files and folders only"):
        read_frames(frames, [0])


def test_bytes_and_open_files(clip):
    for source in (clip.read_bytes(), io.BytesIO(clip.read_bytes()), bytearray(clip.read_bytes())):
        with open_video(source) as reader:
            assert len(list(reader)) == 50
    with clip.open("rb") as file, open_video(file) as reader:
        assert len(list(reader)) == 50
    assert file.closed  # by its own block alone


def test_pattern_of_one_video(clip):
    assert find_source(str(clip.parent / "*.mp4")).target == clip
    with pytest.raises(VideoError, match="the pattern matches nothing"):
        find_source(str(clip.parent / "*.avi"))


@pytest.mark.skipif(sys.platform == "win32", reason="makes pipes")
def test_named_pipe_is_read_as_a_stream(tmp_path, clip):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(clip.read_bytes()))
    writer.start()
    frames = list(open_video(tmp_path / "pipe"))
    writer.join()
    assert len(frames) == len(list(open_video(clip)))


@pytest.mark.skipif(sys.platform == "win32", reason="makes pipes and devices")
@pytest.mark.parametrize("use", [open_video, probe, frame_times, lambda path: read_frames(path, [0])])
def test_special_files_are_not_waited_for(tmp_path, use, monkeypatch):
    monkeypatch.setattr(sources, "PIPE_S", 0.1)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="nothing has been written into this pipe"):
        use(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is not a regular file"):
        use("/dev/zero")
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(VideoError, match="holds no images"):
        use(tmp_path)


def test_too_large_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    wide = numbered(tmp_path / "wide.mkv", 2, size=(16, 2000), codec="ffv1")
    assert probe(wide).width == 2000
    with pytest.raises(
        VideoError, match=r"2000x16 scaled to the shorter side 1000: images of 125000x1000 = 125 million"
    ):
        open_video(wide, short_side=1000)
    monkeypatch.setattr(pixels, "MOST_PIXELS", 30_000)
    with pytest.raises(VideoError, match=r"wide\.mkv: images of 2000x16 = 0 million pixels"):
        open_video(wide)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("ahead", [0, 8])
def test_a_forked_child_does_not_hang(clip, ahead):
    reader = open_video(clip, ahead=ahead)
    next(reader)
    child = os.fork()
    if not child:
        code = 1
        try:
            if ahead:
                try:
                    next(reader)
                except InputError:
                    code = 0
            else:
                code = 0
            reader.close()
            del reader
        finally:
            os._exit(code)
    for _ in range(100):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0
    assert number_of(next(reader).image) == 1
    reader.close()


@pytest.fixture
def serve():
    """Serve by HTTP what a function answers: serve(answer) -> address."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def whole(data):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def test_http_file(clip, serve):
    with open_video(serve(whole(clip.read_bytes())) + "/clip.mp4", start=30) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(30, 50))


def test_http_stream_is_opened_again_when_it_is_asked_for(tmp_path, serve, monkeypatch, caplog):
    monkeypatch.setattr(network, "FIRST_DELAY_S", 0.05)
    data = numbered(tmp_path / "live.ts", 10, **TS).read_bytes()
    served = []

    def answer(request):
        served.append(1)
        if len(served) > 3:
            request.send_error(503)
            return
        request.send_response(200)
        request.end_headers()
        request.wfile.write(data)

    address = serve(answer)
    caplog.set_level(logging.WARNING)
    with open_video(address + "/live", reconnect_s=0.5) as reader:
        frames = []
        with pytest.raises(VideoError, match=r"no frame for .* after frame 29"):
            frames.extend(iter(reader.__next__, None))
    assert [frame.index for frame in frames] == list(range(30))
    assert [number_of(frame.image) for frame in frames] == [*range(10)] * 3
    times = [frame.time_s for frame in frames]
    assert times == pytest.approx([i / 25 for i in range(30)])
    assert "opening it again" in caplog.text
    served.clear()
    with open_video(address + "/live") as reader:  # without being asked, an http stream ends where it ends
        assert len(list(reader)) == 10


def test_addresses_that_do_not_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for protocol in ("http", "rtsp"):
        with pytest.raises(VideoError, match="cannot be opened as a video") as caught:
            open_video(f"{protocol}://user:secret@127.0.0.1:{port}/x")
        assert "secret" not in str(caught.value)
    with pytest.raises(VideoError, match="addresses begin with http"):
        open_video("file:///etc/passwd")


def test_a_playlist_from_the_network_opens_no_file(clip, serve):
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(VideoError):
        open_video(serve(whole(playlist)) + "/list.m3u8")


@pytest.mark.parametrize("live", ["newest", "every"])
def test_newest_or_every_frame(clip, live):
    with open_video(clip, ahead=2, live=live) as reader:
        next(reader)
        if live == "newest":
            for thread in threading.enumerate():
                if thread.name == "twospeed-decode":  # which waits for nobody
                    thread.join(60)
        rest = [frame.index for frame in reader]
    assert rest[-1] == 49
    assert (len(rest) == 49) == (live == "every")
