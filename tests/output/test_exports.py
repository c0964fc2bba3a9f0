"""Exported masks as other people's readers see them, and back."""

from __future__ import annotations

import json
import tracemalloc
import warnings
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from twospeed.data.annotations import read_annotations
from twospeed.errors import InputError
from twospeed.files import atomic_file
from twospeed.ops.polygons import fill_rings, joined, outlines, simple_outlines
from twospeed.output.exports import EXPORTS
from twospeed.results import AnnotatedFrame, ObjectMasks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with NumPy 2

EXACT = ("coco", "youtube-vis", "davis", "youtube-vos", "cvat", "png")
POLYGONS = ("yolo-seg", "labelme")


def frame(index: int, height: int = 90, width: int = 140) -> AnnotatedFrame:
    """A frame with a moving ring (hole inside), an object of two parts that appears at frame 2, and one that leaves."""
    labels = np.zeros((height, width), np.uint8)
    cv2.circle(labels, (40 + index, 40), 28, 1, -1)
    cv2.circle(labels, (40 + index, 40), 9, 0, -1)
    if index >= 2:
        cv2.rectangle(labels, (90, 10), (120, 40), 7, -1)
        cv2.ellipse(labels, (100, 65), (25, 12), 20, 0, 360, 7, -1)
    if index < 2:
        labels[80:88, 2:30] = 3
    ids = tuple(sorted({1, 3} | ({7} if index >= 2 else set())))
    scores = np.array([0.9 if (labels == i).any() else 0 for i in ids], np.float32)
    masks = ObjectMasks(labels, lambda: np.zeros((1, 1, 1), np.float32), ids, index, index / 10, confidence=scores)
    return AnnotatedFrame("clip", f"{index:05d}", index, masks)


FRAMES = [frame(index) for index in range(4)]


def export(name: str, folder: Path, frames=FRAMES) -> Path:
    def files(part: str):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        return atomic_file(folder / part)

    with EXPORTS[name](files) as writer:
        for each in frames:
            writer.add(each)
    pattern = EXPORTS[name].patterns[0]
    return folder / pattern if "*" not in pattern and name != "yolo-seg" else folder


def iou(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("name", [*EXACT, *POLYGONS])
def test_masks_come_back_with_the_ids_they_had(name, tmp_path):
    path = export(name, tmp_path)
    back = list(read_annotations(path))
    assert [one.name for one in back] == [one.name for one in FRAMES]
    assert [one.index for one in back] == [0, 1, 2, 3]
    for was, now in zip(FRAMES, back, strict=True):
        if name in EXACT:
            np.testing.assert_array_equal(now.masks.labels, was.masks.labels)
        for i in np.unique(was.masks.labels)[1:]:
            assert iou(now.masks.labels == i, was.masks.labels == i) >= 0.98


def test_pycocotools_decodes_coco_to_exactly_the_masks(tmp_path):
    from pycocotools.coco import COCO

    coco = COCO(str(export("coco", tmp_path)))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        f"{n}.jpg" for n in ["00000", "00001", "00002", "00003"]
    ]
    for image, was in zip(coco.loadImgs(coco.getImgIds()), FRAMES, strict=True):
        labels = np.zeros_like(was.masks.labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            labels[mask] = annotation["category_id"]
            left, top, width, height = annotation["bbox"]
            assert annotation["area"] == mask.sum() == mask[top : top + height, left : left + width].sum()
            assert annotation["score"] == 0.9
        np.testing.assert_array_equal(labels, was.masks.labels)


def test_supervision_loads_coco_and_yolo(tmp_path):
    supervision = pytest.importorskip("supervision")
    (tmp_path / "images").mkdir()
    for one in FRAMES:
        cv2.imwrite(str(tmp_path / "images" / f"{one.name}.jpg"), np.zeros((90, 140, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = supervision.DetectionDataset.from_coco(
            str(tmp_path / "images"), str(export("coco", tmp_path)), force_masks=True
        )
        yolo = supervision.DetectionDataset.from_yolo(
            str(tmp_path / "images"),
            str(tmp_path / "labels"),
            str(export("yolo-seg", tmp_path) / "yolo-seg.yaml"),
            force_masks=True,
        )
        assert yolo.classes[0] == "object 1"
        for (_, _, detections), was in zip(loaded, FRAMES, strict=True):
            for mask, class_id in zip(detections.mask, detections.class_id, strict=True):
                number = int(loaded.classes[class_id].split()[1])
                np.testing.assert_array_equal(mask, was.masks.labels == number)
        by_name = {one.name: one for one in FRAMES}
        for path, _, detections in yolo:
            was = by_name[Path(path).stem]
            for mask, class_id in zip(detections.mask, detections.class_id, strict=True):
                assert iou(mask, was.masks.labels == class_id + 1) >= 0.98


def test_youtube_vis_has_null_where_an_object_is_not_seen(tmp_path):
    from pycocotools import mask as mask_tools

    document = json.loads(export("youtube-vis", tmp_path).read_text())
    (video,) = document["videos"]
    assert video["length"] == 4
    assert video["file_names"][0] == "clip/00000.jpg"
    for annotation in document["annotations"]:
        assert annotation.keys() >= {"id", "video_id", "category_id", "iscrowd", "segmentations", "bboxes", "areas"}
        for position, segmentation in enumerate(annotation["segmentations"]):
            mask = FRAMES[position].masks.labels == annotation["category_id"]
            assert (segmentation is None) == (not mask.any()) == (annotation["bboxes"][position] is None)
            if segmentation is not None:
                np.testing.assert_array_equal(mask_tools.decode(segmentation).astype(bool), mask)
                assert annotation["areas"][position] == mask.sum()


def test_cvat_masks_are_run_lengths_of_their_boxes(tmp_path):
    root = ElementTree.parse(export("cvat", tmp_path)).getroot()
    assert root.find("version").text == "1.1"
    assert [label.find("name").text for label in root.iter("label")] == ["object 1", "object 3", "object 7"]
    image = root.findall("image")[2]
    assert image.attrib == {"id": "2", "name": "00002.jpg", "width": "140", "height": "90"}
    for mask in image.findall("mask"):
        left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
        pixels: list[int] = []
        for place, length in enumerate(mask.get("rle").split(", ")):
            pixels += [place % 2] * int(length)
        found = np.zeros((90, 140), bool)
        found[top : top + height, left : left + width] = np.array(pixels, bool).reshape(height, width)
        np.testing.assert_array_equal(found, FRAMES[2].masks.labels == int(mask.get("label").split()[1]))


def test_labelme_has_the_keys_of_its_schema(tmp_path):
    document = json.loads((export("labelme", tmp_path) / "labelme" / "00002.json").read_text())
    assert document.keys() == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    assert [shape["group_id"] for shape in document["shapes"]] == [1, 7, 7]
    for shape in document["shapes"]:
        assert shape["shape_type"] == "polygon"
        assert len(shape["points"]) > 3


@pytest.mark.parametrize(
    ("name", "first"), [("davis", "clip/00000.png"), ("youtube-vos", "Annotations/clip/00000.png")]
)
def test_submissions_lie_as_the_servers_want_them(name, first, tmp_path):
    with zipfile.ZipFile(export(name, tmp_path)) as archive:
        assert archive.namelist()[0] == first


@pytest.mark.parametrize("name", [*EXACT, *POLYGONS])
def test_an_error_leaves_no_unfinished_file(name, tmp_path):
    def broken():
        with EXPORTS[name](lambda part: atomic_file(tmp_path / Path(part).name)) as writer:
            for each in FRAMES:
                writer.add(each)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert [file.name for file in tmp_path.iterdir() if file.suffix in (".zip", ".xml") or "partial" in file.name] == []
    assert not (tmp_path / "coco.json").exists()


@pytest.mark.parametrize("name", ["coco", "youtube-vis", "cvat", "davis"])
def test_memory_does_not_grow_with_the_video(name, tmp_path):
    def written(count: int) -> int:
        (tmp_path / str(count)).mkdir()
        tracemalloc.start()
        export(name, tmp_path / str(count), (replace(FRAMES[i % 4], name=f"{i:05d}") for i in range(count)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    written(50)
    few, many = written(200), written(2000)
    size = sum(file.stat().st_size for file in (tmp_path / "2000").iterdir())
    assert many - few < (50_000 if name == "davis" else size / 4)  # what zipfile keeps would be 1 MB


def test_a_zip_of_more_files_than_16_bits_count_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 20)  # 65,535, from which on the long form is written
    with zipfile.ZipFile(
        export("davis", tmp_path, (replace(FRAMES[i % 4], name=f"{i:05d}") for i in range(30)))
    ) as archive:
        assert archive.namelist() == [f"clip/{i:05d}.png" for i in range(30)]
        assert archive.testzip() is None


@given(npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_outlines_enclose_exactly_the_mask(mask):
    rings = outlines(mask)
    np.testing.assert_array_equal(fill_rings(rings, *mask.shape), mask)
    if rings:
        np.testing.assert_array_equal(fill_rings([joined(rings)], *mask.shape), mask)
        assert iou(fill_rings(simple_outlines(mask), *mask.shape), mask) >= 0.98


def image_of(**more) -> dict:
    return {"id": 5, "file_name": "a/frame_000012.jpg", "width": 8, "height": 6} | more


def labelme_of(**more) -> dict:
    return {"imageWidth": 8, "imageHeight": 6, "shapes": [{"label": "a", "shape_type": "polygon"} | more]}


def coco_of(**annotation) -> dict:
    image = image_of()
    entry = {"id": 1, "image_id": 5, "category_id": 2, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]}
    return {"images": [image], "annotations": [entry | annotation], "categories": [{"id": 2, "name": "dog"}]}


def test_polygons_of_other_tools_are_read(tmp_path):
    document = coco_of()
    document["annotations"].append(document["annotations"][0] | {"id": 2, "segmentation": [[6, 0, 8, 0, 8, 2, 6, 2]]})
    (tmp_path / "a.json").write_text(json.dumps(document))
    (found,) = read_annotations(tmp_path / "a.json")
    assert (found.name, found.index, found.masks.object_ids) == ("frame_000012", 12, (1, 2))  # two dogs
    assert (found.masks.labels == 1).sum() == 12
    assert (found.masks.labels[:2, 6:] == 2).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "annotations are an object"),
        ("{", "not JSON"),
        ("{}", "neither COCO"),
        (json.dumps(coco_of(segmentation=None)), "has no segmentation"),
        (json.dumps(coco_of(image_id=9)), "of image 9"),
        (json.dumps(coco_of(segmentation={"size": [6, 8], "counts": [3]})), "is not as its format says"),
        (json.dumps(coco_of(segmentation={"size": [7, 8], "counts": [56]})), "its image of [6, 8]"),
        (json.dumps({"images": [{}], "annotations": []}), "'id' is missing"),
        (json.dumps(coco_of(segmentation={"size": [6, 8], "counts": "o" * 3_000_000})), "more than 60 bits"),
        (json.dumps(coco_of(segmentation={"size": [6, 8], "counts": [float("inf")]})), "is not as its format says"),
        (json.dumps(coco_of(segmentation=[[1, 1, 1e300, 1, 9, 9]])), "further than 1e+09 pixels away"),
        (json.dumps(coco_of() | {"images": [image_of(frame_index="x")]}), "frame_index of frame_000012 is 'x'"),
        (json.dumps(coco_of() | {"images": [image_of(frame_index=-1)]}), "frame_index of frame_000012 is -1"),
        (json.dumps(coco_of() | {"images": [image_of(video=["x"])]}), "is no name of a video"),
        (json.dumps(coco_of() | {"images": [image_of(time_s=float("nan"))]}), "nan is no time"),
        (json.dumps(coco_of() | {"images": [image_of(width=10**9, height=10**9)]}), "at most 34 million"),
        (json.dumps(labelme_of(points=[[1, 1], [float("nan"), 1], [5, 5]])), "a corner that is no number"),
        (json.dumps(labelme_of(points=[[float("inf"), 1]], shape_type="mask", mask="")), "a corner that is no number"),
        (json.dumps(labelme_of(points=[[5, 5], [1e300, 5]], shape_type="circle")), "a corner that is no number"),
        (json.dumps(labelme_of(points=[[1, 1]], shape_type="mask", mask="AAAA")), "a mask: is not an image"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_broken_annotations_are_named(text, says, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as caught:
        list(read_annotations(tmp_path / "a.json"))
    assert says in str(caught.value)


def test_a_zip_with_damaged_entries_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v/00000.png", bytes(range(256)) * 40)
    data = bytearray(path.read_bytes())
    at = data.index(b"v/00000.png") + len("v/00000.png")
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as a zip file"):
        list(read_annotations(path))


@pytest.mark.parametrize(
    "text", ['<?xml version="1.0" encoding="ttf-8"?><annotations/>', "<annotations><image/>", "<a>" * 9, ""]
)
def test_broken_xml_is_refused(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match=r"a\.xml: is not as its format says"):
        list(read_annotations(tmp_path / "a.xml"))


def test_many_masks_of_a_large_image_are_held_one_at_a_time(tmp_path):
    document = coco_of() | {"images": [image_of(width=2000, height=2000)]}
    document["annotations"] *= 30
    (tmp_path / "a.json").write_text(json.dumps(document))
    tracemalloc.start()
    (found,) = read_annotations(tmp_path / "a.json")
    assert tracemalloc.get_traced_memory()[1] < 10 * found.masks.labels.size
    tracemalloc.stop()


def test_a_polygon_of_many_long_edges_takes_bounded_memory():
    zigzag = np.stack([np.arange(20_000) % 300, np.arange(20_000) % 2 * 400], axis=1)
    tracemalloc.start()
    fill_rings([zigzag], 400, 300)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    with pytest.raises(ValueError, match="simplify it"):
        fill_rings([np.tile(zigzag, (10, 1)) * (1, 20)], 8000, 300)


def test_unknown_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for path in (tmp_path, tmp_path / "a.txt", tmp_path / "none"):
        with pytest.raises(InputError):
            list(read_annotations(path))
    with nullcontext(tmp_path / "a.zip") as path:
        path.write_text("no zip")
        with pytest.raises(InputError, match="zip"):
            list(read_annotations(path))


def test_coco_holds_what_fiftyone_reads(tmp_path):
    """FiftyOne's published COCODetectionDataset: images by id, boxes and masks by image, classes by category id.

    Its reader finds a file by `file_name`, takes `bbox` in pixels and `segmentation` as polygons or run lengths, whose
    `size` is that of the image, and lists classes from 0 to the largest id.
    """
    document = json.loads(export("coco", tmp_path).read_text())
    assert document.keys() >= {"info", "licenses", "categories", "images", "annotations"}
    for category in document["categories"]:
        assert type(category["id"]) is int
        assert type(category["name"]) is str
    names = [category["name"] for category in document["categories"]]
    assert len(set(names)) == len(names)  # categories are told apart by name
    ids = {category["id"] for category in document["categories"]}
    images = {image["id"]: image for image in document["images"]}
    assert len(images) == len(document["images"]) == len(FRAMES)
    for image in images.values():
        assert (image["height"], image["width"]) == (90, 140)
        assert not Path(image["file_name"]).is_absolute()
    assert len({annotation["id"] for annotation in document["annotations"]}) == len(document["annotations"])
    for annotation in document["annotations"]:
        image = images[annotation["image_id"]]
        assert annotation["category_id"] in ids
        assert annotation["iscrowd"] == 0
        left, top, width, height = annotation["bbox"]
        assert 0 <= left < left + width <= image["width"]
        assert 0 <= top < top + height <= image["height"]
        assert annotation["segmentation"]["size"] == [image["height"], image["width"]]
        assert type(annotation["segmentation"]["counts"]) is str
        assert 0 < annotation["area"] <= width * height
        assert 0 <= annotation["score"] <= 1
