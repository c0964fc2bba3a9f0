"""`twospeed train`: run a recipe, with its settings as options; list and copy recipes."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import json
import logging
import math
import os
import re
import sys
import tempfile
import time
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer

from twospeed.cli.printing import printable
from twospeed.cli.progress import show_progress
from twospeed.errors import InputError, OutputError
from twospeed.files import parse_json, read_json
from twospeed.recipes import available, resolve_recipe, source

# For the registration: what follows the recipe are its own settings, which only the recipe knows.
CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def train(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe, or path of a copied one.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes and what they train.")] = False,
    preset: Annotated[
        str | None, typer.Option(help="Start from one of the recipe's presets. Default: the recipe's own settings.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Start from the config.json of another run, to repeat or vary it.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in --out from its last checkpoint, with its settings. Without a checkpoint the "
            "training starts from the beginning.",
        ),
    ] = False,
    fields: Annotated[
        bool, typer.Option("--fields", help="Print the settings and their values; train nothing.")
    ] = False,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate",
            help="Check settings, data folders and start weights, take one step in a temporary folder, and report what "
            "would run. Use it before a long training.",
        ),
    ] = False,
    copy: Annotated[
        Path | None, typer.Option(help="Write the recipe's script, its loop included, to this file, to edit and run.")
    ] = None,
    show_help: Annotated[
        bool, typer.Option("--help", help="Show this message; after a recipe, what it trains and its settings.")
    ] = False,
) -> None:
    """Train a network: RECIPE [--setting value ...]. Every setting of the recipe is an option (see --fields).

    Classes of your own, from a few clips each: `twospeed train actions FOLDER`, where FOLDER holds a folder of clips
    for each class; then `twospeed classify clip.mp4 --weights runs/actions/weights.safetensors`.

    On several processes: torchrun --nproc-per-node 8 -m twospeed.cli.main train RECIPE ...
    """
    if show_help and recipe is None:
        typer.echo(context.get_help())
        return
    if list_recipes or recipe is None:
        if recipe is None and not list_recipes:
            raise InputError(f"which recipe? {', '.join(available())}; `twospeed train --list` describes them")
        width = max(map(len, available()), default=0)
        for name, summary in available().items():
            typer.echo(f"{name:<{width}}  {summary}")
        return
    recipe, begins = resolve_recipe(recipe, preset)
    if copy is not None:
        copy_recipe(recipe, copy)
        typer.echo(f"{copy}: edit it, then `twospeed train {copy}`")
        return
    module = load_recipe(recipe)
    settings = starting_settings(module, recipe, begins if config is None else preset, config)
    overrides = parse_options(context.args, type(settings), getattr(module, "ARGUMENT", None))
    changed = apply_settings(settings, overrides)
    if resume:
        kept = Path(changed.out) / "config.json"
        if config is None and preset is None and kept.is_file():  # the run's own settings, but for what is given now
            changed = apply_settings(apply_settings(settings, read_config(kept, type(settings))), overrides)
    if show_help:
        typer.echo(f"{inspect.getdoc(module) or recipe}\n\nSettings, and what they are here:\n")
    if fields or show_help:
        for field in settings_fields(changed):
            typer.echo(f"--{field.name.replace('_', '-')} {shown(getattr(changed, field.name))}")
        return
    from twospeed.training.run import check_settings

    check_settings(changed)
    show_log()
    if validate:
        for line in validate_settings(module, recipe, changed):
            typer.echo(line)
        return
    reports = "on_progress" in inspect.signature(module.train).parameters  # recipes of one's own may not
    with show_progress() as on_progress:
        folder = module.train(changed, resume=resume, **({"on_progress": on_progress} if reports else {}))
    if os.environ.get("RANK", "0") == "0":
        typer.echo(str(folder))


def show_log() -> None:
    """Print what the package logs to stderr, a line each."""
    package = logging.getLogger("twospeed")
    if not any(isinstance(handler, _Lines) for handler in package.handlers):
        package.addHandler(_Lines())
    package.setLevel(logging.INFO)


class _Lines(logging.StreamHandler[typing.TextIO]):
    """Writes to the stderr of the moment, with the time; control characters of foreign names are escaped."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def validate_settings(module: ModuleType, recipe: str, settings: Any) -> list[str]:
    """Take one step of a training in a temporary folder; returns lines for people. Raises what the training would."""
    names = {field.name for field in dataclasses.fields(settings)}
    if "stop_after_steps" not in names:
        raise InputError(f"{recipe}: has no setting stop_after_steps, so that one step cannot be tried")
    out = Path(settings.out)
    state = "is new"
    if any(out.glob("checkpoint_*.pt")):
        state = "holds a run, which can be resumed"
    elif (out / "metrics.jsonl").exists():
        state = "holds a run without a checkpoint, which would start from the beginning if resumed"
    with tempfile.TemporaryDirectory(prefix="twospeed-validate-") as folder:
        trial = {"out": Path(folder) / "run", "stop_after_steps": 1, "log_every": 1}
        started = time.perf_counter()
        run = module.train(dataclasses.replace(settings, **trial))
        seconds = time.perf_counter() - started
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first: dict[str, Any] = next((row for row in rows if "loss" in row), {})
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in first.items() if isinstance(value, int | float))
    lengths = ("iterations", "epochs", "detector_epochs", "minutes")
    plan = ", ".join(
        f"{name} {shown(getattr(settings, name))}" for name in (*lengths, "batch", "lr", "folds") if name in names
    )
    return [
        f"{recipe}: settings, data and start weights are usable",
        f"would train: {plan}; on {getattr(settings, 'device', None) or 'the GPU where there is one, else the CPU'}",
        f"would write into {out}, which {state}",
        f"one step, with setting up: {seconds:.1f} s" + (f"; {numbers}" if numbers else ""),
    ]


def load_recipe(name: str) -> ModuleType:
    """Import a recipe of the package, or a copied file. Raises InputError for an unknown one."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{path}: no such recipe file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # dataclasses look their module up
        sys.path.append(str(path.resolve().parent))  # processes that load data or share work import it, too
        try:
            spec.loader.exec_module(module)
        except (SyntaxError, ValueError) as error:  # ValueError: null bytes
            raise InputError(
                f"{path}:{getattr(error, 'lineno', None) or 1}: is not a Python script ({error})"
            ) from error
        if not hasattr(module, "train"):
            raise InputError(f"{path}: has no function train(config, *, resume=False)")
        return module
    known = available()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise InputError(f"no recipe {name!r}; {hint} {', '.join(known)}")
    return importlib.import_module(f"twospeed.recipes.{name}")


def copy_recipe(name: str, target: Path) -> None:
    """Write a recipe's script to a file that does not exist yet."""
    if name not in available():
        raise InputError(f"no recipe {name!r}; there are {', '.join(available())}")
    if target.is_dir():
        target = target / f"{name}.py"
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(source(name).read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise InputError(f"{target}: exists already; choose another file") from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror})") from error


def settings_type(module: ModuleType) -> type[Any]:
    """Return the dataclass that a recipe's `train` takes."""
    hints = list(typing.get_type_hints(module.train).values())
    if not hints or not dataclasses.is_dataclass(hints[0]):
        raise InputError(f"{module.__name__}: train(config: Settings, ...) needs a dataclass of settings as type hint")
    return typing.cast(type[Any], hints[0])


def settings_fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of settings: a recipe's own, then those of every run."""
    from twospeed.training.run import RunSettings  # imports torch

    shared = {field.name for field in dataclasses.fields(RunSettings)}
    return sorted(dataclasses.fields(kind), key=lambda field: field.name in shared)


def starting_settings(module: ModuleType, recipe: str, preset: str | None, config: Path | None) -> Any:
    """Return the recipe's defaults, a preset, or what a config.json says."""
    kind = settings_type(module)
    if preset is not None:
        presets: Mapping[str, Any] = getattr(module, "PRESETS", {})
        if preset not in presets:
            raise InputError(f"{recipe} has no preset {preset!r}; there are {', '.join(presets) or 'none'}")
        return presets[preset]()
    settings = kind()
    return settings if config is None else apply_settings(settings, read_config(config, kind))


def read_config(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Read a config.json as typed settings. Raises InputError for unknown settings and values of another type."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: settings are a JSON object, not {shown(values)[:40]}")
    hints = typing.get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise InputError(f"{path}: unknown setting {unknown[0]!r}; the recipe has {', '.join(hints)}")
    return {name: convert(value, hints[name], name) for name, value in values.items()}


def apply_settings(settings: Any, overrides: Mapping[str, Any]) -> Any:
    """Return settings with some of them replaced."""
    return dataclasses.replace(settings, **overrides)


def parse_options(arguments: Sequence[str], kind: type[Any], plain: str | None = None) -> dict[str, Any]:
    """Turn `--field value`, `--field=value`, `--flag` and `--no-flag` into typed settings of a dataclass.

    plain: the setting that a value without an option before it is for. Raises InputError with the known fields for an
    unknown one, and with what is expected for a bad value.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in settings_fields(kind)]
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--") and plain is not None and plain not in overrides:
            overrides[plain] = convert(option, hints[plain], plain)
            continue
        if not option.startswith("--"):
            raise InputError(f"unexpected {option!r}; settings are given as --field value, such as --out FOLDER")
        name, has_value, text = option[2:].partition("=")
        name = name.replace("-", "_")
        if name not in names and name.startswith("no_") and hints.get(name[3:]) is bool and not has_value:
            overrides[name[3:]] = False
            continue
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean --{near[0].replace('_', '-')}?)" if near else ""
            raise InputError(f"unknown setting {option!r}{hint}; known: {', '.join(names)}")
        values = [text] if has_value else []
        while not has_value and rest and not rest[0].startswith("--") and not (values and plain):
            values.append(rest.pop(0))
        if not values and hints[name] is bool:
            overrides[name] = True
            continue
        if not values:
            raise InputError(f"{option} needs a value: {expected(hints[name])}")
        overrides[name] = convert(values[0] if len(values) == 1 else values, hints[name], name)
    return overrides


def convert(value: Any, hint: Any, name: str) -> Any:
    """Convert text or a JSON value to the type of a setting."""
    try:
        return _converted(value, hint)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}={repr(value)[:200]}: expected {expected(hint)}") from error


def _converted(value: Any, hint: Any) -> Any:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            if type(None) in inside:
                return None
            raise ValueError(value)
        return _first(value, [kind for kind in inside if kind is not type(None)])
    if origin is Literal:
        choices = {str(choice): choice for choice in inside}
        return choices[str(value)] if str(value) in choices else _fail(value)
    if origin is tuple:
        items = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value)
        if len(inside) == 2 and inside[1] is Ellipsis:
            return tuple(_converted(item, inside[0]) for item in items)
        if len(items) != len(inside):
            raise ValueError(value)
        return tuple(_converted(item, kind) for item, kind in zip(items, inside, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        content = parse_json(value, "this text") if isinstance(value, str) else value
        return dict(content) if isinstance(content, Mapping) else _fail(value)
    if isinstance(value, list | tuple | Mapping) or value is None:
        raise ValueError(value)
    if hint is bool:
        text = str(value).lower()
        return True if text in _TRUE else False if text in _FALSE else _fail(value)
    if hint is int:
        text = str(value).replace("_", "")
        return int(text) if re.fullmatch("[+-]?[0-9]{1,18}", text) else _fail(value)
    if hint is float:
        number = float(value)
        return number if math.isfinite(number) and str(value).isascii() else _fail(value)
    return hint(value)


def _first(value: Any, kinds: Sequence[Any]) -> Any:
    """Convert to the first of several types that takes the value."""
    for kind in kinds[:-1]:
        try:
            return _converted(value, kind)
        except (TypeError, ValueError):
            continue
    return _converted(value, kinds[-1])


def _fail(value: Any) -> typing.NoReturn:
    raise ValueError(value)


def expected(hint: Any) -> str:
    """Describe what a setting takes."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if kind is type(None) else expected(kind) for kind in inside)
    if origin is Literal:
        return " or ".join(str(choice) for choice in inside)
    if origin is tuple:
        if inside[-1] is Ellipsis:
            return f"values separated by commas, each {expected(inside[0])}"
        return f"{len(inside)} values separated by commas, each {expected(inside[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return 'a JSON object such as {"fusion_kernel": 7}'
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return words.get(hint, str(hint))


def shown(value: Any) -> str:
    """Write a value as it would be given on the command line."""
    if isinstance(value, tuple):
        return ",".join(shown(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
