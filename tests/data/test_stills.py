"""Stills become triplets: images and masks found in every layout, and moved together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.vos_sets import write_still
from tests.transforms.test_warp import flat_around
from twospeed.data.benchmarks.stills import LAYOUTS, find_pairs, main, reduced, write_reduced
from twospeed.data.clips.stills import StillClips, StillMotion, clip_of_still
from twospeed.data.clips.training_clip import ClipKey, ClipMix, stack_clips
from twospeed.errors import DatasetError

STILL = np.full((20, 30, 3), 90, np.uint8), np.zeros((20, 30), np.uint8)
STILL[1][5:15, 10:20] = 255


def put(folder: Path, name: str, mask_folder: Path | None = None, mask_name: str | None = None) -> None:
    write_still(folder, name, *STILL)
    target = (mask_folder or folder) / f"{mask_name or name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").rename(target)


@pytest.fixture
def official(tmp_path) -> Path:
    """Every set as its own authors publish it."""
    root = tmp_path / "static"
    for kind in ("ab_wheel", "teapot"):
        for i in (1, 2, 10):
            put(root / "fewshot_data" / kind, str(i))
    for part in ("TR", "TE"):
        put(root / f"DUTS-{part}/DUTS-{part}-Image", "sun_a", root / f"DUTS-{part}/DUTS-{part}-Mask")
    put(root / "ECSSD/images", "0001", root / "ECSSD/ground_truth_mask")
    put(root / "BIG/val", "2007_im", None, "2007_gt")
    put(root / "BIG/test", "2008_im", None, "2008_gt")
    put(root / "HRSOD/HRSOD_train", "x", root / "HRSOD/HRSOD_train_mask")
    put(root / "HRSOD/HRSOD_test", "y", root / "HRSOD/HRSOD_test_mask")
    return root


def test_official_layouts_are_found_and_repeated(official):
    pairs = find_pairs(official)
    assert {name: len(some) for name, some in pairs.items()} == {
        "fss": 6, "duts-tr": 1, "duts-te": 1, "ecssd": 1, "big": 2, "hrsod": 2,
    }  # fmt: skip
    clips = {name: StillClips(some, repeats=LAYOUTS[name].repeats) for name, some in pairs.items()}
    assert {name: len(some) for name, some in clips.items() if len(some) == 10} == {"big": 10, "hrsod": 10}
    assert sum(map(len, clips.values())) == 9 + 5 * 4  # BIG and HRSOD five times as often
    assert sorted({pair.mask.name for pair in pairs["big"]}) == ["2007_gt.png", "2008_gt.png"]
    for pair in (pair for some in pairs.values() for pair in some):
        image, mask = pair.read()
        np.testing.assert_array_equal(mask, STILL[1])
        assert abs(int(image.mean()) - 90) < 4


def test_the_authors_layout_is_found_and_preferred(tmp_path):
    for folder in ("fss/teapot", "DUTS-TR", "ecssd", "BIG_small", "BIG/val"):
        put(tmp_path / folder, "1")
    pairs = find_pairs(tmp_path)
    assert set(pairs) == {"fss", "duts-tr", "ecssd", "big"}
    assert pairs["big"][0].image.parent.name == "BIG_small"


def test_davis_serves_as_stills(davis16):
    pairs = find_pairs(davis16, sequences=("dog", "libby"))
    assert list(pairs) == ["davis"]
    assert len(pairs["davis"]) == 60 + 49
    sample = StillClips(pairs["davis"]).draw(np.random.default_rng(0), index=3, size=64)
    assert sample.frames.shape == (3, 64, 64, 3)
    assert sample.labels.max() == 1


def test_what_is_missing_is_said(official):
    with pytest.raises(DatasetError, match="no static set coco; there are fss"):
        find_pairs(official, ["coco"])
    with pytest.raises(DatasetError, match="no such folder"):
        find_pairs(official / "nowhere")
    with pytest.raises(DatasetError, match="has no folder davis or DAVIS"):
        find_pairs(official, ["davis"])
    (official / "fewshot_data/teapot/2.png").unlink()
    with pytest.raises(DatasetError, match=r"teapot: no mask \.png in .* for 2\.jpg"):
        find_pairs(official)
    (official.parent / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds none of the sets"):
        find_pairs(official.parent / "empty")
    (official.parent / "empty/ecssd").mkdir()
    with pytest.raises(DatasetError, match=r"holds no pair of image \(\.jpg\) and mask"):
        find_pairs(official.parent / "empty")


def test_a_mask_of_another_size_is_refused(tmp_path):
    write_still(tmp_path / "ecssd", "1", *STILL)
    Image.fromarray(STILL[1][:, 1:]).save(tmp_path / "ecssd/1.png")
    with pytest.raises(DatasetError, match="29x20 pixels, its image is 30x20"):
        find_pairs(tmp_path)["ecssd"][0].read()


def test_large_images_are_reduced_once_or_when_read(tmp_path, monkeypatch, capsys):
    big = np.full((600, 1100, 3), 90, np.uint8), np.zeros((600, 1100), np.uint8)
    big[1][100:300, 200:900] = 255
    write_still(tmp_path / "BIG/val", "a", *big)
    image, mask = find_pairs(tmp_path)["big"][0].read()
    assert image.shape == (279, 512, 3)
    assert mask.mean() == pytest.approx(big[1].mean(), rel=0.02)
    monkeypatch.setattr("sys.argv", ["static_pairs", str(tmp_path / "BIG"), str(tmp_path / "BIG_small")])
    main()
    assert "2 files" in capsys.readouterr().out
    with Image.open(tmp_path / "BIG_small/val/a.png") as decoded:
        assert decoded.size == (512, 279)
    assert write_reduced(tmp_path / "BIG", tmp_path / "BIG_small") == 0  # all there
    assert reduced(STILL[0]) is STILL[0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=25)
def test_masks_stay_on_their_objects(seed, spline):
    rng = np.random.default_rng(seed)
    mask = np.zeros((50, 70), np.uint8)
    top, left = int(rng.integers(30)), int(rng.integers(40))
    mask[top : top + 18, left : left + 22] = 255
    image = np.where(mask[..., None] > 0, np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    calm = StillMotion(shared_jitter=(0, 0, 0, 0), jitter=(0, 0, 0), grey=0, spline=spline)
    sample = clip_of_still(rng, image, mask, size=48, motion=calm)
    assert sample.objects == 1
    assert sample.masks.shape == (1, 48, 48)
    for frame, labels in zip(sample.frames, sample.labels, strict=True):
        red = frame[..., 0]
        sure = flat_around(red) & ((red < 8) | (red > 248))  # neither the fill nor an edge
        np.testing.assert_array_equal(labels[sure] == 1, red[sure] > 127)
    np.testing.assert_array_equal(sample.labels[0] == 1, sample.masks[0] > 127)


def test_draws_stay_within_the_supplements_numbers():
    """A cross of known arms: its size and turn tell scale and angle of every frame."""
    motion = StillMotion(shared_jitter=(0, 0, 0, 0), jitter=(0, 0, 0), grey=0, spline=0, shear=0)
    mask = np.zeros((101, 101), np.uint8)
    mask[40:61, 40:61] = 255
    areas, shared = [], []
    for seed in range(60):
        sample = clip_of_still(np.random.default_rng(seed), np.dstack([mask] * 3), mask, size=101, motion=motion)
        sides = np.sqrt([labels.sum() for labels in sample.labels]) / 21
        areas += list(sides)
        shared.append(sides.mean())
        assert sides.max() / sides.min() < 1.1 / 0.9 * 1.06  # frames differ by their own scale alone
    assert min(areas) > 0.8 * 0.9 * 0.95
    assert max(areas) < 1.5 * 1.1 * 1.05
    assert max(shared) > 1.3
    assert min(shared) < 0.95


def test_samples_depend_on_seed_epoch_and_index_alone(official):
    data, again, other = (ClipMix([StillClips(find_pairs(official)["fss"])], seed=seed) for seed in (0, 0, 1))
    key = ClipKey(3, 5, 32)
    first = data[key]
    data[ClipKey(0, 0, 32)]
    np.testing.assert_array_equal(first.frames, again[key].frames)
    np.testing.assert_array_equal(first.masks, again[key].masks)
    assert (first.labels != data[ClipKey(4, 5, 32)].labels).any()
    assert (first.labels != other[key].labels).any()


def test_triplets_are_stacked(official):
    source = StillClips(find_pairs(official)["fss"])
    clips = [source.draw(np.random.default_rng(seed), size=32) for seed in range(2)]
    batch = stack_clips(clips)
    assert len(batch) == 2
    assert batch.frames.shape == (2, 3, 3, 32, 32)
    assert batch.labels.shape == (2, 3, 32, 32)
    assert batch.masks.shape == (2, 1, 32, 32)
    np.testing.assert_array_equal(batch.frames[1, 2].permute(1, 2, 0).numpy(), clips[1].frames[2])


def test_every_layout_of_the_mix_is_known():
    assert set(LAYOUTS) - {"davis"} == {"fss", "duts-tr", "duts-te", "ecssd", "big", "hrsod"}
    assert {name for name, layout in LAYOUTS.items() if layout.repeats == 5} == {"big", "hrsod"}
