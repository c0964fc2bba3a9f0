"""One readable script per training.

A recipe is a file of this folder with a frozen dataclass of settings and `train(config, *, resume=False) -> Path`,
which returns its run folder; optionally `PRESETS`, names of functions that return other settings, and `ARGUMENT`, the
setting that may be given without its name. Adding a file adds a
recipe.
"""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent

FORMER_NAMES = {"stcn_static": ("stcn", "static"), "stcn_video": ("stcn", "video"), "track_nano": ("stcn", "tiny")}
"""What recipes of earlier versions are today: a recipe and the preset to start from."""


def available() -> dict[str, str]:
    """Return every recipe's name and what it says of itself in its first line; imports none of them."""
    recipes = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.name.startswith("_"):
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "train" for node in module.body):
            recipes[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return recipes


def resolve_recipe(name: str, preset: str | None) -> tuple[str, str | None]:
    """Return today's recipe and preset of a name; `stcn_static` with preset `trial` is `stcn` with `static_trial`."""
    if name not in FORMER_NAMES:
        return name, preset
    recipe, begins = FORMER_NAMES[name]
    if preset is None or preset in ("stage0", "stage3"):
        return recipe, begins
    return recipe, preset if preset in ("stage1", "stage2") else f"{begins}_{preset}"


def source(name: str) -> Path:
    """Return the file of a recipe."""
    return FOLDER / f"{name}.py"
