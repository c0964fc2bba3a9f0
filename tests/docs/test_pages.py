"""README and documentation are true: each code block runs, or states why it is not run; options in it exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer

from twospeed.cli.main import app
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("", "sh", "bash", "shell", "console")
KNOWN = (*SHELL, "python", "text", "json", "yaml", "toml", "csv", "bibtex")


@dataclass(frozen=True)
class Block:
    """A code block. not_run: the reason that stands before it as <!-- not run: reason -->; None where it runs."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def commands(self) -> list[str]:
        """Commands of a shell block: lines after "$ " where there are such lines, else all; continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [re.sub(r"^python3 do\.py (run )?", "twospeed ", line.strip()) for line in lines if line.strip()]


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = lines[start - 1] if start else ""
        reason = re.fullmatch(r"\s*<!-- not run: (.+) -->", before)
        text = "\n".join(lines[start + 1 : number])
        language = lines[start].strip().removeprefix("```").split(" ")[0]
        found.append(Block(page, start + 1, language, text, reason[1] if reason else None))
        start = None
    assert start is None, f"{page}: the code block of line {start} does not end"
    return found


BLOCKS = {f"{block.page.relative_to(ROOT)}:{block.line}": block for page in PAGES for block in blocks_of(page)}
RUN = [name for name, block in BLOCKS.items() if block.not_run is None]


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """A clip of a moving square and the mask of its first frame: the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("footage")
    background = np.random.default_rng(0).integers(0, 120, (96, 128, 3), dtype=np.uint8)
    for name in ("clip.mp4", "drive.mp4"):
        with VideoWriter(folder / name, 10) as writer:
            for shift in range(6):
                image = background.copy()
                image[30:60, 20 + 4 * shift : 50 + 4 * shift] = (240, 200, 40)
                writer.write(image)
    labels = np.zeros((96, 128), np.uint8)
    labels[30:60, 20:50] = 1
    write_indexed_png(folder / "first.png", labels)
    return folder


@pytest.mark.parametrize("name", list(BLOCKS))
def test_blocks_are_of_a_kind_that_is_checked(name):
    assert BLOCKS[name].language in KNOWN, f"{name}: write the language of the block, such as sh, python or text"


@pytest.mark.parametrize("name", [name for name in RUN if BLOCKS[name].language in SHELL])
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.slow
def test_commands_run(name, footage, tmp_path):
    shutil.copytree(footage, tmp_path, dirs_exist_ok=True)
    twospeed = f'twospeed() {{ "{sys.executable}" -m twospeed "$@"; }}\n'
    script = "set -e\n" + twospeed + "\n".join(BLOCKS[name].commands)
    run(["bash", "-c", script], tmp_path, name)


@pytest.mark.parametrize("name", [name for name in RUN if BLOCKS[name].language == "python"])
@pytest.mark.slow
def test_python_runs(name, footage, tmp_path):
    shutil.copytree(footage, tmp_path, dirs_exist_ok=True)
    run([sys.executable, "-c", BLOCKS[name].text], tmp_path, name)


def run(command: list[str], folder: Path, name: str) -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=250, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, f"{name} fails:\n{done.stdout[-1000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("name", [name for name, block in BLOCKS.items() if block.language in SHELL])
def test_options_exist(name):
    """Also of blocks that are not run: their commands and options are those of the command line today."""
    commands = typer.main.get_command(app).commands
    for line in BLOCKS[name].commands:
        if not line.startswith("twospeed "):
            continue
        words = shlex.split(line, comments=True)[1:]
        if words[0] in ("test", "check", "bench", "setup", "docs", "wheel") and "do.py" in BLOCKS[name].text:
            continue  # chores of do.py
        assert words[0] in commands, f"{name}: no command {words[0]!r}"
        known = {
            option for parameter in commands[words[0]].params for option in parameter.opts + parameter.secondary_opts
        }
        if hasattr(commands[words[0]], "commands") or words[0] == "train":  # with options of their own
            continue
        for word in words[1:]:
            option = word.partition("=")[0]
            if re.fullmatch(r"--[a-z][a-z0-9-]*|-[a-z]", option):
                assert option in known, f"{name}: {words[0]} has no option {option}"


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page}: {target} is not there"
