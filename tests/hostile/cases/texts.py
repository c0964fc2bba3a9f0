"""Texts of files and names that reach the terminal: nothing of theirs moves the cursor or changes colours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.hostile.case import SMALL, case
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import SETS as S

ESCAPE = "\x1b[2J\x1b[31mred\x07\r\u202e"


def no_escape(folder: Path) -> str:
    logs = folder.with_name(folder.name + ".log")
    for name in ("stdout", "stderr"):
        text = (logs / name).read_text(errors="replace")
        if "\x1b" in text or "\x07" in text or "\r" in text or "\u202e" in text:
            return f"control characters reach {name}"
    return ""


def add_cases() -> None:
    action = (
        "--weights",
        C / "small_action.safetensors",
        "--model",
        "slow_r50_4x16",
        "--clips",
        1,
        "--crops",
        1,
        "-o",
        "out",
    )
    labels = f"{ESCAPE}a\nb{ESCAPE}\nc\nd\n".replace("\r", "")  # which would end a line
    case("text: labels with escapes", "classify", GOOD, *action, "--labels", "l.txt", before=lambda p: (p / "l.txt").write_text(labels), want="ok",
         check=no_escape)  # fmt: skip
    case("text: labels with escapes, detect", "detect", GOOD, "--weights", C / "small_ava.safetensors", "--model", "slow_r50_4x16_ava", "--box", "1,1,30,30",
         "--size", 64, "-o", "out", "--labels", "l.txt", before=lambda p: (p / "l.txt").write_text(labels), want="ok", check=no_escape)  # fmt: skip
    name = "v\x1b[31m\x07.mp4"
    for job, words in {"track": ("--mask", MASK, *SMALL), "segment": (), "classify": action[:-2]}.items():
        case(
            f"text: {job} a video with escapes in its name",
            job,
            name,
            *words,
            before=lambda p: shutil.copy(GOOD, p / name),
            want="ok",
            check=no_escape,
        )
        case(f"text: {job} a missing video with escapes in its name", job, name, *words, want="refuse", check=no_escape)
    case(
        "text: an output folder with escapes",
        "track",
        GOOD,
        "--mask",
        MASK,
        *SMALL,
        "-o",
        "o\x1b[31m",
        want="ok",
        check=no_escape,
    )
    case(
        "text: an option with escapes", "track", GOOD, "--mask", MASK, "--model", ESCAPE, want="refuse", check=no_escape
    )
    case("text: an unknown option with escapes", "track", GOOD, f"--{ESCAPE}", want="refuse", check=no_escape)
    case("text: a command with escapes", ESCAPE, want="refuse", check=no_escape)
    case("text: models with escapes", "models", ESCAPE, want="refuse", check=no_escape)
    case("text: a recipe with escapes", "train", ESCAPE, want="refuse", check=no_escape)
    case("text: a setting with escapes", "train", "stcn", f"--lr={ESCAPE}", want="refuse", check=no_escape)
    case("text: a paper with escapes", "papers", ESCAPE, want="refuse", check=no_escape)
    case(
        "text: keys of weights with escapes",
        "convert",
        C / "escape_keys.pth",
        "-o",
        "w.safetensors",
        want="refuse",
        check=no_escape,
    )
    case("text: names of scores with escapes", "evaluate", "kinetics", "--data", S / "kinetics/good", "--predictions", "s.npz", want="any", check=no_escape,
         before=lambda p: np.savez(p / "s.npz", scores=np.eye(2, 4), videos=np.array([ESCAPE, "b"])))  # fmt: skip
    case("text: sequences with escapes", "evaluate", "davis17", "--data", S / "davis17/good", "--predictions", S / "davis17/results", "--sequences", ESCAPE,
         want="refuse", check=no_escape)  # fmt: skip
    case(
        "text: a mask with escapes in its name",
        "track",
        GOOD,
        *SMALL,
        "--mask",
        f"{ESCAPE}.png",
        want="refuse",
        check=no_escape,
    )
    case("text: boxes with escapes", "detect", GOOD, "--boxes", "b.csv", "--weights", C / "small_ava.safetensors", "--model", "slow_r50_4x16_ava", "-o", "out",
         before=lambda p: (p / "b.csv").write_text(f"time_s,x1,y1,x2,y2\n0,{ESCAPE},1,2,3\n"), want="refuse", check=no_escape)  # fmt: skip
