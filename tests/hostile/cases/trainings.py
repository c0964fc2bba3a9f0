"""Recipes, their settings, and run folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.hostile.case import case
from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import RUNS
from tests.hostile.inputs import SETS as S
from tests.hostile.inputs.drawing import flip_bits
from tests.hostile.inputs.runs import TRAINING


def add_cases() -> None:
    nano = TRAINING
    case("train good", *nano, want="ok")
    for option in (
        "--batch=0", "--batch=-2", "--batch=x", "--batch=1e3", "--replicas=0", "--replicas=-1", "--iterations=-1",
        "--iterations=0", "--workers=-1", "--seed=-1", "--lr=nan", "--lr=inf", "--lr=٣", "--crop=0", "--crop=-64",
        "--crop=65", "--crop=²", "--log-every=0", "--log-every=-1", "--checkpoint-minutes=nan", "--weight-decay=nan",
        "--checkpoint-minutes=-1", "--bootstrap-keep=-1", "--bootstrap-keep=0", "--bootstrap-to=0", "--davis=/nowhere",
        f"--davis={F}/good", "--weights=nowhere", f"--weights={C}/nan.pth", f"--weights={C}/bomb.pth", "--nonsense=1",
        "--iterations", "--davis", "--minutes=5", "--validate-stride=0", "--width=0", "--width=-3", "--objects=0",
        "--generated=0", "--optimizer=x", "--schedule=x", "--precision=fp8", "--device=meta", "--device=nonsense",
        "--rates=x", "--rates={", "--phase-borders=0.5", "--gaps=1", "--network=nonsense", "--backbone=x",
        "--coco=/nowhere", "--youtube-vos=/nowhere", "--bl30k=/nowhere", "--static=/nowhere", "--out=", "--lr=" + "9" * 5000,
        "--iterations=" + "9" * 5000, "--views=x", "--frame-choice=x",
    ):  # fmt: skip
        any_ = ("--out=", "--gaps=1", "--phase-borders=0.5", "--weight-decay=nan")
        name = option.replace(str(A), "")[:40]
        case(f"train {name}", *nano, option, want="any" if option in any_ else "refuse", keeps=True)
    for option in ("--lr=-1", "--weight-decay=-1", "--warm-up=-1", "--clip-gradient=0", "--ema-decay=2", "--seed=" + "9" * 18,
                   "--freeze-norm=-1", "--log-every=1000000000", "--near=7", "--look-alikes=-2", "--workers=1000"):  # fmt: skip
        case(f"train odd {option}", *nano, option, want="any", keeps=True)
    for option in ("--lr=nan", "--crop=0", "--davis=/nowhere", f"--weights={C}/bomb.pth", "--nonsense=1"):
        name = option.replace(str(A), "")
        case(f"train --validate {name}", *nano, "--validate", option, want="refuse")
    case(
        "train --validate good",
        *nano,
        "--validate",
        want="ok",
        check=lambda p: "leaves files" if any(p.iterdir()) else "",
    )
    case("train --validate beside a run", *nano, "--validate", before=training_run, want="ok",
         check=lambda p: "the run is gone" if not any((p / "run").glob("checkpoint_*.pt")) else "")  # fmt: skip
    case("train lr nan, later", *nano, "--iterations", 2, "--lr", "nan", want="refuse", keeps=True)
    case("train --out is a file", *nano, before=lambda p: (p / "run").touch(), want="refuse")
    case(
        "train --out read-only", *nano, "--out", "ro/run", before=lambda p: (p / "ro").mkdir(mode=0o555), want="refuse"
    )
    case("train nonsense", "train", "nonsense", want="refuse")
    case("train", "train", want="refuse")
    case("train --list", "train", "--list", want="ok")
    case("train nowhere.py", "train", "nowhere.py", want="refuse")
    case(
        "train a script with a fault",
        "train",
        "r.py",
        before=lambda p: (p / "r.py").write_text("def train(:"),
        want="any",
    )
    case(
        "train a script without train",
        "train",
        "r.py",
        before=lambda p: (p / "r.py").write_text("x = 1"),
        want="refuse",
    )
    case(
        "train a script, train without hints",
        "train",
        "r.py",
        before=lambda p: (p / "r.py").write_text("def train(c): pass"),
        want="any",
    )
    case("train --preset nonsense", "train", "stcn_static", "--preset", "nonsense", want="refuse")
    case(
        "train --copy onto a file",
        "train",
        "track_tiny",
        "--copy",
        "x.py",
        before=lambda p: (p / "x.py").touch(),
        want="refuse",
    )
    case("train --copy nowhere", "train", "track_tiny", "--copy", "a/b/x.py", want="refuse")
    for name, text in {"not json": "{", "a list": "[1]", "null": "null", "a number": "3", "text": '"x"', "unknown": '{"x": 1}', "type": '{"batch": "x"}',
                       "nested": '{"batch": {"a": 1}}', "null field": '{"batch": null}', "binary": b"\xff\xfe", "float": '{"batch": 2.5}', "bool": '{"batch": true}',
                       "deep": "[" * 100_000, "empty": ""}.items():  # fmt: skip
        case(f"train --config {name}", "train", "stcn", "--config", "c.json", "--fields", before=lambda p, t=text: (
            p / "c.json").write_bytes(t if isinstance(t, bytes) else t.encode()), want="refuse")  # fmt: skip
    case("train --config a folder", "train", "stcn", "--config", ".", "--fields", want="refuse")
    case("train --resume without a run", *nano, "--resume", want="any")
    case("train --resume goes on", *nano, "--resume", before=training_run, want="ok")
    for name in ("text", "empty", "cut", "bomb", "list", "other", "flipped", "folder"):
        case(f"train --resume, checkpoint {name}", *nano, "--resume", before=lambda p, n=name: spoil_checkpoint(p, n),
             want="any" if name in ("other", "flipped") else "refuse", keeps=True, check=lambda p: "" if any(
             p.glob("run/*.pt")) or any(p.glob("run/*.damaged")) else "the damaged checkpoints are gone")  # fmt: skip
        case(f"train --resume, newer checkpoint {name}", *nano, "--resume", want="any" if name == "other" else "ok",
             before=lambda p, n=name: spoil_checkpoint(p, n, newer=True), keeps=True)  # fmt: skip
    for name, text in {"metrics.jsonl cut": b'{"kind": "train", "st', "metrics.jsonl binary": b"\xff\xfe\0", "metrics.jsonl empty": b"",
                       "config.json broken": b"{", "config.json list": b"[]", "train.csv binary": b"\xff\0"}.items():  # fmt: skip
        case(f"train --resume, {name}", *nano, "--resume", want="any", keeps=True, before=lambda p, n=name, t=text: (
            training_run(p), (p / "run" / n.split()[0]).write_bytes(t)))  # fmt: skip
    case("train, a run is there", *nano, before=training_run, want="refuse")
    case("train --resume with other settings", *nano, "--resume", "--lr", "0.5", before=training_run, want="refuse",
         must=("lr was",), keeps=True)  # fmt: skip
    static = ("train", "stcn_static", "--preset", "trial", "--iterations", 1, "--out", "run", "--static")
    case("train stcn_static nowhere", *static, "/nowhere", want="refuse")
    case("train stcn_static no pairs", *static, F / "good", want="refuse")
    case("train stcn_static davis", *static, S / "davis16/good", "--norm-batches", 1, want="any", keeps=True)
    for option in ("--crop=17", "--crop=0", "--width=0", "--width=-1", "--batch=0", "--norm-batches=-1", "--sets=nonsense", "--precision=fp8",
                   "--network=x", "--weights=nowhere", "--similarity=x", "--checkpoint-every=0", "--log-every=0", "--lr=nan", "--device=meta"):  # fmt: skip
        case(
            f"train stcn_static {option}",
            *static,
            S / "davis16/good",
            option,
            want="any" if option in ("--log-every=0", "--checkpoint-every=0", "--norm-batches=-1") else "refuse",
            keeps=True,
        )
    case("train stcn_static, killed before its first checkpoint", *static, S / "davis16/good", "--norm-batches", 1, "--resume",
         before=early_death, want="any", keeps=True, check=None)  # fmt: skip
    case("train stcn_static, the same without --resume", *static, S / "davis16/good", "--norm-batches", 1,
         before=early_death, want="ok")  # fmt: skip
    for recipe in (
        "gsvnet",
        "segment_nano",
        "segmentation",
        "slowfast_kinetics",
        "slowfast_ava",
        "slowfast_maskrcnn",
        "stcn",
    ):
        case(f"train {recipe} without data", "train", recipe, "--out", "run", want="refuse", keeps=True)
        case(f"train {recipe} --seed x", "train", recipe, "--seed", "x", want="refuse")
    case("train segment_nano --replicas 0", "train", "segment_nano", "--replicas", 0, want="refuse")


def early_death(folder: Path) -> None:
    """What a run leaves that was killed before its first checkpoint: then neither --resume nor its absence helps."""
    (folder / "run").mkdir()
    (folder / "run/metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 1.0}\n')


def training_run(folder: Path) -> None:
    shutil.copytree(RUNS / "training/run", folder / "run")


def spoil_checkpoint(folder: Path, what: str, *, newer: bool = False) -> None:
    """Damage the checkpoints of a run; newer: add a damaged one beside a good one."""
    training_run(folder)
    good = sorted((folder / "run").glob("checkpoint_*.pt"))
    targets = [folder / "run/checkpoint_00000099.pt"] if newer else good
    data = good[-1].read_bytes()
    for path in targets:
        path.unlink(missing_ok=True)
        if what == "text":
            path.write_text("no checkpoint")
        elif what == "empty":
            path.touch()
        elif what == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif what == "flipped":
            path.write_bytes(data)
            flip_bits(path, path, 1, 0.001)
        elif what == "folder":
            path.mkdir()
        else:
            shutil.copy(C / {"bomb": "bomb.pth", "list": "list.pth", "other": "good.pth"}[what], path)
