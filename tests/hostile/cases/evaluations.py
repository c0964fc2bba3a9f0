"""Data sets and results to be scored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.hostile.case import case, count
from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD
from tests.hostile.inputs import MASKS as M
from tests.hostile.inputs import SETS as S
from tests.hostile.inputs.drawing import flip_bits, mask_png


def add_cases() -> None:
    def broken(kind: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
        def before(folder: Path) -> None:
            shutil.copytree(S / kind, folder / "set")
            change(folder / "set")

        return before

    def ev(name: str, kind: str, *argv: object, change=None, **more: object) -> None:
        data = "set/good" if change else S / kind / "good"
        before = broken(kind, change) if change else None
        case(f"evaluate {name}", "evaluate", *(str(a).replace("DATA", str(data)).replace("SET", "set" if change else
             str(S / kind)) for a in argv), before=before, **more)  # fmt: skip

    for year in ("davis16", "davis17"):
        score = (year, "--data", "DATA", "--predictions", "SET/results", "-q", "--json", "s.json")
        at = "results/dog/00002.png"
        ev(f"{year} good", year, *score, want="ok")
        for name, change in {
            "result missing": lambda s, a=at: (s / a).unlink(),
            "result empty": lambda s, a=at: (s / a).write_bytes(b""),
            "result cut": lambda s, a=at: (s / a).write_bytes((s / a).read_bytes()[:70]),
            "result text": lambda s, a=at: (s / a).write_text("x"),
            "result of another size": lambda s, a=at: mask_png(s / a, (50, 40)),
            "result 16 bits": lambda s, a=at: shutil.copy(M / "sixteen_large.png", s / a),
            "result rgb": lambda s, a=at: shutil.copy(M / "rgb.png", s / a),
            "result is a bomb": lambda s, a=at: shutil.copy(M / "bomb.png", s / a),
            "result is huge": lambda s, a=at: shutil.copy(M / "huge.png", s / a),
            "result is a folder": lambda s, a=at: ((s / a).unlink(), (s / a).mkdir()),
            "sequence missing": lambda s: shutil.rmtree(s / "results/dog"),
            "annotation cut": lambda s: (s / "good/Annotations/480p/dog/00002.png").write_bytes(b"\x89PNG"),
            "annotation is a bomb": lambda s: shutil.copy(M / "bomb.png", s / "good/Annotations/480p/dog/00002.png"),
            "annotation missing": lambda s: (s / "good/Annotations/480p/dog/00002.png").unlink(),
            "list binary": lambda s: next((s / "good/ImageSets").glob("*/val.txt")).write_bytes(b"\xff\xfe\x00\x01" * 9),
            "list utf-16": lambda s: next((s / "good/ImageSets").glob("*/val.txt")).write_text("dog\n", encoding="utf-16"),
            "list empty": lambda s: next((s / "good/ImageSets").glob("*/val.txt")).write_text(""),
            "list climbs out": lambda s: next((s / "good/ImageSets").glob("*/val.txt")).write_text("../../dog\n"),
            "list is a folder": lambda s: (next((s / "good/ImageSets").glob("*/val.txt")).unlink(),
                                           next((s / "good/ImageSets").glob("*")).joinpath("val.txt").mkdir()),
            "locked annotations": lambda s: (s / "good/Annotations/480p/dog").chmod(0),
        }.items():  # fmt: skip
            ev(f"{year} {name}", year, *score, change=change, want="refuse")
        ev(
            f"{year} list with CRLF and BOM",
            year,
            *score,
            change=lambda s: next((s / "good/ImageSets").glob("*/val.txt")).write_bytes(b"\xef\xbb\xbfdog\r\ncat\r\n"),
            want="ok",
        )
        ev(f"{year} json into a folder", year, *score[:-1], ".", want="refuse")
        ev(f"{year} json nowhere", year, *score[:-1], "a/b/s.json", want="any")
        run = (year, "--data", "DATA", "--model", "track_tiny", "--size", 64, "-q", "-o", "out")
        ev(f"{year} run", year, *run, want="ok", check=count("out/*/*.png", 12))
        ev(f"{year} run, picture cut", year, *run, change=lambda s: (s / "good/JPEGImages/480p/dog/00002.jpg").write_bytes(
            (s / "good/JPEGImages/480p/dog/00002.jpg").read_bytes()[:500]), want="refuse", keeps=True)  # fmt: skip
        ev(f"{year} run, picture of another size", year, *run, change=lambda s: shutil.copy(
            F / "good/00000.jpg", s / "good/JPEGImages/480p/dog/00002.jpg"), want="refuse", keeps=True)  # fmt: skip
        ev(f"{year} run, first mask empty", year, *run, change=lambda s: mask_png(
            s / "good/Annotations/480p/dog/00000.png", (64, 48), labels=(0,)), want="refuse", keeps=True)  # fmt: skip
        for option in ("--size=-1", "--memory-every=0", "--memory-every=-1", "--top-k=-1", "--max-memory-frames=-1",
                       "--scales=0", "--scales=a", "--scales=64,", "--device=meta", "--split=nonsense", "--task=nonsense",
                       "--sequences=", "--sequences=../x", "--finetune=-1", "--clips=3"):  # fmt: skip
            ev(f"{year} run {option}", year, *run, option, want="refuse")
        ev(f"{year} resume, record broken", year, *run, "--resume", change=lambda s: ((s.parent / "out").mkdir(), (
            s.parent / "out/evaluation.json").write_text("{")), want="refuse", keeps=True)  # fmt: skip
        ev(f"{year} resume, record a list", year, *run, "--resume", change=lambda s: ((s.parent / "out").mkdir(), (
            s.parent / "out/evaluation.json").write_text("[]")), want="refuse", keeps=True)  # fmt: skip
        ev(f"{year} out is not empty", year, *run, change=lambda s: ((s.parent / "out").mkdir(), (
            s.parent / "out/x").touch()), want="refuse")  # fmt: skip
    yt = ("youtube-vos", "--data", "DATA", "--predictions", "SET/results", "-q", "--json", "s.json")
    ev("youtube-vos good", "ytvos", *yt, want="ok")

    def meta(text: str | bytes) -> Callable[[Path], object]:
        return lambda s: (s / "good/valid/meta.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    objects = '{"videos": {"v1": {"objects": %s}}}'
    for name, text in {
        "not json": "{", "a list": "[]", "null": "null", "no videos": "{}", "videos a list": '{"videos": [1]}',
        "binary": b"\xff\xfe\x00\x01", "utf-16": '{"videos": {}}'.encode("utf-16"), "empty": "",
        "no objects": objects % "{}", "objects a list": objects % "[]", "id text": objects % '{"x": {"frames": ["0"]}}',
        "id ²": objects % '{"²": {"frames": ["00000"]}}', "id 0": objects % '{"0": {"frames": ["00000"]}}',
        "frames a number": objects % '{"1": {"frames": 3}}', "frames numbers": objects % '{"1": {"frames": [0, 5]}}',
        "frames mixed": objects % '{"1": {"frames": [0, "5"]}}', "frames null": objects % '{"1": {"frames": null}}',
        "entry null": objects % '{"1": null}', "no videos at all": '{"videos": {}}', "deep": '{"videos":' * 50_000,
        "climbs out": '{"videos": {"../../results/v1": {"objects": {"1": {"frames": ["00000", "00005"]}}}}}',
    }.items():  # fmt: skip
        ev(f"youtube-vos meta.json {name}", "ytvos", *yt, change=meta(text), want="refuse")
    ev("youtube-vos meta.json with a BOM", "ytvos", *yt, change=lambda s: (s / "good/valid/meta.json").write_bytes(
        b"\xef\xbb\xbf" + (s / "good/valid/meta.json").read_bytes()), want="any")  # fmt: skip
    ev(
        "youtube-vos run",
        "ytvos",
        "youtube-vos",
        "--data",
        "DATA",
        "--model",
        "track_tiny",
        "--size",
        64,
        "-q",
        "-o",
        "out",
        want="ok",
    )
    for kind, at in (("camvid", "results/0016E5_07961.png"), ("cityscapes", "results/ulm_000001_000019.png")):
        score = (kind, "--data", "DATA", "--predictions", "SET/results", "-q", "--json", "s.json")
        ev(f"{kind} good", kind, *score, want="ok")
        for name, change in {
            "result missing": lambda s, a=at: (s / a).unlink(),
            "result cut": lambda s, a=at: (s / a).write_bytes((s / a).read_bytes()[:50]),
            "result of another size": lambda s, a=at: mask_png(s / a, (50, 40)),
            "result with class 200": lambda s, a=at: mask_png(s / a, (128, 64), labels=(200,)),
            "result is a bomb": lambda s, a=at: shutil.copy(M / "bomb.png", s / a),
            "labels cut": lambda s: next(p for p in sorted((s / "good").rglob("*.png")) if "label" in str(p).lower()).write_bytes(b"x"),
            "labels are a bomb": lambda s: shutil.copy(M / "bomb.png", next(p for p in sorted((s / "good").rglob("*.png")) if "label" in str(p).lower())),
        }.items():  # fmt: skip
            # Cityscapes counts what is no class as a wrong answer, as its documentation says
            ev(
                f"{kind} {name}",
                kind,
                *score,
                change=change,
                want="any" if (kind, name[-3:]) == ("cityscapes", "200") else "refuse",
            )
    run = ("camvid", "--data", "DATA", "--model", "segment_nano", "-q", "-o", "out")
    ev("camvid run", "camvid", *run, want="ok")
    for option in ("--keyframe-every=0", "--frame-step=0", "--image-scales=0", "--image-scales=nan", "--image-scales=x",
                   "--image-scales=1e-9", "--image-scales=-1", "--split=x", "--plot=a/b/c.png", "--plot=p.txt", "--plot=.",
                   "--model=track_tiny", "--weights=nowhere"):  # fmt: skip
        ev(
            f"camvid run {option}",
            "camvid",
            *run,
            option,
            want="any" if option in ("--plot=p.txt", "--image-scales=1e-9") else "refuse",
            keeps="plot" in option or "1e-9" in option,
        )
    ev("camvid name of another form", "camvid", *run, change=lambda s: (s / "good/val/images/0016E5_07959.png").rename(
        s / "good/val/images/x.png"), want="refuse")  # fmt: skip
    ev("camvid picture cut", "camvid", *run, change=lambda s: (s / "good/val/images/0016E5_07961.png").write_bytes(
        (s / "good/val/images/0016E5_07961.png").read_bytes()[:120]), want="refuse", keeps=True)  # fmt: skip
    ev("cityscapes list binary", "cityscapes", "cityscapes", "--data", "DATA", "--predictions", "SET/results", "--frame-list",
       C / "good.pth", "-q", want="refuse")  # fmt: skip
    ava = ("ava", "--predictions", "SET/detections.csv", "--data", "DATA", "-q", "--json", "s.json")
    ev("ava good", "ava", *ava, want="ok")
    row = "one,0902,0.1,0.2,0.5,0.9,1,0.5\n"
    for name, text in {
        "empty": "", "text": "hello\n", "columns": "one,0902,0.1\n", "nan": row.replace("0.5\n", "nan\n"), "inf box": row.replace("0.9", "inf"),
        "pixels": row.replace("0.9", "90"), "class 0": row.replace(",1,", ",0,"), "class 999": row.replace(",1,", ",999,"),
        "class 1.5": row.replace(",1,", ",1.5,"), "second text": row.replace("0902", "x"), "open quote": '"' + row, "nul": row + "\0\n",
        "binary": b"\xff\xfe\x00", "utf-16": row.encode("utf-16"), "long field": row + "x" * 200_000 + "\n",
    }.items():  # fmt: skip
        ev(f"ava detections {name}", "ava", *ava, change=lambda s, t=text: (s / "detections.csv").write_bytes(
            t if isinstance(t, bytes) else t.encode()), want="refuse")  # fmt: skip
        ev(f"ava truth {name}", "ava", *ava, change=lambda s, t=text: (s / "good/annotations/ava_val_v2.2.csv").write_bytes(
            t if isinstance(t, bytes) else t.encode()), want="any" if name == "nan" else "refuse")  # fmt: skip
    for name, text in {"BOM": "\ufeff" + row, "CRLF": row.replace("\n", "\r\n"), "quoted": '"one","0902","0.1","0.2","0.5","0.9","1","0.5"\n',
                       "duplicate": row * 20, "inverted": row.replace("0.1,0.2,0.5,0.9", "0.5,0.9,0.1,0.2")}.items():  # fmt: skip
        ev(
            f"ava detections {name}",
            "ava",
            *ava,
            change=lambda s, t=text: (s / "detections.csv").write_text(t),
            want="any",
        )
    for name, text in {"empty": "", "twice": 'item { name: "a" id: 1 }\n' * 2, "id 0": 'item { name: "a" id: 0 }', "binary": b"\xff\xfe",
                       "huge id": 'item { name: "a" id: 99999999999999999999999 }', "cut": 'item { name: "a'}.items():  # fmt: skip
        ev(f"ava labels {name}", "ava", *ava, change=lambda s, t=text: (
            s / "good/annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_bytes(
            t if isinstance(t, bytes) else t.encode()), want="any" if name == "huge id" else "refuse")  # fmt: skip
    ev(
        "ava exclusions text",
        "ava",
        *ava,
        change=lambda s: (s / "good/annotations/ava_val_excluded_timestamps_v2.2.csv").write_text("x,y\n"),
        want="refuse",
    )
    run = (
        "ava",
        "--data",
        "DATA",
        "--model",
        "slow_r50_4x16_ava",
        "--weights",
        C / "small_ava.safetensors",
        "--size",
        64,
        "-q",
        "-o",
        "out",
    )
    ev("ava run", "ava", *run, want="ok")
    ev("ava run, video cut", "ava", *run, change=lambda s: (s / "good/videos/one.mp4").write_bytes(
        (s / "good/videos/one.mp4").read_bytes()[:2000]), want="refuse", keeps=True)  # fmt: skip
    for option in (
        "--workers=0",
        "--workers=-1",
        "--threshold=nan",
        "--size=-1",
        "--scales=0",
        "--rules=x",
        "--device=meta",
    ):
        ev(f"ava run {option}", "ava", *run, option, want="any" if option == "--workers=0" else "refuse")
    kin = ("kinetics", "--data", "DATA", "--predictions", "SET/scores.npz", "-q", "--json", "s.json")
    ev("kinetics good", "kinetics", *kin, want="ok")
    for name, text in {
        "empty": "", "text": "hello", "label text": "a.mp4 x\n", "label -1": "a.mp4 -1\n", "label huge": "a.mp4 99999999999999999999\n", "label 5000 digits": "a.mp4 " + "9" * 5000 + "\n",
        "binary": b"\xff\xfe\x00", "utf-16": "a.mp4 0\n".encode("utf-16"), "header alone": "label,youtube_id,time_start,time_end,split\n",
        "official broken": "label,youtube_id,time_start,time_end,split\nx\n", "nul": "a.mp4\0 0\n",
    }.items():  # fmt: skip
        ev(f"kinetics list {name}", "kinetics", *kin, change=lambda s, t=text: (s / "good/val.csv").write_bytes(
            t if isinstance(t, bytes) else t.encode()), want="any" if name in ("text", "nul", "label text") else "refuse")  # fmt: skip

    def npz(**arrays: object) -> Callable[[Path], object]:
        return lambda s: np.savez(s / "scores.npz", **arrays)

    names = np.array(["a.mp4", "b.mp4"])
    for name, change in {
        "no scores": npz(videos=names), "nan": npz(scores=np.full((2, 4), np.nan), videos=names), "one class": npz(scores=np.ones((2, 1)), videos=names),
        "text": npz(scores=np.array([["a"], ["b"]]), videos=names), "objects": npz(scores=np.array([[1], [None]], object), videos=names),
        "other length": npz(scores=np.ones((3, 4)), videos=names), "4 dimensions": npz(scores=np.ones((2, 2, 2, 2)), videos=names),
        "cut": lambda s: (s / "scores.npz").write_bytes((s / "scores.npz").read_bytes()[:100]), "a pickle": lambda s: shutil.copy(C / "bomb.pkl", s / "scores.npz"),
        "a zip": lambda s: shutil.copy(C / "plain.zip", s / "scores.npz"), "empty": lambda s: (s / "scores.npz").write_bytes(b""), "flipped": lambda s: flip_bits(s / "scores.npz", s / "scores.npz", 0, 0.02, 100),
    }.items():  # fmt: skip
        ev(f"kinetics scores {name}", "kinetics", *kin, change=change, want="any" if name == "flipped" else "refuse")
    for name, text in {
        "list": "[1]",
        "deep": "[" * 100_000,
        "text": '{"a.mp4": "x"}',
        "ragged": '{"a.mp4": [1, [2]]}',
        "binary": b"\xff",
        "huge": '{"a.mp4": [1e999, 1]}',
    }.items():
        ev(
            f"kinetics scores json {name}",
            "kinetics",
            *kin[:3],
            "--predictions",
            "SET/s.json",
            "-q",
            change=lambda s, t=text: (s / "s.json").write_bytes(t if isinstance(t, bytes) else t.encode()),
            want="refuse",
        )
    run = (
        "kinetics",
        "--data",
        "DATA",
        "--model",
        "slow_r50_4x16",
        "--weights",
        C / "small_action.safetensors",
        "--clips",
        1,
        "--crops",
        1,
        "-q",
        "-o",
        "out",
    )
    ev("kinetics run", "kinetics", *run, want="ok")
    ev("kinetics run, a video broken", "kinetics", *run, change=lambda s: (s / "good/a.mp4").write_text("x"), want="ok")
    ev(
        "kinetics run, all broken",
        "kinetics",
        *run,
        change=lambda s: [(s / f"good/{n}.mp4").write_text("x") for n in "ab"],
        want="refuse",
    )
    for option in (
        "--workers=-1",
        "--clips=-1",
        "--crops=2",
        "--crops=-1",
        "--precision=x",
        "--device=meta",
        "--class-names=nowhere",
        f"--class-names={C}/good.pth",
        "--separator=",
    ):
        ev(
            f"kinetics run {option.replace(str(A), '')}",
            "kinetics",
            *run,
            option,
            want="any" if option == "--separator=" else "refuse",
        )
    case("evaluate nonsense", "evaluate", "nonsense", want="refuse")
    case("evaluate without data", "evaluate", "davis16", "--predictions", ".", want="refuse")
    case("evaluate data is a file", "evaluate", "davis16", "--data", GOOD, "--predictions", ".", want="refuse")
    case(
        "evaluate data of 300 letters", "evaluate", "davis16", "--data", "d" * 300, "--predictions", ".", want="refuse"
    )
