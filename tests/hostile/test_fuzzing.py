"""Random damage of valid files, and random texts, for every parser: a result, or one error of ours with one line.

pytest tests/hostile/test_fuzzing.py               a dozen damaged files for each parser
pytest -m hostile tests/hostile/test_fuzzing.py    thousands of each
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from twospeed.app.store import Project
from twospeed.batch.driver import Batch
from twospeed.batch.inputs import Video, find_videos
from twospeed.batch.storage import FolderStorage
from twospeed.cli.options import number, parse_numbers, whole
from twospeed.cli.track_many import read_prompts
from twospeed.cli.train import parse_options, read_config
from twospeed.data.annotations import read_annotations
from twospeed.data.benchmarks import ava, coco, davis, video_lists, youtube_vos
from twospeed.data.benchmarks.label_files import read_label_part
from twospeed.errors import TwospeedError
from twospeed.evaluation.runner import claim
from twospeed.evaluation.score_files import read_scores
from twospeed.output.folder import ResultFolder
from twospeed.output.record import read_record
from twospeed.pipelines.action_labels import read_labels
from twospeed.pipelines.person_boxes import given_boxes
from twospeed.pipelines.tracker import Tracker
from twospeed.recipes.stcn import StcnConfig
from twospeed.training.checkpoint import load_checkpoint
from twospeed.training.distributed import Process
from twospeed.video.folders import read_image
from twospeed.video.indexed_png import read_label_map, write_indexed_png
from twospeed.video.reader import open_video
from twospeed.video.sources import parse_position
from twospeed.weights.imports import read_state
from twospeed.weights.load import create_model, save_model

FEW, MANY = 12, 2000
BOX = "one,0902,0.1,0.2,0.5,0.9"
TOKENS = [b"nan", b"inf", b"-1", b"1e999", b"0", b"9" * 30, b"9" * 5000, b"[" * 3000, b"{", b"\"", b",", b"\n", b"\0", b"\xff\xfe", b"null", b"true", b"\xc2\xb2",
          b"../../", b"\xef\xbb\xbf", b"\x1b[31m", b"<a>", b"&", b"\xff" * 8, b"\0" * 8]  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """A file's usual content, its name, and what reads it. around: makes the rest of a data set in the folder."""

    content: Callable[[], bytes]
    file: str
    read: Callable[[Path], Any]
    around: Callable[[Path], Any] = lambda folder: None
    share: float = 1.0  # of the examples: slow ones get fewer


def saved(save: Callable[[Path], Any], name: str = "x") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def image(form: str, mode: str = "RGB") -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        pixels = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
        Image.fromarray(pixels).convert(mode).save(buffer, form)
        return buffer.getvalue()

    return make


def grey_mask() -> bytes:
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 4:12] = 3
    return saved(lambda path: Image.fromarray(labels).save(path), "x.tif")


def mask() -> bytes:
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 4:12], labels[14:20, 14:20] = 1, 2
    return saved(lambda path: write_indexed_png(path, labels), "x.png")


def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.running_var": torch.ones(2), "n": torch.tensor(3)}


def caffe2() -> bytes:
    return pickle.dumps({"blobs": {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3)}}, protocol=2)


@cache
def small_model() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_model("slow_r50_4x16", None, width=8, num_classes=4)


def clip(name: str) -> Callable[[], bytes]:
    def make() -> bytes:
        from tests.hostile.inputs.drawing import encode

        return saved(lambda path: encode(path, 6, (32, 24), options={"g": "3"}), name)

    return make


def coco_list(**more: Any) -> bytes:
    square = [[1, 1, 9, 1, 9, 9, 1, 9]]
    return json.dumps({
        "images": [{"id": 1, "width": 32, "height": 24, "file_name": "0.jpg", **more}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": square, "area": 64, "bbox": [1, 1, 8, 8], "iscrowd": 0},
                        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [24, 32], "counts": [5, 9, 754]}, "area": 9, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}],
    }).encode()  # fmt: skip


CVAT = (b'<?xml version="1.0" encoding="utf-8"?><annotations><image id="0" name="0.jpg" width="32" height="24">'
        b'<mask label="a" rle="2, 3, 3" left="1" top="1" width="4" height="2"/><polygon label="b" points="1,1;9,1;9,9"/>'
        b'<box label="c" xtl="1" ytl="2" xbr="8" ybr="9"/></image></annotations>')  # fmt: skip
LABELME = json.dumps({"imageWidth": 32, "imageHeight": 24, "imagePath": "0.jpg", "shapes": [
    {"label": "a", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9]]},
    {"label": "b", "shape_type": "circle", "points": [[9, 9], [12, 9]]}]}).encode()  # fmt: skip


def zip_of_masks(compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("v/00000.png", mask())
    return buffer.getvalue()


def animated_png() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((24, 32, 3), 60 * number, np.uint8)) for number in range(3)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def masks_of_run(folder: Path) -> None:
    (folder / "run.json").write_bytes(RECORD)
    (folder / "masks").mkdir()
    for index in range(2):
        (folder / f"masks/{index:05d}.png").write_bytes(mask())


def batch_folder(folder: Path) -> None:
    with Batch(FolderStorage(folder), "segment", []) as batch:
        batch.add([Video("/in/a.mp4")])


def open_batch(folder: Path) -> None:
    with Batch(FolderStorage(folder), "segment", []):
        pass


@cache
def batch_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        batch_folder(Path(folder))
        return (Path(folder) / name).read_bytes()


@cache
def project_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        source = {"name": "clip", "path": "clip.mp4", "height": 6, "width": 8, "fingerprint": ""}
        project.describe(source, np.arange(5) / 10)
        region = np.zeros((6, 8), bool)
        region[1:4, 2:5] = True
        project.set_marks(3, project.add_object("dog"), {"points": [[2, 2, 1]], "start": None}, region)
        project.close()
        return (Path(folder) / "project.db").read_bytes()


def open_project(path: Path) -> None:
    project = Project(path.parent)
    try:
        project.check_content()
        project.state()
        for one in project.masks(0, 4):
            one.labels()
        project.undo()
    finally:
        project.close()


def davis_set(folder: Path) -> None:
    for name in ("dog", "cat"):
        for kind, ending, data in (("JPEGImages", "jpg", image("JPEG")()), ("Annotations", "png", mask())):
            (folder / f"{kind}/480p/{name}").mkdir(parents=True)
            (folder / f"{kind}/480p/{name}/00000.{ending}").write_bytes(data)


def youtube_set(folder: Path) -> None:
    for kind, ending, data in (("JPEGImages", "jpg", image("JPEG")()), ("Annotations", "png", mask())):
        (folder / f"valid/{kind}/v1").mkdir(parents=True)
        (folder / f"valid/{kind}/v1/00000.{ending}").write_bytes(data)


def coco_set(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images/0.jpg").write_bytes(image("JPEG")())


@cache
def tracker_state() -> bytes:
    tracker = Tracker("track_tiny", size=None)
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 4:20] = 1
    tracker.step(np.full((32, 32, 3), 60, np.uint8), labels)
    return saved(tracker.save_state, "x.safetensors")


def checkpoint() -> bytes:
    content = {
        "step": 3,
        "world": 1,
        "random": [{"torch": torch.get_rng_state()}],
        "config": {"lr": 0.1},
        "model": tensors(),
    }
    return saved(lambda path: torch.save(content, path))


FRAMES_CSV = (b"output_index,source_index,file_name,time_s,pts,keyframe,confidence\n0,0,,0.0,0,1,1:0.9000;2:0.5000\n"
              b"1,1,,0.04,512,0,1:0.9000;2:0.5000\n")  # fmt: skip
PROMPTS_CSV = b'video,frame,object,kind,value\nv.mp4,0,1,box,"1,2,30,40"\nv.mp4,5,,point,3 4\nw.mp4,,,mask,m.png\n'
RECORD = json.dumps({"command": "track", "model": "track_tiny", "weights_sha256": "0" * 64, "options": {"size": 64}, "frames": 2, "finished": False, "seconds": 1.0,
                     "inputs": {"video": {"bytes": 3, "sha256": "1"}}, "files": {"masks/00000.png": {"bytes": 3, "sha256": "2"}}, "summary": {}}).encode()  # fmt: skip
JOURNAL = b"".join(
    json.dumps(
        {
            "file": f"masks/{i:05d}.png",
            "bytes": 3,
            "sha256": "0",
            "row": [i, i, "", 0.0, 0, 0, ""],
            "restarts": False,
            "objects": [1],
        }
    ).encode()
    + b"\n"
    for i in range(3)
)


def resumed(path: Path) -> None:
    with ResultFolder(path.parent, ["overlay.mp4"], resume=True) as folder:
        assert isinstance(folder.kept, list)
        folder.saved_state()


PARSERS = {
    "mask": Parser(mask, "x.png", read_label_map),
    "mask, snapped": Parser(mask, "x.png", lambda path: read_label_map(path, snap=True)),
    "mask, grey TIFF": Parser(grey_mask, "x.tif", read_label_map),
    "label map": Parser(mask, "x.png", read_label_part),
    **{f"image {form}": Parser(image(form), f"x.{form.lower()}", read_image) for form in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")},
    "boxes csv": Parser(lambda: b"time_s,x1,y1,x2,y2,score\n0,1,2,30,40,0.9\n1,1,2,30,40,0.8\n", "x.csv", lambda path: given_boxes(path, video="x", rate=25.0).check(64, 96)),
    "boxes AVA": Parser(lambda: f"{BOX},,0.9\n{BOX},,0.8\n".encode(), "x.csv", lambda path: given_boxes(path, video="one", rate=25.0).check(64, 96)),
    "boxes JSON": Parser(lambda: b'[{"time_s": 0, "boxes": [[1, 2, 30, 40]], "scores": [0.9]}, {"time_s": 1, "bbox": [1, 2, 3, 4]}]', "x.json",
                         lambda path: given_boxes(path, video="x", rate=25.0).check(64, 96)),
    "AVA truth": Parser(lambda: f"{BOX},1,0\n{BOX},2,1\n".encode(), "x.csv", ava.read_ground_truth),
    "AVA detections": Parser(lambda: f"{BOX},1,0.5\n{BOX},2,0.25\n".encode(), "x.csv", ava.read_detections),
    "AVA boxes": Parser(lambda: f"{BOX},,0.9\n".encode(), "x.csv", ava.read_predicted_boxes),
    "AVA classes": Parser(lambda: b'item {\n  name: "a"\n  id: 1\n}\nitem { name: "b" id: 2 }\n', "x.pbtxt", ava.read_label_map),
    "AVA exclusions": Parser(lambda: b"one,0904\ntwo,0905\n", "x.csv", ava.read_exclusions),
    "AVA frames": Parser(lambda: b'original_vido_id video_id frame_id path labels\none 0 0 one/one_000001.jpg ""\n', "x.csv", ava.read_frame_list),
    "DAVIS list": Parser(lambda: b"dog\ncat\n", "ImageSets/2017/val.txt", lambda path: [one.name for one in davis.Davis(path.parents[2], 2017, "val")], davis_set),
    "YouTube-VOS list": Parser(lambda: b'{"videos": {"v1": {"objects": {"1": {"category": "dog", "frames": ["00000"]}}}}}', "valid/meta.json",
                               lambda path: [youtube_vos.first_masks(one) for one in youtube_vos.YouTubeVos(path.parents[1], "valid")], youtube_set),
    "COCO list": Parser(coco_list, "instances.json", lambda path: [one.mask(24, 32) for one in coco.find_objects(path.parent)], coco_set),
    "video list": Parser(lambda: b"a.mp4 0\nb.mp4 1\n", "x.csv", video_lists.read_video_list),
    "video list, official": Parser(lambda: b"label,youtube_id,time_start,time_end,split\nrun,abc,1,11,val\n", "x.csv", video_lists.read_video_list),
    "class names": Parser(lambda: b"a\nb\n", "x.txt", video_lists.read_class_names),
    "labels": Parser(lambda: b"a\nb\n", "x.txt", read_labels),
    "labels JSON": Parser(lambda: b'{"a": 0, "b": 1}', "x.json", read_labels),
    "weights .pth": Parser(lambda: saved(lambda path: torch.save(tensors(), path)), "x.pth", read_state),
    "weights .pth, legacy": Parser(lambda: saved(lambda path: torch.save(tensors(), path, _use_new_zipfile_serialization=False)), "x.pth", read_state),
    "weights .pkl": Parser(caffe2, "x.pkl", read_state),
    "weights .safetensors": Parser(lambda: saved(lambda path: save_file(tensors(), path, {"model": "stcn"})), "x.safetensors", read_state),
    "weights of a model": Parser(lambda: saved(lambda path: save_model(small_model(), path, model_name="slow_r50_4x16"), "x.safetensors"), "x.safetensors",
                                 lambda path: create_model("slow_r50_4x16", path), share=0.1),
    "tracker state": Parser(tracker_state, "x.safetensors", lambda path: Tracker("track_tiny", size=None).load_state(path), share=0.1),
    "checkpoint": Parser(checkpoint, "checkpoint_00000003.pt", lambda path: load_checkpoint(path, Process(0, 1, torch.device("cpu")))),
    "config.json": Parser(lambda: b'{"batch": [4], "lr": 0.001, "davis": "x", "rates": {"a": 0.5}, "precision": "fp32", "aspp": true}', "config.json",
                          lambda path: read_config(path, StcnConfig)),
    "run.json": Parser(lambda: RECORD, "run.json", read_record),
    "folder, run.json": Parser(lambda: RECORD, "run.json", resumed),
    "folder, journal": Parser(lambda: JOURNAL, ".resume.jsonl", resumed, lambda folder: (folder / "run.json").write_bytes(RECORD)),
    "evaluation.json": Parser(lambda: b'{"benchmark": "davis17", "settings": {"size": 64}}', "evaluation.json",
                              lambda path: claim(path.parent, {"benchmark": "davis17", "settings": {"size": 64}}, resume=True)),
    "scores npz": Parser(lambda: saved(lambda path: np.savez(path, scores=np.eye(2, 4), videos=np.array(["a", "b"])), "x.npz"), "x.npz", read_scores),
    "scores JSON": Parser(lambda: b'{"a": [0.1, 0.9], "b": [[0.5, 0.5], [0.4, 0.6]]}', "x.json", read_scores),
    "scores csv": Parser(lambda: b"name,x,y\na,0.1,0.9\nb,0.5,0.5\n", "x.csv", read_scores),
    "annotations COCO": Parser(coco_list, "x.json", lambda path: list(read_annotations(path))),
    "annotations CVAT": Parser(lambda: CVAT, "x.xml", lambda path: list(read_annotations(path))),
    "annotations labelme": Parser(lambda: LABELME, "x.json", lambda path: list(read_annotations(path))),
    "annotations zip": Parser(zip_of_masks, "x.zip", lambda path: list(read_annotations(path))),
    "annotations zip, compressed": Parser(lambda: zip_of_masks(zipfile.ZIP_DEFLATED), "x.zip", lambda path: list(read_annotations(path))),
    "masks of a run, frames.csv": Parser(lambda: FRAMES_CSV, "frames.csv", lambda path: list(read_annotations(path.parent)), masks_of_run),
    "prompts table": Parser(lambda: PROMPTS_CSV, "x.csv", read_prompts),
    "batch list": Parser(lambda: b"video,start\na.mp4,1s\nb.mp4,\n", "x.csv", lambda path: find_videos([str(path)], lambda cells: list(cells.values())),
                         lambda folder: [(folder / name).touch() for name in ("a.mp4", "b.mp4")]),
    "batch.json": Parser(lambda: batch_file("batch.json"), "batch.json", lambda path: open_batch(path.parent), batch_folder, share=0.3),
    "batch manifest": Parser(lambda: batch_file("manifest.sqlite"), "manifest.sqlite", lambda path: open_batch(path.parent),
                             lambda folder: (folder / "batch.json").write_bytes(batch_file("batch.json")), share=0.3),
    "project of the page": Parser(project_file, "project.db", open_project, share=0.3),
    "animated PNG": Parser(animated_png, "x.png", read_image),
    "annotations YOLO": Parser(lambda: b"0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.1 0.1 0.9 0.1 0.5 0.5\n", "labels/0.txt",
                               lambda path: list(read_annotations(path.parents[1], image_size=(24, 32)))),
    "video mp4": Parser(clip("x.mp4"), "x.mp4", lambda path: list(open_video(path)), share=0.2),
    "video mkv": Parser(clip("x.mkv"), "x.mkv", lambda path: list(open_video(path)), share=0.2),
    "video gif": Parser(image("GIF"), "x.gif", lambda path: list(open_video(path)), share=0.2),
}  # fmt: skip


@st.composite
def damages(draw: Any, content: bytes) -> bytes:
    """Flip bits, overwrite, insert, remove, repeat, put tokens in, cut off; one to four of them."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 16))
        kind = draw(
            st.sampled_from(["flip", "overwrite", "insert", "remove", "repeat", "token", "replace", "cut", "swap"])
        )
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = bytes(data[at : at + length]) * draw(st.integers(1, 50))
        elif kind in ("token", "replace"):
            data[at : at + (length if kind == "replace" else 0)] = draw(st.sampled_from(TOKENS))
        elif kind == "cut":
            del data[at:]
        elif kind == "swap":
            other = draw(st.integers(0, max(0, len(data) - 1)))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    return bytes(data)


def read_damaged(parser: Parser, content: bytes) -> None:
    """Read a file: a result, or an error of ours of one line."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        path = folder / parser.file
        parser.around(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parser.read(path)
        except TwospeedError as error:
            assert str(error).strip(), "an error without a word"
            assert len(str(error)) < 5000, f"a message of {len(str(error))} letters"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def usual(name: str) -> bytes:
    return PARSERS[name].content()


def fuzz(name: str, examples: int) -> None:
    @settings(
        max_examples=max(5, round(examples * PARSERS[name].share)), deadline=None, database=None, derandomize=examples == FEW,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(damages(usual(name)))
    def run(content: bytes) -> None:
        read_damaged(PARSERS[name], content)

    run()


@pytest.mark.parametrize("name", PARSERS)
def test_undamaged_files_are_read(name, tmp_path):
    parser = PARSERS[name]
    parser.around(tmp_path)
    path = tmp_path / parser.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(usual(name))
    parser.read(path)


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_files_are_read_or_refused(name):
    fuzz(name, FEW)


@pytest.mark.hostile
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", PARSERS)
def test_thousands_of_damaged_files_are_read_or_refused(name):
    fuzz(name, MANY)


def text_is_parsed(parse: Callable[[str], Any], *errors: type[Exception]) -> Callable[[str], None]:
    def check(text: str) -> None:
        try:
            parse(text)
        except (TwospeedError, *errors):
            pass

    return check


TEXTS = {
    "position": text_is_parsed(parse_position),
    "whole number": text_is_parsed(whole(0), typer.BadParameter),
    "number": text_is_parsed(number(0), typer.BadParameter),
    "box": text_is_parsed(lambda text: parse_numbers("--box", text, "x,y,width,height")),
    "setting": text_is_parsed(lambda text: parse_options([f"--lr={text}", f"--batch={text}", f"--rates={text}", f"--aspp={text}"], StcnConfig)),
    "settings": text_is_parsed(lambda text: parse_options(text.split(), StcnConfig)),
}  # fmt: skip
NUMBERS = st.one_of(
    st.text(), st.text("0123456789.:s,-+eE_ naif²٣", max_size=12), st.floats().map(str), st.integers().map(str),
    st.lists(st.floats().map(str), min_size=1, max_size=5).map(",".join), st.sampled_from(["9" * 5000, "1e999", "nan", "0x5", "--lr 5", "--no-aspp"]),
)  # fmt: skip


def fuzz_text(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=examples < MANY)
    @given(NUMBERS)
    def run(text: str) -> None:
        TEXTS[name](text)

    run()


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_parsed_or_refused(name):
    fuzz_text(name, 60)


@pytest.mark.hostile
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TEXTS)
def test_thousands_of_texts_are_parsed_or_refused(name):
    fuzz_text(name, 5 * MANY)
