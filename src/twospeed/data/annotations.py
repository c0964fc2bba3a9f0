"""Masks of videos from files: folders of PNGs and runs, COCO, YouTube-VIS, CVAT, labelme, YOLO, submissions in a zip.

Whatever the format, frames come out as `ObjectMasks`, whose confidence is the file's score, or 1.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.data.annotation_shapes import (
    MOST_ID,
    OBJECT,
    Numbering,
    Shape,
    box_shape,
    coco_mask,
    cvat_shape,
    labelme_shape,
    masks_of,
)
from twospeed.errors import InputError
from twospeed.files import read_json, read_text, visible_files
from twospeed.ops.polygons import checked_points
from twospeed.results import AnnotatedFrame
from twospeed.video.image_files import open_image
from twospeed.video.indexed_png import read_label_map
from twospeed.video.pixels import check_pixels

_MOST_PNG_BYTES = 1 << 28
_MOST_FRAMES = 1 << 31


def read_annotations(
    path: Path, *, image_size: tuple[int, int] | None = None, as_prompts: bool = False
) -> Iterator[AnnotatedFrame]:
    """Read the masks of a file or folder, frame by frame; what it is, is found out from its content.

    path: a folder of a `track` run, of label PNGs, of such folders (one for each video), of labelme's JSON (images may
    lie beside it), of YOLO labels (`labels`, one below it, or the folder that holds it), or of one file of annotations;
    YOLO's .yaml beside `labels`; a .json of COCO, YouTube-VIS or labelme; a .xml, or .zip with one, of CVAT for images
    or for video; a .zip of label PNGs as DAVIS and YouTube-VOS take them. image_size: (H, W), for YOLO labels without
    images. as_prompts: of tracks of CVAT the frames that a person drew alone, and COCO's annotations that are boxes
    alone, which else are refused: a box is no mask.

    Objects keep the ids that the file has (`track_id`, `group_id`, names such as "object 3"); else each label is an
    object, and each further shape of that label in the same image is another. Where objects overlap, later ones win.
    Raises InputError for what cannot be read, MaskError for a PNG that holds no labels.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        return _read_folder(path, image_size, as_prompts)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_folder(path.parent, image_size, as_prompts)
    if path.suffix.lower() == ".zip":
        return _read_zip(path, as_prompts)
    if path.suffix.lower() == ".xml":
        return _read_xml(path, as_prompts)
    if path.suffix.lower() == ".json":
        return _read_json(path, as_prompts)
    raise InputError(f"{path}: is not a file of annotations; give .json, .xml, .zip, or a folder of masks")


def _read_folder(path: Path, image_size: tuple[int, int] | None, as_prompts: bool) -> Iterator[AnnotatedFrame]:
    if (path / "run.json").is_file():
        if not (path / "masks").is_dir():
            raise InputError(f"{path}: is a run without masks/; only `track` writes masks of objects")
        return _read_run(path)
    pngs, documents = visible_files(path, ".png"), visible_files(path, ".json")
    if pngs and not {file.stem for file in pngs} & {file.stem for file in documents}:  # else labelme's, with its images
        return _read_pngs(path.resolve().name, pngs)
    if (path / "labels").is_dir() and (labels := visible_files(path / "labels", ".txt")):
        return _read_yolo(labels, image_size)
    if (path / "labelme").is_dir():
        documents = visible_files(path / "labelme", ".json") or documents
    if documents:
        return _read_labelme(documents) if len(documents) > 1 else _read_json(documents[0], as_prompts)
    folders = {folder.name: visible_files(folder, ".png") for folder in sorted(path.iterdir()) if folder.is_dir()}
    if any(folders.values()):
        return (frame for name, files in folders.items() for frame in _read_pngs(name, files))
    if "labels" in path.absolute().parts and (labels := visible_files(path, ".txt")):
        return _read_yolo(labels, image_size)
    if len(files := [*visible_files(path, ".xml"), *visible_files(path, ".zip")]) == 1:
        return read_annotations(files[0], as_prompts=as_prompts)
    raise InputError(
        f"{path}: holds no masks: neither label PNGs, nor folders of them, one file of annotations, labelme's JSON or "
        "YOLO's labels"
    )


def _read_run(path: Path) -> Iterator[AnnotatedFrame]:
    """Read the masks of a run with their times and confidence, as its table has them."""
    video = path.resolve().name.removesuffix("_track")
    with _reading(path / "frames.csv"):
        for row in csv.DictReader(read_text(path / "frames.csv").splitlines()):
            name = row["file_name"] or f"{int(row['source_index']):05d}"
            if set(name) & {"/", "\\", "\0"}:
                raise InputError(f"{path}/frames.csv: names a file outside of its folder, {name[:80]!r}")
            labels = read_label_map(path / "masks" / f"{name}.png", allow_empty=True)
            sure = dict(pair.split(":") for pair in row["confidence"].split(";") if pair)
            ids, scores = [int(i) for i in sure], [float(score) for score in sure.values()]
            masks = masks_of(labels, ids, scores, float(row["time_s"]))
            yield AnnotatedFrame(video, name, int(row["source_index"]), masks)


def _read_pngs(video: str, files: Sequence[Path]) -> Iterator[AnnotatedFrame]:
    for position, file in enumerate(files):
        yield _label_frame(video, file.stem, position, read_label_map(file, allow_empty=True))


def _label_frame(video: str, name: str, position: int, labels: NDArray[np.uint8]) -> AnnotatedFrame:
    ids = [i for i in np.unique(labels).tolist() if 0 < i <= MOST_ID]
    return AnnotatedFrame(video, name, _index(name, position), masks_of(labels, ids, [1.0] * len(ids)))


def _read_xml(path: Path, as_prompts: bool) -> Iterator[AnnotatedFrame]:
    with path.open("rb") as file:
        yield from _read_cvat(file, str(path), as_prompts)


def _read_zip(path: Path, as_prompts: bool) -> Iterator[AnnotatedFrame]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            names = [name for name in names if name.rpartition("/")[2][:1] != "."]  # such as ._NAME of macOS
            if xml := [name for name in names if name.rpartition("/")[2] == "annotations.xml"]:
                with archive.open(xml[0]) as file:
                    yield from _read_cvat(file, f"{path}/{xml[0]}", as_prompts)
                return
            pngs = sorted(name for name in names if name.lower().endswith(".png"))
            if not pngs:
                raise InputError(f"{path}: holds neither label PNGs nor annotations.xml")
            counts: Counter[str] = Counter()
            for name in pngs:
                folder, _, file_name = name.rpartition("/")
                video = folder.rpartition("/")[2]
                with archive.open(name) as file:
                    labels = read_label_map(
                        io.BytesIO(file.read(_MOST_PNG_BYTES)), allow_empty=True, name=f"{path}/{name}"
                    )
                yield _label_frame(video, file_name[:-4], counts[folder], labels)
                counts[folder] += 1
    except InputError:
        raise
    except Exception as error:  # zipfile and what unpacks its entries raise a dozen kinds
        raise InputError(f"{path}: cannot be read as a zip file ({error})") from error


def _read_json(path: Path, as_prompts: bool) -> Iterator[AnnotatedFrame]:
    document = _json(path)
    if "shapes" in document:
        return _read_labelme([path])
    if "annotations" not in document:
        raise InputError(f"{path}: is neither COCO, YouTube-VIS nor labelme: it has no 'annotations' and no 'shapes'")
    return _read_youtube_vis(path, document) if "videos" in document else _read_coco(path, document, as_prompts)


def _read_coco(path: Path, document: dict[str, Any], as_prompts: bool) -> Iterator[AnnotatedFrame]:
    numbering = Numbering(path)
    with _reading(path):
        names = _category_names(document)
        by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            if annotation["image_id"] not in by_image:
                raise InputError(
                    f"{path}: an annotation is of image {annotation['image_id']!r}, which it does not list"
                )
            by_image[annotation["image_id"]].append(annotation)
        for position, image in enumerate(document["images"]):
            size, name = _size(image, path), _stem(image["file_name"])
            shapes = (  # one at a time, since each may be as large as the image
                _coco_shape(one, names, size, f"{path}: annotation {one.get('id')}", as_prompts)
                for one in by_image[image["id"]]
            )
            index = image.get("frame_index", _index(name, position))
            if not isinstance(index, int) or not 0 <= index < _MOST_FRAMES:
                raise InputError(f"{path}: the frame_index of {name} is {index!r}, not a whole number from 0")
            masks, boxes = numbering.masks(shapes, size, _time(image.get("time_s", 0)))
            yield AnnotatedFrame(_text(image.get("video", "")), name, index, masks, boxes)


def _coco_shape(
    annotation: dict[str, Any], names: dict[Any, str], size: tuple[int, int], where: str, as_prompts: bool
) -> Shape:
    label = names.get(annotation["category_id"], str(annotation["category_id"]))
    number, score = annotation.get("track_id"), float(annotation.get("score", 1.0))
    if as_prompts and not annotation.get("segmentation") and annotation.get("bbox"):
        left, top, width, height = (float(value) for value in annotation["bbox"])
        return box_shape(label, (left, top, left + width, top + height), size, number, score)
    return Shape(label, coco_mask(annotation.get("segmentation"), size, where), number, score)


def _read_youtube_vis(path: Path, document: dict[str, Any]) -> Iterator[AnnotatedFrame]:
    with _reading(path):
        names = _category_names(document)
        for video in document["videos"]:
            numbering, size = Numbering(path), _size(video, path)
            annotations = [one for one in document["annotations"] if one["video_id"] == video["id"]]
            for position, file_name in enumerate(video["file_names"]):
                name = _stem(file_name)
                shapes = (
                    Shape(
                        names.get(one["category_id"], str(one["category_id"])),
                        coco_mask(one["segmentations"][position], size, f"{path}: annotation {one['id']}"),
                        # Two objects may be of one class, and one need not be seen in the first frame
                        None if OBJECT.fullmatch(names.get(one["category_id"], "")) else number,
                        float(one.get("score", 1.0)),
                    )
                    for number, one in enumerate(annotations, start=1)
                    if one["segmentations"][position] is not None
                )
                folder = file_name.rpartition("/")[0].rpartition("/")[2]
                masks, _ = numbering.masks(shapes, size)
                yield AnnotatedFrame(_text(video.get("name", folder)), name, _index(name, position), masks)


def _category_names(document: dict[str, Any]) -> dict[Any, str]:
    return {category["id"]: str(category["name"]) for category in document.get("categories", ())}


def _read_labelme(files: Sequence[Path]) -> Iterator[AnnotatedFrame]:
    numbering = Numbering(files[0].parent)
    for position, path in enumerate(files):
        document = _json(path)
        with _reading(path):
            if "shapes" not in document:
                raise InputError(f"{path}: has no 'shapes', so it is not a file of labelme")
            size = _checked_size(document["imageHeight"], document["imageWidth"], path)
            masks, boxes = numbering.masks((labelme_shape(one, size, path) for one in document["shapes"]), size)
        yield AnnotatedFrame("", path.stem, _index(path.stem, position), masks, boxes)


def _read_cvat(file: IO[bytes], name: str, as_prompts: bool) -> Iterator[AnnotatedFrame]:
    numbering = Numbering(Path(name))
    position = 0
    video_size: tuple[int, int] | None = None
    tracks: dict[int, list[tuple[ElementTree.Element, str, int]]] = {}  # shapes by frame
    with _reading(name):
        for _, element in ElementTree.iterparse(file):
            if element.tag == "original_size":
                height, width = (int(element.findtext(side, "")) for side in ("height", "width"))
                video_size = _checked_size(height, width, name)
            if element.tag == "track":
                for shape in element:
                    if shape.get("outside") != "1" and (not as_prompts or shape.get("keyframe", "1") == "1"):
                        where = int(shape.attrib["frame"])
                        if not 0 <= where < _MOST_FRAMES:
                            raise InputError(f"{name}: a shape is of frame {where}, which no video has")
                        tracks.setdefault(where, []).append((shape, element.attrib["label"], int(element.attrib["id"])))
            if element.tag != "image":
                continue
            size = _checked_size(int(element.attrib["height"]), int(element.attrib["width"]), name)
            shapes = (cvat_shape(shape, size, name) for shape in element if shape.tag != "tag")
            frame = _stem(element.attrib["name"])
            masks, boxes = numbering.masks(shapes, size)
            yield AnnotatedFrame("", frame, _index(frame, position), masks, boxes)
            position += 1
            element.clear()
        if tracks and video_size is None:
            raise InputError(f"{name}: holds tracks but no original_size, the size of the video")
        for index in sorted(tracks):
            assert video_size is not None
            shapes = (cvat_shape(shape, video_size, name, label, number) for shape, label, number in tracks[index])
            masks, boxes = numbering.masks(shapes, video_size)
            yield AnnotatedFrame("", f"{index:05d}", index, masks, boxes)
    if not position and not tracks:
        raise InputError(f"{name}: holds neither images nor tracks, so it is not a file of CVAT")


def _read_yolo(files: list[Path], image_size: tuple[int, int] | None) -> Iterator[AnnotatedFrame]:
    settings: dict[str, str] = {}
    labels = folder = files[0].parent.absolute()
    while labels.name != "labels":  # Ultralytics has labels/train beside images/train
        labels = labels.parent
    for file in sorted(labels.parent.glob("*.y*ml")):
        settings |= dict(re.findall(r"^(image_width|image_height): *(\d+) *$", read_text(file), re.MULTILINE))
    if image_size is None and len(settings) == 2:
        image_size = int(settings["image_height"]), int(settings["image_width"])
    beside = labels.with_name("images") / folder.relative_to(labels)
    images = {image.stem: image for image in sorted(beside.glob("*")) if image.name[0] != "."}
    numbering = Numbering(files[0].parent)
    for position, file in enumerate(files):
        size = image_size
        if file.stem in images:
            with open_image(images[file.stem], InputError) as image:
                size = image.height, image.width
        if size is None:
            raise InputError(f"{file}: YOLO's labels state no size; put the images into images/", option="image_size")
        height, width = _checked_size(*size, file)
        shapes = []
        with _reading(file):
            for line in read_text(file).splitlines():
                number, *values = line.split()
                if len(values) < 6:
                    raise InputError(
                        f"{file}: a line of {1 + len(values)} values is not a polygon (class and 3 points)"
                    )
                # The corners are pixels, as Ultralytics takes them
                points = np.floor(checked_points(values) * (width, height) + 1e-6)
                corners = points.clip(0, (width - 1, height - 1)).astype(np.int32)
                mask = cv2.fillPoly(np.zeros((height, width), np.uint8), [corners], 1).astype(bool)
                shapes.append(Shape(f"object {int(number) + 1}", mask))
            masks, _ = numbering.masks(shapes, (height, width))
        yield AnnotatedFrame("", file.stem, _index(file.stem, position), masks)


def _json(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}, annotations are an object with keys")
    return document


@contextlib.contextmanager
def _reading(path: object) -> Iterator[None]:
    """Turn what a file lacks, or has wrong, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        OSError,
        SyntaxError,
        csv.Error,
    ) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: is not as its format says ({what[:200]})") from error


def _size(entry: dict[str, Any], path: Path) -> tuple[int, int]:
    return _checked_size(entry["height"], entry["width"], path)


def _checked_size(height: Any, width: Any, path: object) -> tuple[int, int]:
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise InputError(f"{path}: an image of {width!r:.40}x{height!r:.40} pixels; sizes are whole numbers from 1")
    check_pixels(str(path), width, height)
    return height, width


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]} is no name of a video")
    return value


def _time(value: Any) -> float:
    if not math.isfinite(time_s := float(value)):
        raise ValueError(f"{time_s} is no time")
    return time_s


def _stem(file_name: str) -> str:
    name = str(file_name).replace("\\", "/").rpartition("/")[2]
    if not name.isprintable() or name in ("", ".", ".."):
        raise ValueError(f"{str(file_name)[:80]!r} is no name of a file")
    return name.rpartition(".")[0] or name


def _index(name: str, position: int) -> int:
    """Return the number at the end of a frame's name, else its place."""
    number = re.search(r"([0-9]{1,9})$", name)
    return position if number is None else int(number[1])
