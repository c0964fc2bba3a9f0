"""The table of what exists: name -> builder, converter, preprocessing, labels, weights, licence, scores.

The table is catalog.toml, beside this file. It is no registry: importing another file never changes it. No torch is
imported here, so that `twospeed models` and `--help` are instant; builders and converters are named as
"module:function" and "module".
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.weights.exported import ExportedModel

Task = Literal["classify", "detect", "track", "segment", "click"]
TASKS: tuple[Task, ...] = ("classify", "detect", "track", "segment", "click")

DEFAULT_TRACKER = "track_small"  # of everything that follows given masks; `--quality fast` takes FAST_TRACKER
FAST_TRACKER = "track_nano"
DEFAULT_FINDER = "find_nano"  # where nothing is marked; DEFAULT_TRACKER follows what it finds


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels must be brought to a network: mean and std in RGB order and 0..1 units, channel order, sampling.

    short_side, crop: pixels. frames, stride: of a clip (frames of the fastest pathway, source frames between them).
    average: how views become scores, "probabilities" (softmax, then mean) or "logits" (mean, then softmax).
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    input_order: Literal["rgb", "bgr"] = "rgb"
    short_side: int | None = None
    crop: int | None = None
    frames: int | None = None
    stride: int | None = None
    average: Literal["probabilities", "logits"] = "probabilities"


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Where a model's default weights are: inside the package, or at its authors' published address.

    file: name inside the package or in the cache. url: None for shipped files. sha256: of the whole file (or its first
    digits), None where it is not published. licence, trained_on: of the weights, not of the code. options: of the
    builder, where the file is of another variant than the model's name alone (they are read from the file's shapes).
    start: made to start a training from; what it finds in a video by itself is of little use.
    """

    file: str
    url: str | None = None
    sha256: str | None = None
    licence: str = ""
    trained_on: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    start: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A published file of weights that is no default: another score, a start for a training, or downloaded by hand.

    models: catalogue names that it fits, or starts. url: of the file, or of the page in a browser that offers it.
    """

    what: str
    url: str
    models: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the catalogue.

    needs_masks: of a tracker, whether it must be given the masks of objects. finder: of one that need not, whether it
    is a `PrimaryFinder`, whose finds another tracker follows. person_score: of a detector of actions, the least score
    of people's boxes in its published test. exported: what a folder of graphs says of itself, for models that are no
    part of the catalogue.
    """

    name: str
    task: Task
    summary: str
    builder: str
    converter: str
    paper: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: str | None = None
    needs_masks: bool = False
    finder: bool = False
    person_score: float = 0.8
    weights: WeightsFile | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    exported: ExportedModel | None = None


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


def find(name: str) -> Entry:
    """Return a model's line; that of an exported model for the folder where it lies.

    A name of the catalogue wins over a folder of that name: write "./track_nano" for the folder. Raises InputError with
    near names when there is neither, CheckpointError for a damaged folder.
    """
    if name in CATALOG:
        return CATALOG[name]
    if Path(name).is_dir():
        from twospeed.weights.exported import read_exported

        return read_exported(Path(name)).entry
    near = difflib.get_close_matches(name, CATALOG, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`twospeed models` lists what exists"
    raise InputError(f"unknown model {name!r}; {hint}")


def published_for(name: str) -> list[PublishedFile]:
    """Return the published files beside the default weights that fit a model, or start its training."""
    return [file for file in PUBLISHED if name in file.models]
