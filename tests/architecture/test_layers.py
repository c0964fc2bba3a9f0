"""The architecture holds: imports point down, public names are listed once, importing is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import twospeed

SOURCE = Path(twospeed.__file__).parent
LAYERS = [
    "errors",
    "results environment files",
    "ops",
    "metrics video transforms models",
    "weights data training output",
    "export",
    "pipelines",
    "evaluation batch",
    "papers recipes",
    "app",
    "cli",
]
RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer.split()}
UPWARD = {("results", "output")}  # inside `results.Result`'s methods, see ARCHITECTURE.md
FAMILIES = {
    path.name
    for path in (SOURCE / "models").iterdir()
    if path.is_dir() and path.name not in ("encoders", "__pycache__")
}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("twospeed."):
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module == "twospeed":
            yield from (f"twospeed.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("twospeed."))


def test_imports_point_down():
    wrong = []
    for file in SOURCE.rglob("*.py"):
        here = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        if here in ("__init__", "__main__"):
            continue
        for name in imports(file):
            there = name.split(".")[1]
            if (here, there) in UPWARD or there not in RANK or there == here:
                continue
            if RANK[there] >= RANK[here]:
                wrong.append(f"{file.relative_to(SOURCE)}: {here} may not import {there}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_layer():
    packages = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if not path.name.startswith("_")}
    assert packages - {"py.typed"} == set(RANK)


def test_model_families_do_not_see_each_other():
    wrong = []
    for family in FAMILIES:
        for file in (SOURCE / "models" / family).rglob("*.py"):
            others = {name.split(".")[2] for name in imports(file) if name.startswith("twospeed.models.")}
            wrong += [f"{family} imports {other}" for other in others & (FAMILIES - {family})]
    assert not wrong


def test_public_names_exist_and_are_listed_once():
    assert len(set(twospeed.__all__)) == len(twospeed.__all__)
    assert sorted(twospeed.__all__, key=str.lower) == sorted(dir(twospeed), key=str.lower)
    for name in twospeed.__all__:
        assert getattr(twospeed, name) is not None


def test_every_public_name_of_a_package_is_public():
    assert set(twospeed._LAZY) < set(twospeed.__all__)


def test_importing_is_light():
    heavy_ones = ("torch", "cv2", "av", "scipy")
    code = f"import sys, twospeed, twospeed.cli.main; print([m for m in {heavy_ones} if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert heavy.strip() == "[]"


def test_tracking_works_without_torchvision(tmp_path):
    """It takes seconds to load, and only Mask R-CNN and the detection of people need it."""
    code = f"""
import sys
sys.modules["torchvision"] = sys.modules["scipy"] = None  # importing them fails
import numpy as np, twospeed
from twospeed.cli.main import exit_code
from twospeed.video.writer import VideoWriter
image, mask = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
mask[8:24, 8:24] = 1
image[mask > 0] = 200
with VideoWriter({str(tmp_path / "clip.mp4")!r}, 10) as writer:
    for _ in range(3):
        writer.write(image)
twospeed.ObjectMasks(mask, np.stack([mask == 0, mask == 1]).astype(np.float32), (1,)).save({str(tmp_path / "m.png")!r})
twospeed.Segmenter, twospeed.Classifier, twospeed.UnsupervisedTracker
sys.exit(exit_code(["track", {str(tmp_path / "clip.mp4")!r}, "--mask", {str(tmp_path / "m.png")!r}, "-q",
                    "-o", {str(tmp_path / "out")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "masks").glob("*.png"))) == 3
