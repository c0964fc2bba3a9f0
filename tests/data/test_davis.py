"""DAVIS folders: what is found, and what is said when something is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.vos_trees import moving_squares, write_davis, write_grey, write_mask
from twospeed.data.benchmarks.davis import VAL_2016, VAL_2017, Davis
from twospeed.data.benchmarks.label_files import read_foreground, read_label_part
from twospeed.errors import DatasetError


@pytest.fixture
def two_sequences() -> dict[str, np.ndarray]:
    return {"dog": moving_squares(5, 2), "cows": moving_squares(4, 1, seed=1)}


def test_a_2017_split_is_read_in_the_order_of_its_list(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    root = write_davis(tmp_path, two_sequences, lists={"2017/val.txt": ["dog", "cows"]})
    data = Davis(root, 2017)
    assert data.names == ("dog", "cows")
    assert data.official == 2
    sample = data[0]
    assert sample.frames == ("00000", "00001", "00002", "00003", "00004")
    assert sample.image("00000").shape == (48, 64, 3)
    np.testing.assert_array_equal(sample.labels("00003"), two_sequences["dog"][3])


def test_lists_of_2016_may_be_pairs_of_files_or_names(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    pairs = [
        f"/JPEGImages/480p/{name}/{t:05d}.jpg /Annotations/480p/{name}/{t:05d}.png"
        for name in ("dog", "cows")
        for t in range(4)
    ]
    root = write_davis(tmp_path / "pairs", two_sequences, year=2016, lists={"480p/val.txt": pairs})
    assert Davis(root, 2016).names == ("dog", "cows")
    root = write_davis(tmp_path / "names", two_sequences, year=2016, lists={"2016/val.txt": ["cows"]})
    assert Davis(root, 2016).names == ("cows",)


def test_all_objects_of_2016_are_one_foreground(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    root = write_davis(tmp_path, two_sequences, year=2016)
    labels = Davis(root, 2016, sequences=["dog"])[0].labels("00002")
    np.testing.assert_array_equal(labels, two_sequences["dog"][2] > 0)


def test_folders_without_lists_give_all_they_have_and_know_how_much_of_the_set_it_is(tmp_path: Path):
    root = write_davis(tmp_path, {name: moving_squares(3, 1) for name in ("dog", "cows")}, year=2016)
    data = Davis(root, 2016)
    assert data.names == ("cows", "dog")
    assert data.official == len(VAL_2016) == 20
    write_davis(root, {"my-cat": moving_squares(3, 1)}, year=2016)
    assert Davis(root, 2016).official is None
    assert len(VAL_2017) == len(set(VAL_2017)) == 30


def test_the_authors_tree_may_be_given_by_its_root(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    write_davis(tmp_path / "2017" / "trainval", two_sequences)
    assert len(Davis(tmp_path, 2017)) == 2
    assert len(Davis(tmp_path / "2017", 2017)) == 2


def test_the_unsupervised_task_reads_its_own_annotations_and_keeps_void(tmp_path: Path):
    labels = moving_squares(3, 1)
    labels[1, :4, :4] = 255
    root = write_davis(tmp_path, {"dog": labels}, kind="Annotations_unsupervised")
    sample = Davis(root, 2017, task="unsupervised")[0]
    assert set(np.unique(sample.labels("00001"))) == {0, 1, 255}
    with pytest.raises(DatasetError, match=r"found no Annotations/480p .* holds Annotations_unsupervised"):
        Davis(root, 2017)


def test_a_test_set_shows_its_first_masks_only(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    root = write_davis(tmp_path, two_sequences, lists={"2017/test-dev.txt": ["dog"]})
    for path in (root / "Annotations/480p/dog").glob("*.png"):
        if path.stem != "00000":
            path.unlink()
    sample = Davis(root, 2017, "test-dev")[0]
    assert len(sample.frames) == 5
    assert list(sample.annotations) == ["00000"]


def test_missing_parts_are_named(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    with pytest.raises(DatasetError, match="no such folder; give the one that holds Annotations/480p"):
        Davis(tmp_path / "nowhere", 2016)
    root = write_davis(tmp_path, two_sequences, lists={"2017/train.txt": ["dog"]})
    with pytest.raises(DatasetError, match=r"no list 2017/val\.txt; it holds 2017/train\.txt"):
        Davis(root, 2017)
    with pytest.raises(DatasetError, match=r"has no folder for fox; it holds cows, dog"):
        Davis(root, 2017, sequences=["dog", "fox"])
    (root / "JPEGImages/480p/dog/00002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"dog: frames 00002 are missing between 00000 and 00004"):
        Davis(root, 2017, sequences=["dog"])[0]
    (root / "Annotations/480p/cows/00000.png").unlink()
    with pytest.raises(DatasetError, match=r"cows: no mask of the first frame, 00000\.png"):
        Davis(root, 2017, sequences=["cows"])[0]


def test_frames_are_not_needed_to_score_files(tmp_path: Path, two_sequences: dict[str, np.ndarray]):
    root = write_davis(tmp_path, two_sequences, images=False)
    assert len(Davis(root, 2017, images=False)[0].frames) == 4
    with pytest.raises(DatasetError, match="JPEGImages/480p: no such folder; frames are needed"):
        Davis(root, 2017)


# Masks as people save them


def test_foreground_of_every_kind_of_file(tmp_path: Path):
    labels = moving_squares(1, 3)[0]
    write_mask(tmp_path / "palette.png", labels)
    write_grey(tmp_path / "grey.png", labels)
    write_grey(tmp_path / "binary.png", labels, white=1)
    Image.fromarray(labels > 0).save(tmp_path / "bits.png")
    Image.fromarray(np.repeat((labels > 0)[..., None] * np.uint8(255), 3, axis=2)).save(tmp_path / "rgb.png")
    soft = ((labels > 0) * 255).astype(np.uint8)
    soft[:, 0] = 100  # below one half: not object
    Image.fromarray(soft).save(tmp_path / "soft.png")
    for path in sorted(tmp_path.glob("*.png")):
        np.testing.assert_array_equal(read_foreground(path), labels > 0, err_msg=path.name)


def test_labels_of_a_black_and_white_file_are_0_and_1(tmp_path: Path):
    labels = moving_squares(1, 2)[0]
    write_grey(tmp_path / "grey.png", labels)
    np.testing.assert_array_equal(read_label_part(tmp_path / "grey.png").whole(), labels > 0)


def test_files_that_are_no_label_maps_are_refused(tmp_path: Path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(DatasetError, match=r"photo\.png: an image of mode RGB, not a label map"):
        read_label_part(tmp_path / "photo.png")
    Image.fromarray(np.full((8, 8), 700, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DatasetError, match=r"deep\.png: an image of mode I;16, not a label map"):
        read_label_part(tmp_path / "deep.png")
    write_mask(tmp_path / "cut.png", rng.integers(0, 3, (200, 200), dtype=np.uint8))
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"cut\.png: cannot be read"):
        read_label_part(tmp_path / "cut.png")
    with pytest.raises(DatasetError, match=r"none\.png: no such file"):
        read_label_part(tmp_path / "none.png")


def test_the_real_sequences(davis16: Path):
    data = Davis(davis16, 2016)
    assert len(data) == 14
    assert data.official == 20
    assert sum(len(sample.frames) for sample in data) == 867
    assert set(np.unique(data[0].labels("00000"))) == {0, 1}


def test_a_mask_of_too_many_pixels_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr("twospeed.video.png_labels.MOST_PIXELS", 10)
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DatasetError, match=r"m\.png: cannot be read \(Image size \(900 pixels\) exceeds"):
        read_label_part(tmp_path / "m.png")
