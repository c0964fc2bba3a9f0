"""The commands models, bench, demo and app; evaluate clicks; exports of track; presets of trainings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import SMALL, case
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK
from tests.hostile.inputs import MASKS as M
from tests.hostile.inputs import SETS as S
from tests.hostile.inputs import VIDEOS as V


def add_cases() -> None:
    pages()
    clicks()
    exports()
    presets()
    case("models", "models", want="ok")
    case("models nonsense", "models", "nonsense", want="refuse")
    case("models ''", "models", "", want="refuse")
    case("models --task x", "models", "--task", "x", want="refuse")
    case("models track_tiny --json", "models", "track_tiny", "--json", want="ok")
    small = ("bench", "track_tiny", "--frames", 2, "--memory-frames", 1)
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


def pages() -> None:
    """`twospeed app`, which serves until it is interrupted where nothing is wrong."""
    base = ("app", "--no-browser")
    for option in ("--port=-1", "--port=99999", "--port=x", "--max-upload=x", "--max-upload=nan", "--max-upload=", "--max-upload=" + "9" * 5000, "--max-upload=\u0663GB",
                   "--model=nonsense", "--model=segment_nano", "--weights=nowhere.pth", "--size=0", "--size=nan", "--size=100000", "--nonsense"):  # fmt: skip
        case(f"app {option[:40]}", *base, ".", option, want="refuse", seconds=30)
    case("app nowhere", *base, "nowhere", want="refuse", seconds=30)
    case(
        "app of a folder that is read-only",
        *base,
        "ro",
        before=lambda p: (p / "ro").mkdir(mode=0o555),
        want="refuse",
        seconds=30,
    )
    for name, make in {
        "a file": lambda p: p.write_text("x"),
        "a link to nowhere": lambda p: p.symlink_to("/nowhere/x"),
    }.items():
        case(
            f"app where .twospeed is {name}",
            *base,
            ".",
            before=lambda p, m=make: m(p / ".twospeed"),
            want="refuse",
            seconds=30,
        )
    case(
        "app where the lock is a folder",
        *base,
        ".",
        before=lambda p: (p / ".twospeed/lock").mkdir(parents=True),
        want="refuse",
        seconds=30,
        keeps=True,
    )
    case("app where the address is no text", *base, ".", before=lambda p: ((p / ".twospeed").mkdir(), (p / ".twospeed/address").write_bytes(b"\xff\xfe")),
         want="refuse", seconds=30, keeps=True)  # fmt: skip


def clicks() -> None:
    """`twospeed evaluate clicks`."""

    def scored(name: str, change: Callable[[Path], object] | None, *more: object, want: str = "refuse") -> None:
        def before(folder: Path) -> None:
            shutil.copytree(S / "davis16", folder / "set")
            if change is not None:
                change(folder / "set/good")

        case(f"evaluate clicks, {name}", "evaluate", "clicks", "--data", "set/good", "--model", "grabcut", "--every", 3, "-q", "--json", "s.json", *more,
             before=before, want=want, seconds=90)  # fmt: skip

    scored("good", None, want="ok")
    for option in ("--every=0", "--every=-1", "--every=x", "--every=" + "9" * 5000, "--sequences=nonsense", "--sequences=", "--split=nonsense", "--split=../val", "--model=nonsense",
                   "--model=segment_nano", f"--weights={C}/bomb.pth", "--weights=nowhere.pth", "--data=nowhere", "--data=/dev/zero", f"--data={F}/good", "--json=a/b/c.json"):  # fmt: skip
        model = ("--model", "click_nano") if option.startswith("--weights") else ()
        scored(
            option.replace(str(C), "").replace(str(F), "")[:40],
            None,
            *model,
            option,
            want="any" if option in ("--sequences=", "--json=a/b/c.json") else "refuse",
        )
    places = {
        "mask cut": "Annotations",
        "mask text": "Annotations",
        "mask of another size": "Annotations",
        "mask missing": "Annotations",
        "image cut": "JPEGImages",
        "image text": "JPEGImages",
    }
    for name, place in places.items():

        def change(data: Path, name: str = name, place: str = place) -> None:
            file = sorted((data / place).rglob("*.png" if place == "Annotations" else "*.jpg"))[0]
            if name.endswith("cut"):
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            elif name.endswith("text"):
                file.write_text("x")
            elif name.endswith("missing"):
                file.unlink()
            else:
                shutil.copy(M / "wrong_size.png", file)

        scored(name, change, want="any" if name == "mask missing" else "refuse")


def exports() -> None:
    """`track` with further outputs."""
    base = ("track", GOOD, "--mask", MASK, *SMALL, "-o", "out", "-q", "--no-overlay")
    for words in (("--export", "nonsense"), ("--export", ""), ("--export", "coco,,coco"), ("--export", "coco;cvat"), ("--export", "../x"), ("--matte", "x"), ("--matte", ""),
                  ("--matte", "prores4444", "--matte-alpha", "x"), ("--matte-layers",), ("--remove-background", "nowhere.png"), ("--remove-background", "#12345"),
                  ("--remove-background", "rgb(300,0,0)"), ("--remove-background", str(M / "bomb.png")), ("--remove-background", str(M / "text.png")), ("--remove-background", "/dev/zero"),
                  ("--remove-background", "x" * 5000), ("--export-images",), ("--blur", "--pixelate", "--matte", "nonsense")):  # fmt: skip
        name = " ".join(words).replace(str(M), "")[:50]
        case(
            f"track {name}",
            *base,
            *words,
            want="any"
            if words in (("--matte-layers",), ("--export-images",), ("--export", "coco,,coco"), ("--export", ""))
            else "refuse",
            keeps=False,
        )
    for option, file in (
        ("coco", "exports/coco/instances.json"),
        ("cvat", "exports/cvat/annotations.xml"),
        ("davis", "exports/davis"),
        ("labelme", "exports/labelme"),
    ):
        case(f"track --export {option} where a stranger's files are", *base, "--export", option, before=lambda p, f=file: ((p / "out" / f).parent.mkdir(parents=True), (p / "out" / f).write_text("precious")),
             want="any", check=lambda p, f=file: "" if (p / "out" / f).read_text() == "precious" else "a foreign file is gone")  # fmt: skip
    for words in (
        ("--matte", "prores4444"),
        ("--matte", "webm"),
        ("--blur",),
        ("--pixelate",),
        ("--export", "coco,cvat,labelme,yolo-seg,davis,png"),
    ):
        case(f"track {' '.join(words)} with a file size limit", *base, *words, fsize=2500, want="refuse", keeps=True)
        case(
            f"track {' '.join(words)} of one pixel",
            "track",
            V / "1x1.mkv",
            "--point",
            "0,0",
            *SMALL,
            "-o",
            "out",
            "-q",
            *words,
            want="any",
            keeps=True,
        )


def presets() -> None:
    """`train --preset`."""
    recipes = (
        "click_nano",
        "gsvnet",
        "segment_nano",
        "segmentation",
        "slowfast_ava",
        "slowfast_kinetics",
        "slowfast_maskrcnn",
        "stcn",
    )
    for recipe in recipes:
        for preset in ("", "nonsense", "../../x", "\x1b[2J", "\u00b2"):
            case(
                f"train {recipe} --preset {preset!r}",
                "train",
                recipe,
                "--preset",
                preset,
                "--fields",
                want="any" if not preset else "refuse",
            )
        case(
            f"train {recipe} --validate without data",
            "train",
            recipe,
            "--validate",
            "--out",
            "run",
            want="any",
            check=lambda p: "leaves files" if any(p.iterdir()) else "",
        )
        case(
            f"train {recipe} with data nowhere",
            "train",
            recipe,
            "--davis=/nowhere",
            "--data=/nowhere",
            "--out",
            "run",
            want="refuse",
        )
