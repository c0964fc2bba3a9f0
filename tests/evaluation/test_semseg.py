"""CamVid and Cityscapes as they are scored: official numbers from files, distances from the keyframe with a model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import GOLDENS
from tests.data.driving_trees import classes_at, make_camvid, make_cityscapes, write
from twospeed import DatasetError, InputError, create_model
from twospeed.data.benchmarks import camvid, cityscapes
from twospeed.data.benchmarks.camvid import CamVid
from twospeed.data.benchmarks.cityscapes import Cityscapes, ids_from_classes
from twospeed.evaluation.label_runs import plan_chains, run_chains
from twospeed.evaluation.runner import Clock
from twospeed.evaluation.semseg import SegmentationSettings, evaluate_segmentation
from twospeed.metrics.confusion import confusion_matrix, mean_iou, over_interval
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.network import GSVNet
from twospeed.results import ClassMap
from twospeed.weights.cost import segmenter_cost

FACTS = json.loads((GOLDENS / "semseg" / "facts.json").read_text())
EXPECTED = json.loads((GOLDENS / "miou_metric" / "expected.json").read_text())["results"]
MAPS = np.load(GOLDENS / "miou_metric" / "maps.npz")


class Colours(nn.Module):
    """An image network that knows CamVid's colours; counts its calls."""

    def __init__(self, colours: tuple[tuple[int, int, int], ...] = camvid.CLASSES.colours):
        super().__init__()
        self.register_buffer("colours", torch.tensor(colours, dtype=torch.float32))
        self.offset = nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.offset - (image[:, None] - self.colours[None, :, :, None, None]).abs().mean(2) / 8


def video_network() -> GSVNet:
    torch.manual_seed(0)
    return GSVNet(Colours(), FlowLight(4), 11, width=4, keyframe_scale=1.0)


class Stale:
    """Labels every frame as the keyframe, which it knows by its colours."""

    def __init__(self, colours):
        self.colours, self.calls = np.array(colours), 0
        self.reset()

    def reset(self):
        self.labels = None

    def step(self, image):
        self.calls += 1
        is_keyframe = self.labels is None
        if is_keyframe:
            self.labels = np.abs(image[:, :, None] - self.colours.astype(int)).sum(3).argmin(2).astype(np.uint8)
        return ClassMap(self.labels, np.zeros((1, 1, 1), np.float32), is_keyframe)


def by_hand(frames: int, distance: int, size: tuple[int, int] = (64, 128)) -> np.ndarray:
    """Matrix of labels against those of the frame `distance` before, as `make_camvid` draws them."""
    total = np.zeros((11, 11), np.int64)
    for time in range(distance, frames):
        truth = classes_at(time, (0, 1, 3, 8), size)
        total += confusion_matrix(truth[4:], classes_at(time - distance, (0, 1, 3, 8), size)[4:], 11)
    return total


def test_distances_are_counted_from_the_keyframe(tmp_path):
    data, segmenter, clock = CamVid(make_camvid(tmp_path), "val"), Stale(camvid.CLASSES.colours), Clock()
    chains = plan_chains(data, range(4))
    assert [sorted(chain.scored) for chain in chains] == [[0, 1, 2, 3]] * 3 + [[0, 1, 2], [0, 1], [0]]
    matrices = run_chains(segmenter, chains, 11, clock=clock)
    for distance in range(4):
        assert (matrices[distance] == by_hand(6, distance)).all()
    assert segmenter.calls == 4 + 4 + 4 + 3 + 2 + 1  # each keyframe serves all of its distances
    assert {kind: len(seconds) for kind, seconds in clock.laps.items()} == {"keyframe": 6, "step": 12}
    assert clock.frames == 18


def test_cityscapes_frames_between_are_not_scored(tmp_path):
    data = Cityscapes(make_cityscapes(tmp_path), "val")
    chains = plan_chains(data, (0, 3))
    assert len(chains) == 6
    segmenter = Stale(cityscapes.CLASSES.colours)
    matrices = run_chains(segmenter, chains, 19)
    assert segmenter.calls == 3 * (1 + 4)
    assert mean_iou(matrices[0], "skip") == 1
    assert matrices[3].sum() == 3 * 60 * 128
    assert np.trace(matrices[3]) == 3 * 60 * 32  # columns of 32 have moved by 24


@pytest.mark.parametrize(("name", "as_ids"), [("cityscapes19", False), ("cityscapes19", True), ("camvid11", False)])
def test_files_get_the_official_numbers(name, as_ids, tmp_path):
    labels, found = MAPS[f"{name}/labels"], MAPS[f"{name}/predictions"]
    benchmark = name[:-2]
    for index, (truth, prediction) in enumerate(zip(labels, found, strict=True)):
        if benchmark == "cityscapes":
            frame = f"ulm_{index:06d}_000019"
            write(tmp_path / "data/leftImg8bit/val/ulm" / f"{frame}_leftImg8bit.png", np.zeros((8, 8, 3), np.uint8))
            write(tmp_path / "data/gtFine/val/ulm" / f"{frame}_gtFine_labelIds.png", ids_from_classes(truth))
            values = ids_from_classes(prediction) if as_ids else prediction
            write(tmp_path / "found" / "ulm" / f"{frame}_pred_labelIds.png", values)
        else:
            frame = f"0016E5_{7959 + 2 * index:05d}"
            write(tmp_path / "data/val/images" / f"{frame}.png", np.zeros((8, 8, 3), np.uint8))
            write(tmp_path / "data/val/labels" / f"{frame}.png", np.minimum(truth, 11))
            write(tmp_path / "found" / f"{frame}.png", prediction)
    report = evaluate_segmentation(benchmark, tmp_path / "data", predictions=tmp_path / "found")
    official = EXPECTED[name]
    assert report.scores["mIoU"] == pytest.approx(official["gsvnet"]["mIoU"], abs=2e-6)
    assert report.scores["pixel_accuracy"] == pytest.approx(official["swiftnet"]["pixel_accuracy"], abs=2e-6)
    assert np.nan_to_num(list(report.scores["class_IoU"].values())) == pytest.approx(
        official["gsvnet"]["class_IoU"], abs=2e-6
    )
    if benchmark == "cityscapes":
        assert ("label ids" if as_ids else "classes") in report.notes[0]


def test_what_is_predicted_as_no_class_is_wrong_for_cityscapes(tmp_path):
    root = make_cityscapes(tmp_path / "data")
    for frame in Cityscapes(root, "val"):
        labels = frame.labels()
        labels[:, 64:] = cityscapes.VOID
        write(tmp_path / "found" / f"{frame.name}.png", ids_from_classes(labels))
    scores = evaluate_segmentation("cityscapes", root, predictions=tmp_path / "found").scores
    assert scores["pixel_accuracy"] == pytest.approx(0.5)
    assert sum(v for v in scores["class_IoU"].values() if v == v) / 4 == pytest.approx(0.5, abs=0.01)


def test_a_model_says_all_that_its_files_say(tmp_path):
    root = make_camvid(tmp_path / "data", size=(70, 107))  # no multiple of 8 or 32
    model, out = video_network(), tmp_path / "out"
    settings = SegmentationSettings(keyframe_every=3, image_scales=(0.5, 1))
    report = evaluate_segmentation("camvid", root, model=model, settings=settings, output=out)
    scores = report.scores
    assert list(scores["by_distance"]) == ["0", "1", "2"]
    for distance, value in scores["by_distance"].items():
        if distance == "0":
            again = evaluate_segmentation("camvid", root, predictions=out / "distance_0")
            assert again.scores["mIoU"] == value
    assert scores["mIoU"] == scores["average_mIoU"] == scores["intervals"]["3"]["average_mIoU"]
    assert scores["minimum_mIoU"] == scores["by_distance"]["2"]
    assert scores["average_mIoU_of_distances"] == pytest.approx(np.mean(list(scores["by_distance"].values())))
    assert scores["by_distance"]["0"] > 0.25  # four of eleven classes occur, through an eighth of the size
    assert scores["image_scales"]["1"]["mIoU"] == pytest.approx(4 / 11)
    assert scores["image_scales"]["0.5"]["mIoU"] < 4 / 11
    assert scores["intervals"]["3"]["gmacs_per_frame"] == pytest.approx(2 / 3 * scores["gmacs"]["step"], rel=1e-6)
    assert scores["parts"]["image_network"] == {"parameters": 1, "bytes": 4}
    assert "6, 5, 4 of 101 frames (CamVid val)" in report.coverage
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["speed"]["step_seconds"] > 0

    (out / "distance_1" / "0016E5_07963.png").unlink()
    settings = SegmentationSettings(keyframe_every=3)
    with pytest.raises(InputError, match="was begun with image_scales"):
        evaluate_segmentation("camvid", root, model=model, settings=settings, output=out, resume=True)
    settings = SegmentationSettings(keyframe_every=3, image_scales=(0.5, 1))
    again = evaluate_segmentation("camvid", root, model=model, settings=settings, output=out, resume=True)
    assert again.speed["frames"] == 3  # the one chain that leads to the missing file
    assert again.scores["by_distance"] == scores["by_distance"]


def test_the_average_pools_matrices_as_the_released_code():
    case = EXPECTED["distances"]
    matrices = [
        confusion_matrix(labels, found, case["classes"])
        for labels, found in zip(MAPS["distances/labels"], MAPS["distances/predictions"], strict=True)
    ]
    assert over_interval(matrices)[0] == pytest.approx(case["average_mIoU_pooled_matrix"], abs=2e-6)


def test_an_image_network_has_no_distance(tmp_path):
    root = make_camvid(tmp_path, frames=2)
    scores = evaluate_segmentation("camvid", root, model=Colours()).scores
    assert scores["by_distance"] == {"0": pytest.approx(4 / 11)}
    assert scores["average_mIoU"] == scores["minimum_mIoU"] == scores["mIoU"]
    with pytest.raises(InputError, match="labels every image by itself; leave the keyframe interval of 4 out"):
        evaluate_segmentation("camvid", root, model=Colours(), settings=SegmentationSettings(keyframe_every=4))


def test_labels_a_second_apart_are_no_video(tmp_path):
    root = make_camvid(tmp_path, frames=3)
    for kind in ("images", "labels"):
        for number, later in ((7961, 7989), (7963, 8019)):
            folder = root / "val" / kind
            (folder / f"0016E5_{number:05d}.png").rename(folder / f"0016E5_{later:05d}.png")
    report = evaluate_segmentation("camvid", root, model=video_network())
    assert list(report.scores["by_distance"]) == ["0"]
    assert "the labelled frames lie apart; a frame step takes them as a video" in report.notes[0]
    settings = SegmentationSettings(keyframe_every=2, frame_step=30)
    report = evaluate_segmentation("camvid", root, model=video_network(), settings=settings)
    assert list(report.scores["by_distance"]) == ["0", "1"]


def test_a_test_split_gives_files_for_the_server(tmp_path):
    make_cityscapes(tmp_path, "test", before=0, names=("ulm_000001_000019",))
    (tmp_path / "leftImg8bit_sequence").rename(tmp_path / "leftImg8bit")
    (tmp_path / "gtFine").rename(tmp_path / "elsewhere")
    network = Colours(cityscapes.CLASSES.colours)
    with pytest.raises(InputError, match="not public, so only predictions can be made"):
        evaluate_segmentation("cityscapes", tmp_path, model=network, split="test")
    report = evaluate_segmentation("cityscapes", tmp_path, model=network, split="test", output=tmp_path / "out")
    assert report.scores == {}
    assert report.coverage == "1 of 1525 frames (Cityscapes test)"
    values = np.asarray(Image.open(tmp_path / "out" / "distance_0" / "ulm_000001_000019.png"))
    assert (values == ids_from_classes(classes_at(0, (0, 2, 10, 13), (64, 128)))).mean() > 0.99


def test_void_alone_is_scored_as_nothing(tmp_path):
    root = make_camvid(tmp_path / "data", frames=2)
    for name in ("0016E5_07959", "0016E5_07961"):
        write(root / "val" / "labels" / f"{name}.png", np.full((64, 128), 11, np.uint8))
    shutil.copytree(root / "val" / "labels", tmp_path / "found")
    report = evaluate_segmentation("camvid", root, predictions=tmp_path / "found")
    assert report.to_json()["mIoU"] is None
    assert "not one pixel was scored: all labels are void" in report.notes
    assert "–" in report.text()


def test_bad_files_are_named(tmp_path):
    root, found = make_camvid(tmp_path / "data", frames=3), tmp_path / "found"
    with pytest.raises(DatasetError, match="no such folder of predictions"):
        evaluate_segmentation("camvid", root, predictions=found)
    frames = [frame.name for frame in CamVid(root, "val")]
    for number in range(len(frames)):
        write(found / f"{number:05d}.png", np.minimum(CamVid(root, "val")[number].labels(), 10))
    report = evaluate_segmentation("camvid", root, predictions=found)  # as `twospeed segment` names its files
    assert report.scores["mIoU"] == pytest.approx(4 / 11)
    assert "taken for frames in their order" in report.notes[0]
    (found / "00002.png").unlink()
    with pytest.raises(DatasetError, match=f"no label PNG for {frames[0]}, {frames[1]}, {frames[2]}; wanted NAME.png"):
        evaluate_segmentation("camvid", root, predictions=found)
    for name in frames:
        write(found / f"{name}_L.png", np.zeros((64, 128), np.uint8))
    write(found / f"{frames[1]}_L.png", np.full((64, 128), 42, np.uint8))
    with pytest.raises(InputError, match=r"07961_L.png: holds the value 42; the 11 classes are 0 to 10"):
        evaluate_segmentation("camvid", root, predictions=found)
    write(found / f"{frames[1]}_L.png", np.zeros((32, 64), np.uint8))
    with pytest.raises(DatasetError, match=r"07961_L.png: is 64x32, the labels .* are 128x64; write predictions"):
        evaluate_segmentation("camvid", root, predictions=found)
    write(found / f"{frames[1]}.png", np.zeros((64, 128), np.uint8))
    with pytest.raises(DatasetError, match=f"two files for {frames[1]}"):
        evaluate_segmentation("camvid", root, predictions=found)


def test_bad_requests_are_one_clear_line(tmp_path):
    root = make_camvid(tmp_path, frames=2)
    for arguments, message in (
        ({}, "give either predictions .* or a model .*, not neither"),
        ({"model": Colours(), "resume": True}, "to resume, give the folder"),
        ({"predictions": tmp_path, "output": tmp_path}, "belong to a run of a model"),
        ({"model": "track_tiny"}, "track_tiny is made for the task track; choose a network for the task segment"),
        ({"model": Colours(cityscapes.CLASSES.colours)}, "11 class names were given, the network has 19 classes"),
        ({"model": Colours(), "split": "dev"}, "split 'dev' of CamVid"),
        ({"model": Colours(), "list_file": root / "x.txt"}, "CamVid is read without a list"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_segmentation("camvid", root, **arguments)
    for wrong in ({"keyframe_every": 0}, {"frame_step": 0}, {"image_scales": (0.0,)}):
        with pytest.raises(InputError, match="give"):
            SegmentationSettings(**wrong)
    write(root / "val" / "images" / "0016E5_07961.png", np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"07961.png: is 64x32, the frame before 128x64; nothing can be propagated"):
        evaluate_segmentation("camvid", root, model=video_network())
    with pytest.raises(DatasetError, match=r"labels/0016E5_07961.png: is 128x64, but the image .* is 64x32"):
        evaluate_segmentation("camvid", root, model=Colours())


def test_costs_are_those_of_the_papers_tables_1_and_2():
    """The paper's FLOPS are multiply-adds of convolutions; ours lack the delay convolution, which is not formed."""
    measured = FACTS["gmacs"]
    for name, part in (("gsvnet_swiftnet_r18", "swiftnet"), ("gsvnet_bisenet_r18", "bisenet")):
        with torch.device("meta"):
            model = create_model(name, None)
        cost = segmenter_cost(model, 1024, 2048)
        assert cost.keyframe_gmacs == pytest.approx(measured[f"{part}_0.75"], rel=1e-4)
        assert cost.step_gmacs == pytest.approx(measured["non_key_frame_light"], abs=measured["ideal_delay_conv"])
        for interval, expected in measured[f"average_per_frame_{part}_0.75"].items():
            assert cost.gmacs_per_frame(int(interval)) == pytest.approx(expected, abs=measured["ideal_delay_conv"])
        assert cost.step_parameters == FACTS["parameters"]["propagation_total_without_delays"]["count"]
        assert round(cost.step_parameters * cost.bytes_each / 1e6, 1) == 1.6
        fact = "swiftnet_r18" if part == "swiftnet" else "bisenet_r18_test"
        assert cost.keyframe_parameters == FACTS["parameters"][fact]["count"]
    with torch.device("meta"):
        model = create_model("swiftnet_r18", None)
    alone = segmenter_cost(model, 1024, 2048)
    assert alone.keyframe_gmacs == pytest.approx(measured["swiftnet_1.0"], rel=1e-4)
    assert alone.step_parameters == alone.step_gmacs == 0
