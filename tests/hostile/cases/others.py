"""The commands models, bench and demo."""

from __future__ import annotations

from tests.hostile.case import case


def add_cases() -> None:
    case("models", "models", want="ok")
    case("models nonsense", "models", "nonsense", want="refuse")
    case("models ''", "models", "", want="refuse")
    case("models --task x", "models", "--task", "x", want="refuse")
    case("models track_nano --json", "models", "track_nano", "--json", want="ok")
    small = ("bench", "track_nano", "--frames", 2, "--memory-frames", 1)
    case("bench good", *small, "--size", "64x48", want="ok")
    for size in ("0x0", "-5x5", "x", "64", "64x48x3", "nanxnan", "1e3x1e3", "100000x100000", "99999999999x99999999999"):
        case(f"bench --size {size}", *small, f"--size={size}", want="refuse")
    case("bench --size 1x1", *small, "--size", "1x1", want="any")
    case("bench 50 objects on 16 pixels", *small, "--size", "16x16", "--objects", 50, want="any")
    case("bench --device meta", *small, "--size", "64x48", "--device", "meta", want="refuse")
    case("bench --device nonsense", *small, "--size", "64x48", "--device", "nonsense", want="refuse")
    case("bench --device cuda", *small, "--size", "64x48", "--device", "cuda", want="refuse")
    case("bench nonsense", "bench", "nonsense", want="refuse")
    case("bench a detector", "bench", "slow_r50_4x16_ava", want="refuse")
    case("bench segment 1x1", "bench", "segment_nano", "--size", "1x1", "--frames", 2, want="any")
    case("bench maskrcnn", "bench", "slowfast_maskrcnn_1_1", "--size", "64x48", "--frames", 2, want="any")
    case("demo good", "demo", "--frames", 2, "-q", "-o", "out", want="ok")
    for option in ("--frames=1", "--frames=x", "--objects=0", "--objects=13", "--seed=x"):
        case(f"demo {option}", "demo", "-o", "out", "-q", option, want="refuse")
    case("demo --seed -1", "demo", "--frames", 2, "-o", "out", "-q", "--seed=-1", want="any")
    case("demo --seed 10**40", "demo", "--frames", 2, "-o", "out", "-q", f"--seed={10**40}", want="any")
    case(
        "demo out is a file",
        "demo",
        "--frames",
        2,
        "-q",
        "-o",
        "out",
        before=lambda p: (p / "out").touch(),
        want="refuse",
    )
    case(
        "demo out is read-only",
        "demo",
        "--frames",
        2,
        "-q",
        "-o",
        "out",
        before=lambda p: (p / "out").mkdir(mode=0o555),
        want="refuse",
    )
    case(
        "demo out holds a folder clip.mp4",
        "demo",
        "--frames",
        2,
        "-q",
        "-o",
        "out",
        before=lambda p: (p / "out/clip.mp4").mkdir(parents=True),
        want="refuse",
    )
