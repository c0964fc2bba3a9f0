"""Bad videos: what can be decoded is delivered, then one clear line says what is wrong."""

import wave

import av
import cv2
import pytest

from tests.video.footage import number_of, numbered, numbered_image
from twospeed.errors import VideoError
from twospeed.video.reader import frame_times, open_video, probe, read_frames

NOISY = {"options": {"g": "10", "bf": "0", "sc_threshold": "0"}, "size": (96, 192)}


def deliver(reader):
    """All that comes out, and the error that ends it."""
    numbers = []
    try:
        for frame in reader:
            assert frame.index == len(numbers)
            numbers.append(number_of(frame.image))
    except VideoError as error:
        return numbers, str(error)
    return numbers, None


def broken(path, at=0.5, length=400):
    """Overwrite a stretch of the compressed data."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + length] = b"\xaa" * length
    path.write_bytes(data)
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))


def covered_sound(path):
    """Music with a cover image, which is not a video."""
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=44100, layout="mono")
        for _ in range(3):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            frame.planes[0].update(bytes(4096))
            frame.rate = 44100
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


MAKE = {
    "missing.mp4": (None, "no such file"),
    "empty.mp4": (lambda path: path.touch(), "the file is empty"),
    "text.mp4": (lambda path: path.write_text("hello " * 99), "cannot be opened as a video"),
    "sound.wav": (sound, "no image stream, only audio"),
    "music.mp4": (covered_sound, "no image stream, only audio"),
    "folder": (lambda path: path.mkdir(), "holds no images"),
    "broken.jpg": (lambda path: path.write_bytes(b"\xff\xd8\xff" + bytes(50)), "not an image"),
    "index-lost.mp4": (lambda path: cut(numbered(path, 10), 0.5), "cannot be opened as a video"),
}


def read_first(path):
    return read_frames(path, [0])


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (use, name)
        for use in (open_video, probe, frame_times, read_first)
        for name in MAKE
        if (use, name) != (frame_times, "broken.jpg")  # images are not opened for their times
    ],
)
def test_what_is_no_video(tmp_path, name, use):
    make, words = MAKE[name]
    path = tmp_path / name
    if make is not None:
        make(path)
    with pytest.raises(VideoError, match=words) as caught:
        use(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_decodable_image(tmp_path):
    path = numbered(tmp_path / "blank.h264", 3)
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(len(data) - 60))
    with pytest.raises(VideoError, match=r"blank\.h264: (not one image|cannot be opened)"):
        open_video(path)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_a_file_that_is_cut_off(tmp_path, name):
    how = {"codec": "mpeg4", "options": {"g": "10"}} if name.endswith("avi") else {"options": {"bf": "0"}}
    muxer = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = cut(numbered(tmp_path / name, 100, muxer=muxer, size=(96, 192), **how), 0.6)
    with open_video(path) as reader:
        numbers, error = deliver(reader)
    assert 40 <= len(numbers) < 90
    assert numbers == list(range(len(numbers)))
    assert f"frame {len(numbers)} cannot be decoded" in error
    assert name in error
    assert "cut off" in error
    with open_video(path, damaged="stop") as reader:
        quiet, error = deliver(reader)
    assert error is None
    assert quiet == numbers
    with pytest.raises(VideoError, match=r"cut off.*damaged='skip'"):
        frame_times(path)
    assert len(frame_times(path, damaged="skip")) >= len(numbers)
    assert number_of(read_frames(path, [len(numbers) - 1])[0]) == numbers[-1]


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_damage_in_the_middle(tmp_path, suffix):
    path = broken(numbered(tmp_path / f"hole.{suffix}", 100, **NOISY))
    with open_video(path) as reader:
        numbers, error = deliver(reader)
    assert 20 < len(numbers) < 80
    assert numbers == list(range(len(numbers)))
    assert f"frame {len(numbers)} cannot be decoded" in error
    with open_video(path, damaged="stop") as reader:
        assert deliver(reader) == (numbers, None)
    with open_video(path, damaged="skip") as reader:
        skipped, error = deliver(reader)
    assert error is None
    assert skipped[:20] == list(range(20))
    assert skipped[-1] == 99
    assert len(skipped) > len(numbers) + 10


def test_frames_around_the_damage_can_still_be_read(tmp_path):
    path = broken(numbered(tmp_path / "hole.mp4", 100, **NOISY))
    taken = read_frames(path, [3, 97])
    assert [number_of(image) for image in taken] == [3, 97]
    with open_video(path) as reader:
        first_lost = len(deliver(reader)[0])
    with pytest.raises(VideoError, match=rf"frame {first_lost} cannot be decoded"):
        read_frames(path, [first_lost])


def test_an_error_does_not_keep_the_file_open(tmp_path):
    path = broken(numbered(tmp_path / "hole.mp4", 100, **NOISY))
    with open_video(path) as reader:
        deliver(reader)
        assert next(reader, None) is None  # and it stays at its end
    path.unlink()


def test_nothing_is_printed(tmp_path, capfd):
    path = broken(numbered(tmp_path / "hole.mp4", 100, **NOISY))
    with open_video(path) as reader:
        deliver(reader)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(VideoError):
        open_video(text)
    assert capfd.readouterr() == ("", "")


def test_damaged_image_in_a_folder(tmp_path, capfd):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), numbered_image(number, 300, 400))
    cut(tmp_path / "3.jpg", 0.7)
    with open_video(tmp_path) as reader:
        seen = []
        with pytest.raises(VideoError, match=r"3\.jpg: .*(cut off|cannot|can be decoded).* it would be frame 3"):
            seen.extend(frame.index for frame in iter(reader.__next__, None))
    with open_video(tmp_path, damaged="skip") as reader:
        assert [frame.index for frame in reader] == [0, 1, 2, 4]
    with open_video(tmp_path, damaged="stop") as reader:
        assert [frame.index for frame in reader] == [0, 1, 2]
    assert capfd.readouterr() == ("", "")
