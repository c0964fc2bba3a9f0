"""Parts of a video: --start and --end, of every job."""

from __future__ import annotations

from tests.hostile.case import SMALL, case, count
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import VIDEOS as V

WRONG = ("x", "", "-1", "-1s", "nan", "inf", "nans", "1e3", "1e3s", "²", "٣", "1:2", "00:60", "01:60:00", "1:2:3:4", "s", ":",
         "9" * 5000, "9" * 5000 + "s", "3,5s", " ", "0x5", "1_000", "+3", "3.5.5s", "--", "\x1b[31m")  # fmt: skip


def add_cases() -> None:
    jobs = {
        "track": ("track", GOOD, "--mask", MASK, *SMALL),
        "segment": ("segment", GOOD),
        "classify": ("classify", GOOD, "--weights", C / "small_action.safetensors", "--model", "slow_r50_4x16", "--clips", 1, "--crops", 1),
        "detect": ("detect", GOOD, "--weights", C / "small_ava.safetensors", "--model", "slow_r50_4x16_ava", "--box", "1,1,20,20", "--size", 64),
    }  # fmt: skip
    for job, words in jobs.items():
        words = (*words, "-o", "out", "-q")
        for text in WRONG if job == "track" else WRONG[::4]:
            case(
                f"range {job} --start {text[:20]!r} ({len(text)})",
                *words,
                f"--start={text}",
                want="refuse",
                must=("start",),
            )
            case(
                f"range {job} --end {text[:20]!r} ({len(text)})", *words, f"--end={text}", want="refuse", must=("end",)
            )
        for start, end in (
            (5, 3),
            (3, 3),
            (8, 20),
            (99, 200),
            ("99s", "100s"),
            (10**11, 10**11 + 1),
            ("0:01", "0:00.5"),
        ):
            case(f"range {job} {start} to {end}", *words, "--start", start, "--end", end, want="refuse")
        case(f"range {job} --end 0", *words, "--end", 0, want="refuse")
        if job == "detect":  # the keyframes are at 0 s, 1 s, ...
            case("range detect --start 7", *words, "--start", 7, want="refuse", must=("no keyframe", "--every"))
            case("range detect --start 7 --every 0.1", *words, "--start", 7, "--every", 0.1, want="any")
        else:
            case(f"range {job} --start 7", *words, "--start", 7, want="ok")
        case(f"range {job} --end 10**11", *words, "--end", 10**11, want="ok")
    track = (*jobs["track"], "-q", "-o", "out")
    case("range track 2 to 6", *track, "--start", 2, "--end", 6, want="ok", check=count("out/masks/*.png", 4))
    case(
        "range track, a mask before it",
        "track",
        GOOD,
        "--mask",
        f"0={MASK}",
        *SMALL,
        "-o",
        "out",
        "-q",
        "--start",
        3,
        want="refuse",
        keeps=True,
    )
    case("range track, a mask behind it", "track", GOOD, "--mask", MASK, "--mask", f"7={MASK}", *SMALL, "-o", "out", "-q", "--end", 3, want="refuse",
         keeps=True)  # fmt: skip
    for name in ("cut50.mkv", "gap.mkv", "late.mkv", "vfr.mkv", "billions.mp4", "one.mp4", "raw.h264", "anim.gif", "negative.ts", "flip1.mp4",
                 "flip2.ts", "joined.ts", "cut50.ts"):  # fmt: skip
        for start in ("3", "0.1s", "0:01"):
            case(
                f"range track {name} from {start}",
                "track",
                V / name,
                "--mask",
                MASK,
                *SMALL,
                "-o",
                "out",
                "-q",
                "--start",
                start,
                keeps=True,
            )
    case("range track folder", "track", F / "good", "--mask", MASK, *SMALL, "-o", "out", "-q", "--start", 2, "--end", 4, want="ok",
         check=count("out/masks/*.png", 2))  # fmt: skip
    case("range track stdin", "track", "-", "--mask", MASK, *SMALL, "-o", "out", "-q", "--start", 40, stdin=V / "long.mkv", want="ok",
         check=count("out/masks/*.png", 8))  # fmt: skip
    case(
        "range track stdin behind its end",
        "track",
        "-",
        "--mask",
        MASK,
        *SMALL,
        "-o",
        "out",
        "-q",
        "--start",
        400,
        stdin=V / "long.mkv",
        want="refuse",
    )
    for choice in ("skip", "error"):
        for name in ("corrupt", "cut_png", "bomb", "empty_file", "dangling", "mixed_sizes"):
            case(
                f"damaged {choice}: {name}",
                "track",
                F / name,
                "--mask",
                MASK,
                *SMALL,
                "-o",
                "out",
                "-q",
                "--damaged",
                choice,
                keeps=True,
            )
    case("damaged nonsense", *track, "--damaged", "nonsense", want="refuse")
