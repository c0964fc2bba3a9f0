"""What a detector is trained on: detected boxes beside annotated ones, and boxes that stay on their pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from twospeed.data.benchmarks.ava_frames import in_pixels
from twospeed.data.benchmarks.ava_keyframes import Keyframe, with_labelled, with_proposals
from twospeed.data.clips.keyframes import TrainKeyframes, jittered
from twospeed.data.samples import BrokenSample, KeyframeSample, collate_keyframes
from twospeed.errors import DatasetError, InputError, VideoError
from twospeed.ops.boxes import box_iou
from twospeed.video.sampling import ClipShape

SHAPE = ClipShape(frames=2, stride=1, mean=(0, 0, 0), std=(1, 1, 1))


def keyframe(boxes, actions, second=902.0, scores=None):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Keyframe("a", second, boxes, np.ones(len(boxes)) if scores is None else np.array(scores), tuple(actions))


class Images:
    """Stands for `AvaFrames`: the same image in every frame."""

    data = Path("ava")

    def __init__(self, image):
        self.image = image

    def clip(self, video, second, frames, stride):
        if self.image is None:
            raise VideoError(f"{video}: is damaged")
        return np.repeat(self.image[None], frames, axis=0)


@st.composite
def random_boxes(draw, most=5):
    corners = draw(
        arrays.arrays(np.float64, (draw(st.integers(1, most)), 2, 2), elements=st.floats(0, 1, width=32), unique=True)
    )
    low, high = corners.min(axis=1), corners.max(axis=1)
    return np.concatenate([low * 0.5, 0.5 + high * 0.5], axis=1)  # overlapping, with area


def actions_of(boxes, seed):
    rng = np.random.default_rng(seed)
    return tuple(tuple(sorted(rng.choice(np.arange(1, 9), rng.integers(0, 4), replace=False).tolist())) for _ in boxes)


@given(random_boxes(), random_boxes(8), st.sampled_from([0.5, 0.75, 0.9]), st.integers(0, 99))
def test_a_proposal_takes_the_actions_of_every_box_that_it_overlaps(annotated, detected, iou, seed):
    truth = keyframe(annotated, actions_of(annotated, seed))
    (merged,) = with_proposals([truth], [keyframe(detected, [(80,)] * len(detected))], iou=iou)
    assert merged.boxes_xyxy[: len(annotated)].tolist() == annotated.tolist()
    assert merged.actions[: len(annotated)] == truth.actions
    overlap = box_iou(detected, annotated)
    expected = {
        tuple(box): sorted({a for i in np.flatnonzero(overlap[row] > iou) for a in truth.actions[i]})
        for row, box in enumerate(detected.tolist())
        if (overlap[row] > iou).any() and box not in annotated.tolist()
    }
    added = list(zip(merged.boxes_xyxy[len(annotated) :].tolist(), merged.actions[len(annotated) :], strict=True))
    assert {tuple(box): list(actions) for box, actions in added} == expected
    assert len(merged.scores) == len(merged) == len(merged.actions)


def test_proposals_of_other_keyframes_and_equal_boxes_are_left_out():
    truth = keyframe([[0, 0, 0.5, 0.5]], [(3, 7)])
    elsewhere = keyframe([[0, 0, 0.5, 0.5]], [()], second=903.0)
    assert with_proposals([truth], [elsewhere]) == [truth]
    (same,) = with_proposals([truth], [keyframe([[0, 0, 0.5, 0.5]], [(9,)])])
    assert (len(same), same.actions) == (1, ((3, 7),))


def test_labelled_boxes_bring_their_own_actions_and_negatives():
    truth = keyframe([[0, 0, 0.5, 0.5]], [(3,)])
    labelled = keyframe([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], [(9, 11), ()], scores=[0.9, 0.8])
    later = keyframe([[0, 0, 1, 1]], [(5,)], second=903.0)
    both, alone = with_labelled([truth], [labelled, later])
    assert both.actions == ((3, 9, 11), ())
    assert both.scores.tolist() == [1, 0.8]
    assert alone is later


@settings(max_examples=60, deadline=None)
@given(
    random_boxes(1),
    st.tuples(st.integers(40, 90), st.integers(40, 90)),
    st.integers(0, 2**20),
    st.booleans(),
)
def test_boxes_stay_on_their_pixels(boxes, size, seed, inverse):
    height, width = size
    x1, y1, x2, y2 = np.rint(in_pixels(boxes, height, width)[0]).astype(int)
    image = np.zeros((height, width, 3), np.uint8)
    image[y1 : y2 + 1, x1 : x2 + 1] = 255
    exact = np.array([[x1, y1, x2, y2]]) / [width, height, width, height]
    clips = TrainKeyframes(
        [keyframe(exact, [(1, 4)])],
        Images(image),
        SHAPE,
        num_classes=5,
        short_side=(40, 64),
        crop=32,
        inverse_uniform=inverse,
        seed=seed,
    )
    for epoch in range(3):
        sample = clips[epoch, 0]
        shown = sample.clip[0, 0] > 0.5
        assert sample.clip.shape == (3, 2, 32, 32)
        if not len(sample.boxes_xyxy):  # at most a sliver of it is in the crop
            assert shown.sum() <= 2 * 32
            continue
        assert sample.targets.tolist() == [[1, 0, 0, 1, 0]]
        rows, columns = shown.any(dim=1).nonzero()[:, 0], shown.any(dim=0).nonzero()[:, 0]
        if len(rows) and len(columns):
            found = torch.stack([columns[0], rows[0], columns[-1], rows[-1]])
            assert (found - sample.boxes_xyxy[0]).abs().max() <= 2  # the resize is at most 1.6-fold


@settings(max_examples=40, deadline=None)
@given(random_boxes(), st.integers(0, 2**20))
def test_boxes_lie_inside_of_the_crop_and_keep_their_targets(boxes, seed):
    actions = actions_of(boxes, seed)
    clips = TrainKeyframes(
        [keyframe(boxes, actions)],
        Images(np.zeros((50, 70, 3), np.uint8)),
        SHAPE,
        num_classes=8,
        short_side=(40, 50),
        crop=32,
        box_jitter=0.2,
        seed=seed,
    )
    sample, again = clips[4, 0], clips[4, 0]
    assert torch.equal(sample.boxes_xyxy, again.boxes_xyxy)
    assert torch.equal(sample.clip, again.clip)
    x1, y1, x2, y2 = sample.boxes_xyxy.T
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= 31) & (y1 >= 0) & (y1 < y2) & (y2 <= 31)).all()
    wanted = [[float(action in found) for action in range(1, 9)] for found in actions]
    assert all(row in wanted for row in sample.targets.tolist())


@given(random_boxes(), st.floats(0, 0.49), st.integers(0, 99))
def test_jittered_boxes_keep_area_and_stay_near(boxes, amount, seed):
    moved = jittered(np.random.default_rng(seed), boxes, amount)
    assert (moved[:, :2] < moved[:, 2:]).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    assert (np.abs(moved - boxes) <= amount * size + 1e-9).all()


def test_a_batch_leaves_out_clips_without_people_and_counts_broken_ones():
    person = KeyframeSample(torch.zeros(3, 2, 8, 8), torch.ones(2, 4), torch.ones(2, 5))
    nobody = KeyframeSample(torch.zeros(3, 2, 8, 8), torch.ones(0, 4), torch.ones(0, 5))
    broken = TrainKeyframes([keyframe([[0, 0, 1, 1]], [()])], Images(None), SHAPE, short_side=(8, 8), crop=8)[0]
    assert isinstance(broken, BrokenSample)
    assert broken.reason == "a: is damaged"
    batch = collate_keyframes([person, nobody, broken, person])
    assert (len(batch), batch.empty, len(batch.broken)) == (2, 1, 1)
    assert batch.clips.shape == (2, 3, 2, 8, 8)
    assert batch.targets.shape == (4, 5)
    nothing = collate_keyframes([nobody])
    assert (len(nothing), nothing.clips, nothing.targets) == (0, None, None)


def test_what_cannot_be_trained_on_is_refused():
    truth = [keyframe([[0, 0, 1, 1]], [(12,)])]
    with pytest.raises(DatasetError, match="a at second 902 has action 12, num_classes is 7"):
        TrainKeyframes(truth, Images(None), SHAPE, num_classes=7)
    with pytest.raises(InputError, match=r"box_jitter=0\.5"):
        TrainKeyframes(truth, Images(None), SHAPE, box_jitter=0.5)
