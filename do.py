#!/usr/bin/env python3
"""Every chore of this repository, on a machine with nothing but Python 3.11 or newer.

    python3 do.py demo       set up what is missing, then render a clip and track its objects
    python3 do.py test       the whole test suite
    python3 do.py check      format, lint, types
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
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHORES: dict[str, list[list[str]]] = {
    "demo": [["twospeed", "demo"]],
    "test": [["pytest"]],
    "check": [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"]],
    "bench": [["python", f"benchmarks/{name}.py"] for name in ("track", "jf", "classify", "segment", "ava")],
    "run": [["twospeed"]],
    "setup": [["twospeed", "--version"]],
}


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


def main() -> int:
    """Run one chore; returns the exit code of the first command that fails."""
    if sys.version_info < (3, 11):  # noqa: UP036 (the one file that an older Python may start)
        print(f"twospeed needs Python 3.11 or newer, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    chore, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if chore not in CHORES:
        print(__doc__, file=sys.stderr)
        return 2
    environment = {**os.environ, "UV_PYTHON": os.environ.get("UV_PYTHON", sys.executable)}
    groups = ["--all-extras", *(["--group", "bench"] if chore == "bench" else [])]
    for command in CHORES[chore]:
        code = subprocess.run(
            [find_uv(), "run", "--project", str(HERE), "--locked", "--quiet", *groups, *command, *rest],
            env=environment,
            cwd=None if chore in ("demo", "run") else HERE,
        ).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
