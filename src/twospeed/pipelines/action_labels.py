"""Names of the classes that a network's outputs stand for: in the package, or in the user's file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from twospeed.errors import InputError
from twospeed.files import parse_json, read_text
from twospeed.results import LabelMap

Labels = LabelMap | Sequence[str] | str | os.PathLike[str]


def read_labels(labels: Labels) -> LabelMap:
    """Return class names in the order of the outputs.

    labels: names themselves; a list in the package ("kinetics400", alphabetical, the order of the published weights);
    or a file: one name on each line, or JSON, either a list of names or an object {name: index}. The lists of
    Kinetics-600 and -700 come as files: the order of the authors' Kinetics-600 weights was never published. Raises
    InputError for a missing, empty or gappy list.
    """
    if isinstance(labels, LabelMap):
        return labels
    if not isinstance(labels, str | os.PathLike):
        return _checked([str(name) for name in labels], "the labels given")
    shipped = resources.files("twospeed") / "data" / "labels" / f"{labels}.txt"
    if isinstance(labels, str) and Path(labels).name == labels and shipped.is_file():
        return _checked(shipped.read_text(encoding="utf-8").splitlines(), labels)
    path = Path(labels)
    if not path.is_file():
        raise InputError(f"no list of labels at {path}; give a file with one name on each line, or 'kinetics400'")
    text = read_text(path)
    if text.lstrip().startswith(("[", "{")):
        return _checked(_from_json(text, path), str(path))
    return _checked([line.strip() for line in text.splitlines()], str(path))


def label_names(labels: Labels | None, known: Labels | None, classes: int, model: str) -> tuple[str, ...]:
    """Return the names of a network's classes; "class 0" and so on where nobody knows them.

    labels: what the caller gives, else known: the weights' or the catalogue's list, used only when it has as many names
    as the network has classes. Raises InputError when the caller's list has another length.
    """
    if labels is not None:
        names = read_labels(labels)
        if len(names) != classes:
            what = labels if isinstance(labels, str | os.PathLike) else "the list given"
            raise InputError(
                f"{what} has {len(names)} labels, {model} has {classes} classes; give the list that it was trained on"
            )
        return names.names
    if known is not None:
        names = read_labels(known)
        if len(names) == classes:
            return names.names
    return tuple(f"class {number}" for number in range(classes))


def _from_json(text: str, path: Path) -> list[str]:
    content = parse_json(text, path)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict) and all(type(index) is int for index in content.values()):
        names = {index: name.strip('"') for name, index in content.items()}  # PyTorchVideo's list quotes its names
        if sorted(names) == list(range(len(content))):
            return [names[index] for index in range(len(names))]
        raise InputError(f"{path}: indices must be 0 to {len(content) - 1}, each once")
    raise InputError(f"{path}: give a JSON list of names, or an object of name: index")


def _checked(names: list[str], what: str) -> LabelMap:
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"{what}: no labels in it")
    if "" in names:
        raise InputError(f"{what}: line {names.index('') + 1} is empty; every class needs a name")
    return LabelMap(tuple(names))
