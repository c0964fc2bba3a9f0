"""Clips of labelled videos: what is drawn, what is decoded, what becomes of broken files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.motion_set import write_clip
from twospeed.data.benchmarks.video_lists import LabelledVideo
from twospeed.data.clips import actions as kinetics
from twospeed.data.clips.actions import TrainClips
from twospeed.data.samples import collate_clips
from twospeed.video.reader import read_frames
from twospeed.video.sampling import ClipShape

PLAIN = ClipShape(frames=4, stride=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def ramp(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame t is grey of 4 t + 20, with a bright left edge."""
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:] = (4 * np.arange(frames) + 20)[:, None, None, None]
    video[:, :, : width // 8] = 250
    return video


@pytest.fixture
def videos(tmp_path):
    write_clip(tmp_path / "a.mp4", ramp(40))
    write_clip(tmp_path / "b.mp4", ramp(50, 64, 48))
    (tmp_path / "frames").mkdir()
    for t, image in enumerate(ramp(30)):
        Image.fromarray(image).save(tmp_path / "frames" / f"{t:05d}.png")
    return [LabelledVideo(tmp_path / name, label) for label, name in enumerate(("a.mp4", "b.mp4", "frames"))]


def test_training_clips_depend_on_seed_epoch_and_index_alone(videos):
    clips = TrainClips(videos, PLAIN, short_side=(24, 32), crop=20, seed=3)
    sample = clips[(1, 0)]
    assert sample.views.shape == (1, 3, 4, 20, 20)
    assert sample.views.dtype == torch.float32
    assert sample.label == 0
    clips[(5, 2)]  # another draw in between changes nothing
    assert torch.equal(TrainClips(videos, PLAIN, short_side=(24, 32), crop=20, seed=3)[(1, 0)].views, sample.views)
    others = [clips[(2, 0)], TrainClips(videos, PLAIN, short_side=(24, 32), crop=20, seed=4)[(1, 0)]]
    assert all(not torch.equal(other.views, sample.views) for other in others)
    assert torch.equal(clips[0].views, clips[(0, 0)].views)


def test_training_clips_see_consecutive_time_and_the_whole_video(videos):
    clips = TrainClips(videos, PLAIN, short_side=(48, 48), crop=48, flip_probability=0.0)
    firsts = set()
    for epoch in range(60):
        greys = clips[(epoch, 2)].views[0, 0, :, 24, -1] * 255  # frame numbers, written as grey
        numbers = (greys - 20) / 4
        firsts.add(round(float(numbers[0])))
        assert torch.allclose(numbers.diff(), torch.tensor(7 / 3), atol=1.01)  # linspace over 8 frames, truncated
    assert min(firsts) <= 1
    assert max(firsts) >= 20


def test_flips_happen_half_of_the_time_or_never(videos):
    def flipped(probability):
        clips = TrainClips(videos[:1], PLAIN, short_side=(48, 48), crop=48, flip_probability=probability)
        views = [clips[(epoch, 0)].views[0, 0, 0] for epoch in range(40)]
        return sum(bool(view[:, -4:].mean() > view[:, :4].mean() + 0.1) for view in views)

    assert flipped(0.0) == 0
    assert 4 < flipped(0.5) < 36


def test_only_the_frames_of_the_clip_are_decoded(videos, monkeypatch):
    asked = []

    def spy(path, indices, *, short_side=None):
        asked.append((len(indices), short_side))
        return read_frames(path, indices, short_side=short_side)

    monkeypatch.setattr(kinetics, "read_frames", spy)
    TrainClips(videos, PLAIN, short_side=(24, 32), crop=20)[0]  # 48 is not much above 32
    TrainClips(videos, PLAIN, short_side=(16, 24), crop=16)[0]  # 48 is twice of 24: scaled while decoding
    assert asked == [(4, None), (4, 24)]


def test_values_are_normalised_and_ordered(videos):
    shape = ClipShape(frames=4, stride=2, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), order="bgr")
    plain = TrainClips(videos, PLAIN, short_side=(48, 48), crop=48)[2].views[0]
    normal = TrainClips(videos, shape, short_side=(48, 48), crop=48)[2].views[0]
    assert torch.allclose(normal[2], (plain[0] - 0.1) / 0.5, atol=1e-5)
    assert torch.allclose(normal[0], (plain[2] - 0.3) / 2.0, atol=1e-5)


def test_a_broken_video_is_counted(videos, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    broken = [*videos, LabelledVideo(tmp_path / "text.mp4", 0), LabelledVideo(tmp_path / "gone.mp4", 1)]
    counted = TrainClips(broken, PLAIN, short_side=(24, 32), crop=20)
    batch = collate_clips([counted[(0, i)] for i in range(5)])
    assert len(batch) == 3
    assert batch.views.shape == (3, 1, 3, 4, 20, 20)
    assert batch.labels.tolist() == [0, 1, 2]
    assert [b.path.name for b in batch.broken] == ["text.mp4", "gone.mp4"]
    assert all(str(b.path) in b.reason for b in batch.broken)
    assert collate_clips([counted[(0, 3)]]).views is None
