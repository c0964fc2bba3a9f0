"""Frames of CamVid's videos beside its stills: numbers are found from what the images show."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.test_camvid import coloured, labels_of, write
from tests.video.footage import LOSSLESS, film
from twospeed.data.benchmarks import camvid_frames
from twospeed.data.benchmarks.camvid import CamVid
from twospeed.errors import DatasetError

FIRST = 6680  # number of the video's first frame
LABELLED = (6690, 6700, 6710)


def scene(time: int) -> np.ndarray:
    """A texture that moves by two pixels a frame."""
    texture = np.random.default_rng(0).integers(0, 256, (12, 40, 3)).astype(np.uint8)
    return np.roll(np.kron(texture, np.ones((8, 8, 1), np.uint8)), -2 * time, 1)[:, :128].copy()


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Path]:
    root = tmp_path / "CamVid"
    for number in LABELLED:
        write(root / "701_StillsRaw_full" / f"0001TP_{number:06d}.png", scene(number - FIRST))
        write(root / "LabeledApproved_full" / f"0001TP_{number:06d}_L.png", coloured(labels_of(f"{number:06d}")))
    return root, film(tmp_path / "drive.mkv", [scene(time) for time in range(40)], **LOSSLESS)


def test_frames_before_labelled_ones_are_written_once(release, monkeypatch, capsys):
    root, video = release
    command = ["camvid_frames", str(root), str(video), "0001TP"]
    monkeypatch.setattr(sys, "argv", command)
    camvid_frames.main()
    assert capsys.readouterr().out == f"{video}: its first frame is number 6680 of 0001TP; 12 frames written\n"
    data = CamVid(root, "train")
    for frame in data:
        before = data.before(frame, 4)
        assert before is not None
        assert [one.number for one in before] == list(range(frame.number - 4, frame.number + 1))
        for one in before:
            np.testing.assert_array_equal(one.image(), scene(one.number - FIRST))
    assert data.before(data[0], 5) is None
    camvid_frames.main()
    assert "; 0 frames written" in capsys.readouterr().out


def test_a_still_that_the_video_lacks_gets_no_frames(release):
    root, video = release
    for number in range(6681, 6690):  # of many stills
        write(root / "701_StillsRaw_full" / f"0001TP_{number:06d}.png", scene(number - FIRST))
        write(root / "LabeledApproved_full" / f"0001TP_{number:06d}_L.png", coloured(labels_of(f"{number:06d}")))
    write(root / "701_StillsRaw_full" / "0001TP_006700.png", scene(25))
    assert camvid_frames.write_frames(root, video, "0001TP") == (FIRST, 5, [6700])  # 6680, and four before 6710


def test_another_video_and_another_size_are_refused(release, tmp_path, monkeypatch, capsys):
    root, video = release
    other = film(tmp_path / "other.mkv", [scene(time)[::-1] for time in range(40)], **LOSSLESS)
    with pytest.raises(DatasetError, match="of 3 stills of 0001TP are none of its frames; is it the right video"):
        camvid_frames.write_frames(root, other, "0001TP")
    wide = film(tmp_path / "wide.mkv", [np.repeat(scene(time), 2, 1) for time in range(40)], **LOSSLESS)
    with pytest.raises(DatasetError, match=r"frames are \(96, 256\), the stills \(96, 128\)"):
        camvid_frames.write_frames(root, wide, "0001TP")
    assert len(list((root / "701_StillsRaw_full").iterdir())) == len(LABELLED)
    monkeypatch.setattr(sys, "argv", ["camvid_frames", str(root), str(video), "0006R0"])
    with pytest.raises(SystemExit) as ended:
        camvid_frames.main()
    assert ended.value.code == 2
    assert "no labelled still of '0006R0'" in capsys.readouterr().err


def test_a_compressed_video_fits_too(release, tmp_path):
    root, _ = release
    video = film(tmp_path / "lossy.mp4", [scene(time) for time in range(40)])
    assert camvid_frames.write_frames(root, video, "0001TP") == (FIRST, 12, [])
    with Image.open(root / "701_StillsRaw_full" / "0001TP_006686.png") as image:
        assert np.abs(np.asarray(image, int) - scene(6)).mean() < 20
