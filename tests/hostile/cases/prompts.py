"""Prompts of `track`: boxes, points, folders of masks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.hostile.case import SMALL, case
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import MASKS as M

NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e309",
    "1e999",
    "-1e308",
    "²",
    "٣",
    "0x10",
    "1_0",
    "",
    " ",
    "one",
    "9" * 400,
    "\x1b[2J",
    "1;2",
)


def add_cases() -> None:
    base = ("track", GOOD, *SMALL, "-o", "out", "-q")
    for text in NUMBERS:
        case(f"prompt --point {text[:12]!r},5", *base, f"--point={text},5", want="refuse")
        case(f"prompt --point 5,{text[:12]!r}", *base, f"--point=5,{text}", want="refuse")
        case(f"prompt --box 5,5,{text[:12]!r},9", *base, f"--box=5,5,{text},9", want="refuse")
    for text in ("5,5,20,20=x", "=5,5", "0=5,5,20,20", "@5,5,20,20", "1@", "x@5,5,20,20", "256@5,5,20,20", "0@5,5,20,20", "-1@5,5,20,20",
                 "1@0=5,5,20,20", "1@99=5,5,20,20", "1@99999999999999999999=5,5,20,20", "²@5,5,20,20"):  # fmt: skip
        case(f"prompt --box {text}", *base, f"--box={text}", want="any", keeps=True)
        case(f"prompt --point {text}", *base, f"--point={text.replace(',20,20', '')}", want="any", keeps=True)
    case("prompt box over the whole image", *base, "--box", "0,0,96,64", want="ok")
    case("prompt box larger than the image", *base, "--box", "-50,-50,500,500", want="ok")
    case("prompt mask and box", *base, "--mask", MASK, "--box", "5,5,30,30", want="any")
    case(
        "prompt 300 points",
        *base,
        *(word for i in range(300) for word in ("--point", f"{i % 96},{i % 64}")),
        want="any",
    )
    folders = {
        "empty": lambda p: p.mkdir(), "text": lambda p: (p.mkdir(), (p / "00000.png").write_text("x")),
        "bomb": lambda p: (p.mkdir(), shutil.copy(M / "bomb.png", p / "00000.png")),
        "a pipe": lambda p: (p.mkdir(), os.mkfifo(p / "00000.png")),
        "a link in a circle": lambda p: (p.mkdir(), (p / "00000.png").symlink_to("00000.png")),
        "a folder": lambda p: (p / "00000.png").mkdir(parents=True),
        "number 99": lambda p: (p.mkdir(), shutil.copy(MASK, p / "00099.png"), shutil.copy(MASK, p / "00000.png")),
        "20 digits": lambda p: (p.mkdir(), shutil.copy(MASK, p / f"{'9' * 20}.png")),
        "odd digits": lambda p: (p.mkdir(), shutil.copy(MASK, p / "²³.png")),
        "two of one frame": lambda p: (p.mkdir(), shutil.copy(MASK, p / "0.png"), shutil.copy(MASK, p / "000.png")),
        "another size": lambda p: (p.mkdir(), shutil.copy(M / "wrong_size.png", p / "00003.png"), shutil.copy(MASK, p / "00000.png")),
    }  # fmt: skip
    for name, make in folders.items():
        case(
            f"prompt folder of masks: {name}",
            *base,
            "--mask",
            "masks",
            before=lambda p, m=make: m(Path("masks")),
            want="refuse",
            keeps=True,
        )
    case("prompt folder of masks for a folder of images", "track", F / "good", *SMALL, "-o", "out", "-q", "--mask", "masks",
         before=lambda p: (Path("masks").mkdir(), shutil.copy(MASK, "masks/00002.png"), shutil.copy(MASK, "masks/00000.png")), want="ok")  # fmt: skip
    for name in ("/dev/zero", "/dev/full", "/proc/self/mem", "/", "..", "~", "a\0b"):
        if "\0" not in name:
            case(f"prompt mask {name!r}", *base, f"--mask={name}", want="refuse")
    case("prompt --snap alone", *base, "--snap", want="refuse")
    case(
        "prompt --finetune with two masks",
        *base,
        "--mask",
        MASK,
        "--finetune",
        1,
        "--mask",
        f"3={MASK}",
        want="any",
        keeps=True,
    )
    case("prompt none", *base, want="any")
