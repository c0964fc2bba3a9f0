"""COCO's objects: polygons scaled to the image, small ones left out, and what is wrong with a list said in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from twospeed.data.benchmarks.coco import find_objects
from twospeed.data.clips.stills import StillClips
from twospeed.errors import DatasetError


@pytest.fixture
def coco(tmp_path):
    """One image of half the annotated size with a large square, a tiny one and a crowd."""
    (tmp_path / "images").mkdir()
    image = np.zeros((50, 60, 3), np.uint8)
    image[10:30, 20:50] = 255
    Image.fromarray(image).save(tmp_path / "images" / "1.jpg", quality=95)
    square, dot = [40, 20, 99, 20, 99, 59, 40, 59], [0, 0, 3, 0, 3, 3]
    annotations = [
        {"id": 1, "image_id": 7, "segmentation": [square], "area": 2400.0},
        {"id": 2, "image_id": 7, "segmentation": [dot], "area": 6.0},
        {"id": 3, "image_id": 7, "segmentation": {"counts": [1], "size": [100, 120]}, "area": 5000.0, "iscrowd": 1},
    ]
    images = [{"id": 7, "file_name": "1.jpg", "height": 100, "width": 120}]
    (tmp_path / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def test_objects_lie_on_their_pixels(coco):
    (found,) = find_objects(coco)
    image, mask = found.read()
    assert image.shape == (50, 60, 3)
    assert set(np.unique(mask)) == {0, 255}
    assert ((image[..., 0] > 127) == (mask > 127)).mean() > 0.97
    clip = StillClips([found], name="coco").draw(np.random.default_rng(0), size=32)
    assert clip.objects == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"instances\.json:1: not JSON"),
        ("[]", "not a COCO list"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', "not a COCO list"),
        ('{"images": [], "annotations": []}', "none of its 0 objects"),
        ("[" * 100_000, "not"),
    ],
)
def test_lists_that_are_none_are_one_line(coco, text, message):
    (coco / "instances.json").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        find_objects(coco)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(coco):
    (coco / "images" / "1.jpg").unlink()
    with pytest.raises(DatasetError, match=r"has no 1\.jpg, which instances\.json names"):
        find_objects(coco)
    (coco / "instances.json").unlink()
    with pytest.raises(DatasetError, match="no such file"):
        find_objects(coco)
