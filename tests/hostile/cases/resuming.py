"""An interrupted run that is resumed over damaged or changed files: refused, or equal to an uninterrupted run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import case, count
from tests.hostile.cases.outputs import same_masks
from tests.hostile.inputs import GOOD, MASK, RUNS
from tests.hostile.inputs import MASKS as M
from tests.hostile.inputs import VIDEOS as V
from tests.hostile.inputs.drawing import flip_bits
from tests.hostile.inputs.runs import TRACK

Damage = Callable[[Path], object]


def add_cases() -> None:
    def resume(name: str, damage: Damage, *more: object, want: str = "any", **kwargs: object) -> None:
        def check(folder: Path) -> str:
            try:
                finished = json.loads((folder / "out/run.json").read_bytes())["finished"] is True
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                return ""  # it was refused: the record is still as it was damaged
            return same_masks(folder / "out") if finished else ""

        case(f"resume: {name}", *TRACK, "--resume", *more, before=lambda p: (
            shutil.copytree(RUNS / "interrupted", p, dirs_exist_ok=True), damage(p)), want=want, keeps=True,
            **{"check": check if want != "refuse" else None, **kwargs})  # fmt: skip

    resume("undamaged", lambda p: None, want="ok")
    case("resume: nothing there", "track", GOOD, "--mask", MASK, "--model", "track_tiny", "--size", 64, "-q", "-o", "out", "--resume",
         want="ok", check=count("out/masks/*.png", 8))  # fmt: skip
    case("resume: finished", *TRACK, "--resume", before=lambda p: shutil.copytree(RUNS / "finished", p, dirs_exist_ok=True), want="ok",
         check=lambda p: same_masks(p / "out"), lines=1)  # fmt: skip
    for name in ("masks/00003.png", "overlay.mp4", "masks"):
        case(
            f"resume: finished, but {name} is gone",
            *TRACK,
            "--resume",
            want="any",
            check=lambda p: (
                same_masks(p / "out")
                if json.loads((p / "out/run.json").read_text())["finished"] and (p / "out/masks/00003.png").exists()
                else ""
            ),
            before=lambda p, n=name: (shutil.copytree(RUNS / "finished", p, dirs_exist_ok=True), remove(p / "out" / n)),
            keeps=True,
            must=(name,),
        )
    for name, text in {"not json": "{", "a list": "[]", "null": "null", "empty": "", "no options": '{"model": 1}',
                       "options a list": '{"model": 1, "weights_sha256": 1, "options": []}', "deep": "[" * 100_000,
                       "digits": '{"frames": ' + "9" * 5000 + "}"}.items():  # fmt: skip
        resume(f"run.json is {name}", lambda p, t=text: (p / "out/run.json").write_text(t), want="refuse")
    resume("run.json is binary", lambda p: (p / "out/run.json").write_bytes(b"\xff\xfe\0"), want="refuse")
    for key in ("command", "model", "options", "inputs", "files", "frames", "finished", "seconds", "summary"):
        for what, value in (("gone", None), ("a list", [1]), ("a text", "x"), ("a huge number", 10**30)):
            resume(f"run.json: {key} is {what}", lambda p, k=key, v=value: change_record(p, k, v))
    resume("run.json names files outside", lambda p: change_record(p, "files", {"../v.mp4": {"bytes": 1, "sha256": "x"}}),
           check=lambda p: "" if (p / "v.mp4").exists() else "a file outside of the folder was deleted")  # fmt: skip
    for name in ("masks/00002.png", ".resume.jsonl", "overlay.mp4", "frames.csv", "run.json", "STATE"):
        for how, change in DAMAGES.items():
            if (name, how) != ("run.json", "gone"):
                resume(f"{name} {how}", lambda p, n=name, c=change: c(found(p, n)), want="any")
    resume(
        "another mask of the same frame",
        lambda p: shutil.copy(M / "two.png", p / "m.png"),
        want="refuse",
        must=("mask of frame 0",),
    )
    resume(
        "the video was replaced", lambda p: shutil.copy(V / "inverted.mp4", p / "v.mp4"), want="refuse", must=("video",)
    )
    resume("the video is gone", lambda p: (p / "v.mp4").unlink(), want="refuse", must=("v.mp4",))
    for option in (
        "--size=48",
        "--top-k=3",
        "--memory-every=2",
        "--include-last",
        "--start=2",
        "--end=4",
        "--no-overlay",
        "--damaged=skip",
    ):
        resume(f"with {option}", lambda p: None, option, want="refuse")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def change_record(folder: Path, key: str, value: object) -> None:
    path = folder / "out/run.json"
    record = json.loads(path.read_text())
    record[key] = value
    if value is None:
        del record[key]
    path.write_text(json.dumps(record))


def found(folder: Path, name: str) -> Path:
    return sorted((folder / "out").glob(".state*"))[-1] if name == "STATE" else folder / "out" / name


DAMAGES: dict[str, Damage] = {
    "gone": lambda path: path.unlink(missing_ok=True),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "with a bit flipped": lambda path: flip_bits(path, path, 5, 0.0),
    "of zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "deep JSON": lambda path: path.write_text("[" * 100_000 + "\n"),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\0\1" * 99),
}
