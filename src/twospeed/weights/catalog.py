"""The table of what exists: name -> builder, converter, preprocessing, labels, weights, licence, scores.

The table is catalog.toml, beside this file. It is no registry: importing another file never changes it. No torch is
imported here, so that `twospeed models` and `--help` are instant; builders and converters are named as
"module:function" and "module".
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twospeed.errors import InputError
from twospeed.weights.entries import TASKS, Entry, Preprocessing, PublishedFile, Task, WeightsFile, read_exported

DEFAULT_TRACKER = "track_small"  # of everything that follows given masks; `--quality fast` takes FAST_TRACKER
FAST_TRACKER = "track_nano"
DEFAULT_FINDER = "find_nano"  # where nothing is marked; DEFAULT_TRACKER follows what it finds


def _entry(name: str, facts: Mapping[str, Any], papers: Mapping[str, str], licences: Mapping[str, str]) -> Entry:
    """Make a model's line of what catalog.toml says of it and its family."""
    facts = dict(facts)
    weights = facts.get("weights")
    if weights is not None:
        weights = {"file": weights.get("url", "").rpartition("/")[2], **weights}
        weights["licence"] = licences.get(weights["licence"], weights["licence"])
        options = weights.get("options", {})
        weights["options"] = {key: None if value == "none" else value for key, value in options.items()}
        facts["weights"] = WeightsFile(**weights)
    pixels: dict[str, Any] = facts.get("preprocessing", {})
    pixels = {key: tuple(value) if isinstance(value, list) else value for key, value in pixels.items()}
    facts["preprocessing"] = Preprocessing(**pixels)
    facts["paper"] = papers.get(facts["paper"], facts["paper"])
    return Entry(name=name, builder=f"{facts.pop('builders')}:{name}", **facts)


def _read(text: str) -> tuple[dict[str, Entry], tuple[PublishedFile, ...], dict[str, str]]:
    content = tomllib.loads(text)
    entries = {}
    for name, own in content["models"].items():
        family = content["families"][own.pop("family")]
        pixels = family.get("preprocessing", {}) | own.get("preprocessing", {})
        entries[name] = _entry(name, {**family, **own, "preprocessing": pixels}, content["papers"], content["licences"])
    files = [PublishedFile(**{**file, "models": tuple(file["models"])}) for file in content["published"]]
    return entries, tuple(files), content["kinetics_600"]


CATALOG: Mapping[str, Entry]
PUBLISHED: tuple[PublishedFile, ...]
KINETICS_600: Mapping[str, str]
"""Addresses of weights trained on Kinetics-600 (authors), from which trainings on AVA and Kinetics-700 start."""

CATALOG, PUBLISHED, KINETICS_600 = _read(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def list_models(task: Task | None = None) -> list[str]:
    """Return the names of all models, sorted; only those of one task if given.

    Raises InputError for an unknown task.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    return sorted(name for name, entry in CATALOG.items() if task in (None, entry.task))


def find(name: str | Path) -> Entry:
    """Return a model's line; that of an exported model for the folder where it lies.

    A name of the catalogue wins over a folder of that name: write "./track_nano" for the folder. Raises InputError with
    near names when there is neither, CheckpointError for a damaged folder.
    """
    name = str(name)
    if name in CATALOG:
        return CATALOG[name]
    if Path(name).is_dir():
        return read_exported(Path(name)).entry
    near = difflib.get_close_matches(name, CATALOG, n=3)
    if Path(name).is_file():
        raise InputError(
            f"model {name!r} is a file; models have names, a file is given as their weights", option="weights"
        )
    hint = f"did you mean {' or '.join(near)}?" if near else "`twospeed models` lists what exists"
    raise InputError(f"unknown model {name!r}; {hint}")


def published_for(name: str) -> list[PublishedFile]:
    """Return the published files beside the default weights that fit a model, or start its training."""
    return [file for file in PUBLISHED if name in file.models]
