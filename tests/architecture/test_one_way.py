"""One way for each thing, in words that are alike everywhere: what a change would break unnoticed."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.test_layers import SOURCE

FILES = sorted(SOURCE.rglob("*.py"))
MAY_USE = {
    "files": {"errors"},
    "environment": {"errors"},
    "ops": {"errors"},
    "metrics": {"errors", "ops"},
    "transforms": {"errors", "ops"},
    "models": {"errors", "ops"},
    "video": {"errors", "files", "results"},
    "weights": {"environment", "errors", "files", "models", "ops", "results"},
    "data": {"errors", "files", "ops", "results", "transforms", "video"},
    "training": {"environment", "errors", "files", "results"},
    "output": {"environment", "errors", "files", "ops", "results", "video"},
    "export": {"environment", "errors", "models", "ops", "weights"},
    "papers": {"errors", "files"},
    "batch": {"environment", "errors", "files", "pipelines", "results", "video", "weights"},
}
"""Finer than the layers: what packages of the lower ones import of this one, at most."""
PACKAGES_OF_OTHERS = {
    "results": {"numpy"},
    "files": {"numpy"},
    "papers": set(),
    "metrics": {"numpy", "scipy"},
    "models": {"numpy", "torch", "torchvision"},
    "transforms": {"cv2", "numpy", "torch"},
    "training": {"numpy", "torch"},
    "video": {"PIL", "av", "cv2", "numpy", "zlib_ng"},
    "output": {"PIL", "cv2", "matplotlib", "numpy", "supervision"},
    "cli": {"cv2", "numpy", "rich", "torch", "typer"},
    "app": {"av", "cv2", "fastapi", "numpy", "pydantic", "uvicorn"},
}
"""No torch in video, metrics, output or the page's server; no image library in models; rich and typer in cli alone."""
CIRCLES = [{"twospeed.results", "twospeed.output.adapters"}]
"""Results leave by methods that call the adapters; see ARCHITECTURE.md."""
RENAMES = {
    "files.py": "the one way to write files and folders",
    "app/library.py": "moves a project to the trash",
    "app/export_masks.py": "its own file out of its temporary folder",
    "batch/storage.py": "a folder is a storage, whose objects come and go whole",
    "cli/masks.py": "inside of a folder that is not there yet",
    "output/folder.py": "swaps results for older ones",
    "training/run.py": "puts a damaged checkpoint aside",
    "weights/store.py": "a download that is complete",
}
PROCESSES_THAT_ANSWER = {"app/export_masks.py", "app/exporting.py", "app/probe.py"}  # lines of JSON
WORDS = {
    r"lanes?": "replica, buffer, number",
    "trunk": "backbone",
    "pictures?": "image",
    "optimiser": "optimizer",
    "provenance": "origin",
    "practises?": "fine-tune",
    "Discoverer": "UnsupervisedTracker",
    "folded": "fused",
    "(go|goes|going) on": "continue, resume",
    "chosen_device": "resolve_device",
    "whole_numbers": "parse_ints",
    "write_whole": "atomic_file",
}


def module_of(file: Path) -> str:
    return ".".join(["twospeed", *file.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def package_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def nodes_of(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text_of(file))))


@cache
def imported(file: Path) -> list[tuple[str, str | None]]:
    """List the modules that a file imports, wherever in it, with each name that it takes from them."""
    found: list[tuple[str, str | None]] = []
    for node in nodes_of(file):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            found += ((alias.name, None) for alias in node.names)
    return found


def calls(file: Path) -> list[ast.Call]:
    return [node for node in nodes_of(file) if isinstance(node, ast.Call)]


def test_no_circle_of_files():
    modules = {module_of(file): file for file in FILES}
    graph = {}
    for module, file in modules.items():
        names = {f"{there}.{name}" if f"{there}.{name}" in modules else there for there, name in imported(file)}
        graph[module] = (names & modules.keys()) - {module, "twospeed"}

    def reachable(start: str) -> set[str]:
        found, todo = set(), [start]
        while todo:
            for there in graph[todo.pop()] - found:
                found.add(there)
                todo.append(there)
        return found

    reach = {module: reachable(module) for module in graph}
    circles = {frozenset({b for b in reach[a] if a in reach[b]} | {a}) for a in graph if a in reach[a]}
    assert circles == set(map(frozenset, CIRCLES))


def test_private_names_and_files_stay_where_they_are():
    wrong = []
    for file in FILES:
        for module, name in imported(file):
            if not module.startswith("twospeed"):
                continue
            parts = module.split(".")[1:]
            private_file = any(part.startswith("_") for part in parts) and parts[0] != package_of(file)
            if private_file or ((name or "").startswith("_") and not (name or "").startswith("__")):
                wrong.append(f"{file.relative_to(SOURCE)}: {module}.{name}")
    assert not wrong


def test_no_recipe_imports_another():
    wrong = []
    for file in (SOURCE / "recipes").glob("*.py"):
        others = [module for module, _ in imported(file) if module.startswith("twospeed.recipes.")]
        wrong += [f"{file.name}: {other}" for other in others if not other.split(".")[2].startswith("_")]
    assert not wrong


def test_packages_import_no_more_than_their_row():
    wrong = []
    for file in FILES:
        here = package_of(file)
        for module, _ in imported(file):
            top, _, rest = module.partition(".")
            there = rest.partition(".")[0]
            if top == "twospeed" and here in MAY_USE and there and there != here and there not in MAY_USE[here]:
                wrong.append(f"{file.relative_to(SOURCE)}: {there}")
    assert not wrong


def test_packages_of_others_are_used_where_they_belong():
    wrong = []
    for file in FILES:
        here = package_of(file)
        tops = {module.partition(".")[0] for module, _ in imported(file)} - {"twospeed", *sys.stdlib_module_names}
        if here in PACKAGES_OF_OTHERS:
            wrong += [f"{file.relative_to(SOURCE)}: {top}" for top in tops - PACKAGES_OF_OTHERS[here]]
    assert not wrong


def test_every_training_starts_and_resumes_the_same_way():
    for file in (SOURCE / "recipes").glob("[a-z]*.py"):
        assert re.search(r"Run\.start_or_resume\(|start_run\(", text_of(file)), file
    for file in FILES:
        if package_of(file) != "training":
            assert not [module for module, _ in imported(file) if module == "twospeed.training.checkpoint"], file


def test_networks_are_made_fast_in_one_place():
    for file in FILES:
        if package_of(file) != "models":
            fast = [m for m, _ in imported(file) if re.fullmatch(r"twospeed\.models\.(fused|\w+\.inference)", m)]
            assert not fast, file


def test_no_pipeline_asks_for_a_family_of_trackers():
    """Any network with the methods of `models.protocol` is tracked with: none is chosen by its class or its name."""
    for file in FILES:
        if package_of(file) in ("pipelines", "cli", "app", "batch", "evaluation"):
            families = {module.split(".")[2] for module, _ in imported(file) if module.startswith("twospeed.models.")}
            assert not families & {"stcn", "stm"}, file


def test_files_are_renamed_into_place_in_one_way():
    """`files.atomic_file` and `atomic_folder`; other renamings are of other things, each with its reason here."""
    found = set()
    for file in FILES:
        for call in calls(file):
            function = call.func
            if isinstance(function, ast.Attribute) and (
                (function.attr in ("rename", "replace") and len(call.args) == 1 and not call.keywords)
                or ast.unparse(function) in ("os.replace", "os.rename", "shutil.move")
            ):
                found.add(file.relative_to(SOURCE).as_posix())
    assert found == set(RENAMES)


def test_only_the_command_line_prints():
    for file in FILES:
        name = file.relative_to(SOURCE).as_posix()
        if name == "cli/printing.py" or name in PROCESSES_THAT_ANSWER:
            continue
        printed = [call for call in calls(file) if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not printed or '__name__ == "__main__"' in text_of(file), file


def test_messages_of_the_library_name_no_flag():
    """The command line adds the flag of an error's `option`."""
    wrong = []
    for file in FILES:
        if package_of(file) in ("cli", "app", "batch", "recipes", "__main__"):
            continue
        for node in nodes_of(file):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for part in ast.walk(node.exc):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        wrong += [
                            f"{file.relative_to(SOURCE)}: {f}" for f in re.findall(r"(?<!\w)--[a-z-]+", part.value)
                        ]
    assert not wrong


@pytest.mark.parametrize("word", WORDS)
def test_words_that_others_replace(word: str) -> None:
    pattern = re.compile(rf"\b{word}\b")
    found = []
    for file in FILES:
        for number, line in enumerate(text_of(file).splitlines(), start=1):
            if pattern.search(line) and "lane = (label" not in line and "0.76 * lane" not in line:
                found.append(f"{file.relative_to(SOURCE)}:{number}: {line.strip()}")
    assert not found, f"say {WORDS[word]}:\n" + "\n".join(found)
