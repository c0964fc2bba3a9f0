"""Where results go: what is in the way, whose it is, and full disks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.hostile.case import case, count
from tests.hostile.inputs import CHECKPOINTS as C
from tests.hostile.inputs import FRAMES as F
from tests.hostile.inputs import GOOD, MASK, RUNS
from tests.hostile.inputs import SETS as S
from tests.hostile.inputs import VIDEOS as V
from tests.hostile.inputs.runs import TRACK, TRAINING


def add_cases() -> None:
    # outputs
    quick = ("track", GOOD, "--mask", MASK, "--size", 64, "-q")
    case("out is a file", *quick, "-o", "out", before=lambda p: (p / "out").write_text("precious"), want="refuse",
         check=lambda p: "" if (p / "out").read_text() == "precious" else "the file is gone")  # fmt: skip
    case("out below a file", *quick, "-o", "file/out", before=lambda p: (p / "file").touch(), want="refuse")
    case("out in missing parents", *quick, "-o", "a/b/c/out", want="ok", check=count("a/b/c/out/masks/*.png", 8))
    case(
        "out read-only",
        *quick,
        "-o",
        "out",
        before=lambda p: (p / "out").mkdir(mode=0o555),
        want="refuse",
        must=("out",),
    )
    case("out's masks read-only", *quick, "-o", "out", before=lambda p: (p / "out/masks").mkdir(parents=True) or (
        p / "out/masks").chmod(0o555), want="refuse", must=("out",))  # fmt: skip
    case("out holds a folder overlay.mp4", *quick, "-o", "out", before=lambda p: (p / "out/overlay.mp4").mkdir(parents=True),
         want="refuse", keeps=True)  # fmt: skip
    case("out holds a folder run.json", *quick, "-o", "out", before=lambda p: (p / "out/run.json").mkdir(parents=True),
         want="refuse", keeps=True)  # fmt: skip
    case("out holds a folder 00003.png", *quick, "-o", "out", before=lambda p: (p / "out/masks/00003.png").mkdir(
        parents=True), want="any", keeps=True)  # fmt: skip
    case("out is a link", *quick, "-o", "out", before=lambda p: (p / "real").mkdir() or (p / "out").symlink_to("real"),
         want="ok", check=count("real/masks/*.png", 8))  # fmt: skip
    case("out is a dangling link", *quick, "-o", "out", before=lambda p: (p / "out").symlink_to("nowhere"), want="any")
    case("out is a link loop", *quick, "-o", "out", before=lambda p: (p / "out").symlink_to("out"), want="refuse")
    case("out is the input folder", "track", "in", "--mask", MASK, "--size", 64, "-q", "-o", "in",
         before=lambda p: shutil.copytree(F / "good", p / "in"), want="any",
         check=lambda p: "" if len(list((p / "in").glob("*.jpg"))) == 6 else "inputs are gone")  # fmt: skip
    case("masks of the input are the output", "track", "in/frames", "--mask", "in/masks/00000.png", "--size", 64, "-q", "-o",
         "in", before=davis_like, want="any",
         check=lambda p: "the user's own masks, given as --mask, were deleted" if (
             p / "in/masks/00005.png").read_bytes() != MASK.read_bytes() else "")  # fmt: skip
    case("frames named masks", "track", "in/masks", "--mask", MASK, "--size", 64, "-q", "-o", "in",
         before=lambda p: [shutil.copytree(F / "cut_png", p / "in/masks"), shutil.copy(F / "cut_png/00002.png", p / "in/masks/00003.png")],
         want="any", check=lambda p: "the video's own frames were overwritten by masks" if (
             p / "in/masks/00001.png").read_bytes() != (F / "cut_png/00001.png").read_bytes() else "")  # fmt: skip
    case("input is overlay.mp4 in out", "track", "out/overlay.mp4", "--mask", MASK, "--size", 64, "-q", "-o", "out",
         before=lambda p: (p / "out").mkdir() or shutil.copy(GOOD, p / "out/overlay.mp4"), want="any",
         check=lambda p: "the input video was overwritten" if (
             p / "out/overlay.mp4").read_bytes() != GOOD.read_bytes() else "")  # fmt: skip
    for name in ("ö ü", "two\nlines", "100%d%s", "-dash", "a" * 255, "日本", "a\\b", "x'y\"z"):
        case(f"out named {name[:20]!r}", *quick, f"--output={name}", want="ok", check=lambda p, n=name: (
            "" if len(list((p / n / "masks").glob("*.png"))) == 8 else "not 8 masks"))  # fmt: skip
    case("out named 300 letters", *quick, "-o", "o" * 300, want="refuse")
    case("out is ''", *quick, "-o", "", want="any")
    case("file size limit 1000", *quick, "-o", "out", fsize=1000, want="refuse", keeps=True)
    case("file size limit 600", *quick, "-o", "out", fsize=600, want="refuse", keeps=True)
    long = ("track", V / "long.mp4", "--mask", MASK, "--size", 64, "-q")
    case("disk full: track", *long, "-o", "tiny/out", before=tiny_disk, after=no_disk, want="refuse", keeps=True,
         must=("out",))  # fmt: skip
    case("disk full: segment", "segment", V / "long.mp4", "-q", "-o", "tiny/out", before=tiny_disk, after=no_disk,
         want="refuse", keeps=True, must=("out",))  # fmt: skip
    case("disk full: detect", "detect", V / "long.mp4", "--weights", C / "small_ava.safetensors", "--model",
         "slow_r50_4x16_ava", "--box", "1,1,20,20", "--every", 0.05, "--size", 64, "-q", "-o", "tiny/out", before=tiny_disk,
         after=no_disk, want="refuse", keeps=True, must=("out",))  # fmt: skip
    case("disk full: classify", "classify", V / "long.mp4", "--weights", C / "small_action.safetensors", "--model",
         "slow_r50_4x16", "--timeline", "-q", "-o", "tiny/out", before=tiny_disk, after=no_disk, want="refuse", keeps=True,
         must=("out",))  # fmt: skip
    case("disk full: convert", "convert", C / "good.pth", "-o", "tiny/w.safetensors", before=tiny_disk, after=no_disk,
         want="refuse", must=("tiny",))  # fmt: skip
    case("disk full: demo", "demo", "--frames", 4, "-q", "-o", "tiny/out", before=tiny_disk, after=no_disk, want="refuse",
         keeps=True, must=("out",))  # fmt: skip
    case("disk full: evaluate", "evaluate", "davis17", "--data", S / "davis17/good", "--model", "track_tiny", "--size", 64, "-q",
         "-o", "tiny/out", before=tiny_disk, after=no_disk, want="refuse", keeps=True, must=("out",))  # fmt: skip
    case("disk full: train", *TRAINING, "--out", "tiny/out", before=tiny_disk, after=no_disk, want="refuse", keeps=True,
         must=("out",))  # fmt: skip
    case(
        "disk full: a rerun keeps the finished run",
        *TRACK,
        "-o",
        "tiny/out",
        before=lambda p: (
            tiny_disk(p, "152k"),  # what the finished run needs, and less than as much again
            shutil.copytree(RUNS / "finished/out", p / "tiny/out"),
            inputs_of_runs(p),
        ),
        after=no_disk,
        want="any",
        keeps=True,
        check=lambda p: same_masks(p / "tiny/out"),
    )
    case("a rerun that fails keeps the finished run", *TRACK, before=lambda p: finished_run(p, "v.mp4"), want="refuse", keeps=True,
         check=lambda p: same_masks(p / "out"))  # fmt: skip
    case("a mask of the finished run was edited", *TRACK, before=lambda p: finished_run(p, "out/masks/00003.png"), want="refuse",
         check=lambda p: "the edited mask is gone" if (p / "out/masks/00003.png").read_bytes()[-4:] != b"mine" else "")  # fmt: skip
    case("a file of the user's is among the results", *TRACK, before=lambda p: (finished_run(p, ""), (p / "out/masks/note.txt").write_text("x"),
         (p / "out/my.png").write_text("x")), want="ok", check=lambda p: "" if (p / "out/masks/note.txt").exists() and (
         p / "out/my.png").exists() else "foreign files are gone")  # fmt: skip
    case(
        "a frame of the user's is among the masks",
        *TRACK,
        before=lambda p: (finished_run(p, ""), shutil.copy(MASK, p / "out/masks/99999.png")),
        want="refuse",
        check=lambda p: "" if (p / "out/masks/99999.png").exists() else "a foreign file is gone",
    )
    case(
        "--overwrite replaces them",
        *TRACK,
        "--overwrite",
        before=lambda p: finished_run(p, "out/masks/00003.png"),
        want="ok",
        check=lambda p: same_masks(p / "out"),
    )


def davis_like(folder: Path) -> None:
    shutil.copytree(F / "good", folder / "in/frames")
    (folder / "in/masks").mkdir()
    for i in range(6):
        shutil.copy(MASK, folder / f"in/masks/{i:05d}.png")


def inputs_of_runs(folder: Path) -> None:
    for name in ("v.mp4", "m.png"):
        shutil.copy(RUNS / "finished" / name, folder / name)


def finished_run(folder: Path, damage: str) -> None:
    """Copy a finished run with its inputs, and damage one file."""
    shutil.copytree(RUNS / "finished", folder, dirs_exist_ok=True)
    if damage == "v.mp4":
        (folder / damage).write_bytes((folder / damage).read_bytes()[:900])
    elif damage:
        with (folder / damage).open("ab") as file:
            file.write(b"mine")


def same_masks(out: Path) -> str:
    """Return how the masks differ from those of the finished run, "" where they do not."""
    for file in sorted((RUNS / "finished/out/masks").glob("*.png")):
        other = out / "masks" / file.name
        if not other.is_file() or other.read_bytes() != file.read_bytes():
            return f"{file.name} is not that of an uninterrupted run"
    return ""


def tiny_disk(folder: Path, size: str = "16k") -> None:
    (folder / "tiny").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder / "tiny")], check=True)


def no_disk(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder / "tiny")], check=False)
