"""The mix of videos: which frames, which objects, how far apart, how often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.vos_sets import write_demo_sets
from tests.data.vos_trees import write_davis, write_mask
from tests.transforms.test_warp import flat_around
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.video_folders import VideoFolders, read_names, youtube_vos_training
from twospeed.data.benchmarks.youtube_vos import YouTubeVos
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.data.clips.training_clip import ClipKey, ClipMix
from twospeed.data.clips.videos import (
    AROUND_OBJECTS,
    DecodedVideo,
    FrameMotion,
    VideoClips,
    choose_frames,
    large_enough,
    max_gap,
    not_tiny,
)
from twospeed.errors import DatasetError, InputError

seeds = st.integers(0, 2**32 - 1)
CALM = FrameMotion(jitter=(0, 0, 0), own_jitter=(0, 0, 0), grey=0)
STILL = FrameMotion(area=(1, 1), aspect=(1.5, 1.5), degrees=0, shear=0)


# ---------------------------------------------------------------- gaps and frames


def test_the_curriculum_widens_then_narrows():
    gaps = [max_gap(percent / 100) for percent in range(100)]
    assert gaps == [5] * 10 + [10] * 10 + [15] * 10 + [20] * 10 + [25] * 50 + [5] * 10


def test_the_last_border_of_stage_1_comes_earlier():
    assert max_gap(0.85) == 25
    assert max_gap(0.85, (0.1, 0.2, 0.3, 0.4, 0.8)) == 5
    with pytest.raises(InputError, match="2 gaps for 2 borders"):
        max_gap(0.0, (0.1, 0.2), (5, 10))


@given(seeds, st.integers(3, 120), st.integers(1, 30))
@settings(max_examples=300)
def test_frames_are_in_the_video_and_within_the_gap(seed, frames, gap):
    indices = choose_frames(np.random.default_rng(seed), frames, gap)
    a, b, c = indices if indices[0] <= indices[2] else indices[::-1]
    assert 0 <= a <= b <= c < frames
    assert b - a <= gap + 1  # the authors add 1 to a draw of 0..gap
    assert c - b <= gap + 1


@given(seeds, st.integers(3, 120), st.integers(1, 30))
@settings(max_examples=200)
def test_the_papers_frames_all_differ(seed, frames, gap):
    indices = choose_frames(np.random.default_rng(seed), frames, gap, "paper")
    a, b, c = sorted(indices)
    assert indices in ((a, b, c), (c, b, a))
    assert 1 <= b - a <= gap
    assert 1 <= c - b <= gap


def test_frames_are_spread_and_reversed_half_of_the_time():
    rng = np.random.default_rng(0)
    drawn = [choose_frames(rng, 50, 5) for _ in range(2000)]
    forward = sum(a < c for a, _, c in drawn) / len(drawn)
    assert 0.45 < forward < 0.55
    starts = Counter(min(indices) for indices in drawn)
    assert set(starts) == set(range(46))  # 0 .. T - gap
    steps = Counter(abs(b - a) for a, b, _ in drawn if min(a, b) < 30)
    assert set(steps) == {1, 2, 3, 4, 5, 6}
    with pytest.raises(InputError, match="2 frames gives no three"):
        choose_frames(rng, 2, 5)


# ---------------------------------------------------------------- objects


def labels_of(counts: dict[int, tuple[int, int, int]], side: int = 100) -> np.ndarray:
    labels = np.zeros((3, side * side), np.uint8)
    for t in range(3):
        start = 0
        for k, areas in counts.items():
            labels[t, start : start + areas[t]] = k
            start += areas[t]
    return labels.reshape(3, side, side)


def test_small_objects_of_bl30k_are_chosen_as_the_code_says():
    labels = labels_of({
        1: (901, 0, 0), 2: (900, 400, 0), 3: (900, 399, 399), 4: (101, 0, 399), 5: (101, 0, 400), 6: (100, 0, 0),
        7: (99, 0, 0),
    })  # fmt: skip
    assert large_enough(labels) == [1, 3, 4]
    assert not_tiny(labels) == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo_sets(tmp_path_factory.mktemp("demo"), side=48, videos=3, frames=6, stills=1)


def test_sources_know_their_videos_and_how_often_they_count(demo):
    davis = VideoClips(Davis(demo / "DAVIS", 2017, "train"), repeats=5, name="davis17")
    youtube = VideoClips(youtube_vos_training(demo / "YouTube"), gap_divisor=5, name="youtube-vos")
    bl30k = VideoClips(VideoFolders(demo / "BL30K"))
    assert [len(one) for one in (davis, youtube, bl30k)] == [10, 3, 3]  # DAVIS: one video of three is val
    mix = ClipMix([davis, youtube])
    assert Counter(source.name for source, _ in mix.items) == {"davis17": 10, "youtube-vos": 3}
    with pytest.raises(InputError, match="no videos or images"):
        ClipMix([])


def test_the_generated_sets_are_read_by_the_evaluations_too(demo):
    (sample,) = Davis(demo / "DAVIS", 2017, "val")
    assert len(sample.frames) == 6
    assert len(YouTubeVos(demo / "YouTube", "train")) == 3
    assert (demo / "YouTube/train/JPEGImages/swim-00/00025.jpg").is_file()


def test_gaps_are_a_fifth_where_every_fifth_frame_is_annotated(tmp_path):
    videos = VideoFolders(paint(tmp_path, "long", 1, frames=12).root)
    seen = set()
    for divisor, seed in ((1, 0), (5, 0), (5, 1), (5, 2)):
        clip = VideoClips(videos, gap_divisor=divisor, choice="paper", motion=STILL).draw(
            np.random.default_rng(seed), size=64, gap=5
        )
        tops = [np.nonzero(labels)[0].min() for labels in clip.labels]  # the object falls by two pixels a frame
        seen.add((divisor, int(np.abs(np.diff(tops)).max() > 8)))
    assert (5, 1) not in seen


@given(seeds)
@settings(deadline=None, max_examples=15)
def test_samples_are_pure_and_follow_objects_of_the_first_frame(demo, epoch):
    mix = ClipMix(
        [VideoClips(Davis(demo / "DAVIS", 2017, "train")), VideoClips(VideoFolders(demo / "BL30K"), rule=not_tiny)]
    )
    key = ClipKey(epoch, epoch % len(mix), 48, 2, 3)
    sample, again = mix[key], mix[key]
    np.testing.assert_array_equal(sample.frames, again.frames)
    np.testing.assert_array_equal(sample.labels, again.labels)
    assert sample.frames.shape == (3, 48, 48, 3)
    assert 1 <= sample.objects <= 2
    assert set(np.unique(sample.labels)) <= set(range(sample.objects + 1))
    for k in range(sample.objects):
        np.testing.assert_array_equal(sample.masks[k] == 255, sample.labels[0] == k + 1)
        assert sample.masks[k].any()
    assert set(np.unique(sample.masks)) <= {0, 255}


def paint(root, name: str, objects: int, frames: int = 5):
    """A video whose images show its labels: object k is grey 60 k."""
    labels = np.zeros((frames, 60, 90), np.uint8)
    for k in range(1, objects + 1):
        for t in range(frames):
            labels[t, 5 + 2 * t : 25 + 2 * t, 25 * k - 20 : 25 * k - 2] = k
    for t, map_ in enumerate(labels):
        write_mask(root / "Annotations" / name / f"{t:05d}.png", map_)
        image = root / "JPEGImages" / name / f"{t:05d}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(60 * map_[..., None], 3, 2)).save(image)
    return VideoFolders(root, [name])


def test_labels_stay_on_their_pixels_and_two_objects_are_drawn_alike(tmp_path):
    source = VideoClips(paint(tmp_path, "three", 3), motion=CALM)
    pairs = Counter()
    for epoch in range(150):
        sample = source.draw(np.random.default_rng(epoch), size=64, gap=2)
        if sample.objects < 2:
            continue  # a crop that shows one alone
        shades = []
        for k in (1, 2):
            inside = (sample.labels == k) & np.stack([flat_around(frame[..., 0]) for frame in sample.frames])
            if inside.any():
                values = sample.frames[inside].astype(int)
                assert np.ptp(values) <= 4  # what bicubic resampling rounds
                shades.append(round(values.mean() / 60))
        if len(shades) == 2:
            pairs[tuple(shades)] += 1
            # What is not followed is background, whatever it shows
            other = sum({1, 2, 3} - set(shades))
            there = np.stack([flat_around(f[..., 0]) for f in sample.frames]) & (sample.frames[..., 0] == 60 * other)
            assert not sample.labels[there].any()
    assert set(pairs) == {(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)}


def test_an_empty_video_gives_a_sample_with_nothing_to_follow(tmp_path):
    sample = VideoClips(paint(tmp_path, "empty", 0)).draw(np.random.default_rng(0), size=32, gap=2)
    assert sample.objects == 1
    assert not sample.labels.any()
    assert not sample.masks.any()


def test_the_first_frame_is_drawn_again_until_it_shows_an_object(tmp_path):
    videos = paint(tmp_path, "late", 1, frames=12)
    for t in range(6):
        write_mask(tmp_path / "Annotations/late" / f"{t:05d}.png", np.zeros((60, 90), np.uint8))
    source = VideoClips(videos)
    empty = sum(not source.draw(np.random.default_rng(epoch), size=32, gap=2).masks.any() for epoch in range(60))
    assert empty < 20  # about half of the first draws are empty, some 1 in 20 after five


def test_davis_2016_is_taken_as_it_is(davis16):
    source = VideoClips(Davis(davis16, 2016, sequences=["dog", "libby"]))
    sample = source.draw(np.random.default_rng(0), size=64)
    assert sample.objects == 1
    assert sample.labels.max() == 1


def test_what_is_missing_is_said(tmp_path, demo):
    with pytest.raises(DatasetError, match="found neither train_480p nor train"):
        youtube_vos_training(tmp_path)
    with pytest.raises(DatasetError, match="JPEGImages: no such folder"):
        VideoFolders(tmp_path)
    with pytest.raises(DatasetError, match="has no folder for ghost"):
        VideoFolders(demo / "BL30K", ["swim-00", "ghost"])
    write_davis(tmp_path / "d", {"short": np.ones((2, 20, 20), np.uint8)}, lists={"2017/train.txt": ["short"]})
    with pytest.raises(DatasetError, match="none of the 1 videos has three masks"):
        VideoClips(Davis(tmp_path / "d", 2017, "train"))
    videos = paint(tmp_path, "sizes", 1)
    write_mask(tmp_path / "Annotations/sizes/00002.png", np.ones((50, 90), np.uint8))
    with pytest.raises(DatasetError, match="sizes: frame 00002 is 90x60 pixels, its mask 90x50"):
        [VideoClips(videos).draw(np.random.default_rng(seed), size=32) for seed in range(20)]


def test_a_subset_names_the_videos(demo, tmp_path):
    (tmp_path / "names.txt").write_text("swim-02\n\nswim-00\n")
    assert youtube_vos_training(demo / "YouTube", subset=tmp_path / "names.txt").names == ("swim-02", "swim-00")
    (tmp_path / "names.txt").write_bytes(b"swim-02\n\xff\n")
    with pytest.raises(DatasetError, match=r"names\.txt:2: not UTF-8"):
        read_names(tmp_path / "names.txt")


# ---------------------------------------------------------------- views around objects, as small networks learn


def test_views_around_objects_show_one_and_at_times_another_pasted_in(tmp_path):
    source = VideoClips(paint(tmp_path, "one", 1), motion=AROUND_OBJECTS, pasted=MovingObjects())
    counts = []
    for seed in range(16):
        clip = source.draw(np.random.default_rng(seed), size=96)
        assert clip.frames.shape == (3, 96, 96, 3)
        assert (clip.labels[0] == 1).any()
        assert clip.labels.max() <= clip.objects
        counts.append(clip.objects)
    assert set(counts) == {1, 2}
    assert {source.draw(np.random.default_rng(seed), size=96, objects=1).objects for seed in range(8)} == {1}


def test_decoded_videos_give_the_same_pixels(demo, tmp_path):
    sample = Davis(demo / "DAVIS", 2017, "train")[0]
    for video in (DecodedVideo(sample, tmp_path), DecodedVideo(sample, tmp_path)):
        assert list(video.annotations) == list(sample.annotations)
        for frame in sample.annotations:
            np.testing.assert_array_equal(video.image(frame), sample.image(frame))
            np.testing.assert_array_equal(video.labels(frame), sample.labels(frame))
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"
    np.save(tmp_path / f"{sample.name}.labels.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DatasetError, match="another number of frames"):
        DecodedVideo(sample, tmp_path)


def test_demo_sets_refuse_numbers_that_make_none(tmp_path):
    with pytest.raises(InputError, match="needs a side of 32"):
        write_demo_sets(tmp_path, side=8)
