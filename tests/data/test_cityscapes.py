"""Cityscapes: label ids, splits, lists, the frames before a label, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.driving_trees import classes_at, make_cityscapes, write
from twospeed.data.benchmarks.cityscapes import CLASSES, VOID, Cityscapes, classes_from_ids, ids_from_classes
from twospeed.errors import DatasetError, InputError

NAMES = ["bonn_000000_012345", "ulm_000001_000019", "ulm_000002_000019"]


def test_label_ids_and_classes():
    ids = np.array([0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 29, 255], np.uint8)
    assert classes_from_ids(ids).tolist() == [VOID, *range(19), VOID, VOID]
    assert ids_from_classes(np.array([0, 18, VOID], np.uint8)).tolist() == [7, 33, 0]
    assert CLASSES.names[13] == "car"


@given(st.lists(st.integers(0, 18), min_size=1, max_size=9))
def test_classes_survive_the_way_through_ids(values):
    classes = np.array(values, np.uint8)
    assert (classes_from_ids(ids_from_classes(classes)) == classes).all()


def test_a_split_and_its_frames(tmp_path):
    data = Cityscapes(make_cityscapes(tmp_path), "val")
    assert [frame.name for frame in data] == NAMES
    frame = data[1]
    assert (frame.sequence, frame.number) == ("ulm_000001", 19)
    assert frame.image().shape == (64, 128, 3)
    labels = frame.labels()
    assert (labels[:4] == VOID).all()
    assert (labels[4:] == classes_at(0, (0, 2, 10, 13), (60, 128))).all()


def test_the_frames_before_have_the_numbers_before(tmp_path):
    data = Cityscapes(make_cityscapes(tmp_path), "val")
    path = data.before(data[0], 3)
    assert path is not None
    assert [frame.name for frame in path] == [f"bonn_000000_0{n}" for n in (12342, 12343, 12344, 12345)]
    assert path[-1] is data[0]
    assert data.before(data[0], 4) is None
    two = data.before(data[0], 1, step=2)
    assert two is not None
    assert two[0].number == 12343
    with pytest.raises(DatasetError, match=r"bonn_000000_012343: the frame .* is not labelled"):
        two[0].labels()


def test_without_the_sequences_only_labelled_frames_are_there(tmp_path):
    make_cityscapes(tmp_path, before=0)
    (tmp_path / "leftImg8bit_sequence").rename(tmp_path / "leftImg8bit")
    data = Cityscapes(tmp_path, "val")
    assert len(data) == 3
    assert data.before(data[0], 1) is None


def test_a_test_split_without_labels(tmp_path):
    make_cityscapes(tmp_path, "test", before=0)
    (tmp_path / "leftImg8bit_sequence").rename(tmp_path / "leftImg8bit")
    (tmp_path / "gtFine").rename(tmp_path / "elsewhere")
    data = Cityscapes(tmp_path, "test")
    assert [frame.name for frame in data] == NAMES
    assert data[0].annotation is None


def test_a_list_of_gsvnet(tmp_path):
    make_cityscapes(tmp_path)
    pairs = [
        f"leftImg8bit_sequence/val/ulm/ulm_00000{n}_000019_leftImg8bit.png gtFine/val/ulm/ulm_00000{n}_000019_gtFine"
        "_labelIds.png"
        for n in (2, 1)
    ]
    listing = tmp_path / "val.txt"
    listing.write_text("\n".join([*pairs, ""]))
    data = Cityscapes(tmp_path, "val", list_file=listing)
    assert [frame.name for frame in data] == ["ulm_000002_000019", "ulm_000001_000019"]
    assert data.before(data[0], 2) is not None
    listing.write_text(pairs[0] + "\n" + pairs[1].replace("ulm", "koeln"))
    with pytest.raises(DatasetError, match=r"val.txt:2: .*koeln.* does not exist; is .* the data's root"):
        Cityscapes(tmp_path, "val", list_file=listing)
    listing.write_text("one.png\n")
    with pytest.raises(DatasetError, match=r":1: 'one.png' is not an image and a label"):
        Cityscapes(tmp_path, "val", list_file=listing)


def test_bad_data_is_named(tmp_path):
    with pytest.raises(InputError, match="split 'dev' of Cityscapes; choose train, val, test"):
        Cityscapes(tmp_path, "dev")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="no images of split 'val'; expected leftImg8bit_sequence/val"):
        Cityscapes(tmp_path, "val")
    make_cityscapes(tmp_path)
    path = tmp_path / "gtFine" / "val" / "ulm" / "ulm_000001_000019_gtFine_labelIds.png"
    write(path, np.full((64, 128), 77, np.uint8))
    with pytest.raises(DatasetError, match="holds the value 77; Cityscapes has the label ids 0 to 33, 255 is void"):
        Cityscapes(tmp_path, "val")[1].labels()
    write(path.with_name("ulm_000009_000019_gtFine_labelIds.png"), np.zeros((64, 128), np.uint8))
    with pytest.raises(DatasetError, match="no images for the labelled ulm_000009_000019"):
        Cityscapes(tmp_path, "val")


def test_files_of_classes_are_read_as_they_are(tmp_path: Path):
    from twospeed.data.benchmarks.cityscapes import read_classes

    write(tmp_path / "a_gtFine_labelTrainIds.png", np.array([[0, 18, 255]], np.uint8))
    assert read_classes(tmp_path / "a_gtFine_labelTrainIds.png").tolist() == [[0, 18, 255]]
    write(tmp_path / "b_gtFine_labelTrainIds.png", np.array([[0, 19, 255]], np.uint8))
    with pytest.raises(DatasetError, match="holds the value 19; Cityscapes has the classes 0 to 18"):
        read_classes(tmp_path / "b_gtFine_labelTrainIds.png")
