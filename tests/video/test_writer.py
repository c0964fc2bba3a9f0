"""Videos written: they play, keep their times, and appear whole or not at all."""

import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.footage import number_of, numbered_image
from twospeed.data.clips.synthetic import render_clip
from twospeed.errors import InputError, OutputError
from twospeed.video.reader import frame_times, open_video, probe
from twospeed.video.writer import VideoWriter


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_and_what_browsers_need(tmp_path):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, rate=Fraction(30000, 1001)) as writer:
        for number in range(20):
            writer.write(numbered_image(number))
            assert not path.exists()
    assert names(tmp_path) == ["out.mp4"]
    assert writer.frames_written == 20
    with open_video(path) as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(20))
        assert reader.info.frame_rate == Fraction(30000, 1001)
    np.testing.assert_allclose(frame_times(path), np.arange(20) * 1001 / 30000, atol=1e-9)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # faststart
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
        assert float(stream.duration * stream.time_base) == pytest.approx(20 * 1001 / 30000, abs=1e-3)


def test_the_same_images_are_the_same_bytes(tmp_path):
    """Also where memory that is used again holds other values: an interrupted run then leaves what a whole one does."""
    random = np.random.default_rng(0)
    images = [image for image, _ in render_clip(2, frames=12, height=96, width=160, objects=2)]
    files, memory = set(), []
    for number in range(12):
        memory = [random.integers(0, 256, size, dtype=np.uint8) for size in (64, 1000, 5000, 20_000, 100_000)] + memory[
            ::2
        ]
        with VideoWriter(tmp_path / f"{number}.mp4", 10) as writer:
            for image in images:
                writer.write(image)
        files.add((tmp_path / f"{number}.mp4").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("rate", [24, 23.976, 29.97, Fraction(2160, 77), 12.5, 1, 240, 1 / 3, None])
def test_rates_are_kept(tmp_path, rate):
    with VideoWriter(tmp_path / "out.mp4", rate) as writer:
        for number in range(7):
            writer.write(numbered_image(number))
    step = 1 / (25 if rate is None else float(rate))
    np.testing.assert_allclose(frame_times(tmp_path / "out.mp4"), np.arange(7) * step, rtol=1e-6)


def test_colours_come_back(tmp_path):
    bars = np.repeat(np.array([[(220, 30, 30), (30, 200, 40), (40, 60, 210), (128, 128, 128)]], np.uint8), 64, axis=0)
    bars = bars.repeat(32, axis=1)
    with VideoWriter(tmp_path / "out.mp4", quality=5) as writer:
        writer.write(bars)
    with open_video(tmp_path / "out.mp4") as reader:
        decoded = next(reader).image
    centres = decoded[32, 16::32].astype(int)
    np.testing.assert_allclose(centres, bars[32, 16::32], atol=4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_times(tmp_path, suffix):
    times = [7.0, 7.04, 7.0401, 9.5, 9.5, 9.3, 12.0]
    path = tmp_path / f"vfr{suffix}"
    with VideoWriter(path, rate=25) as writer:
        for number, time_s in enumerate(times):
            writer.write(numbered_image(number), time_s)
    with open_video(path) as reader:
        frames = list(reader)
    assert [number_of(frame.image) for frame in frames] == list(range(7))
    written = [frame.time_s for frame in frames]
    np.testing.assert_allclose(written, [0, 0.04, 0.0401, 2.5, 2.5, 2.5, 5.0], atol=1.1e-3)
    assert written == sorted(written)


@pytest.mark.parametrize("size", [(49, 97), (48, 97), (49, 96), (1, 1), (3, 2)])
def test_odd_sizes_are_padded_by_their_edge(tmp_path, size):
    image = numbered_image(9, *size) if min(size) > 8 else np.full((*size, 3), 180, np.uint8)
    with VideoWriter(tmp_path / "odd.mp4", quality=1) as writer:
        writer.write(image)
    with open_video(tmp_path / "odd.mp4") as reader:
        decoded = next(reader).image
    height, width = size
    assert decoded.shape == (height + height % 2, width + width % 2, 3)
    expected = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert np.abs(decoded.astype(int) - expected).mean() < 6


def test_views_and_read_only_arrays_can_be_written(tmp_path):
    image = numbered_image(3)[::-1, ::-1][::-1, ::-1]
    image.flags.writeable = False
    with VideoWriter(tmp_path / "view.mp4") as writer:
        writer.write(image)
    with open_video(tmp_path / "view.mp4") as reader:
        assert number_of(next(reader).image) == 3


def write_and_raise(writer, error):
    with writer:
        for number in range(9):
            writer.write(numbered_image(number))
        raise error


def test_an_exception_leaves_nothing(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"from before")
    with pytest.raises(RuntimeError):
        write_and_raise(VideoWriter(tmp_path / "out.mp4"), RuntimeError)
    assert names(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"from before"


@pytest.mark.parametrize(("error", "keep_partial"), [(KeyboardInterrupt, False), (RuntimeError, True)])
def test_what_is_done_can_be_kept(tmp_path, error, keep_partial):
    with pytest.raises(error):
        write_and_raise(VideoWriter(tmp_path / "out.mp4", keep_partial=keep_partial), error)
    assert names(tmp_path) == ["out.mp4"]
    with open_video(tmp_path / "out.mp4") as reader:
        assert [number_of(frame.image) for frame in reader] == list(range(9))


def test_no_frame_no_file(tmp_path):
    with VideoWriter(tmp_path / "out.mp4"):
        pass
    assert names(tmp_path) == []


def test_a_forgotten_writer_leaves_nothing(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4")
    writer.write(numbered_image(0))
    del writer
    assert names(tmp_path) == []


def test_closed_is_closed(tmp_path):
    writer = VideoWriter(tmp_path / "out.mp4")
    writer.write(numbered_image(0))
    writer.close()
    writer.close()
    with pytest.raises(OutputError, match="is closed"):
        writer.write(numbered_image(1))
    assert probe(tmp_path / "out.mp4").frame_count == 1


def test_bad_frames(tmp_path):
    with VideoWriter(tmp_path / "out.mp4") as writer:
        for image in (numbered_image(0)[..., 0], numbered_image(0).astype(np.float32), numbered_image(0)[:0]):
            with pytest.raises(InputError, match="a frame is uint8"):
                writer.write(image)
        writer.write(numbered_image(0))
        with pytest.raises(InputError, match="frame 1 is 30x20, those before are 96x48"):
            writer.write(numbered_image(1, 20, 30))
        with pytest.raises(InputError, match="nan"):
            writer.write(numbered_image(1), float("nan"))


def test_bad_arguments(tmp_path):
    for arguments, words in (({"rate": 0}, "rate"), ({"quality": 52}, "quality"), ({"rate": float("inf")}, "rate")):
        with pytest.raises(InputError, match=words):
            VideoWriter(tmp_path / "out.mp4", **arguments)
    with pytest.raises(InputError, match=r"\.avi"):
        VideoWriter(tmp_path / "out.avi")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        VideoWriter(tmp_path / "folder.mp4")
    with pytest.raises(OutputError, match="No such file or directory"):
        VideoWriter(tmp_path / "nowhere" / "out.mp4")
    assert names(tmp_path) == ["folder.mp4"]


FULL_DISK = """
import resource, signal, sys
import numpy as np
from twospeed.errors import OutputError
from twospeed.video.writer import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
images = np.random.default_rng(0).integers(0, 256, (12, 120, 160, 3), np.uint8)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with VideoWriter(sys.argv[1]) as writer:
            for image in images:
                writer.write(image)
        print("written")
    except OutputError as error:
        print("refused", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX systems can")
def test_a_full_disk_at_any_moment_leaves_nothing(tmp_path):
    path = tmp_path / "out.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path) as writer:
        for image in rng.integers(0, 256, (12, 120, 160, 3), np.uint8):
            writer.write(image)
    size = path.stat().st_size
    path.unlink()
    limits = [0, 40, 1000, size // 3, size - 2000, size - 1, size]  # from the first byte to the last of the index
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), *map(str, limits)], capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["refused"] * 6 + ["written"]
    assert all("File too large" in line and "out.mp4: cannot be written" in line for line in lines[:-1])
    assert names(tmp_path) == ["out.mp4"]
    assert len(frame_times(path)) == 12
