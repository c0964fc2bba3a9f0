"""`read_frames` reaches any frames of any file exactly as decoding all of it would."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.video.footage import film, number_of, numbered, numbered_image
from twospeed.errors import InputError, VideoError
from twospeed.video import seeking
from twospeed.video.reader import frame_times, open_video, read_frames

COUNT = 60
JITTER = [3600 * i + (i * 7919) % 3000 for i in range(COUNT)]  # ticks of a camera that never keeps its rate

FILES = {
    "closed.mp4": {"options": {"g": "12", "bf": "3", "sc_threshold": "0"}},
    "open.mp4": {"options": {"x264-params": "open-gop=1:keyint=9:bframes=3:b-adapt=0:b-pyramid=normal"}},
    "open-hevc.mkv": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=9:open-gop=1:bframes=3"}},
    "one-gop.mkv": {"options": {"g": "1000", "bf": "2"}},
    "refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}},
    "jitter.mp4": {"options": {"g": "10"}, "pts": JITTER, "time_base": Fraction(1, 90_000)},
    "negative.nut": {"options": {"g": "8", "bf": "2"}, "pts": [i - 17 for i in range(COUNT)]},
    "late.mp4": {"options": {"g": "8", "bf": "2"}, "pts": [i + 250 for i in range(COUNT)]},
    "broadcast.ts": {"options": {"g": "11", "bf": "2"}},
    "fragments.mp4": {"options": {"g": "10"}, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "7"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "20", "deadline": "realtime", "lag-in-frames": "9"}},
    "raw.h264": {"options": {"g": "10", "bf": "2"}},
    "intra.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """Every file with all of its frames, decoded from first to last."""
    folder = tmp_path_factory.mktemp("seek")
    whole = {}
    for name, how in FILES.items():
        path = numbered(folder / name, COUNT, **how)
        with open_video(path) as reader:
            whole[name] = path, np.stack([frame.image for frame in reader])
        assert len(whole[name][1]) == COUNT
    return whole


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(FILES)),
    indices=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12),
)
def test_any_frames_equal_those_of_a_full_decode(decoded, name, indices):
    path, frames = decoded[name]
    taken = read_frames(path, indices)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, frames[indices])


@pytest.mark.parametrize("name", FILES)
def test_each_single_frame(decoded, name):
    path, frames = decoded[name]
    for index in range(0, COUNT, 7):
        assert number_of(read_frames(path, [index])[0]) == index
        np.testing.assert_array_equal(read_frames(path, [index])[0], frames[index])


def test_only_what_is_needed_is_decoded(decoded, monkeypatch):
    path, _ = decoded["closed.mp4"]
    read_frames(path, [0])  # the index is remembered from here on
    passed = []
    plain = seeking.images

    def counted(*args, **how):
        for frame in plain(*args, **how):
            passed.append(frame.pts)
            yield frame

    monkeypatch.setattr(seeking, "images", counted)
    read_frames(path, [50])
    assert len(passed) <= 12
    passed.clear()
    read_frames(path, [1, 58])  # whole groups lie between: seek twice, do not decode them
    assert len(passed) <= 2 + 12
    passed.clear()
    read_frames(path, [1, 20])  # the next group: read on
    assert len(passed) == 21


def test_a_lying_container_is_found_out(decoded, monkeypatch):
    path, frames = decoded["closed.mp4"]
    monkeypatch.setattr(seeking, "seek", lambda container, stream, key: container.seek(10**9, stream=stream))
    np.testing.assert_array_equal(read_frames(path, [15, 30, 59]), frames[[15, 30, 59]])


def test_edit_lists_hide_frames_from_both_ways_of_reading(tmp_path):
    path = numbered(tmp_path / "trimmed.mp4", 40, options={"g": "10", "bf": "2"})
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16  # version and flags, count, duration; then where the media begins
    began = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (began + int(Fraction(13, 25) / base)).to_bytes(4, "big")
    path.write_bytes(data)
    with open_video(path) as reader:
        frames = list(reader)
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers[0] == 13
    assert numbers == list(range(13, 13 + len(numbers)))
    np.testing.assert_array_equal(frame_times(path), [frame.time_s for frame in frames])
    taken = read_frames(path, [0, 9, len(numbers) - 1])
    assert [number_of(image) for image in taken] == [13, 22, numbers[-1]]


def test_a_recording_that_begins_between_keyframes(tmp_path):
    whole = numbered(tmp_path / "whole.ts", 60, options={"g": "20", "bf": "0", "sc_threshold": "0"})
    packets = []
    with av.open(str(whole)) as container:
        packets = [packet.pos for packet in container.demux(video=0) if packet.size]
    cut = tmp_path / "cut.ts"
    start = packets[7] // 188 * 188
    data = whole.read_bytes()
    cut.write_bytes(data[: 188 * 3] + data[start:])  # tables, then from the middle of the first group
    with open_video(cut) as reader:
        numbers = [number_of(frame.image) for frame in reader]
    assert numbers == list(range(20, 60))
    assert len(frame_times(cut)) == 40
    assert [number_of(image) for image in read_frames(cut, [0, 39, 5])] == [20, 59, 25]


def test_frame_times_do_not_decode(decoded, monkeypatch):
    def refuse(*args, **how):
        raise AssertionError("decoded")

    monkeypatch.setattr(seeking, "images", refuse)
    seeking._index_packets.cache_clear()
    for name in ("closed.mp4", "open.mp4", "jitter.mp4", "vp9.webm", "broadcast.ts", "negative.nut"):
        assert len(frame_times(decoded[name][0])) == COUNT


def test_a_replaced_file_is_read_anew(tmp_path):
    path = numbered(tmp_path / "clip.mp4", 10)
    assert len(frame_times(path)) == 10
    numbered(path, 14)
    os.utime(path, ns=(1, 1))
    assert len(frame_times(path)) == 14


def test_short_side(decoded):
    path, _ = decoded["closed.mp4"]
    small = read_frames(path, [3, 40], short_side=24)
    assert small.shape == (2, 24, 48, 3)
    assert [number_of(image) for image in small] == [3, 40]


def test_what_cannot_be_asked(decoded):
    path, _ = decoded["closed.mp4"]
    with pytest.raises(VideoError, match=r"frame 60 was asked for, it has frames 0 to 59"):
        read_frames(path, [0, 60])
    with pytest.raises(VideoError, match=r"frame -1"):
        read_frames(path, [-1])
    for indices in ([], [0.5], [[1, 2]]):
        with pytest.raises(InputError, match="indices"):
            read_frames(path, indices)


def test_folders_are_read_alike(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        film(folder / f"{number}.png", [numbered_image(number)], codec="png", pix_fmt="rgb24", format="image2")
    np.testing.assert_array_equal(read_frames(folder, [4, 1]), np.stack([numbered_image(4), numbered_image(1)]))
    np.testing.assert_allclose(frame_times(folder), np.arange(5) / 24)
    with pytest.raises(VideoError, match="frame 5"):
        read_frames(folder, [5])
