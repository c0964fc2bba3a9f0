#!/usr/bin/env python3
"""Every chore of this repository, on a machine with nothing but Python 3.11 or newer.

    python3 do.py demo       set up what is missing, then render a clip and track its objects
    python3 do.py test       the whole test suite
    python3 do.py hostile    all hostile inputs, thousands of damaged files, hundreds of interruptions (an hour or more)
    python3 do.py coverage   the whole test suite; then the share of the package's lines that ran (95 % at least), and
                             files below 80 %
    python3 do.py check      format, lint, types
    python3 do.py docs       build the documentation into site/
    python3 do.py wheel      build the wheel into dist/, install it in an empty environment, run its demo there
    python3 do.py bench      the benchmarks (on a quiet machine)
    python3 do.py run ...    any twospeed command: python3 do.py run track clip.mp4 --mask first.png
    python3 do.py setup      only set up

Further words are handed on: `python3 do.py test tests/models -k memory`. What is needed (uv, and by it the packages of
uv.lock) is installed into .tools/ and .venv/ beside this file and nowhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORKS = "tests/video/test_sources.py::test_a_forked_child_does_not_hang"
PROCESSES = min(4, (os.cpu_count() or 1) + 1)  # one waits for a browser at times; each takes up to 4 GB
PARALLEL = [f"--numprocesses={PROCESSES}", "--dist=loadfile"]
CHORES: dict[str, list[list[str]]] = {
    "demo": [["twospeed", "demo"]],
    # Exported graphs in a process of their own: where OpenVINO is loaded, a training that forks loading processes
    # corrupts memory, and a later one ends in a segmentation fault; without forks it does not
    "test": [["pytest", *PARALLEL, "--ignore=tests/export"], ["pytest", "tests/export"]],
    "hostile": [["pytest", "-m", "hostile", "tests/hostile"]],
    # Without the test that forks beside threads: there the child hangs in coverage's own bookkeeping
    "coverage": [
        ["pytest", "--cov", "--cov-report=", "--ignore=tests/export", f"--deselect={FORKS}"],
        ["pytest", "--cov", "--cov-report=", "--cov-append", "tests/export"],
    ],
    "check": [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"]],
    "bench": [["python", f"benchmarks/{name}.py"] for name in ("track", "jf", "classify", "segment", "ava", "app")],
    "docs": [["mkdocs", "build", "--strict", "--quiet"]],
    "run": [["twospeed"]],
    "setup": [["twospeed", "--version"]],
}
LEAST_COVERED = 80  # percent of a file's lines: files below are listed
GROUPS = {"bench": "bench", "docs": "docs"}  # of packages that one chore needs beside the usual ones


def find_uv() -> str:
    """Return uv's path, installing it into .tools/ where the machine has none."""
    if found := shutil.which("uv"):
        return found
    tools = HERE / ".tools"
    scripts = tools / ("Scripts" if os.name == "nt" else "bin")
    uv = scripts / ("uv.exe" if os.name == "nt" else "uv")
    if not uv.is_file():
        print("setting up uv in .tools/", file=sys.stderr)
        venv.create(tools, with_pip=True, clear=True)
        subprocess.run([scripts / "python", "-m", "pip", "install", "--quiet", "uv>=0.9"], check=True)
    return str(uv)


def try_wheel() -> int:
    """Build the wheel, install it with the locked packages in an empty environment, and run its demo there."""
    uv, dist = find_uv(), HERE / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        locked = str(folder / "locked.txt")
        export = ["--locked", "--no-dev", "--no-emit-project", "--no-hashes", "--all-extras", "--quiet", "-o", locked]
        for command in (
            [uv, "build", "--quiet", "--out-dir", str(dist), str(HERE)],
            [uv, "export", "--project", str(HERE), *export],
            [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "env")],
        ):
            subprocess.run(command, check=True)
        (wheel,) = dist.glob("*.whl")
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", locked, str(wheel)]
        for command in (install, [str(python), "-m", "twospeed", "--version"], [str(python), "-m", "twospeed", "demo"]):
            if code := subprocess.run(command, cwd=folder).returncode:
                return code
    print(f"{wheel} works in an empty environment")
    return 0


def report_coverage(run: list[str]) -> int:
    """Print the files of which the tests ran few lines, and how much of the whole package they ran."""
    found = subprocess.run([*run, "coverage", "report", "--sort=cover"], cwd=HERE, stdout=subprocess.PIPE, text=True)
    for line in found.stdout.splitlines():
        share = next((word for word in line.split() if word.endswith("%")), "100%")
        if float(share[:-1]) < LEAST_COVERED or line.startswith("TOTAL"):
            print(line)
    return found.returncode


def main() -> int:
    """Run one chore; returns the exit code of the first command that fails."""
    if sys.version_info < (3, 11):  # noqa: UP036 (the one file that an older Python may start)
        print(f"twospeed needs Python 3.11 or newer, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    chore, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if chore == "wheel":
        return try_wheel()
    if chore not in CHORES:
        print(__doc__, file=sys.stderr)
        return 2
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "UV_PYTHON": os.environ.get("UV_PYTHON", sys.executable)}
    groups = ["--all-extras", *(["--group", GROUPS[chore]] if chore in GROUPS else [])]
    run = [find_uv(), "run", "--project", str(HERE), "--locked", "--quiet", *groups]
    failed = 0
    commands = CHORES[chore]
    named = [word for word in rest if (HERE / word.partition("::")[0]).exists()]
    if chore == "test" and named:  # and nothing else
        exports = any("tests/export" in word for word in named)
        commands = [["pytest"] if exports else ["pytest", "--ignore=tests/export"]]
    for command in commands:
        where = None if chore in ("demo", "run") else HERE
        failed = subprocess.run([*run, *command, *rest], env=environment, cwd=where).returncode or failed
        if failed and chore != "coverage":  # which is reported all the same
            return failed
    return (report_coverage(run) if chore == "coverage" else 0) or failed


if __name__ == "__main__":
    sys.exit(main())
