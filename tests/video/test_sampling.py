"""Sampled indices: sorted, inside the video, evenly spread, and where the authors' loaders put them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.video.sampling import (
    clip_span,
    keyframe_clip,
    random_clip,
    spread,
    thin,
    uniform_clip,
)

lengths = st.integers(1, 900)
frames = st.integers(1, 64)
strides = st.integers(1, 16)
rates = st.sampled_from([None, 15.0, 25.0, 29.97, 30.0, 60.0])


def assert_a_clip(indices: np.ndarray, count: int, video: int) -> None:
    assert indices.dtype == np.int64
    assert len(indices) == count
    assert (np.diff(indices) >= 0).all()
    assert indices[0] >= 0
    assert indices[-1] < video


@given(st.integers(0, 2**32 - 1), lengths, frames, strides, rates)
def test_random_clips_are_inside_and_evenly_spread(seed, video, count, stride, rate):
    indices = random_clip(np.random.default_rng(seed), video, count, stride, rate)
    assert_a_clip(indices, count, video)
    span = clip_span(count, stride, rate)
    if span <= video and count > 1:
        steps = np.diff(indices)
        assert steps.max() - steps.min() <= 1  # truncation of an even spacing
        assert abs(indices[-1] - indices[0] - (span - 1)) <= 1


def test_random_starts_reach_both_ends():
    rng = np.random.default_rng(0)
    starts = [int(random_clip(rng, 20, 4, 2)[0]) for _ in range(500)]
    assert set(starts) == set(range(12))  # a real start in [0, 12], truncated


@given(lengths, frames, strides, rates, st.integers(1, 12))
def test_uniform_clips_march_through_the_video(video, count, stride, rate, clips):
    all_clips = [uniform_clip(k, clips, video, count, stride, rate) for k in range(clips)]
    for indices in all_clips:
        assert_a_clip(indices, count, video)
    starts = [int(indices[0]) for indices in all_clips]
    assert starts == sorted(starts)


def test_uniform_clips_start_where_the_authors_start_them():
    starts = [int(uniform_clip(k, 10, 300, 32, 2)[0]) for k in range(10)]  # 236 * k / 10, truncated
    assert starts == [0, 23, 47, 70, 94, 118, 141, 165, 188, 212]
    last = uniform_clip(9, 10, 300, 32, 2)
    assert last[-1] == 275  # 212.4 + 63: the last clip does not touch the end
    assert uniform_clip(0, 10, 300, 8, 8)[:4].tolist() == [
        0,
        9,
        18,
        27,
    ]  # linspace(0, 63, 8): steps of exactly 9


def test_a_short_video_repeats_its_last_frame():
    assert uniform_clip(0, 10, 5, 8, 2).tolist() == [0, 2, 4, 4, 4, 4, 4, 4]
    assert spread(0.0, 1.0, 3, 1).tolist() == [0, 0, 0]


def test_a_slow_camera_gives_the_same_seconds():
    assert clip_span(32, 2, 15.0) == 32
    assert clip_span(1, 1, 1.0) == 1
    assert uniform_clip(0, 1, 300, 32, 2, 15.0)[-1] == 31


@given(st.integers(-50, 950), frames, strides, lengths)
def test_keyframe_clips_surround_their_frame(centre, count, stride, video):
    indices = keyframe_clip(centre, count, stride, video)
    assert_a_clip(indices, count, video)
    first = centre - count * stride // 2
    for i, index in enumerate(indices):
        assert index == min(max(first + i * stride, 0), video - 1)


def test_keyframe_clip_in_the_middle():
    assert keyframe_clip(100, 4, 8, 900).tolist() == [84, 92, 100, 108]
    assert keyframe_clip(0, 4, 8, 900).tolist() == [0, 0, 0, 8]


def test_thinning_is_the_linspace_of_the_released_weights():
    assert thin(32, 8).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert thin(32, 4).tolist() == [0, 10, 20, 31]
    assert thin(64, 16).tolist() == [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    assert thin(5, 1).tolist() == [0]


@given(st.integers(1, 128), st.data())
def test_thinning_keeps_the_ends_and_the_order(count, data):
    keep = data.draw(st.integers(1, count))
    indices = thin(count, keep)
    assert_a_clip(indices, keep, count)
    assert indices[0] == 0
    assert keep == 1 or indices[-1] == count - 1
    assert len(set(indices.tolist())) == keep


def test_nonsense_is_refused_with_its_value():
    with pytest.raises(InputError, match="frame rate must be a positive"):
        clip_span(8, 8, 0.0)
    with pytest.raises(InputError, match="frames=0"):
        clip_span(0, 8)
    with pytest.raises(InputError, match="test clip 10"):
        uniform_clip(10, 10, 300, 8, 8)
    with pytest.raises(InputError, match="0 frames has nothing"):
        spread(0.0, 4.0, 4, 0)
    with pytest.raises(InputError, match="cannot thin 4 frames to 8"):
        thin(4, 8)
