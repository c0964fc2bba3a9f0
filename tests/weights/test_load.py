"""Weights enter in one way, and everything about them is checked."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.commands import twospeed
from twospeed import CheckpointError, InputError, WeightsUnavailable, create_model, list_models
from twospeed.cli.main import exit_code
from twospeed.models.stcn.builders import track_tiny
from twospeed.models.stcn.convert import to_ours
from twospeed.weights.imports import read_state
from twospeed.weights.load import model_of, recognise, save_model
from twospeed.weights.store import weights_sha256


@pytest.fixture(scope="module")
def nano_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return track_tiny().state_dict()


def test_list_models_by_task():
    assert "stcn" in list_models("track")
    assert "stcn" not in list_models("classify")
    assert list_models() == sorted(list_models())
    with pytest.raises(InputError, match="unknown task 'juggle'; choose one of classify"):
        list_models("juggle")


def test_an_unknown_model_names_its_neighbours(tmp_path):
    (tmp_path / "w.pth").touch()
    with pytest.raises(InputError, match=r"w\.pth' is a file; models have names, a file is given as their weights"):
        create_model(str(tmp_path / "w.pth"))
    with pytest.raises(InputError, match="unknown model 'track_nanno'; did you mean track_nano"):
        create_model("track_nanno")
    with pytest.raises(InputError, match="unknown model 'None'"):
        create_model(None)
    assert type(create_model(Path("track_nano"), None)) is type(create_model("track_nano", None))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_cannot_be_used_is_one_clear_line(device):
    with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
        create_model("track_nano", None, device=device)


def test_an_unknown_option_is_one_clear_line():
    with pytest.raises(InputError, match="unexpected keyword argument 'wings'"):
        create_model("stcn", None, wings=2)
    with pytest.raises(InputError, match="similarity is 'cosine'; choose 'l2'"):
        create_model("track_tiny", None, similarity="cosine")


def test_default_weights_are_the_default(caplog):
    default, again = (create_model("track_tiny", *source).state_dict() for source in ((), ("default",)))
    assert all(torch.equal(value, again[key]) for key, value in default.items())
    assert not caplog.records
    with pytest.raises(
        WeightsUnavailable, match=r"no weights are published for slow_r50_8x8_ava; pass weights=FILE.*weights=None"
    ):
        create_model("slow_r50_8x8_ava")


def test_building_a_network_loads_no_compiler():
    """The sizes of weights are checked on torch's meta device, where drawing numbers would load its compiler."""
    code = "import sys, twospeed; twospeed.create_model('segment_nano'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_random_weights_are_asked_for_and_named(caplog):
    create_model("track_tiny", None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "track_tiny has random weights" in caplog.text


def test_a_command_leaves_the_warning_to_later_models(tmp_path, caplog):
    (tmp_path / "clip.mp4").touch()
    assert twospeed("classify", tmp_path / "clip.mp4", "--weights", "random") == 2  # the file is empty
    caplog.clear()
    create_model("track_tiny", None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_keyframe_weights_need_weights_of_the_propagation(tmp_path):
    with pytest.raises(InputError, match=r"give them as weights=FILE, or weights=None") as error:
        create_model("gsvnet_swiftnet_r18", keyframe_weights=tmp_path / "swiftnet.pt")
    assert error.value.option == "weights"


def test_models_come_in_eval_mode(nano_state):
    assert not create_model("track_tiny", None).training
    assert not create_model("track_tiny", nano_state).training


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"network": s, "it": 7}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_taken_off(nano_state, tmp_path, wrap, prefix):
    path = tmp_path / "a.pth"
    torch.save(wrap({prefix + key: value for key, value in nano_state.items()}), path)
    model = create_model("track_tiny", path)
    assert all(torch.equal(value, nano_state[key]) for key, value in model.state_dict().items())


def test_safetensors_round_trip_keeps_provenance(nano_state, tmp_path):
    path = tmp_path / "nano.safetensors"
    save_model(create_model("track_tiny", nano_state), path, model_name="track_tiny", source={"source": "x.pth"})
    state, metadata = read_state(path)
    assert metadata["model"] == "track_tiny"
    assert metadata["source"] == "x.pth"
    assert all(torch.equal(value, nano_state[key]) for key, value in state.items())
    assert len(weights_sha256("track_tiny", path)) == 64


def test_files_of_the_first_track_nano_are_those_of_track_tiny(nano_state, tmp_path):
    path = tmp_path / "old.safetensors"
    save_model(create_model("track_tiny", nano_state), path, model_name="track_nano")
    assert model_of(path) == "track_tiny"
    loaded = create_model("track_tiny", path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in nano_state.items())
    with pytest.raises(CheckpointError, match="holds weights of track_tiny; choose that model"):
        create_model("track_nano", path)


def test_half_precision_halves_the_file_and_comes_back_as_single(nano_state, tmp_path):
    network = track_tiny()
    network.load_state_dict(nano_state)
    for half in (False, True):
        save_model(network, tmp_path / f"{half}.safetensors", half_precision=half)
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert 1.8 < sizes[0] / sizes[1] < 2.05
    read = create_model("track_tiny", tmp_path / "True.safetensors").state_dict()
    for name, value in network.state_dict().items():
        assert read[name].dtype == value.dtype, name
        assert torch.allclose(read[name].float(), value.float(), rtol=1e-3, atol=1e-6), name
    assert next(network.parameters()).dtype == torch.float32  # the network itself stays


def test_every_wrong_key_is_listed_at_once(nano_state):
    state = dict(nano_state)
    del state["key_projection.bias"], state["decoder.predict.bias"]
    state["extra.weight"] = torch.zeros(3)
    state["thin_projection.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as error:
        create_model("track_tiny", state)
    text = str(error.value)
    assert "2 missing: key_projection.bias, decoder.predict.bias" in text
    assert "1 unknown: extra.weight" in text
    assert "1 mis-shaped: thin_projection.bias (5,) where (64,) is expected" in text


def test_all_keys_are_listed_where_none_fits(nano_state, tmp_path, capsys):
    state = {f"other.{key}": value for key, value in nano_state.items()}
    with pytest.raises(CheckpointError) as error:
        create_model("track_tiny", state)
    listed = set(re.split("[:;,] ", str(error.value)))
    assert {key for key in nano_state if not key.endswith("num_batches_tracked")} | set(state) <= listed
    torch.save(state, tmp_path / "other.pth")
    convert = ["convert", str(tmp_path / "other.pth"), "-o", str(tmp_path / "other.safetensors")]
    assert exit_code([*convert, "--model", "track_tiny"]) == 2
    assert len(capsys.readouterr().err) < 2100  # a line is cut


def test_nan_weights_are_refused(nano_state):
    state = {key: value.clone() for key, value in nano_state.items()}
    state["decoder.predict.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"decoder\.predict\.bias holds NaN or infinity"):
        create_model("track_tiny", state)


def test_an_option_that_disagrees_with_the_weights_is_an_error():
    state = create_model("stcn", None, backbone="wide_resnet50").state_dict()
    assert create_model("stcn", state).state_dict().keys() == state.keys()  # the backbone is read from the shapes
    with pytest.raises(CheckpointError, match="the weights say backbone='wide_resnet50', but backbone='resnet50'"):
        create_model("stcn", state, backbone="resnet50")


def test_aspp_is_read_from_the_keys():
    state = create_model("stcn", None, aspp=True).state_dict()
    assert create_model("stcn", state).aspp is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "neither safetensors, nor a torch file, nor a Caffe2 pickle"),
        (b"", "neither safetensors, nor a torch file, nor a Caffe2 pickle"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{broken", "not a whole safetensors file"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        create_model("track_tiny", path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pth"):
        create_model("track_tiny", tmp_path / "gone.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_would_run_code_are_refused(tmp_path, capsys, protocol):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.zeros(2), "b": Evil()}}, protocol=protocol))
    with pytest.raises(CheckpointError, match="print, which could run code; refused"):
        read_state(path)
    torch.save({"a": torch.zeros(2), "b": Evil()}, path)
    with pytest.raises(CheckpointError):
        read_state(path)
    assert "code from a checkpoint ran" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_caffe2_pickles_are_read(tmp_path, protocol):
    path = tmp_path / "caffe2.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.ones((2, 3), np.float32), "lr": 0.1}}, protocol=protocol))
    state, _ = read_state(path)
    assert torch.equal(state["conv1_w"], torch.ones(2, 3))
    assert list(state) == ["conv1_w"]


def test_stcn_is_recognised_in_both_namings(golden):
    theirs = {
        name: torch.empty(shape, device="meta") for name, shape in golden("vos/stcn_segment").case["state_dict"].items()
    }
    assert recognise(theirs) == "stcn"
    assert recognise(to_ours(theirs)) == "stcn"
    assert to_ours(to_ours(theirs)).keys() == to_ours(theirs).keys() == create_model("stcn", None).state_dict().keys()
    assert recognise({"some.weight": torch.zeros(1)}) is None
