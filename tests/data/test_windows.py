"""Windows of annotated video: what is outside the video, and changes that move frames and labels alike."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.data.benchmarks.davis import Davis
from twospeed.data.clips.synthetic import render_clip
from twospeed.data.clips.training_clip import TrainingClip
from twospeed.data.clips.windows import Changes, cut_out, mirrored, pasted, read_window, turned


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    images, masks = root / "JPEGImages" / "480p" / "ant", root / "Annotations" / "480p" / "ant"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for t, (image, labels) in enumerate(render_clip(0, frames=4, height=48, width=64, objects=1)):
        cv2.imwrite(str(images / f"{t:05d}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(masks / f"{t:05d}.png"), labels * 255)
    return Davis(root, 2016)[0]


def marked(height: int = 40, width: int = 60) -> TrainingClip:
    """Three frames whose images are their labels: red where object 3 is."""
    labels = np.zeros((3, height, width), np.uint8)
    labels[:, 12:30, 20:44] = 3
    frames = np.zeros((3, height, width, 3), np.uint8)
    frames[labels == 3] = (255, 0, 0)
    return TrainingClip(frames, labels, inside=np.array([False, True, True]))


def test_frames_beyond_the_ends_are_black_and_unlabelled(sample):
    window = read_window(sample, 3, 1, around=2, short_side=24)
    assert window.inside.tolist() == [True, True, True, False, False]
    assert window.frames.shape == (5, 24, 32, 3)
    assert window.labels.shape == (5, 24, 32)
    assert not window.frames[3:].any()
    assert not window.labels[3:].any()
    assert all(window.labels[:3].any((1, 2)))
    whole = read_window(sample, 1, 2)
    assert (whole.frames[1] == sample.image("00002")).all()
    assert (whole.labels[0] == sample.labels("00001")).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_frames_and_labels_move_alike(seed):
    window = turned(mirrored(marked()), np.random.default_rng(seed), degrees=30, scale=(0.6, 1.4))
    inside = window.labels == 3
    assert inside.any()
    red = window.frames[..., 0] > 127
    assert (red != inside).mean() < 0.03  # only along the outline
    assert (window.labels[0] == window.labels[2]).all(), "one draw for all frames"


def test_a_pasted_object_is_one_more_and_stays_out_of_frames_that_are_outside():
    image = marked()
    rgba = cut_out(image.frames[1], image.labels[1], np.random.default_rng(0))
    assert rgba.shape == (18, 24, 4)
    seen = 0
    for seed in range(5):
        both = pasted(image, rgba, np.random.default_rng(seed))
        assert set(np.unique(both.labels)) <= {0, 1, 3}
        assert not both.frames[0].any() or (both.frames[0] == image.frames[0]).all()
        seen += bool((both.labels[1:] == 1).any())
        assert (image.labels == marked().labels).all(), "the original is left alone"
    assert seen
    assert cut_out(image.frames[1], np.zeros_like(image.labels[1]), np.random.default_rng(0)) is None


def test_changes_are_a_function_of_the_generator(sample):
    changes = Changes(flip=0.5, degrees=10, scale=(0.8, 1.2), colour=0.1, paste=1.0)
    window = read_window(sample, 0, 3)
    first, second = (changes.apply(window, np.random.default_rng(5), [sample]) for _ in range(2))
    assert (first.frames == second.frames).all()
    assert (first.labels == second.labels).all()
    assert Changes().apply(window, np.random.default_rng(5), [sample]) is window
