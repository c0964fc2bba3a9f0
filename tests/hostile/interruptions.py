"""Interrupt every command and training at any operation on files, resume it, and compare with an uninterrupted run.

    python -m tests.hostile.interruptions                 twelve points of each command for each kind of fault
    python -m tests.hostile.interruptions --points 2 --jobs track,convert

A fault strikes as the n-th file is opened, renamed, removed or a folder is made, n drawn from a seed: the process is
killed, receives SIGTERM, SIGINT or SIGHUP, or the operation fails (no space left, input/output error). Then the command
runs once more, with --resume where it has that. What it leaves must be equal to the last bit; clocks are left out.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.inputs import CHECKPOINTS, GOOD, MASK, ROOT, RUNS, SETS
from tests.hostile.inputs.runs import TRAINING
from tests.hostile.running import _TEMPORARY, _end_of, _remove, prepare

FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "ENOSPC", "EIO")
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
CODES = {"SIGKILL": (-9,), "SIGTERM": (143, 2), "SIGINT": (130, 2), "SIGHUP": (129, 2), "ENOSPC": (2,), "EIO": (2,)}


@dataclass(frozen=True)
class Job:
    """A command line; again: what is added to finish it. folder: of its results, for comparing and looking for rests."""

    argv: tuple[str, ...]
    again: tuple[str, ...] = ("--resume",)
    folder: str = "out"


SMALL = ("--size", "64", "-q", "-o", "out")
JOBS = {
    "track": Job(("track", str(GOOD), "--mask", str(MASK), "--model", "track_tiny", *SMALL)),
    "track box": Job(("track", str(GOOD), "--box", "30,20,30,30", "--model", "track_tiny", "--no-overlay", *SMALL)),
    "segment": Job(("segment", str(GOOD), "-q", "-o", "out")),
    "classify": Job(("classify", str(GOOD), "--model", "slow_r50_4x16", "--weights", str(CHECKPOINTS / "small_action.safetensors"), "--timeline", "-q", "-o", "out")),
    "detect": Job(("detect", str(GOOD), "--model", "slow_r50_4x16_ava", "--weights", str(CHECKPOINTS / "small_ava.safetensors"), "--box", "1,1,40,40", "--every", "0.1", *SMALL)),
    "evaluate davis17": Job(("evaluate", "davis17", "--data", str(SETS / "davis17/good"), "--model", "track_tiny", *SMALL)),
    "evaluate kinetics": Job(("evaluate", "kinetics", "--data", str(SETS / "kinetics/good"), "--model", "slow_r50_4x16", "--weights",
                              str(CHECKPOINTS / "small_action.safetensors"), "--clips", "1", "--crops", "1", "-q", "-o", "out")),
    "convert": Job(("convert", str(CHECKPOINTS / "good.pth"), "-o", "out/w.safetensors"), ()),
    "masks": Job(("masks", str(RUNS / "finished/out"), "--as", "coco", "-o", "out/a.json", "-q"), ("--overwrite",)),
    "masks to a folder": Job(("masks", str(RUNS / "finished/out"), "--as", "labelme", "-o", "out/f", "-q"), ()),
    "train": Job((*TRAINING, "--out", "out", "--checkpoint-minutes", "0.00001")),
}  # fmt: skip


def run(job: Job, folder: Path, *, again: bool = False, fault: str = "", at: int = 0) -> tuple[int, str, int]:
    """Run a command in a forked child; returns its exit code, what it said, and how many operations it made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    said, counted = folder / "stderr", folder / "operations"
    pid = os.fork()
    if pid == 0:
        _end_of(lambda: child(job, folder, said, counted, again, fault, at))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, said.read_text(errors="replace"), int(counted.read_text() or 0) if counted.exists() else 0


def child(job: Job, folder: Path, said: Path, counted: Path, again: bool, fault: str, at: int) -> None:
    os.setsid()
    os.chdir(folder)
    counted.unlink(missing_ok=True)
    for number, path in ((1, "/dev/null"), (2, said)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    operations = [0]
    inside = str(folder / "out")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in EVENTS or not arguments or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith(inside) or "tensorboard" in path:  # its own thread prints what it cannot write
            return
        if event == "open" and not (
            len(arguments) > 2
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            return
        operations[0] += 1
        if fault and operations[0] == at:
            if fault.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, fault))
            else:
                number = getattr(errno, fault)
                raise OSError(number, os.strerror(number), path)

    from twospeed.cli import track_job
    from twospeed.cli.main import run as start

    track_job.SECONDS_BETWEEN_STATES, track_job.SHARE_OF_STATES = 0.0, 1.0  # or no state is saved in such short runs
    sys.addaudithook(hook)
    try:
        start([*job.argv, *(job.again if again else ())])
    finally:
        if not fault:
            inside = "/nowhere"
            counted.write_text(str(operations[0]))


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file of results, clocks left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            not path.is_file()
            or name.endswith((".lock", "origin.json", "evaluation.json", "report.html"))
            or "tensorboard" in name
        ):
            continue
        data = path.read_bytes()
        if path.suffix in (".json", ".jsonl", ".csv", ".pt"):
            if name in ("run.json",) or path.suffix == ".pt":
                continue  # clocks, and names of files within a zip
            if path.suffix != ".json" and name != "frames.csv" and name != "detections.csv":
                data = without_clocks(data)
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def without_clocks(data: bytes) -> bytes:
    """Leave seconds and rates out of rows of metrics."""
    lines = []
    for line in data.decode().splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            line = json.dumps(
                {key: value for key, value in row.items() if "second" not in key and "minutes" not in key}
            )
        elif "," in line:
            continue  # the same rows as a table
        lines.append(line)
    return "\n".join(lines).encode()


def interrupted(name: str, job: Job, fault: str, at: int, whole: dict[str, str], place: Path) -> str:
    """Interrupt a job, finish it, and return what is wrong; "" for nothing."""
    shutil.rmtree(place, ignore_errors=True)
    code, said, _ = run(job, place, fault=fault, at=at)
    if "Traceback" in said:
        return f"a traceback after {fault}: {said.strip().splitlines()[-1]}"
    if code not in (0, *CODES[fault]):
        return f"exit code {code} after {fault}: {said[-200:]}"
    if code and fault != "SIGKILL" and (left := rests(place / job.folder)):
        return f"{fault} leaves {left[:3]}"
    if code == 0 and fault.startswith("E") and contents(place / job.folder) != whole:
        return f"exit code 0 after {fault}, but results are missing"
    if code:
        again = job.again and any((place / job.folder).iterdir())
        code, said, _ = run(job, place, again=bool(again))
        if code:
            return f"cannot be finished after {fault}: exit code {code}: {said.strip()[-300:]}"
    if left := rests(place / job.folder):
        return f"after {fault} and its end there is still {left[:3]}"
    now = contents(place / job.folder)
    if different := [file for file in sorted({*now, *whole}) if now.get(file) != whole.get(file)]:
        return f"after {fault} other results: {different[:4]}"
    return ""


def rests(folder: Path) -> list[str]:
    """Return temporary files that are left."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if _TEMPORARY.search(f"/{path.relative_to(folder)}") and ".state" not in path.name
    ]


def main(report: Callable[[str], object] = print) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.interruptions")
    parser.add_argument("--points", type=int, default=12, help="operations struck of each job, for each kind of fault")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prepare()
    place = ROOT / "interruptions"
    _remove(place)
    counts: dict[str, Counter[str]] = {}
    wrong = []
    for name in options.jobs.split(","):
        job = JOBS[name]
        code, said, operations = run(job, place / "whole")
        whole = contents(place / "whole" / job.folder)
        shutil.rmtree(place / "whole")
        counts[name] = Counter()
        if code or not operations or not whole:
            wrong.append(f"{name}: cannot be run: {code} {said[-300:]}")
            report(wrong[-1])
            continue
        random_ = random.Random(f"{options.seed} {name}")
        for fault in options.faults.split(","):
            for at in sorted(random_.sample(range(1, operations + 1), min(options.points, operations))):
                problem = interrupted(name, job, fault, at, whole, place / "one")
                counts[name]["wrong" if problem else "survived"] += 1
                if problem:
                    wrong.append(f"{name}, operation {at} of {operations}: {problem}")
                    report(wrong[-1])
        report(f"{name}: {operations} operations, {dict(counts[name])}")
    total = sum(sum(found.values()) for found in counts.values())
    report(f"{total} interruptions, {len(wrong)} wrong")
    if options.json:
        options.json.write_text(json.dumps({"interruptions": total, "jobs": counts, "wrong": wrong}, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    status = main(lambda line: print(line, flush=True))
    os._exit(status)
