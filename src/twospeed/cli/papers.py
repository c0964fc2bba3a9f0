"""`twospeed papers`: the papers' tables, their numbers beside ours."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twospeed.cli.options import number, option
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.papers.facts import Paper, PaperTable


def papers(
    paper: Annotated[str | None, typer.Argument(metavar="[PAPER]", help="Which paper.  [default: list all]")] = None,
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="Which table.  [default: all of it]")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List papers and their tables, and stop.")] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder of evaluations, RUN.json each, whose numbers are ours. With --data and --weights those that "
            "are missing are run into it first.",
            metavar="DIR",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        option(
            "NAME=DIR",
            "Folder of a data set, such as davis17=DAVIS/2017/trainval; the names are listed with the table.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        option(
            "NAME=FILE",
            "Weights that runs need; the names are listed with the table. A path with {name} in it stands for "
            "all that are there, such as 'runs/{name}/weights.safetensors'.",
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        option("ROW/COLUMN=VALUE", "Enter a number by hand, such as a server's, in the unit that the paper prints."),
    ] = None,
    options: Annotated[
        str | None,
        option(
            "TEXT", 'More options for every evaluation, such as "--sequences dog,cows". They win over the paper\'s.'
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        option(
            "NAME",
            "Evaluate on this benchmark in place of the paper's, such as camvid for a small reproduction; the "
            "table says so.",
        ),
    ] = None,
    model: Annotated[
        str | None, option("NAME", "Network of all --weights, in place of the paper's; the table says so.")
    ] = None,
    plot: Annotated[
        Path | None,
        option(
            "FILE",
            "Draw accuracy against frames per second as PNG: the paper's points and ours. For tables that have "
            "both, such as gsvnet's table1, fig3, figA5 and figA6.",
        ),
    ] = None,
    output_format: Annotated[Literal["text", "csv", "json"], typer.Option("--format", help="How to print.")] = "text",
) -> None:
    """Print the papers' tables with our numbers beside theirs, and what would fill empty cells.

    What there is, and one table:

        twospeed papers --list
        twospeed papers stcn table1

    With the evaluations in a folder, run into it where data and weights are there:

        twospeed papers stcn table1 --run runs --data davis17=DAVIS/2017/trainval --weights stcn-l2=stcn.pth
    """
    from twospeed.papers.facts import PAPERS, read_paper
    from twospeed.papers.tables import fill

    if show_list or paper is None:
        names = [paper] if paper else list(PAPERS)
        content = [read_paper(name) for name in names]
        if output_format == "json":
            tables = {one.name: {each.name: each.title for each in one.tables} for one in content}
            typer.echo(json.dumps(tables, indent=2, ensure_ascii=False))
            return
        for one in content:
            typer.echo(f"{one.name}: {one.title} ({one.authors})")
            for each in one.tables:
                typer.echo(f"  {each.name:<13} {each.source}: {each.title}")
        return
    chosen = read_paper(paper)
    wanted = [chosen.table(table)] if table else list(chosen.tables)
    scores = {name: _number(name, value) for name, value in _pairs("--score", score).items()}
    if scores and not table:
        raise InputError("--score belongs to one table; name it")
    if data or weights:
        if run is None:
            raise InputError("--data and --weights run evaluations; give --run DIR, where they are kept")
        changed = _in_place(chosen, benchmark, model)
        _evaluate(changed, wanted, run, _pairs("--data", data), _weights(chosen, weights), _words(options or ""))
    elif options is not None or benchmark is not None or model is not None:
        raise InputError(
            "--options, --benchmark and --model are those of evaluations that are run; give --run, --data and --weights"
        )
    filled = [fill(chosen, each, run, scores) for each in wanted]
    if plot is not None:
        if len(filled) > 1:
            raise InputError("--plot draws one table; name it")
        from twospeed.output.plots import plot_trade_off

        (drawn,) = filled
        plot_trade_off(plot, drawn.curves(), title=f"{chosen.name} {drawn.table.name}: {drawn.table.source}")
    if output_format == "json":
        typer.echo(json.dumps([one.to_json() for one in filled], indent=2, ensure_ascii=False))
    else:
        typer.echo("\n\n".join(one.csv().rstrip() if output_format == "csv" else one.text() for one in filled))


def _evaluate(
    paper: Paper,
    tables: list[PaperTable],
    folder: Path,
    data: dict[str, str],
    weights: dict[str, str],
    options: list[str],
) -> None:
    """Run the evaluations that are not in the folder yet and have data and weights; each by its own command."""
    from twospeed.cli.evaluate import app

    if unknown := set(weights) - set(paper.weights):
        raise InputError(f"--weights {min(unknown)}: {paper.name} names {', '.join(paper.weights)}")
    if unknown := set(data) - {run.data for run in paper.runs.values()}:
        names = dict.fromkeys(run.data for run in paper.runs.values())
        raise InputError(f"--data {min(unknown)}: {paper.name} uses {', '.join(names)}")
    for name in dict.fromkeys(name for table in tables for name in table.runs()):
        run = paper.runs[name]
        file = folder / f"{name}.json"
        if file.is_file() or run.data not in data or any(key not in weights for _, key in run.models):
            continue
        masks = folder / name
        words = run.arguments(data[run.data], weights, str(file), str(masks))
        resume = ["--resume"] if masks.is_dir() else []
        typer.echo(shlex.join(["twospeed", *words, *options, *resume]), err=True)
        app([*words[1:], *options, *resume, "-q"], prog_name="twospeed evaluate", standalone_mode=False)


def _in_place(paper: Paper, benchmark: str | None, model: str | None) -> Paper:
    """Return the paper with its evaluations on another benchmark, of another network. Raises InputError."""
    from twospeed.cli.evaluate import app
    from twospeed.weights.catalog import find

    if benchmark is not None and benchmark not in (names := list(typer.main.get_command(app).commands)):  # type: ignore[attr-defined]
        raise InputError(f"--benchmark {benchmark}: there are {', '.join(names)}")
    if model is not None:
        find(model)
    runs = {}
    for name, run in paper.runs.items():
        if benchmark is not None:
            run = replace(run, benchmark=benchmark, data=benchmark)
        if model is not None:
            run = replace(run, models=tuple((model, key) for _, key in run.models))
        runs[name] = run
    return replace(paper, runs=runs)


def _words(options: str) -> list[str]:
    """Split options as a shell does. Raises InputError."""
    try:
        return shlex.split(options)
    except ValueError as error:
        raise InputError(f"--options {options}: {error}") from None


def _weights(paper: Paper, given: list[str] | None) -> dict[str, str]:
    """Read NAME=FILE, and paths with {name} in them: of all names whose file is there."""
    found: dict[str, str] = {}
    for pattern in (text for text in given or () if "{name}" in text):
        paths = {name: pattern.replace("{name}", name) for name in paper.weights}
        there = {name: path for name, path in paths.items() if Path(path).is_file()}
        if not there:
            raise InputError(f"--weights {pattern}: no such file for any of {', '.join(paths)}")
        found |= there
    return found | _pairs("--weights", [text for text in given or () if "{name}" not in text])


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        name, found, value = text.partition("=") if option != "--score" else text.rpartition("=")
        if not (name and found and value):
            raise InputError(f"{option} {text}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def _number(name: str, value: str) -> float:
    try:
        return number(-math.inf)(value)
    except typer.BadParameter:
        raise InputError(f"--score {name}={value}: {value!r} is not a number") from None
