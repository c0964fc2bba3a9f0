"""Samples in which things look alike: what is followed is visible first, and copies are what they copy."""

from __future__ import annotations

import numpy as np
import pytest

from twospeed.data.clips.lookalikes import CrowdedObjects, TwinTriplets, instances, with_twin
from twospeed.data.clips.synthetic import Sample


def _sample() -> Sample:
    frames = np.full((3, 96, 96, 3), 120, np.uint8)
    labels = np.zeros((3, 96, 96), np.uint8)
    for t in range(3):
        frames[t, 40:60, 30 + 5 * t : 50 + 5 * t] = (250, 20, 20)
        labels[t, 40:60, 30 + 5 * t : 50 + 5 * t] = 1
    return Sample(frames, labels, 1)


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
    maker = CrowdedObjects()
    gone = 0
    for seed in range(60):
        sample = maker.draw(np.random.default_rng(seed), size=96, max_objects=most)
        assert 1 <= sample.objects <= most
        counts = [[int((frame == k).sum()) for k in range(1, sample.objects + 1)] for frame in sample.labels]
        assert min(counts[0]) > 0
        assert int(sample.labels.max()) <= sample.objects
        gone += any(second == 0 and third > 0 for second, third in zip(counts[1], counts[2], strict=True))
    assert gone > 0  # some are away in the middle frame and come back


def test_samples_are_a_function_of_the_generator():
    pictures = [
        (np.random.default_rng(1).integers(0, 255, (80, 100, 3), dtype=np.uint8), [np.eye(80, 100, dtype=np.uint8)])
    ]
    frames, masks = instances(pictures)
    labels = np.zeros((4, 120, 120), np.uint8)
    labels[:, 30:70, 30:70] = 1
    video = (np.random.default_rng(2).integers(0, 255, (4, 120, 120, 3), dtype=np.uint8), labels)
    triplets = TwinTriplets([video], objects=CrowdedObjects(frames, masks), scale=(0.8, 1.5))
    first, again = (triplets.draw(np.random.default_rng(5), max_gap=2, size=96) for _ in range(2))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.labels, again.labels)
