"""Exported models on disk: `model.json`, which says what the graphs beside it are. Read here without torch.

DIR/model.json          format, model, task, engine, precision, graphs, files, attributes, preprocessing, labels, check
DIR/encode_key.onnx ... one file for each graph; OpenVINO has two, .xml and .bin
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from twospeed.errors import CheckpointError, InputError
from twospeed.files import read_json
from twospeed.weights.entries import FILE, FORMAT, TASKS, ExportedModel, GraphFile, Preprocessing

ENGINES = ("onnx", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")


def read_exported(folder: Path) -> ExportedModel:
    """Read what an exported model is.

    Raises InputError for a folder that holds none, CheckpointError for one whose `model.json` is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} is a folder without {FILE}, no exported model; export_model writes one")
    try:
        content = read_json(path)
    except InputError as error:
        raise CheckpointError(f"{error}; export the model again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not of the format {FORMAT!r}; export the model again")
    try:
        graphs = {
            str(name): GraphFile(
                file=_plain_name(graph["file"]),
                inputs=tuple(map(str, graph["inputs"])),
                outputs=tuple(map(str, graph["outputs"])),
            )
            for name, graph in content["graphs"].items()
        }
        pre: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in content["preprocessing"].items()
        }
        if unknown := set(pre) - {field.name for field in fields(Preprocessing)}:
            raise ValueError(f"preprocessing has {sorted(unknown)[0]!r}")
        labels = content["labels"]
        model = ExportedModel(
            folder=folder,
            model=str(content["model"]),
            task=_one_of(content["task"], TASKS),
            engine=_one_of(content["engine"], ENGINES),
            precision=_one_of(content["precision"], PRECISIONS),
            graphs=graphs,
            files={_plain_name(name): str(value) for name, value in content["files"].items()},
            attributes=dict(content["attributes"]),
            preprocessing=Preprocessing(**pre),
            labels=None if labels is None else tuple(map(str, labels)),
            opset=int(content["opset"]),
            check=dict(content["check"]),
            origin=dict(content["origin"]),
        )
        if missing := [graph.file for graph in graphs.values() if graph.file not in model.files]:
            raise ValueError(f"no checksum of {missing[0]}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: is damaged ({what}); export the model again") from error
    return model


def _plain_name(name: Any) -> str:
    """Return the name of a file in the folder itself. Raises ValueError for a path to elsewhere."""
    if not isinstance(name, str) or not name or name != Path(name).name or "\\" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no file name")
    return name


def _one_of(value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value
