"""Weights: good ones in every form, damaged ones, and attacks."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs import ROOT
from tests.hostile.inputs.drawing import flip_bits


class _Bomb:
    def __reduce__(self):  # what a stranger's pickle would do
        return os.system, (f"touch {ROOT}/PWNED",)


def checkpoints() -> None:
    import torch
    from safetensors.torch import save_file

    import twospeed
    from twospeed.weights.catalog import find
    from twospeed.weights.load import save_model
    from twospeed.weights.store import default_weights

    c = A / "ckpt"
    c.mkdir()
    shipped = default_weights(find("track_tiny"))
    model = twospeed.create_model("track_tiny", "default")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    floats = [k for k, v in state.items() if v.is_floating_point()]
    meta = {"model": "track_tiny"}

    def st(name: str, tensors=None, metadata=meta) -> None:
        save_file(tensors or state, str(c / name), metadata)

    st("good.safetensors")
    torch.save(state, c / "good.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, c / "parallel.pth")
    torch.save({"model": {"network": {"state_dict": state}}, "epoch": 3}, c / "nested.pth")
    torch.save({f"module.module.{k}": v for k, v in state.items()}, c / "twice_parallel.pth")
    torch.save(state, c / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(model, c / "whole_module.pth")
    torch.save([1, 2, 3], c / "list.pth")
    torch.save({}, c / "nothing.pth")
    torch.save({"a": "b"}, c / "no_tensors.pth")
    torch.save(torch.zeros(3), c / "tensor.pth")
    loop: dict = {}
    loop["state_dict"] = loop
    torch.save(loop, c / "loop.pth")
    left, right = {}, {}
    left["model"], right["network"] = right, left
    torch.save(left, c / "loop2.pth")
    deep: dict = state
    for _ in range(300):
        deep = {"model": deep}
    torch.save(deep, c / "deep.pth")
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, c / "fp16.pth")
    torch.save({k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, c / "bf16.pth")
    torch.save({k: (v * 20).round().to(torch.int8) if v.is_floating_point() else v for k, v in state.items()},
               c / "int8.pth")  # fmt: skip
    torch.save({k: v.to(torch.complex64) if v.is_floating_point() else v for k, v in state.items()}, c / "complex.pth")
    torch.save({k: v.bool() for k, v in state.items()}, c / "bool.pth")
    big = dict(state)
    big[floats[0]] = big[floats[0]].double().fill_(1e300)
    torch.save(big, c / "overflow64.pth")  # finite as double, infinite as float
    sparse = dict(state)
    sparse[floats[0]] = sparse[floats[0]].to_sparse()
    torch.save(sparse, c / "sparse.pth")
    quantised = dict(state)
    quantised[floats[0]] = torch.quantize_per_tensor(state[floats[0]], 0.1, 0, torch.qint8)
    torch.save(quantised, c / "quantised.pth")
    onmeta = dict(state)
    onmeta[floats[0]] = torch.empty_like(state[floats[0]], device="meta")
    torch.save(onmeta, c / "meta.pth")
    for name, value in (("nan", float("nan")), ("inf", float("inf"))):
        broken = {k: v.clone() for k, v in state.items()}
        broken[floats[3]].view(-1)[0] = value
        torch.save(broken, c / f"{name}.pth")
        st(f"{name}.safetensors", broken)
    missing = dict(state)
    missing.pop(floats[5])
    torch.save(missing, c / "missing.pth")
    torch.save({**state, "extra.weight": torch.zeros(3)}, c / "extra.pth")
    shaped = dict(state)
    shaped[floats[0]] = torch.zeros(1, 2, 3, 4)
    torch.save(shaped, c / "shape.pth")
    flat = {k: v.reshape(-1) for k, v in state.items()}
    torch.save(flat, c / "flat.pth")
    torch.save({k: v.new_zeros(()) for k, v in state.items()}, c / "scalars.pth")
    negative = {k: v.clone() for k, v in state.items()}
    for k in negative:
        if k.endswith("running_var"):
            negative[k].fill_(-1.0)
    torch.save(negative, c / "negative_variance.pth")
    torch.save({k: torch.as_strided(v.new_zeros(1), v.shape, [0] * v.ndim) for k, v in state.items()}, c / "alias.pth")
    torch.save({1: torch.zeros(2), None: torch.zeros(2)}, c / "odd_keys.pth")
    torch.save({"a\x1b[31m\nb": torch.zeros(2)}, c / "escape_keys.pth")
    (c / "bomb.pkl").write_bytes(pickle.dumps(_Bomb()))
    (c / "bomb0.pkl").write_bytes(pickle.dumps({"blobs": _Bomb()}, protocol=0))
    torch.save({"state_dict": state, "optimizer": _Bomb()}, c / "bomb.pth")
    torch.save({"state_dict": state, "optimizer": _Bomb()}, c / "bomb_legacy.pth", _use_new_zipfile_serialization=False)
    builtins = b'cbuiltins\neval\n(S\'open("%s/PWNED","w")\'\ntR.' % str(ROOT).encode()
    (c / "eval.pkl").write_bytes(builtins)
    (c / "numpy_load.pkl").write_bytes(b"cnumpy\nload\n(S'x'\ntR.")
    (c / "getattr.pkl").write_bytes(b"cnumpy\ndtype.__init__.__globals__\n.")
    # the allowed constructors, misused: an array of 16 TB, an array of objects, endless repeats
    (c / "huge_ndarray.pkl").write_bytes(pickle_dict(b"cnumpy\nndarray\n((L16000000000000L\ntS'f4'\ntR"))
    (c / "large_ndarray.pkl").write_bytes(pickle_dict(b"cnumpy\nndarray\n((L1500000000L\ntS'f4'\ntR"))
    (c / "object_ndarray.pkl").write_bytes(pickle_dict(b"cnumpy\nndarray\n((L3L\ntS'O'\ntR"))
    (c / "laughs.pkl").write_bytes(laughs())
    # a dtype of objects whose state says that it holds none: numpy then takes the file's bytes for addresses
    for name, flags in (("dtype_getitem", 32), ("dtype_plain", 0)):
        (c / f"{name}.pkl").write_bytes(
            pickle_dict(b"cnumpy.core.multiarray\nscalar\n(" + objects_dtype(flags) + EIGHT + b"tR")
        )
    whole = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
        + objects_dtype(1)
        + b"I00\n"
        + EIGHT
        + b"tb"
    )
    (c / "dtype_array.pkl").write_bytes(pickle_dict(whole))
    (c / "recursion.pkl").write_bytes(b"(" * 100_000 + b"t" * 100_000 + b".")
    (c / "empty.pth").touch()
    (c / "text.pth").write_text("hello, I am no checkpoint")
    (c / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 138\n")
    (c / "html.pth").write_text("<!DOCTYPE html><html>quota exceeded</html>")
    (c / "folder.pth").mkdir()
    data = (c / "good.pth").read_bytes()
    for percent in (10, 50, 99):
        (c / f"cut{percent}.pth").write_bytes(data[: len(data) * percent // 100])
    flip_bits(c / "good.pth", c / "flipped.pth", 0, 0.0005)
    with zipfile.ZipFile(c / "plain.zip", "w") as z:
        z.writestr("a.txt", "a")
    zip_bomb(c / "zipbomb.pth", c / "good.pth")
    data = (c / "good.safetensors").read_bytes()
    for percent in (10, 50, 99):
        (c / f"cut{percent}.safetensors").write_bytes(data[: len(data) * percent // 100])
    (c / "huge_header.safetensors").write_bytes(struct.pack("<Q", 2**62) + b'{"a":' + b" " * 100)
    (c / "long_header.safetensors").write_bytes(struct.pack("<Q", 99_000_000) + b"{" + b" " * 1000)
    (c / "no_header.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (c / "bad_header.safetensors").write_bytes(struct.pack("<Q", 9) + b"{not json")
    overlap = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    )
    (c / "overlap.safetensors").write_bytes(struct.pack("<Q", len(overlap)) + overlap + b"\0" * 12)
    odd = b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    (c / "dtype.safetensors").write_bytes(struct.pack("<Q", len(odd)) + odd + b"\0")
    st("other_model.safetensors", metadata={"model": "stcn"})
    st("unknown_model.safetensors", metadata={"model": "../../etc\x1b[31m"})
    for name, options in (
        ("options_list", "[1, 2]"), ("options_number", "7"), ("options_broken", "{"), ("options_null", "null"),
        ("options_unknown", '{"nonsense": 1}'), ("options_type", '{"width": "wide"}'), ("options_negative", '{"width": -4}'),
        ("options_zero", '{"width": 0}'), ("options_nested", '{"width": {"a": [1]}}'),
    ):  # fmt: skip
        st(f"{name}.safetensors", metadata={**meta, "options": options})
    small = twospeed.create_model("slow_r50_4x16_ava", None, width=8, num_classes=4)
    save_model(small, c / "small_ava.safetensors", model_name="slow_r50_4x16_ava")
    small = twospeed.create_model("slow_r50_4x16", None, width=8, num_classes=4)
    save_model(small, c / "small_action.safetensors", model_name="slow_r50_4x16")
    state = small.state_dict()
    save_file(state, str(c / "options_huge.safetensors"),
              {"model": "slow_r50_4x16", "options": '{"frames": 1000000000, "frame_stride": 1000000}'})  # fmt: skip
    save_file(
        state, str(c / "options_stride0.safetensors"), {"model": "slow_r50_4x16", "options": '{"frame_stride": 0}'}
    )
    save_file(state, str(c / "options_frames0.safetensors"), {"model": "slow_r50_4x16", "options": '{"frames": 0}'})
    shutil.copy(shipped, c / "shipped.safetensors")


def pickle_dict(value: bytes) -> bytes:
    return b"(dS'blobs'\n(dS'conv1_w'\n" + value + b"ss."


EIGHT = b"c_codecs\nencode\n(V" + b"A" * 8 + b"\nS'latin1'\ntR"  # eight bytes, as text protocols keep them


def objects_dtype(flags: int) -> bytes:
    return b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI%d\ntb" % flags


def laughs() -> bytes:
    """Lists of ten of the list before: 10**9 elements when walked, 1 kB when read."""
    text = b"(lS'x'\naS'x'\nap0\n0"
    for level in range(1, 30):
        text += b"(l" + (b"g%d\na" % (level - 1)) * 10 + b"p%d\n0" % level
    return text + b"(dS'blobs'\ng29\ns."


def zip_bomb(path: Path, good: Path) -> None:
    """A checkpoint one of whose records is 4 GB of zeros, packed."""
    import torch

    small = path.with_suffix(".small")
    torch.save({"a": torch.zeros(1)}, small)
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            if "/data/" in item.filename:
                with new.open(item.filename, "w", force_zip64=True) as record:
                    for _ in range(4096):
                        record.write(b"\0" * (1 << 20))
                continue
            if item.filename.endswith("data.pkl"):
                # numel 1 -> 2**30 in the storage's description, so that all of the record is asked for
                data = data.replace(b"K\x01tq", b"J\0\0\0\x40tq", 1).replace(b"K\x01t", b"J\0\0\0\x40t", 1)
            new.writestr(item.filename, data)
    small.unlink()
