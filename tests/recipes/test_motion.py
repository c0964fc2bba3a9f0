"""Generated motion and the training on it: what moves is what the name says, and a resumed run is the same run."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recipes.runs import check_resumed_equals_whole
from twospeed.data.clips.motion import CLASSES, MOTIONS, Pose, draw_surface, motion_clip
from twospeed.errors import InputError
from twospeed.recipes import motion as recipe
from twospeed.recipes.motion import MotionConfig, train
from twospeed.weights.load import create_model


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> MotionConfig:
    # The ImageNet package is for trainings alone: random weights serve here
    monkeypatch.setattr(recipe, "imagenet_weights", lambda encoder: encoder.state_dict())
    return MotionConfig(
        out=tmp_path / "run", minutes=None, iterations=4, batch=2, crop=64, textures=4, log_every=1, warm_up=0.0
    )


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path):
    check_resumed_equals_whole(train, tiny, tmp_path / "halves")
    network = create_model("slowfast_lite0", tiny.out / "weights.safetensors")
    assert network.class_names == CLASSES
    assert not network.head.projection.weight[:, :320].any()  # nothing of single frames decides


def test_poses_are_what_their_names_say():
    time = np.arange(16) - 7.5
    for seed in range(10):
        rng = np.random.default_rng(seed)
        right, up = MOTIONS["drift right slowly"](rng, time), MOTIONS["drift up quickly"](rng, time)
        assert (np.diff(right.x) > 3 * np.abs(np.diff(right.y)).max() / 2).all()
        assert (np.diff(up.y) < 0).all()
        assert (np.diff(MOTIONS["grow"](rng, time).size) > 0).all()
        assert (np.diff(MOTIONS["turn anticlockwise"](rng, time).turn) < 0).all()
        begins, ends = MOTIONS["start"](rng, time), MOTIONS["stop"](rng, time)
        assert not begins.x[:8].any()
        assert not ends.x[8:].any()
        assert np.abs(begins.x[-1]) + np.abs(begins.y[-1]) > 0.2


def test_pixels_follow_the_pose():
    canvas = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pose = Pose(np.arange(3) / 8, np.zeros(3), np.zeros(3), np.ones(3))
    video = draw_surface(canvas, pose, 32, at=np.array([0.5, 0.5])).astype(int)
    for t in range(2):  # an eighth of the image to the right in each frame
        np.testing.assert_array_equal(video[t + 1, :, 4:], video[t, :, :-4])


def test_a_clip_is_a_function_of_its_seed():
    first, again = (motion_clip(np.random.default_rng(3), "swing sideways", frames=6, side=32) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (6, 32, 32, 3)
    still = motion_clip(np.random.default_rng(3), "still", frames=6, side=32).astype(int)
    assert np.abs(np.diff(first.astype(int), axis=0)).mean() > 2 * np.abs(np.diff(still, axis=0)).mean()


def test_settings_that_make_no_training_are_refused():
    with pytest.raises(InputError, match="give one and set the other to None"):
        MotionConfig(iterations=4)
    with pytest.raises(InputError, match="crop is 100 pixels"):
        MotionConfig(crop=100)
