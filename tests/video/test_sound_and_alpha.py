"""Sound that comes along with written images, and images with alpha."""

import av
import numpy as np
import pytest

from tests.video.footage import numbered_image
from twospeed.errors import InputError, VideoError
from twospeed.video.reader import open_video
from twospeed.video.writer import VideoWriter


def film_with_sound(path, codec, *, seconds=2, late_s=0.0):
    """Images at 25 a second, and a tone that starts `late_s` after them and is silent in its first half."""
    with av.open(str(path), "w") as container:
        images = container.add_stream("libx264", rate=25)
        images.width, images.height, images.pix_fmt = 96, 48, "yuv420p"
        sound = container.add_stream(codec, rate=48_000, layout="mono")
        wave = np.sin(np.arange(48_000 * seconds) * 440 * 2 * np.pi / 48_000)
        wave[: 24_000 * seconds] = 0
        for number in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts = number
            container.mux(images.encode(frame))
        container.mux(images.encode(None))
        for at in range(0, len(wave), 960):
            frame = av.AudioFrame.from_ndarray(
                (wave[None, at : at + 960] * 20_000).astype(np.int16), format="s16", layout="mono"
            )
            frame.rate, frame.pts = 48_000, at + round(late_s * 48_000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def sound_of(path):
    """(codec, first time, loudness of every 20 ms)."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        first_s = float(frames[0].pts * frames[0].time_base)
        samples = np.concatenate([frame.to_ndarray().astype(float).mean(axis=0) for frame in frames])
    return (
        stream.codec_context.name,
        first_s,
        np.abs(samples)[: len(samples) // 960 * 960].reshape(-1, 960).mean(axis=1),
    )


@pytest.mark.parametrize(
    ("source", "codec", "target", "kept"),
    [
        ("in.mp4", "aac", "out.mp4", "aac"),
        ("in.mkv", "libopus", "out.mp4", "opus"),
        ("in.mkv", "pcm_s16le", "out.mp4", "aac"),
        ("in.mkv", "flac", "out.mkv", "flac"),
        ("in.avi", "libmp3lame", "out.mov", "mp3"),
        ("in.ts", "mp2", "out.mp4", "aac"),
        ("in.ts", "libmp3lame", "out.mov", "mp3"),
        ("in.avi", "mp2", "out.mp4", "aac"),
    ],
)
def test_sound_comes_along(tmp_path, source, codec, target, kept):
    path = film_with_sound(tmp_path / source, codec)
    with open_video(path) as reader, VideoWriter(tmp_path / target, 25, audio_from=path) as writer:
        for frame in reader:
            writer.write(frame.image, frame.time_s)
    name, first_s, loudness = sound_of(tmp_path / target)
    assert name.startswith(kept)
    onset_s = first_s + 0.02 * float(np.argmax(loudness > loudness.max() / 2))
    assert onset_s == pytest.approx(1.0, abs=0.06)
    assert 0.02 * len(loudness) == pytest.approx(2.0, abs=0.1)


def sound_packets(path):
    """Bytes and lengths in seconds of all packets of sound but those that only start the decoder (before 0)."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(bytes(p), float(p.duration * p.time_base)) for p in container.demux(stream) if p.size and p.pts >= 0]


@pytest.mark.parametrize(
    ("source", "codec", "target"), [("in.mp4", "aac", "out.mp4"), ("in.mkv", "libopus", "out.mp4")]
)
def test_packets_of_sound_are_copied_as_they_are(tmp_path, source, codec, target):
    path = film_with_sound(tmp_path / source, codec)
    with open_video(path) as reader, VideoWriter(tmp_path / target, 25, audio_from=path) as writer:
        for frame in reader:
            writer.write(frame.image, frame.time_s)
    given, found = sound_packets(path), sound_packets(tmp_path / target)
    assert [data for data, _ in found] == [data for data, _ in given]
    assert sum(length for _, length in found) == pytest.approx(sum(length for _, length in given), abs=0.03)


def test_sound_of_a_part(tmp_path):
    path = film_with_sound(tmp_path / "in.mp4", "aac")
    with open_video(path, 0.6, 1.6) as reader, VideoWriter(tmp_path / "out.mp4", 25, audio_from=path) as writer:
        for frame in reader:
            writer.write(frame.image, frame.time_s)
    _, first_s, loudness = sound_of(tmp_path / "out.mp4")
    assert first_s + 0.02 * float(np.argmax(loudness > loudness.max() / 2)) == pytest.approx(0.4, abs=0.06)
    assert 0.02 * len(loudness) == pytest.approx(1.0, abs=0.1)


def test_no_sound_to_come_along(tmp_path):
    with VideoWriter(tmp_path / "silent.mp4", 25) as writer:
        writer.write(numbered_image(0))
    with VideoWriter(tmp_path / "out.mp4", 25, audio_from=tmp_path / "silent.mp4") as writer:
        writer.write(numbered_image(0))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio
    with (
        pytest.raises(VideoError, match="cannot be opened"),
        VideoWriter(tmp_path / "bad.mp4", 25, audio_from=tmp_path / "missing.mp4") as writer,
    ):
        writer.write(numbered_image(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "silent.mp4"]


def rgba():
    image = np.zeros((48, 96, 4), np.uint8)
    image[:, :48] = (200, 100, 40, 255)
    image[:, 48:72] = (200, 100, 40, 128)
    return image


@pytest.mark.parametrize("form", ["straight", "premultiplied"])
@pytest.mark.parametrize("name", ["out.mov", "out.webm"])
def test_alpha(tmp_path, name, form):
    image = rgba()
    if form == "premultiplied":
        image[..., :3] = image[..., :3] * (image[..., 3:] / 255.0)
    with VideoWriter(tmp_path / name, 25, alpha=form) as writer:
        for _ in range(3):
            writer.write(image)
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        if name == "out.webm":
            assert stream.metadata.get("ALPHA_MODE") == "1"  # written as alpha_mode, which players look for
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        else:
            assert "4444" in str(context.profile)
            decoder = context
        frames = [frame for packet in container.demux(stream) if packet.size for frame in decoder.decode(packet)]
    found = frames[0].to_ndarray(format="rgba").astype(int)
    expected = rgba().astype(int)
    for part in (slice(4, 44), slice(52, 68), slice(76, 92)):
        assert np.abs(found[8:40, part, 3] - expected[8:40, part, 3]).max() <= 4
    for part in (slice(4, 44), slice(52, 68)):
        assert np.abs(found[8:40, part, :3] - expected[8:40, part, :3]).max() <= 8


def test_alpha_wants_rgba_and_its_formats(tmp_path):
    with pytest.raises(InputError, match=r"a video with alpha is written as \.mov, \.webm, not '\.mp4'"):
        VideoWriter(tmp_path / "out.mp4", alpha="straight")
    with pytest.raises(InputError, match="alpha='yes'"):
        VideoWriter(tmp_path / "out.mov", alpha="yes")
    with (
        pytest.raises(InputError, match=r"uint8 \(H, W, 4\)"),
        VideoWriter(tmp_path / "o.mov", alpha="straight") as out,
    ):
        out.write(numbered_image(0))
