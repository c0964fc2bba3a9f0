"""Weights from strangers: nothing in a file runs, no size is believed, and whatever is wrong is one clear error."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from twospeed import CheckpointError, create_model
from twospeed.weights.imports import read_state
from twospeed.weights.load import save_model

EIGHT = b"c_codecs\nencode\n(V" + b"A" * 8 + b"\nS'latin1'\ntR"  # eight bytes, as text protocols keep them


def blobs(value: bytes) -> bytes:
    """A Caffe2 pickle with one blob, given as pickle operations."""
    return b"(dS'blobs'\n(dS'conv1_w'\n" + value + b"ss."


def forged_dtype(flags: int) -> bytes:
    """A dtype of objects whose state states that it holds none: numpy would take the file's bytes for addresses."""
    return b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI%d\ntb" % flags


def array(shape: bytes, raw: bytes, dtype: bytes = b"cnumpy\ndtype\n(S'f4'\nI00\nI01\ntR") -> bytes:
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + shape
        + dtype
        + b"I00\n"
        + raw
        + b"tb"
    )


def laughs() -> bytes:
    """Lists of ten of the list before: 10**29 elements when walked, 1 kB when read."""
    text = b"(lS'x'\naS'x'\nap0\n0"
    for level in range(1, 30):
        text += b"(l" + (b"g%d\na" % (level - 1)) * 10 + b"p%d\n0" % level
    return text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (blobs(b"cnumpy.core.multiarray\nscalar\n(" + forged_dtype(32) + EIGHT + b"tR"), "of the kind O8"),
        (blobs(array(b"(I1\nt", EIGHT, forged_dtype(1))), "of the kind O8"),
        (blobs(b"cnumpy\nndarray\n((L16000000000000L\ntS'f4'\ntR"), "calls numpy.ndarray"),
        (blobs(array(b"(I3\nt", EIGHT)), r"shape \(3,\) states 12 bytes, but has 8"),
        (blobs(array(b"(I-1\nt", EIGHT)), "an array's shape is damaged"),
        (blobs(array(b"(L99999999999999L\nL99999999L\nt", EIGHT)), "states .* bytes, but has 8"),
        (b"cos\nsystem\n(S'touch ran'\ntR.", "os.system, which could run code; refused"),
        (b'cbuiltins\neval\n(S\'open("ran", "w")\'\ntR.', "builtins.eval"),
        (b"cnumpy\ndtype.__init__.__globals__\n.", "refused"),
        (b"cargparse\nNamespace\nc__main__\nx\nb.", "refused"),
        (laughs() + b"(dS'blobs'\ng29\ns.", "holds no tensors"),
        (laughs() + b"g29\ng29\n\x93.", "a name is no text"),
        (laughs() + b"cnumpy\ndtype\n(g29\ntR.", "of the kind list"),
        (b"(" * 100_000 + b"t" * 100_000 + b".", "holds a tuple"),
        (b"I" + b"9" * 5000 + b"\n.", "not whole"),
        (b"r\xff\xff\xff\xff", "not whole"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "not whole"),
        (b"(lp0\n" + b"cbuiltins\nset\n" * 0 + b".", "holds a list"),
        (b"}" + b"\x8c\x01ah\x00" * 3, "not whole"),
        (b"]" * 3_000_000, "more than .* operations"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "a web page"),
    ],
)
def test_pickles_are_refused_in_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_state(path)
    assert str(error.value).startswith((str(path), "no checkpoint"))
    assert str(error.value).isprintable()
    assert not (tmp_path / "ran").exists()


def test_one_long_value_given_to_many_calls_is_stopped(tmp_path):
    text = b"V" + b"A" * (1 << 20) + b"\np0\n0"
    calls = b"c_codecs\nencode\n(g0\nS'latin1'\ntR0" * 2000
    (tmp_path / "w.pkl").write_bytes(text + calls + b"}.")
    with pytest.raises(CheckpointError, match="repeats itself without end"):
        read_state(tmp_path / "w.pkl")


def test_dictionaries_that_contain_themselves_are_refused(tmp_path):
    loop, left, right = {}, {}, {}
    loop["state_dict"], left["model"], right["network"] = loop, right, left
    for content in (loop, left):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="contains itself"):
            read_state(tmp_path / "w.pth")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("new", [True, False])
def test_nothing_beside_the_weights_runs(tmp_path, monkeypatch, new):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(2)}, "optimizer": Evil()}, "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="mkdir, which could run code; refused"):
        read_state(Path("w.pth"))
    assert not Path("ran").exists()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_trainings_write_is_read(tmp_path, new, protocol):
    shared = torch.randn(4, 6)
    state = OrderedDict(
        a=shared, b=shared.t(), c=shared[1:, ::2], d=torch.tensor(3), e=torch.zeros(0, 3), f=torch.ones(2).half(),
        g=torch.nn.Parameter(torch.randn(3)), h=torch.randn(3).bfloat16(), i=torch.tensor([True, False]),
    )  # fmt: skip
    content = {
        "state_dict": state,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}], "set": {1, 2}},
        "args": argparse.Namespace(lr=0.1, names=["x"]),
        "best": np.float64(0.5),
        "scores": np.arange(6.0).reshape(2, 3),
        "size": torch.Size([2]),
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    read, _ = read_state(tmp_path / "w.pth")
    assert list(read) == list(state)
    assert all(torch.equal(read[k], state[k]) and read[k].dtype == state[k].dtype for k in state)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_protocol_are_read(tmp_path, protocol):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "c": np.arange(3, dtype=">f4"),
        "d": np.zeros((0, 2), np.float32),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"blobs": {**arrays, "lr": np.float32(0.1)}}, protocol))
    read, _ = read_state(tmp_path / "w.pkl")
    assert {name: value.tolist() for name, value in read.items()} == {n: a.tolist() for n, a in arrays.items()}


def test_strings_of_python_2_are_read(tmp_path):
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    binary = b"U" + bytes([len(raw)]) + raw
    (tmp_path / "w.pkl").write_bytes(blobs(array(b"(I2\nt", binary)))
    assert read_state(tmp_path / "w.pkl")[0]["conv1_w"].tolist() == [1.5, -2.0]


def repacked(path: Path, change) -> None:
    """Write a torch archive again, with each record as `change(name, data)` gives it (None leaves it out)."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if (new := change(name, data)) is not None:
                archive.writestr(name, new)


def test_records_that_lie_about_their_size(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    repacked(path, lambda name, data: data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match="states 4000 bytes of values, but holds 3996"):
        read_state(path)
    torch.save({"a": torch.zeros(1000)}, path)
    repacked(path, lambda name, data: None if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match="data/0 is missing"):
        read_state(path)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, tmp_path / "small.pth")
    with zipfile.ZipFile(tmp_path / "small.pth") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, b"\0" * (64 << 20) if "/data/" in name else old.read(name))
    with pytest.raises(CheckpointError, match=r"is compressed \(\d+ bytes for \d+\)"):
        read_state(path)


def test_tensors_that_state_more_than_they_have(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.as_strided(torch.zeros(1), (1 << 20, 1 << 20), (0, 0))}, path)
    with pytest.raises(CheckpointError, match="states more than the 1 values it has"):
        read_state(path)


def test_sparse_quantised_and_meta_tensors_are_named(tmp_path):
    path = tmp_path / "w.pth"
    for value, what in (
        (torch.eye(2).to_sparse(), "a sparse tensor"),
        (torch.empty(2, device="meta"), "without values"),
    ):
        torch.save({"a": value}, path)
        with pytest.raises(CheckpointError, match=what):
            read_state(path)


@pytest.fixture(scope="module")
def nano():
    return create_model("track_tiny").state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.to(torch.int8), "is int8 where float32 is expected"),
        (lambda v: v.bool(), "is bool where float32 is expected"),
        (lambda v: v.to(torch.complex64), "is complex64 where float32 is expected"),
        (lambda v: v.double().fill_(1e300), "holds NaN or infinity"),
        (lambda v: v.clone().fill_(float("nan")), "holds NaN or infinity"),
        (lambda v: v.to_sparse(), "is sparse, quantised or without values"),
        (lambda v: torch.empty_like(v, device="meta"), "is sparse, quantised or without values"),
    ],
)
def test_values_that_no_network_can_have(nano, change, message):
    with pytest.raises(CheckpointError, match=message):
        create_model("track_tiny", {**nano, "decoder.predict.weight": change(nano["decoder.predict.weight"])})


def test_negative_variances_are_refused(nano):
    name = next(key for key in nano if key.endswith("running_var"))
    with pytest.raises(CheckpointError, match="running_var holds a variance of -1"):
        create_model("track_tiny", {**nano, name: torch.full_like(nano[name], -1.0)})


def test_other_shapes_are_one_error_in_every_family():
    for name in (
        "track_tiny",
        "stm",
        "slowfast_r50_4x16",
        "slow_r50_4x16_ava",
        "swiftnet_r18",
        "bisenet_r18",
        "segment_nano",
    ):
        state = create_model(name, None).state_dict()
        for wrong in ({k: v.new_zeros(()) for k, v in state.items()}, {k: v.reshape(-1) for k, v in state.items()}):
            with pytest.raises(CheckpointError):
                create_model(name, wrong)


def test_shapes_cannot_ask_for_a_huge_network():
    with pytest.raises(CheckpointError, match="that network has"):
        create_model("slow_r50_4x16", {"s1.pathway0_stem.conv.weight": torch.zeros(8000, 3, 1, 1, 1)})


@pytest.mark.parametrize(
    "options",
    [
        "{", "[1]", "7", "null", '{"frames": 1000000000}', '{"frames": 0}', '{"frame_stride": -1}', '{"nonsense": 1}',
        '{"alpha": "wide"}', '{"alpha": {"a": 1}}', '{"nonlocal_pool": [1, 1e9, 1]}', '{"frames": NaN}', "[" * 5000,
    ],
)  # fmt: skip
def test_options_in_a_file_are_checked(tmp_path, options):
    small = create_model("slow_r50_4x16", None, width=8, num_classes=4)
    save_file(small.state_dict(), tmp_path / "w.safetensors", {"model": "slow_r50_4x16", "options": options})
    with pytest.raises(CheckpointError):
        create_model("slow_r50_4x16", tmp_path / "w.safetensors")


def test_names_are_escaped_before_they_are_shown(tmp_path):
    torch.save({"a\x1b[31m\nb": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        create_model("track_tiny", tmp_path / "w.pth")
    assert str(error.value).isprintable()


def test_damaged_weights_are_never_written(nano, tmp_path):
    model = create_model("track_tiny")
    model.decoder.predict.bias.data.fill_(float("inf"))
    with pytest.raises(
        CheckpointError, match=r"was not written: 1 of \d+ tensors are damaged; decoder.predict.bias holds"
    ):
        save_model(model, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_are_told_apart_by_content_not_by_name(nano, tmp_path):
    model = create_model("track_tiny")
    save_model(model, str(tmp_path / "weights.safetensors"))
    (tmp_path / "weights.safetensors").rename(tmp_path / "weights")
    assert read_state(tmp_path / "weights")[1]["model"] == "track_tiny"
    torch.save(nano, tmp_path / "torch.safetensors")
    assert read_state(tmp_path / "torch.safetensors")[0].keys() == nano.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "pickle0", "pickle2"])
def test_random_damage_is_read_or_refused(tmp_path, kind):
    state = {"a.weight": torch.randn(3, 4), "b.running_var": torch.rand(5), "c.count": torch.tensor(3)}
    buffer = io.BytesIO()
    if kind == "safetensors":
        save_file(state, tmp_path / "good", {"model": "stcn", "options": json.dumps({"a": 1})})
        buffer.write((tmp_path / "good").read_bytes())
    elif kind.startswith("pickle"):
        pickle.dump({"blobs": {k: v.numpy() for k, v in state.items()}}, buffer, protocol=int(kind[-1]))
    else:
        torch.save({"model": state, "epoch": 3}, buffer, _use_new_zipfile_serialization=kind == "zip")
    good, chance = buffer.getvalue(), random.Random(0)
    path = tmp_path / "w"
    for _ in range(500):
        data = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(data))
            how = chance.random()
            if how < 0.6:
                data[at] = chance.randrange(256)
            elif how < 0.8:
                data[at : at + chance.randrange(1, 9)] = b""
            else:
                data[at:at] = struct.pack("<I", chance.choice((0, 1, 2**31, 2**32 - 1)))
        path.write_bytes(data)
        try:
            read_state(path)
        except CheckpointError as error:
            assert str(error).isprintable()  # noqa: PT017 (either is right)
