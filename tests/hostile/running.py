"""Run cases in forked children and judge what they did.

Every case runs in a folder of its own below ROOT, in a child that was forked once torch and twospeed were imported
(which saves some seconds a case), without root's power to pass over file permissions.

| verdict    | the case |
|---|---|
| ok         | did what was wanted of it |
| traceback  | showed a Python traceback |
| crash      | was ended by a signal (segmentation fault) |
| exit code  | ended with another code than 0 or 2, or with 2 where it should have worked |
| silent     | ended with 0 where it should have refused, or left a wrong result |
| hang       | took more than its time |
| memory     | took more than its memory |
| leftovers  | refused, but left files behind; or left partial or temporary files |
| lines      | refused with no line, with several, or with one that does not say what it must |
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.case import Case
from tests.hostile.cases import KINDS, cases_by_kind
from tests.hostile.inputs import ASSETS, ROOT, build_inputs

_TEMPORARY = re.compile(r"partial|\.part$|\.new$|\.tmp$|/\.[^/]+\.\d+$")

_LOGGED = re.compile(
    r"^\d\d:\d\d:\d\d |has random weights|images are scaled to the first size|nothing is computed there|shown \d+ s shorter"
    r"|^twospeed evaluate "  # what `papers --run` runs
)


@dataclass
class Verdict:
    """What became of a case: see the table above."""

    name: str
    verdict: str
    code: int | str = ""
    lines: list[str] = field(default_factory=list)
    why: str = ""
    seconds: float = 0.0
    peak_mb: int = 0

    def __str__(self) -> str:
        facts = f"{self.code}, {len(self.lines)} lines, {self.seconds:.1f} s, {self.peak_mb} MB"
        return f"{self.verdict:<10} {self.name}  [{facts}]" + (f"  {self.why}" if self.why else "")


def run_cases(cases: Iterable[Case], *, jobs: int = 2, real: bool = False, name: str = "cases") -> Iterator[Verdict]:
    """Run cases, some at a time; yields verdicts as they come."""
    place = ROOT / name
    _remove(place)
    waiting = list(enumerate(cases))
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, case = waiting.pop(0)
                try:
                    running.append(_start(case, place / f"{number:04d}", real))
                except Exception as error:  # the case could not be set up: a fault of the suite
                    yield Verdict(case.name, "not set up", why=f"{type(error).__name__}: {error}")
            time.sleep(0.02)
            for job in list(running):
                ended = _watch(job)
                if ended is None:
                    continue
                running.remove(job)
                verdict = _judge(job, ended)
                verdict.seconds, verdict.peak_mb = time.monotonic() - job.began, job.peak
                if job.case.after is not None:
                    job.case.after(job.folder)
                yield verdict
    finally:
        for job in running:
            os.killpg(job.pid, signal.SIGKILL)
            os.waitpid(job.pid, 0)


def prepare() -> None:
    """Import all that commands import, and build the inputs in a child (torch may start threads there)."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    for name in (
        "torch", "torchvision", "torchvision.models.detection", "cv2", "av", "PIL.Image", "scipy.optimize",
        "scipy.ndimage", "matplotlib.pyplot", "safetensors.torch", "rich.progress", "twospeed",
    ):  # fmt: skip
        importlib.import_module(name)
    for module in pkgutil.walk_packages(importlib.import_module("twospeed").__path__, "twospeed."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # or the first collection in each child copies all of this process's memory
    (ROOT / "PWNED").unlink(missing_ok=True)
    if not (ASSETS / "done").exists():
        shutil.rmtree(ASSETS, ignore_errors=True)
        ASSETS.mkdir(parents=True)
        pid = os.fork()
        if pid == 0:
            _end_of(build_inputs)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the inputs could not be built")


def sampled(case: Case) -> bool:
    """Whether a case belongs to the part that the test suite runs: one in 40, the same ones always."""
    return zlib.crc32(case.name.encode()) % 40 == 7


def main() -> int:
    """Run what the command line names; returns 1 where a verdict is not ok."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="Run hostile and odd inputs.")
    parser.add_argument("--kind", default=",".join(KINDS), help="kinds, between commas")
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--sample", action="store_true", help="a few of every kind, as the test suite runs them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--real", action="store_true", help="run the installed twospeed")
    parser.add_argument("--bad", action="store_true", help="print only what is not ok")
    parser.add_argument("--json", type=Path, help="write counts and what is not ok to this file")
    options = parser.parse_args()
    by_kind = {
        kind: [case for case in cases if re.search(options.only, case.name) and (not options.sample or sampled(case))]
        for kind, cases in cases_by_kind().items()
        if kind in options.kind.split(",")
    }
    if options.list:
        for kind, cases in by_kind.items():
            for case in cases:
                print(f"{kind}: {case.name}: {'(function)' if case.call else shlex.join(['twospeed', *case.argv])}")
        return 0
    prepare()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in by_kind}
    wrong: list[dict[str, Any]] = []
    for kind, cases in by_kind.items():
        for verdict in run_cases(cases, jobs=options.jobs, real=options.real, name=f"cases/{kind}"):
            counts[kind][verdict.verdict] += 1
            if verdict.verdict != "ok":
                wrong.append({"kind": kind, **vars(verdict)})
            if verdict.verdict != "ok" or not options.bad:
                print(verdict, flush=True)
    for kind, found in counts.items():
        print(f"{kind:<12} {sum(found.values()):5d} cases: " + ", ".join(f"{n} {v}" for v, n in found.most_common()))
    total = sum(sum(found.values()) for found in counts.values())
    print(f"{total} cases, {len(wrong)} wrong")
    if options.json:
        options.json.write_text(json.dumps({"cases": total, "kinds": counts, "wrong": wrong}, indent=1) + "\n")
    return 1 if wrong else 0


# ---------------------------------------------------------------- one case


@dataclass
class _Running:
    case: Case
    pid: int
    folder: Path
    logs: Path
    before: dict[str, int]
    began: float
    peak: int = 0
    killed: str = ""


def _start(case: Case, folder: Path, real: bool) -> _Running:
    logs = folder.with_name(folder.name + ".log")
    folder.mkdir(parents=True)
    logs.mkdir(parents=True)
    if case.before is not None:
        here = Path.cwd()
        os.chdir(folder)
        try:
            case.before(folder)
        finally:
            os.chdir(here)
    before = _snapshot(folder)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _end_of(lambda: _in_child(case, folder, logs, real))
    return _Running(case, pid, folder, logs, before, time.monotonic())


def _in_child(case: Case, folder: Path, logs: Path, real: bool) -> None:
    """Run the case in this, a forked, process."""
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    if case.stdin == "closed":
        os.close(0)
        sys.stdin = None
    else:
        os.dup2(os.open(str(case.stdin or "/dev/null"), os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _without_root_powers()
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if case.fsize is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.fsize, case.fsize))
    os.environ["TWOSPEED_CACHE"] = str(ROOT / "cache")
    os.environ["TORCH_HOME"] = str(ROOT / "torch")
    if case.call is not None:
        case.call()
        return
    if real:
        os.execv(Path(sys.executable).parent / "twospeed", ["twospeed", *case.argv])
    from twospeed.cli.main import run

    run(case.argv)


def _end_of(function: Callable[[], object]) -> None:
    """Call a function and end the process as the interpreter would, but for taking its modules apart (seconds)."""
    code = 0
    try:
        function()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _without_root_powers() -> None:
    """Drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: file permissions then hold for root, too."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("<Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    if libc.capget(header, data) == 0:
        words = list(struct.unpack("<6I", data.raw))
        words[0] &= ~0b110
        libc.capset(header, struct.pack("<6I", *words))


def _watch(job: _Running) -> int | None:
    """Return the status when the child has ended; kill it when it takes too long or too much."""
    pid, status, usage = os.wait4(job.pid, os.WNOHANG)
    if pid:
        job.peak = max(job.peak, usage.ru_maxrss // 1024)
        return status
    try:
        with open(f"/proc/{job.pid}/statm") as file:
            job.peak = max(job.peak, int(file.read().split()[1]) * 4096 >> 20)
    except OSError:
        pass
    late = time.monotonic() - job.began > job.case.seconds
    if not job.killed and (late or job.peak > job.case.megabytes):
        job.killed = "hang" if late else "memory"
        os.kill(job.pid, signal.SIGKILL)
    return None


def _judge(job: _Running, status: int) -> Verdict:
    case = job.case
    error = (job.logs / "stderr").read_text(errors="replace")
    lines = [line for line in error.splitlines() if line.strip()]
    code: int | str = "killed" if job.killed else os.waitstatus_to_exitcode(status)

    def verdict(word: str, why: str = "") -> Verdict:
        return Verdict(case.name, word, code, lines, why)

    if job.killed:
        return verdict(job.killed)
    if (ROOT / "PWNED").exists():
        return verdict("silent", "CODE FROM A FILE WAS RUN")
    if "Traceback (most recent call last)" in error:
        return verdict("traceback", lines[-1][:300])
    assert isinstance(code, int)
    if code < 0:
        return verdict("crash", signal.Signals(-code).name)
    if case.call is not None:
        return verdict("ok" if code == 0 else "exit code")
    if code not in (0, 2) or (case.want == "ok" and code != 0):
        return verdict("exit code", lines[-1][:200] if lines else "")
    if case.want == "refuse" and code == 0:
        return verdict("silent", "accepted")
    if code == 2:
        own = [line for line in lines if line.startswith("twospeed: ")]
        logged = [line for line in lines if _LOGGED.search(line)]
        if len(own) != case.lines or len(own) + len(logged) != len(lines):
            return verdict("lines", f"{len(lines)} lines: {' | '.join(lines)[:300]}")
        if any("\x1b" in line for line in lines):
            return verdict("lines", "an escape sequence of the input reaches the terminal")
        if unsaid := [text for text in case.must if text not in error]:
            return verdict("lines", f"does not say {unsaid[0]!r}: {lines[0][:200]}")
    after = _snapshot(job.folder)
    new = [path for path in after if path not in job.before]
    if left := [path for path in new if _TEMPORARY.search("/" + path)]:
        return verdict("leftovers", ", ".join(left[:4]))
    if code == 2 and new and not case.keeps:
        return verdict("leftovers", ", ".join(new[:4]))
    gone = [path for path in job.before if path not in after and not path.startswith("tiny")]
    if gone and case.check is None and code == 2:
        return verdict("leftovers", f"gone: {', '.join(gone[:4])}")
    try:
        wrong = case.check(job.folder) if case.check is not None else ""
    except Exception as error:
        wrong = f"the check failed: {type(error).__name__}: {error}"
    if wrong:
        return verdict("silent", wrong)
    return verdict("ok")


def _snapshot(folder: Path) -> dict[str, int]:
    found = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(base) / name
            try:
                found[str(path.relative_to(folder))] = path.lstat().st_size if name in files else -1
            except OSError:
                pass
    return found


def _remove(folder: Path) -> None:
    """Remove a folder of earlier cases, with what keeps `rmtree` out: mounts and permissions."""
    for mount in Path("/proc/mounts").read_text().splitlines():
        if mount.split()[1].startswith(str(folder) + "/"):
            subprocess.run(["umount", "-l", mount.split()[1]], check=False)
    shutil.rmtree(folder, ignore_errors=True)
