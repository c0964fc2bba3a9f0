"""A correction wins over the memory that it contradicts, and a cut over the scene before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.stm.test_network import small_stm
from twospeed import MaskError, Tracker
from twospeed.data.clips.synthetic import render_clip
from twospeed.models.stcn.builders import track_tiny


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(render_clip(5, frames=16, height=160, width=208, objects=2))


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return Tracker("track_tiny", size=160)


def iou(result, truth, label) -> float:
    found, wanted = result.labels == label, truth == label
    return (found & wanted).sum() / max(1, (found | wanted).sum())


def run(tracker, clip, masks, begin=0, **options):
    tracker.reset()
    return {t: tracker.step(clip[t][0], masks.get(t), **options) for t in range(begin, len(clip))}


def test_a_correction_is_no_worse_than_a_fresh_start(tracker, clip):
    wrong = np.roll(clip[0][1], 40, axis=1)  # the first mask lies beside the objects
    corrected = run(tracker, clip, {0: wrong, 8: clip[8][1]})
    fresh = run(tracker, clip, {8: clip[8][1]}, begin=8)
    for label in (1, 2):
        assert iou(corrected[7], clip[7][1], label) < 0.5
        for t in range(9, len(clip)):
            assert iou(corrected[t], clip[t][1], label) >= iou(fresh[t], clip[t][1], label) - 0.01


def test_a_correction_that_agrees_keeps_the_memory(tracker, clip):
    straight = run(tracker, clip, {0: clip[0][1]})
    tracker.reset()
    for t in range(8):
        tracker.step(clip[t][0], clip[0][1] if t == 0 else None)
    before = tracker.memory_frames
    tracker.step(clip[8][0], straight[8].labels)
    assert tracker.memory_frames == before + 1


def test_only_the_object_that_was_wrong_is_forgotten(tracker, clip):
    """Object 2 is corrected at frame 8: object 1 is what it is where nothing was corrected, but for the new frame."""
    first = clip[0][1].copy()
    first[first == 2] = 0
    first[4:30, 4:30] = 2
    tracker.reset()
    for t in range(8):
        before = tracker.step(clip[t][0], first if t == 0 else None)
    remembered = tracker.memory_frames
    tracker.step(clip[8][0], np.where(clip[8][1] == 2, 2, 0))
    assert tracker.memory_frames == remembered + 1  # object 1 still needs the older frames
    after = tracker.step(clip[9][0])
    assert iou(after, clip[9][1], 2) > 0.8
    assert iou(after, clip[9][1], 1) > iou(before, clip[7][1], 1) - 0.1


@pytest.mark.parametrize("build", [track_tiny, small_stm])
@pytest.mark.parametrize("options", [{}, {"include_last": True}, {"max_memory_frames": 2}], ids=str)
def test_where_all_objects_were_wrong_it_is_a_fresh_start(build, clip, options):
    torch.manual_seed(0)
    tracker = Tracker(build(), size=64, memory_every=2, **options)
    corrected = run(tracker, clip[:9], {0: clip[0][1], 5: clip[5][1]})
    fresh = run(tracker, clip[:9], {5: clip[5][1]}, begin=5)
    for t in range(5, 9):
        np.testing.assert_allclose(corrected[t].probabilities, fresh[t].probabilities, atol=1e-6)


@pytest.mark.parametrize("build", [track_tiny, small_stm])
def test_a_saved_tracker_continues_exactly_after_a_correction(build, clip, tmp_path):
    torch.manual_seed(0)
    first, second = (Tracker(network, size=64, memory_every=2) for network in [build()] * 2)
    correction = np.where(clip[5][1] == 2, 2, 0)
    for t in range(7):
        first.step(clip[t][0], {0: clip[0][1], 5: correction}.get(t))
    first.save_state(tmp_path / "state.safetensors")
    second.load_state(tmp_path / "state.safetensors")
    for image, _ in clip[7:]:
        np.testing.assert_array_equal(second.step(image).probabilities, first.step(image).probabilities)


def test_a_cut_ends_the_memory_of_the_old_scene(clip):
    torch.manual_seed(0)
    network = track_tiny()
    other = list(render_clip(9, frames=3, height=160, width=208, objects=1))
    bright = [np.clip(255 - image.astype(int) // 3, 0, 255).astype(np.uint8) for image, _ in other]
    dark = [image // 4 for image, _ in clip[:6]]
    remembered = {}
    for cuts in (True, False):
        tracker = Tracker(network, size=64, memory_every=2, cuts=cuts)
        for t, image in enumerate(dark):
            tracker.step(image, clip[0][1] if t == 0 else None)
        assert tracker.memory_frames == 3
        tracker.step(bright[0])
        remembered[cuts] = tracker.memory_frames
    assert remembered == {True: 2, False: 4}  # the annotated frame and the first of the new scene


def test_sixty_clean_labels_are_tracked(clip):
    torch.manual_seed(0)
    labels = np.zeros((160, 208), np.uint8)
    for k in range(60):
        top, left = 16 * (k // 10), 20 * (k % 10)
        labels[top + 3 : top + 13, left + 3 : left + 15] = k + 1
    tracker = Tracker(track_tiny(), size=64)
    assert len(tracker.step(clip[0][0], labels).object_ids) == 60
    assert len(tracker.step(clip[1][0]).object_ids) == 60


def test_no_more_objects_than_allowed_at_once(clip):
    tracker = Tracker(track_tiny(), size=64, max_objects=2)
    labels = np.zeros((160, 208), np.uint8)
    labels[20:60, 20:60], labels[20:60, 100:140] = 1, 2
    assert tracker.step(clip[0][0], labels).object_ids == (1, 2)
    labels[100:140, 20:60] = 200
    with pytest.raises(MaskError, match="3 objects so far, and at most 2 are followed at once") as refused:
        tracker.step(clip[1][0], labels)
    assert refused.value.option == "max_objects"
    assert tracker.step(clip[1][0]).object_ids == (1, 2), "the tracker is as it was"


def test_more_objects_than_memory_holds_are_refused_with_the_number(clip, monkeypatch):
    monkeypatch.setattr("twospeed.pipelines.given_masks.physical_memory", lambda device: 10 << 20)
    with pytest.raises(MaskError, match="2 objects so far; 1 are the most for which memory is enough at 208x160"):
        Tracker(track_tiny(), size=160).step(*clip[0])
