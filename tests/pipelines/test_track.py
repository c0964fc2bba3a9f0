"""The Tracker as its users hold it: results, objects that come and are corrected, bounds, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twospeed import InputError, MaskError, Tracker, track
from twospeed.data.clips.synthetic import render_clip
from twospeed.models.stcn.builders import track_nano
from twospeed.results import Frame


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return track_nano()


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(render_clip(1, frames=8, height=96, width=130, objects=2))


def test_results_have_the_promised_shapes(model, clip):
    tracker = Tracker(model, size=64)
    for index, (image, truth) in enumerate(clip):
        masks = tracker.step(image, truth if index == 0 else None)
        assert masks.labels.dtype == np.uint8
        assert masks.labels.shape == image.shape[:2]
        assert masks.probabilities.dtype == np.float32
        assert masks.probabilities.shape == (3, *image.shape[:2])
        assert masks.object_ids == (1, 2)
        assert masks.frame_index == index
        np.testing.assert_allclose(masks.probabilities.sum(0), 1, atol=1e-5)
        assert (masks.labels == np.array([0, 1, 2])[masks.probabilities.argmax(0)]).all()


def test_the_given_mask_comes_back(model, clip):
    image, truth = clip[0]
    assert (Tracker(model, size=None).step(image, truth).labels == truth).all()


def test_the_shipped_network_follows_moving_objects():
    tracker = Tracker("track_nano")
    frames = list(render_clip(5, frames=12, height=240, width=320, objects=2))
    for index, (image, truth) in enumerate(frames):
        masks = tracker.step(image, truth if index == 0 else None)
    _, truth = frames[-1]
    for i in (1, 2):
        found, wanted = masks.labels == i, truth == i
        assert (found & wanted).sum() / (found | wanted).sum() > 0.5
    first = frames[0][1]
    assert all((first == i)[truth == i].mean() < 0.8 for i in (1, 2))  # they did move


def test_numpy_and_tensors_give_the_same(model, clip):
    image, truth = clip[0]
    results = []
    for decoded, mask in (
        (image, truth),
        (torch.from_numpy(image), torch.from_numpy(truth)),
        (torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(truth).long()),
    ):
        tracker = Tracker(model, size=None)
        tracker.step(decoded, mask)
        results.append(tracker.step(decoded).probabilities)
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"include_last": True}, {"max_memory_frames": 2}], ids=str)
def test_replayed_frames_leave_the_memory_as_if_they_had_been_tracked(model, clip, options):
    tracker = Tracker(model, memory_every=2, size=64, **options)
    tracker.step(*clip[0])
    for image, truth in clip[1:6]:
        assert (tracker.replay(image, truth).labels == truth).all()
    remembered = tracker.memory_frames
    again = Tracker(model, memory_every=2, size=64, **options)
    again.replay(clip[0][0], clip[0][1], clip[0][1])
    for image, _ in clip[1:6]:
        again.step(image)
    assert again.memory_frames == remembered
    assert again._state.since_memory == tracker._state.since_memory
    assert tracker.step(clip[6][0]).frame_index == again.step(clip[6][0]).frame_index == 6


def test_frames_before_any_mask_are_background(model, clip):
    tracker = Tracker(model, size=None)
    masks = tracker.step(clip[0][0])
    assert not masks.labels.any()
    assert masks.object_ids == ()
    assert masks.probabilities.shape == (1, 96, 130)
    assert tracker.memory_frames == 0
    assert tracker.step(clip[1][0], clip[1][1]).object_ids == (1, 2)


def test_objects_may_appear_later_with_any_label(model, clip):
    tracker = Tracker(model, size=None)
    tracker.step(clip[0][0], np.where(clip[0][1] == 1, 200, 0).astype(np.uint8))
    late = tracker.step(clip[1][0], np.where(clip[1][1] == 2, 5, 0).astype(np.uint8))
    assert late.object_ids == (200, 5)
    assert (late.labels[clip[1][1] == 2] == 5).all()
    assert set(np.unique(tracker.step(clip[2][0]).labels)) <= {0, 5, 200}


def test_a_known_label_is_corrected(model, clip):
    tracker = Tracker(model, size=None)
    tracker.step(clip[0][0], clip[0][1])
    tracker.step(clip[1][0])
    correction = np.zeros_like(clip[2][1])
    correction[10:30, 10:40] = 2
    masks = tracker.step(clip[2][0], correction)
    assert masks.object_ids == (1, 2)
    assert ((masks.labels == 2) == (correction == 2)).all()


def test_an_empty_mask_later_changes_nothing(model, clip):
    outcomes = []
    for given in (None, np.zeros_like(clip[1][1])):
        tracker = Tracker(model, size=None)
        tracker.step(clip[0][0], clip[0][1])
        outcomes.append(tracker.step(clip[1][0], given).labels)
    assert (outcomes[0] == outcomes[1]).all()


@pytest.mark.parametrize(("options", "expected"), [
    ({"memory_every": 3}, [1, 1, 1, 2, 2, 2, 3, 3]),
    ({"memory_every": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
    ({"memory_every": 3, "include_last": True}, [1, 2, 2, 2, 3, 3, 3, 4]),
    ({"memory_every": 1, "max_memory_frames": 3}, [1, 2, 3, 3, 3, 3, 3, 3]),
])  # fmt: skip
def test_memory_schedule(model, clip, options, expected):
    tracker = Tracker(model, size=None, **options)
    frames = []
    for index, (image, truth) in enumerate(clip):
        tracker.step(image, truth if index == 0 else None)
        frames.append(tracker.memory_frames)
    assert frames == expected


def test_reset_forgets(model, clip):
    tracker = Tracker(model, size=None)
    first = [tracker.step(clip[0][0], clip[0][1]), tracker.step(clip[1][0])]
    tracker.reset()
    assert tracker.memory_frames == 0
    again = [tracker.step(clip[0][0], clip[0][1]), tracker.step(clip[1][0])]
    np.testing.assert_array_equal(first[1].probabilities, again[1].probabilities)


def test_many_objects_are_decoded_like_few(model, clip):
    """Objects are decoded in chunks; each one's own logits do not depend on the chunk it falls into."""
    image = clip[0][0]
    labels = np.zeros(image.shape[:2], np.uint8)
    for i in range(11):
        labels[8 * i : 8 * i + 8, :] = i + 1
    tracker = Tracker(model, size=None)
    tracker.step(image, labels)
    masks = tracker.step(image)
    assert masks.probabilities.shape[0] == 12
    assert np.isfinite(masks.probabilities).all()


def test_track_takes_frames_and_masks_by_index(model, clip):
    frames = (Frame(index, index / 10, image) for index, (image, _) in enumerate(clip))
    results = list(track(frames, {0: clip[0][1], 3: clip[3][1]}, model, size=None))
    assert [r.frame_index for r in results] == list(range(8))
    assert results[7].time_s == pytest.approx(0.7)
    assert (results[3].labels == clip[3][1]).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((96, 130), np.uint8), "the first mask holds no object"),
        (np.ones((10, 130), np.uint8), "mask is 130x10, its frame 130x96"),
        (np.ones((96, 130), np.float32), "masks are torch.float32 .* give integer labels"),
        (np.arange(96 * 130).reshape(96, 130) % 200, "199 different labels, more than 50 objects"),
        (np.full((96, 130), 300), "mask labels run from 300 to 300; labels are 0..255"),
    ],
)
def test_masks_that_are_refused(model, clip, mask, message):
    with pytest.raises(MaskError, match=message):
        Tracker(model, size=None).step(clip[0][0], mask)


def test_images_that_are_refused(model, clip):
    tracker = Tracker(model, size=None)
    with pytest.raises(InputError, match=r"image is torch.uint8 of shape \(96, 130\); give uint8 \(H, W, 3\)"):
        tracker.step(clip[0][1])
    tracker.step(clip[0][0], clip[0][1])
    with pytest.raises(InputError, match="frame 1 is 100x96, the frames before it 130x96"):
        tracker.step(clip[1][0][:, :100])


@pytest.mark.parametrize("options", [{"memory_every": 0}, {"top_k": 0}, {"max_memory_frames": 0}, {"size": 4}])
def test_options_that_make_no_sense(model, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is"):
        Tracker(model, **options)


def test_no_masks_need_another_model(clip):
    with pytest.raises(InputError, match="no masks were given"):
        track([], None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu(model, clip):
    outcomes = []
    for device in ("cpu", "cuda"):
        tracker = Tracker(model, size=None, device=device)
        tracker.step(clip[0][0], clip[0][1])
        outcomes.append(tracker.step(clip[1][0]).probabilities)
    np.testing.assert_allclose(outcomes[1], outcomes[0], atol=1e-3)
