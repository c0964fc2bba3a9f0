"""Values of options."""

from __future__ import annotations

import json

from tests.hostile.case import case
from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import TABLES as T


def add_cases() -> None:
    clip = ("track", GOOD, "--mask", MASK, "-o", "out", "-q")
    for option in ("--size=-5", "--size=nan", "--size=1e3", "--top-k=-1", "--memory-every=0", "--memory-every=-3",
                   "--max-memory-frames=-1", "--precision=fp8", "--device=nonsense",
                   "--device=cuda", "--device=cuda:99", "--device=mps", "--device=meta", "--device=cpu:7",
                   "--device=xla", "--device=hpu", "--model=nonsense", "--model=slowfast_r50_8x8",
                   "--model=slowfast_maskrcnn_3_7", "--model=stcn", "--weights=nowhere.pth", "--weights=",
                   "--finetune=0", "--finetune=-1", "--min-score=0.5", "--merged", "--nonsense", "--size"):  # fmt: skip
        case(f"track {option}", *clip, option, want="any" if option == "--device=cpu:7" else "refuse",
             must=("twospeed:",))  # fmt: skip
    case("track --size 1", *clip, "--size", 1)
    case("track --size 100000", *clip, "--size", 100_000, want="refuse")
    case("track --size 2**40", *clip, "--size", 2**40, want="refuse")
    case("track --max-memory-frames=0", *clip, "--max-memory-frames=0", want="refuse", must=("none (no limit)",))
    case("track --max-memory-frames=none", *clip, "--max-memory-frames=none", "--size", 64, want="ok")
    case("track --top-k 10**9", *clip, "--size", 64, "--top-k", 10**9, want="ok")
    case("track --top-k 10**30", *clip, "--size", 64, "--top-k", 10**30)
    case("track --memory-every 10**30", *clip, "--size", 64, "--memory-every", 10**30)
    case("track --finetune 1", *clip, "--size", 64, "--finetune", 1, want="ok")
    case("track bf16", *clip, "--size", 64, "--precision", "bf16", want="ok")
    base = ("track", GOOD, "--size", 64, "-o", "out", "-q")
    for box in ("1,2,3", "a,b,c,d", "nan,nan,nan,nan", "0,0,inf,inf", "1e308,1e308,1e308,1e308", "-50,-50,10,10", "0,0,0,0",
                "", "1,2,3,4,5", "50,50,-20,-20"):  # fmt: skip
        case(f"track --box {box!r}", *base, "--box", box, want="refuse", must=("box",))
    for point in ("nan,nan", "inf,0", "-1,5", "96,64", "x,y", "5", "1e400,1"):
        case(f"track --point {point!r}", *base, "--point", point, want="refuse", must=("point",))
    case("track --point 0,0", *base, "--point", "0,0", want="ok")
    case("track 60 boxes", *base, *(x for i in range(60) for x in ("--box", f"{i},{i % 40},20,20")), want="any")
    case("track box inside a box", *base, "--box", "10,10,60,40", "--box", "10,10,60,40", want="any")
    case("track without anything", "track", want="refuse")
    case("track without a mask", "track", GOOD, want="ok")  # it finds the objects
    case("nothing at all", want="any")
    case("unknown command", "trakc", GOOD, want="refuse")
    # segment, classify, detect
    seg = ("segment", GOOD, "-o", "out", "-q")
    for option in ("--keyframe-every=0", "--keyframe-every=-1", "--keyframe-every=x", "--drift=0", "--drift=-1", "--drift=nan",
                   "--model=track_tiny", "--model=nonsense", "--model=bisenet_r18", "--weights=nowhere", "--device=meta",
                   "--keyframe-weights=nowhere"):  # fmt: skip
        case(f"segment {option}", *seg, option, want="refuse")
    case("segment --drift inf", *seg, "--drift", "inf", want="any")
    case("segment --keyframe-every 10**30", *seg, "--keyframe-every", 10**30, want="any")
    cls = ("classify", GOOD, "--model", "slow_r50_4x16", "--weights", C / "small_action.safetensors", "-q", "-o", "out")
    for option in ("--clips=0", "--clips=-1", "--crops=2", "--crops=0", "--every=0 --timeline", "--every=-1 --timeline",
                   "--every=nan --timeline", "--threshold=2 --timeline", "--threshold=nan --timeline", "--smooth=2 --timeline",
                   "--smooth=0 --timeline", "--smooth=-1 --timeline", "--top=0", "--precision=fp8", "--device=meta",
                   "--labels=nowhere.txt", f"--labels={T}/labels_three.txt", f"--labels={T}/labels_empty.txt",
                   f"--labels={T}/labels_utf16.txt", f"--labels={T}/labels_json_gap.txt", f"--labels={T}/labels_json_cut.txt",
                   f"--labels={T}/labels_json_deep.txt", f"--labels={C}/good.pth", "--model=slowfast_r50_8x8_ava",
                   "--weights=a --weights=b"):  # fmt: skip
        case(
            f"classify {option.replace(str(A), '')}",
            *cls,
            *option.split(),
            want="any" if "crops=0" in option else "refuse",
        )
    case("classify --labels all alike", *cls, "--labels", T / "labels_same.txt", "--clips", 1, want="any")
    case("classify --every 1e-9", *cls, "--timeline", "--every", "1e-9", want="any")
    case("classify --every inf", *cls, "--timeline", "--every", "inf", want="any")
    case("classify --top 10**9", *cls, "--top", 10**9, "--clips", 1, want="ok")
    det = ("detect", GOOD, "--model", "slow_r50_4x16_ava", "--weights", C / "small_ava.safetensors", "-q", "-o", "out")
    here = (*det, "--box", "10,10,30,30", "--size", 64)
    for option in ("--every=0", "--every=-1", "--every=nan", "--threshold=-1", "--threshold=nan", "--threshold=2",
                   "--size=0", "--size=-1", "--scales=", "--scales=a,b", "--scales=0", "--top=0", "--precision=x", "--device=meta",
                   "--labels=nowhere", "--boxes=nowhere.csv", "--model=track_tiny"):  # fmt: skip
        case(f"detect {option}", *here, option, want="any" if option == "--scales=" else "refuse")
    case("detect --every inf", *here, "--every", "inf", want="any")
    case("detect --every 1e-9", *here, "--every", "1e-9", want="any")
    case("detect --start nan", *here, "--start", "nan", want="refuse")
    case(
        "detect --start inf, boxes with times",
        *det,
        "--size",
        64,
        "--boxes",
        T / "good.csv",
        "--start",
        "inf",
        want="refuse",
    )
    case("detect --min-score nan", *here, "--min-score", "nan", want="any")
    case("detect --size 100000", *det, "--box", "1,1,20,20", "--size", 100_000, want="refuse")
    for box in ("nan,0,5,5", "0,0,0,0", "0,0,-5,-5", "a", "1,2,3", "0,0,1e9,5", ""):
        case(f"detect --box {box!r}", *det, "--size", 64, "--box", box, want="refuse", must=("box",))
    case("detect --box of half a pixel", *det, "--size", 64, "--box", "0,0,0.5,0.5", want="any", check=lambda p: (
        "a box of half a pixel was taken as fractions: half the picture" if (p / "out/results.json").exists() and json.loads(
            (p / "out/results.json").read_text())["keyframes"][0]["people"][0]["box_xyxy"][2] > 1 else ""))  # fmt: skip
