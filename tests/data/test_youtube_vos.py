"""YouTube-VOS folders: objects that appear later, and what is said when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.vos_trees import moving_squares, write_youtube_vos
from twospeed.data.benchmarks.youtube_vos import TRAINING_CATEGORIES, YouTubeVos, first_masks, required_frames
from twospeed.errors import DatasetError

CATEGORIES = {"aa": {1: "dog", 2: "unicorn"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    videos = {"aa": moving_squares(21, 2, starts={2: 10})}
    return write_youtube_vos(tmp_path, videos, CATEGORIES, public=False)


def test_videos_have_every_frame_and_the_list_says_which_are_wanted(root: Path):
    data = YouTubeVos(root)
    assert data.names == ("aa",)
    assert data.every_frame
    sample = data[0]
    assert len(sample.frames) == 21
    assert sorted(required_frames(sample)) == ["00000", "00005", "00010", "00015", "00020"]
    assert sample.objects[2].category == "unicorn"
    assert sample.objects[2].frames == ("00010", "00015", "00020")


def test_each_object_is_given_where_it_first_appears_and_only_there(root: Path):
    given = first_masks(YouTubeVos(root)[0])
    assert list(given) == ["00000", "00010"]
    assert set(np.unique(given["00000"])) == {0, 1}
    assert set(np.unique(given["00010"])) == {0, 2}


def test_without_all_frames_every_fifth_is_used(tmp_path: Path):
    write_youtube_vos(tmp_path, {"aa": moving_squares(11, 2)}, CATEGORIES, all_frames=False)
    data = YouTubeVos(tmp_path / "valid")  # the split's own folder will do
    assert not data.every_frame
    assert data[0].frames == ("00000", "00005", "00010")


def test_seen_classes_are_those_of_the_training_set(root: Path):
    assert YouTubeVos(root).seen_categories == TRAINING_CATEGORIES
    assert len(TRAINING_CATEGORIES) == 65
    (root / "train").mkdir()
    entry = {"videos": {"x": {"objects": {"1": {"category": "unicorn", "frames": ["00000"]}}}}}
    (root / "train" / "meta.json").write_text(json.dumps(entry))
    assert YouTubeVos(root).seen_categories == {"unicorn"}


def test_missing_parts_are_named(root: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"no such folder; give the one that holds valid/meta\.json"):
        YouTubeVos(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"meta\.json: does not list bb; it lists aa"):
        YouTubeVos(root, sequences=["bb"])
    (root / "all_frames/valid_all_frames/JPEGImages/aa/00015.jpg").unlink()
    with pytest.raises(DatasetError, match="no image of 00015"):
        YouTubeVos(root)[0]
    (root / "valid/Annotations/aa/00010.png").unlink()
    with pytest.raises(DatasetError, match=r"aa: object 2 of meta\.json has no mask in the 1 files"):
        first_masks(YouTubeVos(root, images=False)[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"meta\.json:1: not JSON"),
        ('{"clips": {}}', r"meta\.json: not a YouTube-VOS list"),
        ('{"videos": {"aa": {"objects": {"x": {"frames": ["00000"]}}}}}', "object id 'x' is not a number"),
        ('{"videos": {"aa": {"objects": {"1": {"frames": []}}}}}', "object 1 has no list of frames"),
    ],
)
def test_a_broken_list_is_explained(root: Path, text: str, message: str):
    (root / "valid/meta.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        YouTubeVos(root)
