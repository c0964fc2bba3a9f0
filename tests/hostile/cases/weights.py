"""Weights from anyone."""

from __future__ import annotations

import shutil

from tests.hostile.case import case, count
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import GOOD, MASK


def add_cases() -> None:
    def load(name: str, **more: object) -> None:
        case(
            f"ckpt {name}",
            "track",
            GOOD,
            "--mask",
            MASK,
            "--size",
            64,
            "-q",
            "-o",
            "out",
            "--weights",
            C / name,
            **more,
        )

    for name in ("good.safetensors", "good.pth", "parallel.pth", "nested.pth", "legacy.pth", "fp16.pth", "bf16.pth",
                 "deep.pth"):  # fmt: skip
        load(name, want="ok", check=count("out/masks/*.png", 8))
    load("twice_parallel.pth", want="any")
    for name in ("whole_module.pth", "list.pth", "nothing.pth", "no_tensors.pth", "tensor.pth", "loop.pth", "loop2.pth",
                 "complex.pth", "overflow64.pth", "sparse.pth", "quantised.pth", "meta.pth", "nan.pth", "inf.pth",
                 "nan.safetensors", "inf.safetensors", "missing.pth", "extra.pth", "shape.pth", "flat.pth", "scalars.pth",
                 "odd_keys.pth", "escape_keys.pth", "bomb.pkl", "bomb0.pkl", "bomb.pth", "bomb_legacy.pth", "eval.pkl",
                 "numpy_load.pkl", "getattr.pkl", "huge_ndarray.pkl", "large_ndarray.pkl", "object_ndarray.pkl", "laughs.pkl",
                 "dtype_getitem.pkl", "dtype_plain.pkl", "dtype_array.pkl", "recursion.pkl", "empty.pth", "text.pth", "lfs.pth", "html.pth", "folder.pth", "cut10.pth", "cut50.pth",
                 "cut99.pth", "plain.zip", "zipbomb.pth", "cut10.safetensors", "cut50.safetensors", "cut99.safetensors",
                 "huge_header.safetensors", "long_header.safetensors", "no_header.safetensors", "bad_header.safetensors",
                 "overlap.safetensors", "dtype.safetensors", "options_list.safetensors",
                 "options_number.safetensors", "options_broken.safetensors", "options_null.safetensors",
                 "options_unknown.safetensors", "nowhere.pth"):  # fmt: skip
        load(name, want="refuse", must=(name,))
    for name in ("int8.pth", "bool.pth", "alias.pth", "flipped.pth", "options_type.safetensors", "options_negative.safetensors",
                 "options_zero.safetensors", "options_nested.safetensors", "unknown_model.safetensors", "other_model.safetensors"):  # fmt: skip
        load(name, want="refuse" if name in ("int8.pth", "bool.pth") else "any")
    load("negative_variance.pth", want="refuse", check=None)
    for name in ("nothing.pth", "loop.pth", "unknown_model.safetensors", "bomb.pth", "small_action.safetensors", "lfs.pth",
                 "escape_keys.pth", "laughs.pkl"):  # fmt: skip
        case(
            f"segment ckpt {name}",
            "segment",
            GOOD,
            "-q",
            "-o",
            "out",
            "--weights",
            C / name,
            want="refuse",
            must=(name.split(".")[0],) if name not in ("small_action.safetensors", "unknown_model.safetensors") else (),
        )
    for name in ("options_huge", "options_stride0", "options_frames0"):
        case(f"classify ckpt {name}", "classify", GOOD, "--clips", 1, "--crops", 1, "-q", "-o", "out", "--model",
             "slow_r50_4x16", "--weights", C / f"{name}.safetensors", want="refuse")  # fmt: skip
    for name, want in (("good.pth", "ok"), ("good.safetensors", "ok"), ("bomb.pkl", "refuse"), ("nan.pth", "refuse"),
                       ("loop.pth", "refuse"), ("zipbomb.pth", "refuse"), ("escape_keys.pth", "refuse"), ("folder.pth", "refuse"),
                       ("unknown_model.safetensors", "refuse"), ("int8.pth", "refuse"), ("missing.pth", "refuse")):  # fmt: skip
        case(f"convert {name}", "convert", C / name, "-o", "w.safetensors", want=want)
    good = ("convert", C / "good.pth", "-o")
    case("convert to a missing folder", *good, "a/b/w.safetensors", want="refuse")
    case("convert to another ending", *good, "w.pth", want="refuse")
    case("convert to a folder", *good, "w.safetensors", before=lambda p: (p / "w.safetensors").mkdir(), want="refuse")
    case(
        "convert to a read-only folder",
        *good,
        "ro/w.safetensors",
        before=lambda p: (p / "ro").mkdir(mode=0o555),
        want="refuse",
    )
    case("convert onto itself", "convert", "w.safetensors", "-o", "w.safetensors",
         before=lambda p: shutil.copy(C / "good.safetensors", p / "w.safetensors"), want="ok")  # fmt: skip
    case("convert --model nonsense", *good, "w.safetensors", "--model", "nonsense", want="refuse")
    case("convert --model another", *good, "w.safetensors", "--model", "segment_nano", want="refuse")
    case("convert /dev/zero", "convert", "/dev/zero", "-o", "w.safetensors", want="refuse")
