"""What `open_video` delivers: every frame once, in order, at its time, upright, in the right colours."""

import contextlib
import gc
import io
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.conftest import heed_ctrl_c
from tests.video.footage import LOSSLESS, film, number_of, numbered, numbered_image
from twospeed.errors import InputError, VideoError
from twospeed.video import containers, pixels
from twospeed.video.reader import frame_times, open_video, probe, read_frames

ENCODINGS = {
    "b-frames.mp4": {"options": {"bf": "3", "g": "12"}},
    "no-b-frames.mkv": {"options": {"bf": "0"}},
    "open-gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=8:open-gop=1"}},
    "transport.ts": {"options": {"bf": "2", "g": "10"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "9"}},
    "intra.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "raw.h264": {"options": {"bf": "2"}},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_frame_comes_once_in_order_at_its_time(tmp_path, name):
    path = numbered(tmp_path / name, 30, **ENCODINGS[name])
    with open_video(path) as reader:
        frames = list(reader)
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    assert [frame.index for frame in frames] == list(range(30))
    tolerance = 6e-4 if name.endswith((".mkv", ".webm")) else 1e-9  # Matroska keeps milliseconds
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(30) / 25, atol=tolerance)
    np.testing.assert_array_equal(frame_times(path), [frame.time_s for frame in frames])
    assert (reader.info.width, reader.info.height, reader.info.rotation) == (96, 48, 0)


def test_lossless_pixels_arrive_unchanged(tmp_path):
    images = [np.random.default_rng(seed).integers(0, 256, (33, 47, 3), np.uint8) for seed in range(5)]
    path = film(tmp_path / "noise.mp4", images, **LOSSLESS)
    with open_video(path) as reader:
        for frame, image in zip(reader, images, strict=True):
            np.testing.assert_array_equal(frame.image, image)
            assert frame.image.flags.c_contiguous
            assert frame.image.flags.writeable


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_variable_frame_rate_keeps_its_times(tmp_path, suffix):
    ticks = [0, 40, 80, 81, 500, 510, 4000, 4040, 4041, 9000]
    path = numbered(tmp_path / f"vfr.{suffix}", 10, pts=ticks, time_base=Fraction(1, 1000))
    with open_video(path) as reader:
        times = [frame.time_s for frame in reader]
    np.testing.assert_allclose(times, np.array(ticks) / 1000, atol=1e-9 if suffix != "ts" else 2e-5)
    np.testing.assert_array_equal(frame_times(path), times)


def test_times_start_at_the_first_frame_wherever_the_container_starts(tmp_path):
    ticks = [90_000 * 3600 + 3600 * i for i in range(12)]
    path = numbered(tmp_path / "late.ts", 12, pts=ticks, time_base=Fraction(1, 90_000), muxer={"copyts": "1"})
    with open_video(path) as reader:
        np.testing.assert_allclose([f.time_s for f in reader], np.arange(12) / 25, atol=1e-9)


def test_time_never_runs_backwards():
    clock = containers.Clock(Fraction(25))
    base = Fraction(1, 100)
    pts = [500, 504, 508, 100, 104, None, 112]
    times = [clock.seconds(p, base) for p in pts]
    assert times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.20, 0.24])


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_matrix_is_applied(tmp_path, degrees, hflip):
    stored = numbered_image(5, 20, 30)
    path = film(tmp_path / "turned.mp4", [stored], rotation=degrees, hflip=hflip, **LOSSLESS)
    with av.open(str(path)) as container:
        side_data = next(container.decode(video=0)).side_data.get("DISPLAYMATRIX")
    expected = stored
    if side_data is not None:  # move every pixel by the standard's formula, x' = ax + cy, y' = bx + dy
        a, b, _, c, d, *_ = (value // 65536 for value in struct.unpack("=9i", bytes(side_data)))
        rows, columns = np.mgrid[:20, :30]
        x, y = a * columns + c * rows, b * columns + d * rows
        expected = np.zeros((y.max() - y.min() + 1, x.max() - x.min() + 1, 3), np.uint8)
        expected[y - y.min(), x - x.min()] = stored
    with open_video(path) as reader:
        frame = next(reader)
    np.testing.assert_array_equal(frame.image, expected)
    assert (reader.info.height, reader.info.width) == expected.shape[:2]
    np.testing.assert_array_equal(read_frames(path, [0])[0], expected)
    if not hflip:
        np.testing.assert_array_equal(expected, np.rot90(stored, degrees // 90))
        assert reader.info.rotation == (360 - degrees) % 360


@pytest.mark.parametrize("size", [(49, 97), (48, 97), (49, 96), (241, 427), (31, 33)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_odd_sizes_and_bit_depths(tmp_path, size, pix_fmt):
    codec = "libx264" if pix_fmt == "yuv444p" else "ffv1"  # H.264 in 4:2:0 has even sizes only
    smooth = [(numbered_image(number, *size) // 8 * 2 + 90) for number in range(4)]
    path = film(tmp_path / "odd.mkv", smooth, codec=codec, pix_fmt=pix_fmt)
    with open_video(path) as reader:
        frames = [frame.image for frame in reader]
    assert len(frames) == 4
    for decoded, image in zip(frames, smooth, strict=True):
        assert decoded.shape == (*size, 3)
        assert decoded.dtype == np.uint8
        assert np.abs(decoded.astype(int) - image).mean() < 4


def yuv(rgb, red, blue, *, full):
    """The textbook: luma weights of red and blue, then scaling to 8 bits."""
    r, g, b = np.moveaxis(rgb / 255.0, 2, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    scaled = [y * 255, u * 255 + 128, v * 255 + 128] if full else [16 + 219 * y, 128 + 224 * u, 128 + 224 * v]
    return np.stack(scaled).round().clip(0, 255).astype(np.uint8)


MATRICES = {
    "bt709": (1, 0.2126, 0.0722),
    "bt601": (6, 0.299, 0.114),
    "bt2020": (9, 0.2627, 0.0593),
    "none": (2, 0.299, 0.114),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_stated_colour_matrix_and_range_are_used(tmp_path, matrix, full):
    number, red, blue = MATRICES[matrix]
    colours = [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
        (200, 100, 50),
        (30, 60, 90),
        (255, 255, 0),
    ]
    bars = np.repeat(np.array([colours], np.uint8), 32, axis=0).repeat(16, axis=1)
    path = tmp_path / "bars.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = bars.shape[1], bars.shape[0], "yuv444p"
        stream.codec_context.colorspace = number
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame.from_ndarray(yuv(bars, red, blue, full=full), format="yuv444p")
        frame.pts, frame.colorspace, frame.color_range = 0, number, 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_video(path) as reader:
        assert np.abs(next(reader).image.astype(int) - bars).max() <= 2


@pytest.mark.parametrize("name", ["b-frames.mp4", "transport.ts", "raw.h264", "open-gop.mp4"])
@pytest.mark.parametrize("start", [1, 12, 29])
def test_start_keeps_indices_and_times(tmp_path, name, start):
    path = numbered(tmp_path / name, 30, **ENCODINGS[name])
    with open_video(path) as whole, open_video(path, start=start) as part:
        expected = list(whole)[start:]
        delivered = list(part)
    assert [f.index for f in delivered] == [f.index for f in expected]
    assert [f.time_s for f in delivered] == pytest.approx([f.time_s for f in expected], abs=1e-9)
    assert [number_of(f.image) for f in delivered] == list(range(start, 30))


@pytest.mark.parametrize(
    ("part", "count"),
    [({}, 30), ({"end": 12}, 12), ({"start": 25}, 5), ({"start": 4, "end": 90}, 26), ({"start": 0.5, "end": "1s"}, 5)],
)
def test_a_part_says_how_many_frames_to_expect(tmp_path, part, count):
    path = numbered(tmp_path / "clip.mp4", 30, rate=10)
    with open_video(path, **part) as reader:
        assert reader.frames_expected == count == len(list(reader))


def test_start_behind_the_end(tmp_path):
    path = numbered(tmp_path / "short.mp4", 5)
    with pytest.raises(VideoError, match=r"short\.mp4: has 5 frames, so none at start=5"):
        open_video(path, start=5)


def test_short_side_scales_while_decoding(tmp_path):
    path = numbered(tmp_path / "tall.mp4", 3, size=(96, 48), rotation=90)
    with open_video(path, short_side=20) as reader:
        assert next(reader).image.shape == (20, 40, 3)
        assert (reader.info.width, reader.info.height) == (40, 20)


@pytest.mark.parametrize("size", [(64, 128), (96, 96), (24, 48)])
def test_a_stream_that_changes_its_size_is_scaled_to_the_first(tmp_path, size, caplog):
    small = numbered(tmp_path / "a.h264", 4).read_bytes()
    other = film(tmp_path / "b.h264", [np.full((*size, 3), 200, np.uint8)] * 4).read_bytes()
    path = tmp_path / "both.h264"
    path.write_bytes(small + other)
    with open_video(path) as reader:
        frames = [frame.image for frame in reader]
    assert [frame.shape[:2] for frame in frames] == [(48, 96)] * 8
    assert (reader.info.height, reader.info.width) == (48, 96)
    bars = (96 - 48) // 2 if size == (96, 96) else 0  # a square fits into the middle
    assert np.abs(frames[5][:, bars : 96 - bars].astype(int) - 200).max() < 4
    assert not frames[5][:, :bars].any()
    assert not frames[5][:, 96 - bars :].any()
    assert caplog.messages == [f"{path}: the image size changes from 96x48 to {size[1]}x{size[0]}; "
                               "images are scaled to the first size"]  # fmt: skip
    np.testing.assert_array_equal(read_frames(path, [5, 1]), [frames[5], frames[1]])


class Pipe(io.RawIOBase):
    """A file that cannot be sought."""

    def __init__(self, path):
        self.file = path.open("rb")

    def readable(self):
        return True

    def read(self, size=-1):
        return self.file.read(size)


@pytest.mark.parametrize("name", ["no-b-frames.mkv", "transport.ts", "raw.h264"])
def test_binary_stream(tmp_path, name):
    pipe = Pipe(numbered(tmp_path / name, 12, **ENCODINGS[name]))
    with open_video(pipe, start=2) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(2, 12))
        assert reader.info.name == "the given stream"
    assert not pipe.file.closed
    pipe.file.close()


def test_an_mp4_whose_index_comes_last_cannot_be_piped(tmp_path):
    pipe = Pipe(numbered(tmp_path / "late.mp4", 40, size=(240, 320), options={"qp": "4"}))
    with pytest.raises(VideoError, match="cannot be read from a pipe: give the file"):
        open_video(pipe)
    pipe.file.close()


def test_standard_input_through_a_pipe(tmp_path):
    path = numbered(tmp_path / "piped.mkv", 9)
    script = (
        "import sys\nfrom twospeed.video.reader import open_video\nfor f in open_video('-'): print(f.index, f.time_s)"
    )
    run = subprocess.run([sys.executable, "-c", script], input=path.read_bytes(), capture_output=True, check=True)
    assert [line.split()[0] for line in run.stdout.decode().splitlines()] == [str(i) for i in range(9)]
    assert run.stderr == b""


def test_a_program_ends_while_its_pipe_is_still_open(tmp_path):
    data = numbered(tmp_path / "piped.ts", 60, options={"g": "5"}).read_bytes()
    script = "from twospeed.video.reader import open_video\nreader = open_video('-')\nprint(next(reader).index)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        process.stdin.write(data)
        process.stdin.flush()
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == b"0\n"
        assert process.stderr.read() == b""
    finally:
        process.kill()
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("sent", ["nothing", "half a video"])
def test_ctrl_c_while_a_pipe_is_silent(tmp_path, sent):
    data = numbered(tmp_path / "piped.ts", 60, options={"g": "5"}).read_bytes() if sent != "nothing" else b""
    script = (
        "from twospeed.video.reader import open_video\nprint('ready', flush=True)\n"
        "try:\n  for frame in open_video('-'): pass\nexcept KeyboardInterrupt: print('interrupted')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    )
    with process, process.stdin, process.stdout, process.stderr:
        assert process.stdout.readline() == b"ready\n"
        process.stdin.write(data)
        process.stdin.flush()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == b"interrupted\n"
        assert process.stderr.read() == b""


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name == "twospeed-decode"]


def test_memory_holds_a_few_frames_whatever_the_length(tmp_path, monkeypatch):
    path = numbered(tmp_path / "long.mp4", 2000, size=(16, 32), codec="mpeg4", options={"g": "50"})
    alive = []
    plain = pixels.RgbConverter.image

    def counted(self, frame):
        image = plain(self, frame)
        alive.append(weakref.ref(image))
        return image

    monkeypatch.setattr(pixels.RgbConverter, "image", counted)
    most = seen = 0
    with open_video(path, ahead=8) as reader:
        for frame in reader:
            seen += 1
            assert frame.index == seen - 1
            if seen % 100 == 0:
                time.sleep(0.01)  # let the decoder run as far ahead as it may
                alive[:] = [ref for ref in alive if ref() is not None]
                most = max(most, len(alive))
    assert seen == 2000
    assert 8 <= most <= 8 + 4


def test_decoded_images_are_freed_at_once(tmp_path):
    """Not only when Python next looks for objects that hold each other."""
    path = numbered(tmp_path / "clip.mp4", 60)
    gc.collect()
    gc.disable()
    try:
        with open_video(path, ahead=0, small_side=24) as reader:
            for frame in reader:
                if frame.index == 50:
                    alive = sum(type(one) is av.VideoFrame for one in gc.get_objects())
        read_frames(path, range(50))
        left = sum(type(one) is av.VideoFrame for one in gc.get_objects())
    finally:
        gc.enable()
    assert 1 <= alive <= 8
    assert left <= 8


@pytest.mark.parametrize("ahead", [0, 1, 8])
def test_leaving_early_ends_the_thread_and_closes_the_file(tmp_path, ahead):
    path = numbered(tmp_path / "left.mp4", 60)
    with open_video(path, ahead=ahead) as reader:
        assert next(reader).index == 0
        assert len(decoding_threads()) == (1 if ahead else 0)
    assert not decoding_threads()
    assert list(reader) == []
    reader.close()
    path.unlink()


def test_a_forgotten_reader_is_cleaned_up(tmp_path):
    path = numbered(tmp_path / "forgotten.mp4", 60)
    reader = open_video(path)
    next(reader)
    del reader
    gc.collect()
    assert not decoding_threads()


def test_probe_says_what_is_known(tmp_path):
    path = numbered(tmp_path / "known.mp4", 30, rate=Fraction(30000, 1001))
    info = probe(path)
    assert info.frame_rate == Fraction(30000, 1001)
    assert info.frame_count == 30
    assert info.duration_s == pytest.approx(30 * 1001 / 30000, abs=1e-4)
    assert info.codec == "h264"
    assert not decoding_threads()


@pytest.mark.parametrize("name", ["take:2 50%d ünï.mp4", "-5.mp4", "a b;c.mp4"])
def test_odd_file_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbered(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    with open_video(name) as reader:
        assert len(list(reader)) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": -1}, "start"),
        ({"ahead": -1}, "ahead"),
        ({"rate": 0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"short_side": 0}, "short_side"),
        ({"damaged": "ignore"}, "'ignore'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        open_video(tmp_path / "any.mp4", **arguments)


@pytest.mark.parametrize("source", [None, 1.5, True, ["a.mp4"]])
def test_no_source_at_all(source):
    with pytest.raises(InputError, match=type(source).__name__):
        open_video(source)
