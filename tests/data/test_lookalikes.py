"""Samples in which things look alike: what is followed is visible first, and copies are what they copy."""

from __future__ import annotations

import numpy as np
import pytest

from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import TrainingClip
from twospeed.data.clips.videos import with_twin


def _sample() -> TrainingClip:
    frames = np.full((3, 96, 96, 3), 120, np.uint8)
    labels = np.zeros((3, 96, 96), np.uint8)
    for t in range(3):
        frames[t, 40:60, 30 + 5 * t : 50 + 5 * t] = (250, 20, 20)
        labels[t, 40:60, 30 + 5 * t : 50 + 5 * t] = 1
    return TrainingClip(frames, labels, 1)


def test_a_twin_looks_like_the_object_and_is_labelled_or_not():
    kinds = set()
    for seed in range(40):
        sample = _sample()
        twin = with_twin(np.random.default_rng(seed), sample, 2)
        kinds.add(twin.objects)
        assert (twin.labels[0] == 1).sum() >= 0.002 * 96 * 96
        if twin.objects == 2:
            covered = twin.frames[0][twin.labels[0] == 2]
            assert np.median(covered[:, 0]) > 180  # red, as the object is
            assert np.median(covered[:, 1]) < 90
    assert kinds == {1, 2}
    assert np.array_equal(sample.labels, _sample().labels)  # the given sample stays as it is


def test_no_more_objects_than_asked_for():
    assert {with_twin(np.random.default_rng(seed), _sample(), 1).objects for seed in range(20)} == {1}


@pytest.mark.parametrize("most", [1, 3])
def test_crowded_samples_show_each_object_first_and_lose_some_later(most):
    maker = MovingObjects(copies=(0.55, 0.3, 0.15), followed_copies=0.6, away=0.1)
    gone = 0
    for seed in range(60):
        sample = maker.draw(np.random.default_rng(seed), size=96, objects=most)
        assert 1 <= sample.objects <= most
        counts = [[int((frame == k).sum()) for k in range(1, sample.objects + 1)] for frame in sample.labels]
        assert min(counts[0]) > 0
        assert int(sample.labels.max()) <= sample.objects
        gone += any(second == 0 and third > 0 for second, third in zip(counts[1], counts[2], strict=True))
    assert gone > 0  # some are away in the middle frame and come back
