"""Tracking from frames in the middle, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twospeed import InputError, Tracker, track
from twospeed.data.clips.synthetic import render_clip
from twospeed.models.stcn.builders import track_tiny
from twospeed.pipelines.finetune_tracker import TrackerFineTuning
from twospeed.pipelines.propagate import absent_at, frames_of, plan, propagate, track_segments
from twospeed.results import Frame
from twospeed.video.writer import VideoWriter

T = 17


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A file, its images as they are decoded, and their true masks."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = list(render_clip(5, frames=T, height=96, width=128, objects=2))
    with VideoWriter(path, 25) as writer:
        for image, _ in frames:
            writer.write(image)
    images = [frame.image for frame in frames_of(path)(range(T))]
    return path, images, [truth for _, truth in frames]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return track_tiny()


def covered(segments):
    return [i for indices, _ in segments for i in sorted(indices)]


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("points", [[3], [10], [19], [3, 19], [5, 6], [4, 9, 17], []])
def test_every_frame_lies_in_one_segment_in_order(direction, points):
    segments = plan(points, range(3, 20), direction)
    assert covered(segments) == list(range(3, 20))
    for indices, known in segments:
        begins = indices[0]
        near = [begins] if direction != "both" else [begins, begins + 1]
        assert known == any(at in points for at in near)


@pytest.mark.parametrize(("direction", "expected"), [
    ("forward", [(range(4), False), (range(4, 9), True), (range(9, 12), True)]),
    ("backward", [(range(4, -1, -1), True), (range(9, 4, -1), True), (range(10, 12), False)]),
    ("both", [(range(3, -1, -1), True), (range(4, 7), True), (range(8, 6, -1), True), (range(9, 12), True)]),
])  # fmt: skip
def test_what_is_tracked_from_where(direction, expected):
    assert plan([4, 9], range(12), direction) == expected


@pytest.mark.parametrize("masks_at", [[0], [8], [16], [4, 12]])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_results_come_in_order_of_frames(clip, model, direction, masks_at):
    path, _, truth = clip
    given = {at: truth[at] for at in masks_at}
    results = list(track(path, given, model, direction=direction, size=64))
    assert [result.frame_index for result in results] == list(range(T))
    for at in masks_at:
        assert (results[at].labels == truth[at]).mean() > 0.97  # resized to the network's size and back
    for t, result in enumerate(results):
        silent = (direction == "forward" and t < masks_at[0]) or (direction == "backward" and t > masks_at[-1])
        assert (result.object_ids == ()) == silent
        assert result.probabilities.shape == (1 + len(result.object_ids), 96, 128)
        assert len(result.confidence) == len(result.object_ids)


def test_backward_is_forward_in_reverse(clip, model):
    path, images, truth = clip
    results = list(track(path, truth[12], model, direction="backward", end=13, size=64))
    order = range(12, -1, -1)
    tracked = Tracker(model, size=64).run([Frame(t, t / 25, images[t]) for t in order], {12: truth[12]})
    for t, (_, expected) in zip(order, tracked, strict=True):
        assert (results[t].labels == expected.labels).all()
        np.testing.assert_allclose(results[t].confidence, expected.confidence)


def test_a_correction_changes_nothing_beyond_the_masks_beside_it(clip, model):
    path, _, truth = clip
    options = {"direction": "both", "size": 64}
    before = list(track(path, {0: truth[0], 8: truth[8]}, model, **options))
    after = list(track(path, {0: truth[0], 8: truth[8], 14: np.roll(truth[14], 9, axis=1)}, model, **options))
    assert all((before[t].labels == after[t].labels).all() for t in range(5))
    assert (before[14].labels != after[14].labels).any()


def test_the_shipped_network_tracks_backward(clip):
    path, _, truth = clip
    results = list(track(path, {16: truth[16]}, direction="both", size=96))
    for t in (2, 8):
        found, wanted = results[t].labels == 1, truth[t] == 1
        assert (found & wanted).sum() / (found | wanted).sum() > 0.6


def test_a_part_keeps_its_numbers(clip, model):
    path, _, truth = clip
    for direction in ("forward", "backward", "both"):
        results = list(track(path, {8: truth[8]}, model, direction=direction, start=5, end="0.48s", size=64))
        assert [result.frame_index for result in results] == list(range(5, 12))


def test_it_continues_from_any_frame_exactly(clip, model):
    path, _, truth = clip
    masks, tracker = {3: truth[3], 12: np.where(truth[12] == 2, 2, 0)}, Tracker(model, size=64)
    for direction in ("forward", "backward", "both"):
        options = (frames_of(path), tracker, masks, range(T), direction)
        whole = [result for _, result in track_segments(*options)]
        for begin in (1, 7, 9, 16):
            rest = [result for _, result in track_segments(*options, begin=begin)]
            assert [result.frame_index for result in rest] == list(range(begin, T))
            for result, expected in zip(rest, whole[begin:], strict=True):
                assert (result.labels == expected.labels).all()


def test_fine_tuning_is_done_once_and_continues_exactly(clip, model):
    path, _, truth = clip
    calls = []
    tracker = Tracker(
        model, size=64, finetune=TrackerFineTuning(iterations=1, batch=1, crop=64), on_progress=calls.append
    )
    options = (frames_of(path), tracker, {3: truth[3], 12: truth[12]}, range(T), "both")
    whole = [result.labels for _, result in track_segments(*options)]
    done = len(calls)
    tracker.reset()
    rest = [result.labels for _, result in track_segments(*options, begin=10)]
    assert len(calls) == 2 * done
    assert all((a == b).all() for a, b in zip(rest, whole[10:], strict=True))


def test_who_is_gone_where():
    labels = {0: np.array([[1, 2]]), 20: np.array([[2, 2]])}
    gone = {5: [2], 30: [1]}
    assert [absent_at(t, labels, gone) for t in (4, 5, 19, 20, 29, 30)] == [
        frozenset(), {2}, {2}, frozenset(), frozenset(), {1},
    ]  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_an_object_that_is_gone_is_in_no_frame_from_there_on(clip, direction):
    path, _, truth = clip
    results = list(track(path, {0: truth[0], 16: truth[16]}, direction=direction, gone={6: [1]}, size=96))
    assert [bool((result.labels == 1).any()) for result in results[3:16]] == [True] * 3 + [False] * 10
    assert (results[16].labels == 1).any()


def test_the_nearest_mask_decides(clip):
    """A wrong mask far away does not spoil what begins at a right one."""
    path, _, truth = clip
    tracker, wrong = Tracker(size=96), np.roll(truth[0], 50, axis=1)
    read = frames_of(path)
    alone = [r.labels for _, r in propagate(read, tracker, {8: truth[8]}, range(8, T))]
    beside = [r.labels for _, r in propagate(read, tracker, {0: wrong, 8: truth[8]}, range(8, T))]
    assert all((a == b).mean() > 0.99 for a, b in zip(alone, beside, strict=True))


def test_it_goes_on_from_the_labels_of_an_interrupted_run(clip):
    path, _, truth = clip
    tracker, read, masks = Tracker(size=96), frames_of(path), {16: truth[16]}
    whole = [result.labels for _, result in propagate(read, tracker, masks, range(15, -1, -1))]
    earlier = {15 - place: labels for place, labels in enumerate(whole[:8])}
    rest = [result.labels for _, result in propagate(read, tracker, masks, range(7, -1, -1), earlier=earlier)]
    assert all((a == b).mean() > 0.98 for a, b in zip(rest, whole[8:], strict=True))


@pytest.mark.parametrize(("options", "message"), [
    ({"direction": "up"}, "direction is 'up'; choose"),
    ({"direction": "both", "masks": {40: np.ones((96, 128), np.uint8)}}, "frame 40, the video has 17 frames"),
    ({"direction": "both", "gone": {40: [1]}}, "frame 40, the video has 17 frames"),
])  # fmt: skip
def test_what_is_refused(clip, model, options, message):
    path, _, truth = clip
    with pytest.raises(InputError, match=message):
        track(path, options.pop("masks", truth[0]), model, **options)


def test_a_source_that_is_read_once_goes_forward_alone(clip, model):
    _, images, truth = clip
    with pytest.raises(InputError, match="reached by index in files and folders only"):
        track(iter(images), truth[0], model, direction="backward")
    assert len(list(track(iter(images), truth[0], model, size=64))) == T
