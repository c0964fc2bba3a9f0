"""The generated motions: what differs between the classes, and what does not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.motion_set import CLASSES, MOTIONS, Pose, motion_clip, write_motion_set
from twospeed.data.benchmarks.video_lists import read_class_folders
from twospeed.errors import InputError
from twospeed.video.reader import read_frames


def poses(name: str, clips: int = 300, frames: int = 40):
    return [MOTIONS[name](np.random.default_rng([7, i]), frames) for i in range(clips)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("drift_left", "drift_right"), ("rise_slow", "rise_fast"), ("beat_slow", "beat_fast"), ("swell", "shrink")],
)
def test_single_frames_of_a_pair_are_alike(one, other):
    marginals = []
    for name in (one, other):
        values = [(p.x[17] % 1, p.y[17] % 1, p.turn[17], p.size[17]) for p in poses(name)]
        marginals.append(np.sort(np.array(values), axis=0))
    largest_gap = np.abs(marginals[0] - marginals[1]).max(axis=0) / (1, 1, 2 * np.pi, 0.8)
    assert (largest_gap < 0.15).all()  # quantiles of 300 draws of the same distribution


def test_motions_are_what_their_names_say():
    assert all((np.diff(p.x) < 0).all() for p in poses("drift_left", 20))
    assert all((np.diff(p.y) < 0).all() for p in poses("rise_slow", 20))
    assert max(-np.diff(p.y).min() for p in poses("rise_slow", 20)) < min(
        -np.diff(p.y).max() for p in poses("rise_fast", 20)
    )
    for p in poses("swell", 20):
        steps = np.diff(p.size)
        assert (steps > 0).mean() > 0.8  # grows slowly
        assert steps.min() < -0.5  # and drops at once

    def turns(p):
        return (np.diff(np.sign(np.diff(p.size))) != 0).sum()

    assert max(turns(p) for p in poses("beat_slow", 20)) < min(turns(p) for p in poses("beat_fast", 20))


def test_pixels_follow_the_pose(monkeypatch):
    def pose(rng, frames):
        return Pose(0.25 + np.arange(frames) / 8, np.full(frames, 0.5), np.zeros(frames), np.ones(frames))

    monkeypatch.setitem(MOTIONS, "drift_right", pose)
    clip = motion_clip(np.random.default_rng(1), "drift_right", frames=5, side=32).astype(int)
    assert clip.shape == (5, 32, 32, 3)
    for t in range(3):  # an eighth of the image to the right in each frame
        np.testing.assert_array_equal(clip[t + 1, :, 4:], clip[t, :, :-4])


def test_clips_repeat_with_their_seed_and_unknown_classes_are_refused():
    clip = motion_clip(np.random.default_rng(1), "swell")
    assert np.array_equal(motion_clip(np.random.default_rng(1), "swell"), clip)
    assert not np.array_equal(motion_clip(np.random.default_rng(2), "swell"), clip)
    assert (np.abs(np.diff(clip.astype(int), axis=0)).sum((1, 2, 3)) > 0).all()
    with pytest.raises(InputError, match="no motion class 'jump'"):
        motion_clip(np.random.default_rng(1), "jump")


def test_the_written_set_is_read_back_without_loss(tmp_path):
    assert write_motion_set(tmp_path, clips=2, val_clips=1, seed=5, frames=12, side=32) == list(CLASSES)
    videos, classes = read_class_folders(tmp_path / "train")
    assert classes == list(CLASSES)
    assert len(videos) == 2 * len(CLASSES)
    assert json.loads((tmp_path / "set.json").read_text())["seed"] == 5
    first = motion_clip(np.random.default_rng([5, 0, 0, 0]), CLASSES[0], frames=12, side=32)
    read = read_frames(videos[0].path, range(12))
    np.testing.assert_array_equal(read, first)
    with pytest.raises(InputError, match="even side"):
        write_motion_set(tmp_path, side=33)
