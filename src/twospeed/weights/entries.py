"""What is known of a model: a line of the catalogue, or what an exported model's folder says of itself.

DIR/model.json          format, model, task, engine, precision, graphs, files, attributes, preprocessing, labels, check
DIR/encode_key.onnx ... one file for each graph; OpenVINO has two, .xml and .bin
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from twospeed.errors import CheckpointError, InputError
from twospeed.files import read_json, write_json

FORMAT = "twospeed export 1"
FILE = "model.json"

ENGINES = ("onnx", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")

Task = Literal["classify", "detect", "track", "segment", "click"]
TASKS: tuple[Task, ...] = ("classify", "detect", "track", "segment", "click")


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


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """One graph: its file, and the names of what goes in and comes out, in order."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What `model.json` says.

    folder: where it lies. model: the catalogue name, or the class of a network of the user's own. graphs: by name.
    files: the SHA-256 of each file, by name. attributes: of the network, those that its pipeline reads. labels: names
    of the classes. opset: of ONNX. check: the largest differences between torch and the graphs on real frames, see
    `export.write`. origin: weights, their licence, and versions.
    """

    folder: Path
    model: str
    task: Task
    engine: str
    precision: str
    graphs: Mapping[str, GraphFile]
    files: Mapping[str, str]
    attributes: Mapping[str, Any]
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    opset: int
    check: Mapping[str, Any]
    origin: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Where `model.json` is."""
        return self.folder / FILE

    @property
    def entry(self) -> Entry:
        """The model as a line of the catalogue."""
        return Entry(
            name=str(self.folder),
            task=self.task,
            summary=f"{self.model}, exported for {self.engine} in {self.precision}",
            builder="",
            converter="",
            paper="",
            preprocessing=self.preprocessing,
            needs_masks=self.task == "track",
            exported=self,
        )

    def write(self) -> None:
        """Write `model.json` into the folder. Raises OutputError."""
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_json(self.path, {"format": FORMAT, **content})


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
