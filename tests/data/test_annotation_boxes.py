"""Boxes and tracks of annotation tools as prompts."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import fails
from twospeed.data.annotations import read_annotations
from twospeed.errors import InputError
from twospeed.output.exports.actions import write_people

TRACKS = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><mode>interpolation</mode>
<original_size><width>128</width><height>96</height></original_size></task></meta>
<track id="3" label="dog" source="manual">
  <box frame="0" keyframe="1" outside="0" occluded="0" xtl="10" ytl="20" xbr="40" ybr="60" z_order="0"/>
  <box frame="1" keyframe="0" outside="0" occluded="0" xtl="12" ytl="20" xbr="42" ybr="60" z_order="0"/>
  <box frame="2" keyframe="1" outside="0" occluded="0" xtl="14" ytl="20" xbr="44" ybr="60" z_order="0"/>
  <box frame="3" keyframe="1" outside="1" occluded="0" xtl="14" ytl="20" xbr="44" ybr="60" z_order="0"/>
</track>
<track id="1" label="cat" source="manual">
  <polygon frame="2" keyframe="1" outside="0" occluded="0" points="60,10;90,10;90,40;60,40" z_order="0"/>
  <mask frame="5" keyframe="1" outside="0" occluded="0" rle="0,4" left="5" top="6" width="2" height="2" z_order="0"/>
</track>
</annotations>
"""


def test_tracks_of_cvat(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text(TRACKS)
    frames = {frame.index: frame for frame in read_annotations(path)}
    assert list(frames) == [0, 1, 2, 5]
    assert frames[1].boxes == {3: (12, 20, 42, 60)}
    assert (frames[1].masks.labels == 3).sum() == 30 * 40
    assert frames[2].boxes == {3: (14, 20, 44, 60)}  # the cat has a shape of its own
    assert frames[2].masks.labels[20, 70] == 1
    assert (frames[5].masks.labels == 1).sum() == 4
    assert [frame.index for frame in read_annotations(path, as_prompts=True)] == [0, 2, 5]


def test_our_tracks_of_people_are_read_back(tmp_path):
    people = [{"id": 2, "box_xyxy": [10.25, 5, 50, 90], "actions": []}]
    document = {"video": "v", "keyframes": [{"time_s": t, "people": people if t < 2 else []} for t in (0.0, 1.0, 2.0)]}
    write_people(tmp_path / "people.xml", document, [(i, i / 10) for i in range(30)], (96, 128))
    assert [(frame.index, frame.boxes) for frame in read_annotations(tmp_path / "people.xml")] == [
        (0, {2: (10.25, 5, 50, 90)}),
        (10, {2: (10.25, 5, 50, 90)}),
    ]


def coco(tmp_path, box=(10, 20, 30, 40)):
    document = {
        "images": [{"id": 1, "file_name": "00000.jpg", "width": 128, "height": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": list(box)}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    return tmp_path / "boxes.json"


def test_boxes_alone_are_prompts_but_no_masks(tmp_path, capsys):
    path = coco(tmp_path)
    (frame,) = read_annotations(path, as_prompts=True)
    assert frame.boxes == {1: (10, 20, 40, 60)}
    with pytest.raises(InputError, match="not boxes alone"):
        list(read_annotations(path))
    assert "not boxes alone" in fails(capsys, "masks", path, "--as", "png", "-o", tmp_path / "out")
    with pytest.raises(InputError):
        list(read_annotations(coco(tmp_path, (1, 2, float("nan"), 4)), as_prompts=True))


def test_a_track_without_a_size_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text(TRACKS.replace("original_size", "size_of_something"))
    with pytest.raises(InputError, match="no original_size"):
        list(read_annotations(tmp_path / "a.xml"))
