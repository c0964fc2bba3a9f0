"""Exported models: graphs compute what torch does, pipelines run them without torch, and damage is refused."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import twospeed
from twospeed.cli.main import exit_code
from twospeed.data.clips.synthetic import render_clip
from twospeed.errors import CheckpointError, InputError, OutputError
from twospeed.evaluation.export import export_model
from twospeed.export.networks import open_network
from twospeed.models.encoders.resnet import ResNetFeatures
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.network import GSVNet
from twospeed.models.memory import read_memory
from twospeed.models.slowfast.detection import RegionHead
from twospeed.models.slowfast.network import SlowFast
from twospeed.models.stcn.network import STCN
from twospeed.ops import on_numpy, on_torch
from twospeed.pipelines.classify import Classifier
from twospeed.pipelines.detect import Detector
from twospeed.pipelines.segment import Segmenter
from twospeed.pipelines.tracker import Tracker
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter
from twospeed.weights.entries import Preprocessing, read_exported

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CLIP = Preprocessing(mean=(0.45,) * 3, std=(0.225,) * 3, short_side=64, crop=64)


def tracking_network(input_scale: float = 1.0) -> STCN:
    torch.manual_seed(3)
    return STCN(
        ResNetFeatures("basic", (1, 1, 1), width=16, stem_width=16, stem_stride=4),
        ResNetFeatures("basic", (1, 1, 1), width=16, stem_width=16, channels_in=5, stem_stride=4),
        key_channels=16,
        value_channels=24,
        thin_channels=16,
        decoder_channels=(24, 16, 16),
        recent=True,
        input_scale=input_scale,
    ).eval()


class Colours(nn.Module):
    """An image network of three classes."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(image, 4) / 255


def clip_network(*, regions: bool) -> SlowFast:
    torch.manual_seed(0)
    options = {"res5_stride": 1, "res5_dilation": 2} if regions else {}
    network = SlowFast(depths=(1, 1, 1, 1), width=8, beta_inverse=4, num_classes=5, frames=8, **options)
    if regions:
        network.head = RegionHead(network.feature_channels, 5)
    return network.eval()


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(render_clip(3, frames=7, height=75, width=101, objects=3))


@pytest.fixture(scope="module")
def tracker_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "tracker"
    exported = export_model(tracking_network(), folder)
    assert max(one["relative"] for one in exported.check["largest_difference"].values()) < 1e-4
    return folder


@pytest.mark.parametrize("objects", [1, 3])
def test_a_tracker_gives_the_masks_of_torch_at_odd_sizes(tracker_folder, clip, objects):
    reference, exported = (Tracker(model, size=None, memory_every=2) for model in (tracking_network(), tracker_folder))
    for index, (image, labels) in enumerate(clip):
        given = np.where(labels <= objects, labels, 0) if index == 0 else None
        if index == 4:  # a correction of one object, after which others keep what they have
            given = np.where(labels == 1, 1, 255)
        expected, found = (tracker.step(image, given) for tracker in (reference, exported))
        assert found.object_ids == expected.object_ids
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-3)
        np.testing.assert_allclose(found.confidence, expected.confidence, atol=2e-3)
        assert (found.labels != expected.labels).mean() < 2e-3


def test_a_tracker_that_asks_for_smaller_frames_is_given_them(clip, tmp_path):
    network = tracking_network(input_scale=2 / 3)
    export_model(network, tmp_path / "tracker")
    reference, exported = Tracker(network), Tracker(tmp_path / "tracker")
    for index, (image, labels) in enumerate(clip[:4]):
        expected, found = (tracker.step(image, labels if index == 0 else None) for tracker in (reference, exported))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-3)
    whole = Tracker(tracking_network())
    for index, (image, labels) in enumerate(clip[:4]):
        expected = whole.step(image, labels if index == 0 else None)
    assert abs(found.probabilities - expected.probabilities).max() > 0.01  # else the scale would make no difference


def test_a_saved_state_continues_exactly(tracker_folder, clip, tmp_path):
    first, second = (Tracker(tracker_folder, size=48) for _ in range(2))
    for image, labels in clip[:3]:
        first.step(image, labels if not first.memory_frames else None)
    first.save_state(tmp_path / "state.safetensors")
    second.load_state(tmp_path / "state.safetensors")
    np.testing.assert_array_equal(first.step(clip[3][0]).probabilities, second.step(clip[3][0]).probabilities)


def test_the_read_hides_cells_and_keeps_all_matches_without_top_k(tracker_folder):
    network = open_network(read_exported(tracker_folder))
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(shape, generator=generator) for shape in ((1, 16, 5, 7), (1, 16, 90), (1, 2, 6, 90))
    )
    allowed = torch.arange(90) % 3 > 0
    for top_k, seen in ((None, None), (7, allowed), (500, allowed)):
        expected = read_memory(query, keys, values, top_k=top_k, allowed=seen)
        found = network.read(
            query.numpy(), keys.numpy(), values.numpy(), top_k=top_k, allowed=None if seen is None else seen.numpy()
        )
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_network_of_ones_own_that_needs_no_features(tmp_path, clip):
    class ColourTracker(nn.Module):
        similarity, keys_per_object, masks_as_given = "l2", False, False

        def normalise(self, images):
            return 30 * (images - 0.5)

        def encode_key(self, frames):
            return twospeed_features(F.avg_pool2d(frames, 16))

        def encode_memory(self, frames, features, masks):
            return features.key, F.avg_pool2d(masks, 16).unsqueeze(2)

        def decode(self, readout, features):
            return F.interpolate(20 * readout.squeeze(2) - 10, scale_factor=16)

    network = ColourTracker()
    export_model(network, tmp_path / "own")
    reference, exported = Tracker(network, size=64), Tracker(tmp_path / "own", size=64)
    for index, (image, labels) in enumerate(clip[:3]):
        given = labels if index == 0 else None
        expected, found = reference.step(image, given), exported.step(image, given)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


def twospeed_features(key: torch.Tensor):
    from collections import namedtuple

    return namedtuple("Features", "key")(key)


@pytest.mark.parametrize("make", [lambda: GSVNet(Colours(), FlowLight(), 3).eval(), Colours], ids=["video", "image"])
def test_a_segmenter_gives_the_labels_of_torch(tmp_path, clip, make):
    torch.manual_seed(0)
    network = make()
    export_model(network, tmp_path / "segmenter")
    policy = twospeed_policy()
    reference, exported = Segmenter(network, policy), Segmenter(tmp_path / "segmenter", policy)
    for image, _ in clip:
        expected, found = reference.step(image), exported.step(image)
        assert found.is_keyframe == expected.is_keyframe
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        assert (found.labels != expected.labels).mean() < 2e-3
    as_float = clip[0][0].transpose(2, 0, 1).astype(np.float32) / 255
    assert (exported.step(as_float).labels == reference.step(torch.from_numpy(as_float)).labels).mean() > 0.99


def test_a_segmenter_of_the_catalogue_keeps_its_classes(tmp_path, clip):
    export_model("segment_nano", tmp_path / "nano")
    expected, found = (Segmenter(model).step(clip[0][0]) for model in ("segment_nano", tmp_path / "nano"))
    assert found.classes == expected.classes
    assert (found.labels != expected.labels).mean() < 2e-3


def twospeed_policy():
    from twospeed.pipelines.segment import on_drift

    return on_drift(1.0, at_least_every=3)


def test_a_classifier_and_a_detector_give_the_scores_of_torch(tmp_path):
    video = np.stack([image for image, _ in render_clip(1, frames=20, height=70, width=90)])
    for regions, task in ((False, "classify"), (True, "detect")):
        network = clip_network(regions=regions)
        export_model(network, tmp_path / task, task=task, preprocessing=CLIP)
        models = (network, tmp_path / task)
        names = [str(i) for i in range(5)]
        if task == "classify":
            results = [
                Classifier(model, 2, 3, labels=names, preprocessing=CLIP).classify(video).probabilities
                for model in models
            ]
        else:
            boxes = [[5, 5, 40, 60], [30, 10, 85, 66], [0, 0, 20, 20]]
            options = {"labels": names, "preprocessing": CLIP, "flip": True, "scales": (48, 64)}
            results = [next(Detector(model, boxes, **options).detect(video)).action_scores for model in models]
        np.testing.assert_allclose(results[1], results[0], atol=1e-5)


def test_the_command_line_tracks_where_torch_cannot_be_imported(tracker_folder, clip, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for image, _ in clip[:3]:
            writer.write(np.ascontiguousarray(image[:74, :100]))
    write_indexed_png(tmp_path / "mask.png", clip[0][1][:74, :100])
    arguments = [
        "track", str(tmp_path / "clip.mp4"), "--mask", str(tmp_path / "mask.png"), "--model", str(tracker_folder),
        "-o", str(tmp_path / "out"), "-q",
    ]  # fmt: skip
    code = f"""
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None  # importing them fails
import twospeed
twospeed.Tracker, twospeed.Segmenter, twospeed.Classifier, twospeed.Detector, twospeed.track, twospeed.list_models()
from twospeed.cli.main import exit_code
sys.exit(exit_code({arguments!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 3


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_is_measured_and_refused_where_it_costs_too_much(tmp_path, engine, precision):
    pytest.importorskip(engine)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    exported = export_model(network.eval(), tmp_path / "low", engine, precision, allow_loss=1)
    agreement = exported.check["agreement"]
    assert agreement["of"] == "mIoU"
    assert 0.3 < agreement["value"] <= 1
    assert Segmenter(tmp_path / "low").step(np.full((40, 56, 3), 90, np.uint8)).labels.shape == (40, 56)
    if precision == "int8":
        with pytest.raises(InputError, match="in int8 has mIoU"):
            export_model(network, tmp_path / "refused", engine, precision, allow_loss=0)
        assert [path.name for path in tmp_path.iterdir()] == ["low"]


def test_openvino_runs_a_tracker(tmp_path, clip):
    pytest.importorskip("openvino")
    export_model(tracking_network(), tmp_path / "tracker", "openvino")
    reference, exported = Tracker(tracking_network(), size=64), Tracker(tmp_path / "tracker", size=64)
    for index, (image, labels) in enumerate(clip[:3]):
        given = labels if index == 0 else None
        expected, found = reference.step(image, given), exported.step(image, given)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-3)


def test_what_a_graph_needs_to_know_travels_inside(tracker_folder, tmp_path):
    import onnx

    inside = json.loads(onnx.load(str(tracker_folder / "decode.onnx")).metadata_props[0].value)
    assert inside["task"] == "track"
    assert inside["graph"] == "decode"
    content = json.loads((tracker_folder / "model.json").read_text())
    assert content["opset"] == 18
    assert len(content["check"]["sizes"]) == 3


def damage(folder: Path, how: str) -> None:
    path = folder / "model.json"
    content = json.loads(path.read_text())
    if how == "no model.json":
        path.unlink()
    elif how == "cut off":
        path.write_text(path.read_text()[:100])
    elif how == "a graph changed":
        with (folder / "decode.onnx").open("ab") as file:
            file.write(b"x")
    elif how == "a graph missing":
        (folder / "read.onnx").unlink()
    else:
        if how == "another format":
            content["format"] = "twospeed export 99"
        elif how == "a path outside":
            content["graphs"]["read"]["file"] = "../read.onnx"
        elif how == "no graphs":
            content["graphs"] = {}
        elif how == "a list":
            content["graphs"]["read"] = ["read.onnx"]
        elif how == "an unknown task":
            content["task"] = "fly"
        elif how == "an attribute missing":
            del content["attributes"]["similarity"]
        elif how == "a scale above 1":
            content["attributes"]["input_scale"] = 1e6
        path.write_text(json.dumps(content))


DAMAGES = ["no model.json", "cut off", "a graph changed", "a graph missing", "another format", "a path outside",
           "no graphs", "a list", "an unknown task", "an attribute missing",
           "a scale above 1"]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_folder_is_refused(tracker_folder, tmp_path, how):
    folder = tmp_path / "damaged"
    shutil.copytree(tracker_folder, folder)
    damage(folder, how)
    with pytest.raises((CheckpointError, InputError)) as error:
        Tracker(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_bad_arguments_end_with_one_line(tracker_folder, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    new, there, folder = str(tmp_path / "new"), str(tmp_path / "there"), str(tracker_folder)
    video = str(tmp_path / "no.mp4")
    for arguments, word in (
        (["export", "track_tiny", "-o", there], "exists"),
        (["export", "track_tiny", "-o", new, "--format", "coreml"], "coreml"),
        (["export", "track_tiny", "-o", new, "--precision", "int4"], "int4"),
        (["export", "no_such_model", "-o", new], "no_such_model"),
        (["export", "click_nano", "-o", new], "cannot be exported"),
        (["export", folder, "-o", new], "exported already"),
        (["export", "track_tiny", "-o", new, "--frames", video], "no.mp4"),
        (["export", "track_tiny", "-o", new, "--allow-loss", "2"], "2"),
    ):
        assert exit_code(arguments) == 2, arguments
        printed = capsys.readouterr().err.strip()
        assert word in printed
        assert len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_options_that_an_exported_model_does_not_take(tracker_folder):
    refused = ({"precision": "bf16"}, {"device": "cuda"}, {"finetune": 3}, {"kernel_sigma": 7.0}, {"weights": None})
    for options in refused:
        with pytest.raises(InputError):
            Tracker(tracker_folder, **options)
    with pytest.raises(InputError, match="task 'track'"):
        Segmenter(tracker_folder)
    with pytest.raises(InputError, match="exported model"):
        twospeed.create_model(str(tracker_folder))


def test_a_missing_package_names_the_extra(tracker_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"twospeed\[onnx\]"):
        Tracker(tracker_folder)


def test_a_network_that_decides_by_values_is_refused(tmp_path):
    class Decides(nn.Module):
        def forward(self, image):
            return Colours()(image if float(image.mean()) > 300 or image.shape[-1] > 300 else image.flip(1))

    with pytest.raises(InputError, match="differs from torch"):
        export_model(Decides(), tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_fault_of_the_network(tmp_path, monkeypatch):
    def export(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(OutputError, match=r"No space left on device.*; free space"):
        export_model("track_tiny", tmp_path / "out")


def test_both_kinds_of_arrays_compute_the_same():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 37, 53, generator=generator)
    pairs = {
        "resize": [(x, (20, 61), mode) for mode in ("nearest", "bilinear", "bicubic")],
        "resize_aligned": [(x, (64, 31)), (x, (1, 1))],
        "aggregate": [(x[0],)],
        "small_image": [(x[0],), (torch.rand(3, 300, 410, generator=generator),)],
        "full_size_labels": [(torch.randn(6, 9, 11, generator=generator), (50, 71))],
        "backward_warp": [(x, 4 * torch.randn(1, 2, 37, 53, generator=generator))],
        "sigmoid": [(200 * (x - 0.5),)],
        "softmax": [(x,)],
    }
    for name, calls in pairs.items():
        for arguments in calls:
            expected = getattr(on_torch, name)(*arguments)
            found = getattr(on_numpy, name)(*(a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments))
            np.testing.assert_allclose(found, expected.numpy(), atol=2e-5, err_msg=name)
