"""AVA's files: what is read, and what is said of broken ones."""

import io

import numpy as np
import pytest

from tests.conftest import GOLDENS
from twospeed.data.benchmarks import ava
from twospeed.errors import DatasetError

AVA = GOLDENS / "ava_metric"
ROW = "vid,0902,0.1,0.2,0.5,0.6,12,0.75"


def written(tmp_path, text, name="rows.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_official_files_are_read():
    truth = ava.read_ground_truth(AVA / "groundtruth.csv")
    assert len(truth) == 201
    assert (truth.videos[0], truth.seconds[0], truth.actions[0], truth.persons[0]) == ("v00_higcc6b6", 1018, 9, 0)
    assert truth.boxes_xyxy[0].tolist() == [0.515, 0.518, 0.862, 1.0]
    found = ava.read_detections(AVA / "detections.csv")
    assert len(found) == 1759
    assert (found.scores[0], found.where(3)) == (0.3, f"{AVA / 'detections.csv'}:4")
    assert ava.read_exclusions(AVA / "excluded_timestamps.csv")[-1] == ("v00_higcc6b6", 901)
    assert ava.read_label_map(AVA / "label_map.pbtxt") == ava.default_label_map()


def test_predicted_boxes_may_have_no_action_and_older_annotations_no_person(tmp_path):
    path = written(tmp_path, f"vid,0902,0.1,0.2,0.5,0.6,,0.9\n\n{ROW}\n")
    rows = ava.read_predicted_boxes(path)
    assert rows.actions.tolist() == [ava.NO_ACTION, 12]
    assert rows.lines.tolist() == [1, 3]
    old = ava.read_ground_truth(written(tmp_path, ROW.rpartition(",")[0]))
    assert old.persons.tolist() == [ava.NO_PERSON]


def test_rows_that_are_written_otherwise_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(ava, "_LINES_AT_ONCE", 3)
    usual = "".join(f"vid,{900 + n:04d},0.1,0.2,0.5,0.6,{1 + n},0.{75 - n}\n" for n in range(8))
    expected = ava.read_detections(written(tmp_path, usual, "usual.csv"))
    assert expected.lines.tolist() == list(range(1, 9))
    spaced = usual.replace(",", " , ").replace("\n", "\n  \n", 5).replace("vid", '"vid"', 1)
    found = ava.read_detections(written(tmp_path, spaced))
    assert found.lines.tolist() == [1, 3, 5, 7, 9, 11, 12, 13]
    for name in ("videos", "seconds", "boxes_xyxy", "actions", "persons", "scores"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    mixed = ava.read_ground_truth(written(tmp_path, "v,1,0,0,1,1,3\nv,1,0,0,1,1,4,7\nv,1,0,0,1,1,5,\n"))
    assert mixed.persons.tolist() == [ava.NO_PERSON, 7, ava.NO_PERSON]
    assert mixed.actions.tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("vid,0902,0.1,0.2,0.5,0.6,12", "7 columns; a row of detections is video, second, x1"),
        ("vid,0902,0.1,0.2,0.5,0.6,12,0.75,9", "9 columns"),
        ("vid,0902,0.1,x,0.5,0.6,12,0.75", "y1 is 'x', not a number"),
        ("vid,0902,0.1,nan,0.5,0.6,12,0.75", "y1 is not a finite number"),
        ("vid,,0.1,0.2,0.5,0.6,12,0.75", "second is '', not a number"),
        ("vid,0902,0.1,0.2,0.5,0.6,99,0.75", "unknown class 99; ids are 1 to 80"),
        ("vid,0902,0.1,0.2,0.5,0.6,0,0.75", "unknown class 0"),
        ("vid,0902,0.1,0.2,0.5,0.6,1.5,0.75", "action id is 1.5, not a whole number"),
        ("vid,0902,0.1,0.2,1.5,0.6,12,0.75", "box 0.1, 0.2, 1.5, 0.6 lies outside the image"),
        ("vid,0902,-0.2,0.2,0.5,0.6,12,0.75", "box -0.2, 0.2, 0.5, 0.6 lies outside the image"),
        ("vid,0902,10,20,150,160,12,0.75", "they look like pixels: divide by width and height"),
        ('vid,0902,"0.1,0.2,0.5,0.6,12,0.75', "columns"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path, broken, message):
    path = written(tmp_path, f"{ROW}\n{ROW}\n{broken}\n{ROW}\n")
    with pytest.raises(DatasetError, match=message) as error:
        ava.read_detections(path)
    assert str(error.value).startswith(f"{path}:3: ")


def test_a_label_map_may_name_more_classes_than_ava(tmp_path):
    path = written(tmp_path, ROW.replace(",12,", ",99,"))
    assert ava.read_detections(path, labels={99: "juggle"}).actions.tolist() == [99]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no rows"), ("\n \n", "no rows"), (None, "no such file"), (b"\xff\xfe\x00", ":1: not UTF-8 text")],
)
def test_files_without_rows(tmp_path, text, message):
    path = tmp_path / "rows.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=message):
        ava.read_detections(path)


def test_both_forms_of_label_maps(tmp_path):
    other = 'label {\n name: "bend/bow (at the waist)"\n label_id: 1\n label_type: PERSON_MOVEMENT\n}\n'
    assert ava.read_label_map(written(tmp_path, other, "m.pbtxt")) == {1: "bend/bow (at the waist)"}
    quoted = 'item { name: "say \\"hi\\"" id: 3 }'
    assert ava.read_label_map(written(tmp_path, quoted, "m.pbtxt")) == {3: 'say "hi"'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('item { name: "a" id: 1 }\nitem { name: "b" }', "m.pbtxt:2: an entry needs a name and an id"),
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', "m.pbtxt:2: id 1 is used twice"),
        ('item { name: "a" id: 1 }\nitem { name: "a" id: 2 }', "two classes are called 'a'"),
        ('item { name: "a" id: 0 }', "id 0 is below 1"),
        ("walk\nrun", "is it a label map"),
    ],
)
def test_broken_label_maps(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        ava.read_label_map(written(tmp_path, text, "m.pbtxt"))


def test_exclusions_and_frame_lists_name_broken_lines(tmp_path):
    with pytest.raises(DatasetError, match=r"rows.csv:2: 3 columns; a row of exclusions is video, second"):
        ava.read_exclusions(written(tmp_path, "vid,0902\nvid,0903,1\n"))
    header = "original_vido_id video_id frame_id path labels\n"
    lines = [f'vid 0 {number} vid/vid_{number:06d}.jpg ""\n' for number in range(3)]
    frames = ava.read_frame_list(written(tmp_path, header + "".join(lines)))
    assert frames == {"vid": [f"vid/vid_{number:06d}.jpg" for number in range(3)]}
    with pytest.raises(DatasetError, match=r"rows.csv:3: frame 2 of vid follows 0; frames are missing"):
        ava.read_frame_list(written(tmp_path, header + lines[0] + lines[2]))
    with pytest.raises(DatasetError, match=r"rows.csv:2: a row of a frame list is"):
        ava.read_frame_list(written(tmp_path, header + "vid 0\n"))


def test_what_is_written_is_read_again(tmp_path):
    file = io.StringIO()
    boxes, scores = np.array([[0.125, 0.25, 0.5, 1.0], [0, 0, 1, 1]]), np.arange(160).reshape(2, 80) / 1000
    ava.write_detections(file, "clip", 902, boxes, scores)
    ava.write_detections(file, "clip", 902.5, boxes[:1], scores[:1])
    rows = ava.read_detections(written(tmp_path, file.getvalue()))
    assert len(rows) == 240
    assert file.getvalue().startswith("clip,0902,0.125000,0.250000,0.500000,1.000000,1,0.000000\n")
    assert np.array_equal(rows.boxes_xyxy[::80], boxes[[0, 1, 0]])
    assert np.array_equal(rows.scores[:160].reshape(2, 80), scores)
    assert rows.actions[:80].tolist() == list(range(1, 81))
    assert rows.seconds[-1] == 902.5


@pytest.mark.parametrize("name", ['a, "b"', '"', "a\nb"])
def test_names_that_need_quotes_are_read_as_they_were(tmp_path, name):
    file = io.StringIO()
    ava.write_detections(file, name, 902, np.array([[0.125, 0.25, 0.5, 1.0]]), np.zeros((1, 80)))
    rows = ava.read_detections(written(tmp_path, file.getvalue()))
    assert set(rows.videos) == {name}
    again = io.StringIO()
    ava.write_rows(again, rows)
    assert again.getvalue() == file.getvalue()


def test_annotations_are_found_in_a_folder(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in ("ava_val_v2.1.csv", "ava_val_v2.2.csv", "ava_val_excluded_timestamps_v2.2.csv"):
        (folder / name).write_text(ROW)
    found = ava.find_annotations(tmp_path)
    assert found == {
        "ground_truth": folder / "ava_val_v2.2.csv",
        "exclusions": folder / "ava_val_excluded_timestamps_v2.2.csv",
    }
    with pytest.raises(DatasetError, match=r"holds no ava_train_v2.2.csv"):
        ava.find_annotations(tmp_path, "train")
