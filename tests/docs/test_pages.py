"""README and documentation are true: each code block runs, or states why it does not; options in it exist.

Blocks of one page run in order in one folder that holds the files which the pages speak of (`footage`). `twospeed ...`
and Python run in this process, other commands in bash. A block is left out by a line before it:

    <!-- not run: needs data that is not part of the repository -->

In a block whose commands stand after "$ ", the other lines are their output: it is compared, numbers aside.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import twospeed
from twospeed.cli.main import app, exit_code
from twospeed.cli.train import load_recipe, parse_options, starting_settings
from twospeed.models.slowfast import builders
from twospeed.recipes import resolve_recipe
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter
from twospeed.weights.load import save_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"))]
SHELL = ("sh", "bash", "shell", "console")
KNOWN = (*SHELL, "python", "text", "json", "yaml", "toml", "csv", "bibtex", "mermaid")
CHORES = ("demo", "test", "check", "bench", "setup", "docs", "wheel", "coverage")  # of do.py, beside `run`


@dataclass(frozen=True)
class Block:
    """A code block. not_run: the reason that stands before it as <!-- not run: reason -->; None where it runs."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """Commands of a shell block with the output that is shown for them; continued lines are joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return [(line.strip(), []) for line in lines if line.strip() and not line.startswith("#")]
        steps: list[tuple[str, list[str]]] = []
        for line in lines:
            if line.startswith("$ "):
                steps.append((line[2:].strip(), []))
            elif line.strip():
                steps[-1][1].append(line)
        return steps

    @property
    def words(self) -> list[list[str]]:
        """The commands of twospeed, in words, also where they are written as chores of do.py."""
        commands = [re.sub(r"^python3 do\.py run ", "twospeed ", command) for command, _ in self.steps]
        return [shlex.split(command, comments=True) for command in commands if command.startswith("twospeed ")]


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
        margin = len(lines[start]) - len(lines[start].lstrip())
        text = "\n".join(text[margin:] for text in lines[start + 1 : number])
        language = lines[start].strip().removeprefix("```").split(" ")[0]
        found.append(Block(page, start + 1, language, text, reason[1] if reason else None))
        start = None
    assert start is None, f"{page}: the code block of line {start} does not end"
    return found


BLOCKS = {page: blocks_of(page) for page in PAGES}
ALL = [block for blocks in BLOCKS.values() for block in blocks]
RUN = [page for page, blocks in BLOCKS.items() if any(b.not_run is None and b.language != "text" for b in blocks)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def footage(tmp_path_factory) -> Path:
    """Files that the pages speak of, tiny: clips, masks, boxes, weights of narrow networks, sets to train on."""
    folder = tmp_path_factory.mktemp("footage")
    background = np.random.default_rng(0).integers(0, 120, (96, 128, 3), dtype=np.uint8)
    film, labels = [], []
    for shift in range(6):
        image, mask = background.copy(), np.zeros((96, 128), np.uint8)
        image[30:60, 20 + 4 * shift : 50 + 4 * shift] = (240, 200, 40)
        mask[30:60, 20 + 4 * shift : 50 + 4 * shift] = 1
        film.append(image)
        labels.append(mask)
    (folder / "clips").mkdir()
    (folder / "chair").mkdir()
    for index, image in enumerate(film):
        Image.fromarray(image).save(folder / "chair" / f"frame_{index:06d}.png")
    for name in ("clip.mp4", "drive.mp4", "clips/a.mp4", "clips/b.mp4"):
        with VideoWriter(folder / name, 10) as writer:
            for image in film:
                writer.write(image)
    for name, frames in (("wave", film), ("nod", film[::-1])):
        (folder / "gestures" / name).mkdir(parents=True)
        for number in range(2):
            with VideoWriter(folder / "gestures" / name / f"{number}.mp4", 10) as writer:
                for image in frames[: 5 + number]:
                    writer.write(image)
    write_indexed_png(folder / "first.png", labels[0])
    write_indexed_png(folder / "later.png", labels[4])
    for video in ("one", "two", "three"):
        for kind in ("JPEGImages", "Annotations"):
            (folder / "own" / kind / "480p" / video).mkdir(parents=True)
        for index, (image, mask) in enumerate(zip(film, labels, strict=True)):
            Image.fromarray(image).save(folder / "own" / "JPEGImages" / "480p" / video / f"{index:05d}.jpg")
            write_indexed_png(folder / "own" / "Annotations" / "480p" / video / f"{index:05d}.png", mask)
    (folder / "people.csv").write_text("time_s,x1,y1,x2,y2,score\n0,20,30,50,60,0.9\n")
    torch.manual_seed(0)
    save_model(builders.slow_r50_4x16(width=8), folder / "actions.safetensors", model_name="slow_r50_4x16")
    detector = twospeed.create_model("slow_r50_4x16_ava", None, width=8)
    save_model(detector, folder / "people.safetensors", model_name="slow_r50_4x16_ava")
    return folder


@pytest.mark.parametrize("page", RUN, ids=name_of)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.slow
def test_blocks_run(page, footage, tmp_path, monkeypatch, capsys):
    shutil.copytree(footage, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS[page]:
        if block.not_run is not None:
            continue
        if block.language == "python" and (included := re.fullmatch(r'--8<-- "(.+)"', block.text)):
            assert (ROOT / included[1]).is_file(), f"{block.where}: {included[1]} is not there"
        elif block.language == "python":
            (tmp_path / "block.py").write_text(block.text, encoding="utf-8")
            runpy.run_path("block.py", run_name="__main__")
        elif block.language in SHELL:
            for command, expected in block.steps:
                capsys.readouterr()
                code, printed = run(re.sub(r"^python3 do\.py run ", "twospeed ", command), capsys)
                assert code == 0, f"{block.where}: {command}\n{printed}"
                assert_shown(expected, printed, f"{block.where}: {command}")


def run(command: str, capsys) -> tuple[int, str]:
    """Run a command; returns its exit code and what it printed."""
    # An export in a process of its own: OpenVINO and forks of loading processes do not go together (see do.py)
    if re.match(r"twospeed (?!export )", command) and not re.search(r"[|;&>]", command):
        code = exit_code(shlex.split(command, comments=True)[1:])
        captured = capsys.readouterr()
        return code, captured.out + captured.err
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = (
        f'twospeed() {{ "{sys.executable}" -m twospeed "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n{command}'
    )
    environment = {**os.environ, "PYTHONPATH": path, "LC_ALL": "C"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=250, env=environment)
    return done.returncode, done.stdout + done.stderr


def assert_shown(expected: list[str], printed: str, where: str) -> None:
    """Check that the lines which a page shows are printed, in this order; numbers and spaces may differ."""

    def plain(line: str) -> str:
        return " ".join(re.sub(r"\d+(\.\d+)?", "0", line).split())

    columns = [printed] if len(expected) == 1 else []  # `ls` on a terminal puts its names into one line
    lines = iter([plain(line) for line in [*printed.splitlines(), *columns]])
    for line in map(plain, expected):
        assert line == "..." or any(line == other for other in lines), f"{where} does not print {line!r}:\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_of_a_kind_that_is_checked(page):
    for block in BLOCKS[page]:
        assert block.language in KNOWN, f"{block.where}: write the language of the block, such as sh, python or text"
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        assert not re.match(r"    (twospeed|python|\$) ", line), f"{page}:{number}: write a block with ```sh"


@pytest.mark.parametrize("block", [b for b in ALL if b.language in SHELL], ids=lambda block: block.where)
def test_commands_and_options_exist(block):
    """Also of blocks that are not run: their commands and options are those of the command line today."""
    for words in block.words:
        command, rest = typer.main.get_command(app), words[1:]
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{block.where}: no command {rest[0]!r}"
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        options = [word.partition("=")[0] for word in rest if re.match(r"--[a-z][a-z0-9-]*|-[a-zA-Z]$", word)]
        unknown = [option for option in options if option not in known | {"--help", "-h"}]
        if command.name == "train" and rest and not rest[0].startswith("-"):
            check_settings(rest[0], rest[1:], {option for option in known if option.startswith("--")}, block.where)
        else:
            assert not unknown, f"{block.where}: {command.name} has no option {unknown[0]}"


def check_settings(recipe: str, words: list[str], known: set[str], where: str) -> None:
    """Check the settings that follow a recipe's name."""
    if recipe.endswith(".py"):
        return
    preset = words[words.index("--preset") + 1] if "--preset" in words else None
    name, begins = resolve_recipe(recipe, preset)
    module = load_recipe(name)
    settings = starting_settings(module, name, begins, None)
    own: list[str] = []
    skip = False
    for word in words:
        if word in known:
            skip = word in ("--preset", "--config", "--copy")
        elif skip:
            skip = False
        else:
            own.append(word)
    try:
        parse_options([word for word in own if word != "..."], type(settings), getattr(module, "ARGUMENT", None))
    except twospeed.TwospeedError as error:
        raise AssertionError(f"{where}: {error}") from error


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        linked = (page.parent / target) if target else page
        assert linked.exists(), f"{page}: {target} is not there"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors_of(linked), f"{page}: {target} has no section {anchor}"


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s_-]+", "-", re.sub(r"[^\w\s-]", "", title.lower())).strip("-") for title in titles}


def test_sources_name_pages_that_exist():
    """Docstrings, messages and scripts that send a reader to a page."""
    for folder in ("src", "examples", "experiments", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for page in re.findall(r"docs/[\w/]+\.(?:md|csv)", path.read_text(encoding="utf-8")):
                assert (ROOT / page).exists(), f"{path}: {page} is not there"


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    listed = set(re.findall(r"^::: (twospeed[\w.]*)", text, re.MULTILINE))
    for name in twospeed.__all__:
        if name != "__version__":
            module = getattr(twospeed, name).__module__
            assert {module, f"{module}.{name}"} & listed, f"{name} is in none of docs/reference"
