"""Videos and folders that are no videos, or odd ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.hostile.case import case, count, track
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import MASKS as M
from tests.hostile.inputs import VIDEOS as V


def add_cases() -> None:
    refuse = {
        "empty.mp4": "empty", "text.mp4": "text.mp4", "html.mp4": "html.mp4", "lfs.mp4": "lfs.mp4",
        "random.mp4": "random.mp4", "sound.mp4": "no image stream", "plain.mp3": "no image stream", "cover.mp3": "no image stream",
        "cut1.mp4": "cut1.mp4", "cut50.mp4": "cut50.mp4", "list.m3u8": "list.m3u8",
        "x.sdp": "x.sdp", "y.svg": "y.svg", "nowhere.mp4": "no such file",
    }  # fmt: skip
    for name, says in refuse.items():
        track(f"video {name}", V / name, want="refuse", must=(says,))
    track(
        "video cut99.mp4", V / "cut99.mp4", want="ok", check=count("out/masks/*.png", 48)
    )  # metadata are cut, no frame
    track("video fastcut40.mp4", V / "fastcut40.mp4", want="refuse", must=("fastcut40.mp4",))
    for name in ("fastcut80.mp4", "fastcut99.mp4", "cut50.mkv"):
        track(f"video {name}", V / name, want="refuse", keeps=True, must=("cut off", name))
    for name in ("cut50.ts", "concat.ffconcat", *(f"flip{i}.{e}" for i in range(6) for e in ("mp4", "ts"))):
        track(f"video {name}", V / name, want="any", keeps=True)
    eight = count("out/masks/*.png", 8)
    for name in ("audio.mp4", "12bit.mkv", "grey.mkv", "alpha.mov", "vp9alpha.webm", "prores.mov", "hevc10.mp4",
                 "interlaced.mp4", "anim.gif", "raw.h264", "vfr.mkv", "negative.ts", "late.mkv", "gap.mkv", "noending",
                 "tête à tête 100% 日本.mp4", "two\nlines.mp4", "take:2.mp4", "rotated45.mp4"):  # fmt: skip
        track(f"video {name!r}", V / name, want="ok", check=eight)
    track("video bframes.avi", V / "bframes.avi", want="ok", check=count("out/masks/*.png", 24))
    track("video joined.ts", V / "joined.ts", want="ok", check=count("out/masks/*.png", 16))
    track("video resized.ts", V / "resized.ts", want="any", keeps=True)
    track("video billions.mp4", V / "billions.mp4", want="any", keeps=True)
    track("video halfday.mkv", V / "halfday.mkv", want="ok", check=count("out/masks/*.png", 3))
    track("video one.mp4", V / "one.mp4", want="ok", check=count("out/masks/*.png", 1))
    track("video rotated.mp4", V / "rotated.mp4", M / "64x96.png", want="ok", check=eight)
    track("video rotated.mp4, mask unrotated", V / "rotated.mp4", want="refuse", must=("96x64", "64x96"))
    track("video 1x1", V / "1x1.mkv", M / "1x1.png", want="any")
    track("video 3x2", V / "3x2.mkv", M / "3x2.png", want="any")
    track("video odd", V / "odd.mkv", M / "97x63.png", want="ok", check=eight)
    track("video strip", V / "strip.mkv", M / "16000x16.png", want="any")
    case("track video strip, its own size", "track", V / "strip.mkv", "--mask", M / "16000x16.png", "--size", 0, "-o",
         "out", "-q", want="ok")  # fmt: skip
    case("track video strip, 480 high", "track", V / "strip.mkv", "--mask", M / "16000x16.png", "-o", "out", "-q")
    track("video pole", V / "pole.mkv", M / "16x16000.png", want="any")
    for source in ("/dev/null", "/dev/zero", "/dev/urandom", "/etc/passwd", "/proc/self/mem", "/", "."):
        track(f"source {source}", source, want="refuse")
    track("source ''", "", want="refuse")
    track("source of 300 letters", "x" * 300 + ".mp4", want="refuse")
    track("source of 5000 letters", "x" * 5000 + ".mp4", want="refuse")
    track("source http", "http://127.0.0.1:9/clip.mp4", want="refuse")
    track("source file:", f"file:{GOOD}", want="refuse")
    track("source concat:", f"concat:{GOOD}|{GOOD}", want="refuse")
    track("source camera 99", "99", want="refuse", must=("camera",))
    track("source ²", "²", want="refuse")
    track("stdin mkv", "-", stdin=V / "long.mkv", want="ok", check=count("out/masks/*.png", 48))
    track("stdin ts", "-", stdin=V / "a.ts", want="ok", check=count("out/masks/*.png", 8))
    track("stdin mp4, index last", "-", stdin=GOOD, want="any")
    track("stdin garbage", "-", stdin=V / "random.mp4", want="refuse", must=("standard input",))
    track("stdin text", "-", stdin=V / "text.mp4", want="refuse")
    track("stdin empty", "-", stdin="/dev/null", want="refuse")
    track("stdin zeros", "-", stdin="/dev/zero", want="refuse")
    track("stdin closed", "-", stdin="closed", want="refuse")
    for name in ("mixed_sizes", "corrupt", "cut_jpeg", "cut_png", "cut_tif", "cut_bmp", "cut_webp", "empty_file", "bomb",
                 "locked"):  # fmt: skip
        track(
            f"folder {name}", F / name, want="refuse", keeps=True, must=("00003" if name != "mixed_sizes" else "64x96",)
        )
    track("folder flipped_png", F / "flipped_png", want="refuse", keeps=True)
    for name in ("good", "other_files", "sixteen_bits", "cmyk", "folder_named_picture", "loops", "fifo"):
        track(f"folder {name}", F / name, want="ok", check=count("out/masks/*.png", 6))
    track(
        "folder dangling link",
        F / "dangling",
        want="any",
        keeps=True,
        check=lambda p: (
            "a frame whose link leads nowhere was left out without a word"
            if len(list(p.glob("out/masks/*"))) == 5
            else ""
        ),
    )
    for name in ("nothing", "no_pictures", "forbidden"):
        track(f"folder {name}", F / name, want="refuse", must=(name,))
    # the other commands on a choice of them
    for name in ("empty.mp4", "text.mp4", "sound.mp4", "cover.mp3", "nowhere.mp4"):
        case(f"segment {name}", "segment", V / name, "-o", "out", "-q", want="refuse", must=(name,))
        case(f"classify {name}", "classify", V / name, "--weights", C / "small_action.safetensors", "--model",
             "slow_r50_4x16", "-o", "out", "-q", want="refuse", must=(name,))  # fmt: skip
        case(f"detect {name}", "detect", V / name, "--weights", "random", "--box", "1,1,20,20", "-o", "out", "-q",
             want="refuse", must=(name,))  # fmt: skip
    small = ("--weights", C / "small_action.safetensors", "--model", "slow_r50_4x16", "-o", "out", "-q")
    people = ("--weights", C / "small_ava.safetensors", "--model", "slow_r50_4x16_ava", "--box", "1,1,20,20", "--size", 64,
              "-o", "out", "-q")  # fmt: skip
    for name in ("fastcut40.mp4", "flip1.mp4", "flip2.ts", "joined.ts", "resized.ts", "one.mp4", "gap.mkv", "halfday.mkv",
                 "negative.ts", "vfr.mkv", "billions.mp4", "raw.h264", "rotated.mp4"):  # fmt: skip
        case(f"segment video {name}", "segment", V / name, "-o", "out", "-q", keeps=True)
        case(f"classify video {name}", "classify", V / name, *small, "--clips", 2, keeps=True)
        case(f"classify timeline {name}", "classify", V / name, *small, "--timeline", keeps=True)
        case(f"detect video {name}", "detect", V / name, *people, keeps=True)
    for name in ("1x1.mkv", "3x2.mkv", "strip.mkv", "pole.mkv"):
        case(f"segment video {name}", "segment", V / name, "-o", "out", "-q")
        case(f"classify video {name}", "classify", V / name, *small, "--clips", 1, "--crops", 1)
        case(f"detect video {name}", "detect", V / name, "--weights", C / "small_ava.safetensors", "--model",
             "slow_r50_4x16_ava", "--box", "0,0,16,16", "--size", 64, "-o", "out", "-q")  # fmt: skip
    case("classify one bad among good", "classify", GOOD, V / "text.mp4", V / "one.mp4", *small, "--clips", 1,
         want="refuse", keeps=True, must=("text.mp4",), lines=2, check=count("out/*/results.json", 2))  # fmt: skip
    case("classify folder with a loop", "classify", F / "loops", *small, "--clips", 1, want="ok")
    case("classify folder locked", "classify", F / "forbidden", *small, want="refuse", must=("forbidden",))
    case("classify fifo", "classify", "pipe.mkv", *small, "--clips", 1, before=feed_fifo)
    case("detect fifo", "detect", "pipe.mkv", *people, before=feed_fifo)
    case("track fifo", "track", "pipe.mkv", "--mask", MASK, "--size", 64, "-o", "out", "-q", before=feed_fifo,
         want="ok", check=count("out/masks/*.png", 48))  # fmt: skip
    case("segment fifo", "segment", "pipe.mkv", "-o", "out", "-q", before=feed_fifo, want="ok")
    case("detect stdin", "detect", "-", *people, stdin=V / "long.mkv", want="ok")
    case("classify stdin", "classify", "-", *small, stdin=V / "long.mkv", want="ok")


def feed_fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mkv")
    subprocess.Popen(["sh", "-c", f"cat {V}/long.mkv > pipe.mkv"], cwd=folder, stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
