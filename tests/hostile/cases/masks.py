"""First masks."""

from __future__ import annotations

from tests.hostile.case import ids, track
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import MASKS as M


def add_cases() -> None:
    for name, wanted in (("two", (1, 2)), ("gap", (3, 77)), ("white", (1,)), ("onebit", (1,)), ("half", (128,)),
                         ("sixteen_white", (1,)), ("sixteen_id", (3,)), ("rgb", (1,)), ("rgba", (1,)),
                         ("off_by_one", (1,)), ("fifty", tuple(range(1, 45)))):  # fmt: skip
        track(f"mask {name}", GOOD, M / f"{name}.png", want="ok", check=ids(*wanted))
    track("mask float_whole", GOOD, M / "float_whole.tif", want="ok", check=ids(2))
    track(
        "mask 255 as void",
        GOOD,
        M / "void.png",
        want="any",
        check=lambda p: (
            "DAVIS's void (255) was tracked as an object"
            if (p / "out/masks/00000.png").exists() and not ids(1, 255)(p)
            else ""
        ),
    )
    for name in ("many.png", "sixteen_large.png", "float.tif", "nan.tif", "inf.tif", "negative.tif", "int32.tif",
                 "float64.tif", "jpeg.jpg", "soft_alpha.png", "blurred.png", "background.png", "noise.png",
                 "wrong_size.png", "empty.png", "text.png", "cut.png", "flipped.png", "bomb.png", "huge.png", "large.png",
                 "nowhere.png", "by_frame", "eps.png"):  # fmt: skip
        track(f"mask {name}", GOOD, M / name, want="refuse", must=(name.split(".")[0],))
    for name in ("cmyk.jpg", "lab.tif", "all_white.png", "animated.gif", "animated.png", "pages.tif"):
        track(f"mask {name}", GOOD, M / name, want="any")
    for name in (
        "jpeg.jpg",
        "blurred.png",
        "noise.png",
        "background.png",
        "all_white.png",
        "cut.png",
        "soft_alpha.png",
    ):
        track(f"mask snap {name}", GOOD, M / name, "--snap", want="any")
    track("mask is a folder without masks", GOOD, F / "good", want="refuse", must=("good",))
    track("mask is the video", GOOD, GOOD, want="refuse")
    track("mask is /dev/zero", GOOD, "/dev/zero", want="refuse")
    track("mask is /dev/stdin", GOOD, "/dev/stdin", stdin=MASK, want="any")
    track("mask of 300 letters", GOOD, "m" * 300 + ".png", want="refuse")
    track("mask at frame -1", GOOD, f"-1={MASK}", want="refuse")
    track("mask at frame ²", GOOD, f"²={MASK}", want="refuse")
    track("mask at frame 99", GOOD, f"99={MASK}", "--mask", MASK, want="refuse", keeps=True, must=("99",))
    track("mask only at frame 99", GOOD, f"99={MASK}", want="refuse", keeps=True)
    track("mask at a huge frame", GOOD, f"{10**30}={MASK}", "--mask", MASK, want="refuse", keeps=True)
    track("mask at a number of 5000 digits", GOOD, "9" * 5000 + f"={MASK}", want="refuse")
    track("mask twice", GOOD, MASK, "--mask", MASK, want="refuse", must=("second mask",))
    track("mask named 5=x.png", GOOD, M / "5=x.png", want="ok")
    many = (GOOD, M / "fifty.png", "--mask", f"3={M / 'over.png'}")
    track("masks adding up to 51 objects", *many, want="refuse", keeps=True, must=("objects", "--max-objects"))
    track("masks adding up to 51 objects, allowed", *many, "--max-objects", 60, want="ok")
    track("mask later of another size", GOOD, MASK, "--mask", f"3={M / 'wrong_size.png'}", want="refuse")
