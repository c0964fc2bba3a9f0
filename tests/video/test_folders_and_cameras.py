"""Folders of images and cameras, by the same door as files."""

import threading
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.video.footage import numbered_image
from twospeed.errors import InputError, VideoError
from twospeed.video.reader import open_video


def save(path, image):
    Image.fromarray(image).save(path)


def test_natural_order_and_times(tmp_path):
    for number in (10, 9, 100, 1):
        save(tmp_path / f"Frame{number}.PNG", numbered_image(number))
    save(tmp_path / ".hidden1.png", numbered_image(7))
    (tmp_path / "notes.txt").write_text("not an image")
    with open_video(tmp_path) as reader:
        frames = list(reader)
    for frame, number in zip(frames, (1, 9, 10, 100), strict=True):
        np.testing.assert_array_equal(frame.image, numbered_image(number))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.time_s for frame in frames] == [0, 1 / 24, 2 / 24, 3 / 24]
    assert (reader.info.frame_rate, reader.info.frame_count) == (None, 4)
    with open_video(tmp_path, rate=10, start=2) as reader:
        assert [(frame.index, frame.time_s) for frame in reader] == [(2, 0.2), (3, 0.3)]
        assert reader.info.frame_rate == Fraction(10)


def test_masks_beside_frames_are_not_frames(tmp_path):
    for number in range(6):
        save(tmp_path / f"{number:05d}.jpg", numbered_image(number))
    for number in (0, 3):
        save(tmp_path / f"{number:05d}.png", np.zeros((48, 96), np.uint8))
    with open_video(tmp_path) as reader:
        assert [frame.image.any() for frame in reader] == [True] * 6


def test_formats_may_mix_where_names_differ(tmp_path):
    save(tmp_path / "1.png", numbered_image(1))
    save(tmp_path / "2.bmp", numbered_image(2))
    with open_video(tmp_path) as reader:
        assert len(list(reader)) == 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    grey = numbered_image(3)[..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "one.png")
    with open_video(tmp_path / "one.png") as reader:
        (frame,) = list(reader)
    assert frame.image.shape == (48, 96, 3)
    if mode != "1":
        np.testing.assert_allclose(frame.image[..., 1], grey, atol=1)


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn anticlockwise
    Image.fromarray(numbered_image(1)).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    with open_video(tmp_path) as reader:
        image = next(reader).image
    assert np.abs(image.astype(int) - np.rot90(numbered_image(1), -1)).mean() < 8


def test_sizes_may_differ(tmp_path):
    save(tmp_path / "1.png", numbered_image(1))
    save(tmp_path / "2.png", numbered_image(2, 20, 30))
    with open_video(tmp_path) as reader:
        assert [frame.image.shape[:2] for frame in reader] == [(48, 96), (20, 30)]


class Camera:
    """A camera of OpenCV's kind: eight images, faster than anyone looks."""

    released = 0
    ended = threading.Event()

    def __init__(self, index):
        self.index = index
        self.left = 8 if index == 0 else 0

    def isOpened(self):  # noqa: N802
        return self.index < 2

    def get(self, what):
        return 29.97

    def set(self, what, value):
        return True

    def read(self):
        self.left -= 1
        if self.left < 0:
            Camera.ended.set()
            return False, None
        return True, np.full((12, 16, 3), (10, 20, 200 + self.left), np.uint8)

    def release(self):
        Camera.released += 1


@pytest.fixture
def cameras(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    Camera.released = 0
    Camera.ended.clear()


@pytest.mark.parametrize("source", [0, "0"])
def test_camera(cameras, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_video(source, ahead=0) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == list(range(8))
    assert frames[0].image[0, 0].tolist() == [207, 20, 10]  # RGB
    times = [frame.time_s for frame in frames]
    assert times[0] == 0
    assert times == sorted(times)
    assert reader.info.name == "camera 0"
    assert reader.info.frame_rate == Fraction(2997, 100)
    assert Camera.released == 1


def test_a_camera_does_not_fall_behind(cameras):
    with open_video(0, ahead=2) as reader:
        assert Camera.ended.wait(60)
        assert [frame.index for frame in reader] == [6, 7]


def test_a_file_named_like_a_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    save(tmp_path / "0" / "1.png", numbered_image(1))
    with open_video("0") as reader:
        assert len(list(reader)) == 1


def test_no_camera(cameras, capfd):
    with pytest.raises(VideoError, match="camera 5: cannot be opened"):
        open_video(5)
    with pytest.raises(VideoError, match="camera 1: opened, but gave no image"):
        open_video(1)
    assert Camera.released == 2
    with pytest.raises(InputError, match="camera index"):
        open_video(-1)


def test_no_camera_says_nothing_else(capfd):
    if cv2.VideoCapture(97).isOpened():
        pytest.skip("this machine has 98 cameras")
    capfd.readouterr()
    with pytest.raises(VideoError, match="camera 97"):
        open_video(97)
    assert capfd.readouterr().err == ""
