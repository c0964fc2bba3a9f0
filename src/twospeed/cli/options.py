"""Options that several commands share, each written once, with the types that check what people type.

Everything here is checked before torch is loaded: a wrong number or a missing file is reported at once.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

import typer

from twospeed.errors import CheckpointError, InputError, MaskError, OutputError
from twospeed.files import is_there

if TYPE_CHECKING:
    from twospeed.output.folder import ResultFolder
    from twospeed.video.sources import Source

T = TypeVar("T")

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

_FARTHEST = 1e9  # pixels


def whole(least: int, most: int = 10**9) -> Callable[[object], int]:
    """Return a type for whole numbers in a range, written in ASCII digits."""

    def parse(given: object) -> int:
        text = str(given)  # defaults come as numbers
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise typer.BadParameter(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse


def whole_or_none(least: int) -> Callable[[object], int | None]:
    """Return a type for whole numbers in a range, or the word "none": no limit."""
    number_of = whole(least)

    def parse(given: object) -> int | None:
        if str(given) == "none":
            return None
        try:
            return number_of(given)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"{error.message}, nor none (no limit)") from None

    return parse


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[object], float]:
    """Return a type for finite numbers in a range. above: `least` itself is refused."""

    def parse(given: object) -> float:
        text = str(given)
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value) or not least <= value <= most or (above and value == least):
            low = f"above {least:g}" if above else f"from {least:g}"
            high = "" if most == math.inf else f" up to {most:g}" if above else f" to {most:g}"
            raise typer.BadParameter(f"{text!r} is not a number {low}{high}")
        return value

    return parse


def option(metavar: str, help: str, **settings: Any) -> Any:
    """Return an option with a value. metavar: what stands for it in the help. settings: of `typer.Option`."""
    return typer.Option(metavar=metavar, help=help, **settings)


def whole_option(least: int, most: int = 10**9, **settings: Any) -> Any:
    """Return an option for whole numbers in a range. settings: of `typer.Option`."""
    return typer.Option(**{"metavar": "N", **settings}, parser=whole(least, most))


def number_option(least: float, most: float = math.inf, *, above: bool = False, **settings: Any) -> Any:
    """Return an option for finite numbers in a range, as `number` reads them. settings: of `typer.Option`."""
    return typer.Option(**settings, parser=number(least, most, above=above))


def parse_ints(option: str, text: str | None) -> tuple[int, ...]:
    """Read whole numbers between commas; none for None. Raises InputError."""
    parts = text.split(",") if text else []
    if not all(_WHOLE.fullmatch(part) for part in parts):
        raise InputError(f"{option} {text}: expected whole numbers separated by commas")
    return tuple(int(part) for part in parts)


def parse_numbers(option: str, text: str, names: str) -> tuple[float, ...]:
    """Read numbers between commas, as many as `names` ("x,y") has. Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    sound = all(_NUMBER.fullmatch(part) and abs(float(part)) < _FARTHEST for part in parts)
    if len(parts) != len(names.split(",")) or not sound:
        example = {2: "60,40", 4: "10,20,100,80"}[len(names.split(","))]
        raise InputError(f"{option} is {text!r}; give {names} in pixels, such as {example}")
    return tuple(float(part) for part in parts)


Video = Annotated[
    str,
    typer.Argument(
        metavar="VIDEO",
        help="A video file, a folder of images, a camera's number (0 is the first), an address (rtsp://, http://, "
        "https://: a file or a stream, read while it is received), or - for standard input.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FOLDER",
        help="Folder for the results; created if it is missing. [default: VIDEO_COMMAND, such as clip_track]",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files in the output folder that no earlier run wrote, or that were changed since. Without it "
        "such files stop the command; results of an earlier run are replaced, but not those of another video that has "
        "the same name, unless --output names the folder.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue an interrupted run in the output folder: finished frames are kept. Options and inputs must be "
        "the same. A run that has finished is not repeated.",
    ),
]
Overlay = Annotated[
    bool,
    typer.Option(help="Write overlay.mp4, the video with the results drawn on it. Without it the command is faster."),
]
Audio = Annotated[
    bool, typer.Option("--audio/--no-audio", help="Keep the sound of a video file in the videos that are written.")
]
Start = Annotated[
    str | None,
    option(
        "TIME", "Where to begin: a frame number (250), seconds (10.5s) or a time (HH:MM:SS). [default: the first frame]"
    ),
]
End = Annotated[
    str | None, option("TIME", "Where to stop, in the same units; this frame is left out. [default: the last frame]")
]
Damaged = Annotated[
    Literal["error", "skip"],
    typer.Option(
        help="What to do with a frame that cannot be decoded: stop with an error and keep finished frames, or skip it."
    ),
]
Device = Annotated[
    str | None,
    option("NAME", "Where networks run: cpu, cuda, cuda:1, mps. [default: a graphics card if there is one, else cpu]"),
]
Precision = Annotated[
    Literal["fp32", "bf16", "auto"],
    typer.Option(
        help="Number format of the network. bf16 is faster on processors and cards made for it, with slightly "
        "different results; auto chooses it there, else fp32."
    ),
]
Weights = Annotated[
    str,
    option(
        "FILE",
        "'default' (the weights that come with the model), or a checkpoint: a .safetensors of twospeed or the "
        "authors' own file.",
    ),
]
ManyWeights = Annotated[
    list[str] | None,
    option(
        "FILE",
        "'default', 'random' (to try things out), or a checkpoint: a .safetensors of twospeed or the authors' own "
        "file. Repeat it for several models; one alone holds for all. [default: default]",
    ),
]
Labels = Annotated[
    str | None, option("FILE", "Text file of class names, one on each line. [default: those of the weights]")
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress and no summary.")]


def parameters_of(command: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return the options of a command, or of a group, as parameters by name, with resolved annotations."""
    hints = get_type_hints(command, include_extras=True)
    return {
        name: parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
    }


def with_parameters(command: Callable[..., T], parameters: Iterable[inspect.Parameter]) -> Callable[..., T]:
    """Let a command that takes any keywords say which options it has."""
    named = list(parameters)
    command.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in named}
    return command


def grouped(command: Callable[..., T]) -> Callable[..., T]:
    """Return a command that has an option for each field of those parameters that are groups: dataclasses of options.

    The command itself takes each group whole. A field is annotated and has a default as a parameter would. Help shows
    the fields under the group's `panel`, if it has one.
    """
    groups: dict[str, dict[str, inspect.Parameter]] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in parameters_of(command).items():
        if is_dataclass(parameter.annotation):
            groups[name] = _in_panel(parameter.annotation)
        parameters |= groups.get(name, {name: parameter})
    kinds = get_type_hints(command)

    def called(**values: Any) -> T:
        for name, options in groups.items():
            values[name] = kinds[name](**{each: values.pop(each) for each in options})
        return command(**values)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return with_parameters(called, parameters.values())


def _in_panel(group: Any) -> dict[str, inspect.Parameter]:
    """Return a group's options, which help shows under its panel unless they name one themselves."""
    fields = parameters_of(group)
    for name, field in fields.items():
        kind, option = get_args(field.annotation)
        option = copy.copy(option)
        option.rich_help_panel = option.rich_help_panel or getattr(group, "panel", None)
        fields[name] = field.replace(annotation=Annotated[kind, option])
    return fields


def ungrouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's arguments without groups: by the names of their options."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= vars(value) if is_dataclass(value) else {name: value}
    return flat


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Which part of a video a job computes, and where its results go."""

    panel: ClassVar = "Video and folder of results"

    output: Output = None
    overwrite: Overwrite = False
    resume: Resume = False
    start: Start = None
    end: End = None
    damaged: Damaged = "error"
    overlay: Overlay = True
    audio: Audio = True
    device: Device = None
    json_output: Json = False
    quiet: Quiet = False

    @property
    def span(self) -> dict[str, Any]:
        """Which part of the video is read, and how."""
        return {"start": self.start, "end": self.end, "damaged": self.damaged}

    @property
    def recorded(self) -> dict[str, Any]:
        """What run.json keeps of these options."""
        return {**self.span, "overlay": self.overlay, "audio": self.audio}

    def source(self, video: str) -> Source:
        """Find the video. Raises InputError where it, or the part that is wanted, cannot be read."""
        from twospeed.video.sources import find_source

        source = find_source(video)
        if self.resume and not source.stored:
            raise InputError(
                f"{source.name} cannot be read a second time, so that it cannot be resumed", option="resume"
            )
        check_range(self.start, self.end)
        return source

    def folder(self, source: Source, command: str, files: Iterable[str], inputs: Iterable[Path]) -> ResultFolder:
        """Return the folder of the results, named after the video unless given. files: what the command writes."""
        from twospeed.output.folder import ResultFolder

        place = self.place(source, command)
        if self.output is None and not self.overwrite and not self.resume:
            _check_video(place, source)
        return ResultFolder(
            place,
            list(files),
            inputs=[*inputs, *source.files],
            overwrite=self.overwrite,
            resume=self.resume,
        )

    def place(self, source: Source, command: str) -> Path:
        """Return the path of that folder."""
        stem = source.stem or {"camera": source.name.replace(" ", ""), "network": "stream"}.get(source.kind, "stdin")
        return self.output or Path(f"{stem}_{command}")

    def sound_of(self, source: Source) -> Path | None:
        """Return the file that the sound of written videos comes from; None for silent ones."""
        return source.target if self.audio and source.kind == "file" else None


def _check_video(folder: Path, source: Source) -> None:
    """Raise OutputError where a folder that nobody named holds results of another video of the same name."""
    from twospeed.output.record import identify, read_record

    try:
        before = read_record(folder / "run.json")["inputs"]["video"]
        path = before["path"]
    except (OutputError, LookupError):  # no record of a run
        return
    if path != source.name and before != {"path": path, **identify(source.files)}:
        what = f"{folder} holds results of another video, {path}"
        raise OutputError(f"{what}; name a folder with -o, or allow to replace them", option="overwrite")


def is_live(video: str) -> bool:
    """Return whether a source is not a file: standard input, an address, or a camera."""
    return video == "-" or "://" in video or (video.isascii() and video.isdecimal() and not is_there(Path(video)))


def folders_for(videos: Iterable[str], output: Path) -> list[Path]:
    """Return a folder within `output` for each video, named after it; the second of a name gets a number."""
    counts = Counter[str]()
    folders = []
    for stem in (Path(video).stem or "video" for video in videos):
        counts[stem] += 1
        folders.append(output / (stem if counts[stem] == 1 else f"{stem}_{counts[stem]}"))
    return folders


def check_files(paths: Iterable[Path], error: type[InputError] = MaskError) -> None:
    """Raise an error at once for a file that is missing."""
    for path in paths:
        if not is_there(path):
            raise error(f"{path}: no such file")


def check_weights(weights: Iterable[str]) -> None:
    """Raise CheckpointError at once where a file of weights is missing."""
    for name in weights:
        if name not in ("default", "random") and "://" not in name and not is_there(Path(name)):
            raise CheckpointError(f"no checkpoint at {name}")


def models_and_weights(
    names: list[str] | None, weights: list[str] | None, task: str, default: str
) -> tuple[list[str], list[str | None]]:
    """Pair models with their weights; None are random ones. Without a name, the file of weights says its model.

    default: the model where neither is given. Raises InputError for a model of another task.
    """
    from twospeed.weights.catalog import find

    if not names:
        names = [default if file in ("default", "random") else model_of_file(file) for file in weights or ["default"]]
    for name in names:
        if (entry := find(name)).task != task:
            raise InputError(f"{name} is made for the task {entry.task}; `twospeed models --task {task}` lists others")
    given = [None if name == "random" else name for name in weights or ["default"]]
    if None in given:  # who asks for random weights need not be warned of them
        logging.getLogger("twospeed.weights.load").setLevel(logging.ERROR)
    given = given * len(names) if len(given) == 1 else given
    if len(given) != len(names):
        raise InputError(f"{len(names)} models with {len(given)} weights: give one for each, in the same order")
    return names, given


def model_of_file(file: str) -> str:
    """Name the model that a file of weights is of. Raises CheckpointError."""
    check_weights([file])
    from twospeed.weights.load import model_of

    return model_of(file)


def check_range(start: str | None, end: str | None) -> None:
    """Raise InputError for positions that cannot be read."""
    from twospeed.video.sources import parse_position

    for name, position in (("start", start), ("end", end)):
        if position is not None:
            parse_position(position, name)


def image_suffix(source: Source) -> str:
    """Return the suffix of the images that a source's frames are called after: a folder's own, else .jpg."""
    return source.target[0].suffix if source.kind == "images" else ".jpg"


def identities(files: Mapping[str, Path], source: Source | None = None) -> dict[str, Any]:
    """Identify inputs by their content, for run.json."""
    from twospeed.output.record import identify

    found = dict[str, Any]()
    for role, path in files.items():
        inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        found[role] = {"path": str(path), **identify(inside)}
    if source is not None:
        found["video"] = {"path": source.name, **identify(source.files)}
    return found
