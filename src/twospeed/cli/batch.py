"""`twospeed batch`: a job over many videos, on this machine or a Ray cluster; and what is known of such a batch."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from twospeed.cli.classify import classify
from twospeed.cli.detect import detect
from twospeed.cli.options import (
    Json,
    Quiet,
    check_range,
    number_option,
    option,
    parameters_of,
    whole_option,
    with_parameters,
)
from twospeed.cli.parts import split
from twospeed.cli.printing import print_json, print_line, print_note
from twospeed.cli.progress import show_progress
from twospeed.cli.segment import segment
from twospeed.cli.track import track
from twospeed.environment import usable_cores
from twospeed.errors import InputError

if TYPE_CHECKING:
    from twospeed.batch.driver import Batch
    from twospeed.batch.local import Engine
    from twospeed.batch.worker import Work
    from twospeed.results import Progress

JOBS: Mapping[str, Callable[..., object]] = {"track": track, "segment": segment, "classify": classify, "detect": detect}
_OF_ONE_VIDEO = (
    "context", "video", "prompts", "output", "overwrite", "resume", "part", "parts", "json_output", "quiet",
)  # fmt: skip

app = typer.Typer(
    help="Run a job over many videos, on this machine or a Ray cluster. A second run of the same command continues.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

SplitMinutes = Annotated[
    float | None,
    number_option(
        0,
        1e5,
        above=True,
        metavar="MINUTES",
        help="Compute longer videos in parts of so many minutes, on several workers at once, with the same results. "
        "Not with --drift, nor without --timeline. [default: each video on one worker]",
    ),
]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder, or address such as s3://bucket/folder, of a batch.")]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Own options of `twospeed batch JOB`; those of the job come with them."""

    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Videos, folders, patterns ('shots/*.mp4'), addresses (s3://, gs://, https://), or lists (.csv, "
            ".parquet) with a column `video` and columns named as options, such as `start` or `mask`.",
            show_default=False,
        ),
    ]
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="OUT", help="Folder for the results, or address of one in a bucket."),
    ]
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes on this machine, or actors on a Ray cluster.")
    ] = "local"
    workers: Annotated[
        int | None,
        whole_option(
            1,
            10_000,
            help="Videos worked on at the same time. [default: one a graphics card; without any, one a core; with "
            "--engine ray as many as the cluster has cores and GPUs for]",
        ),
    ] = None
    address: Annotated[
        str | None,
        option("ADDRESS", "Ray cluster, such as auto or ray://host:10001. [default: RAY_ADDRESS, or one is started]"),
    ] = None
    cpus: Annotated[
        float, number_option(0, 1024, metavar="N", help="With --engine ray: cores to reserve for each worker.")
    ] = 1.0
    gpus: Annotated[
        float, number_option(0, 64, metavar="N", help="With --engine ray: graphics cards to reserve for each worker.")
    ] = 0.0
    masks: Annotated[
        Path | None,
        option("FOLDER", "For track: folder with a mask NAME.png, or a folder NAME of masks, for each video."),
    ] = None
    attempts: Annotated[
        int, whole_option(1, 100, help="Attempts at a video where a fault or a crash ends one. Broken videos get one.")
    ] = 3
    lease: Annotated[
        float,
        number_option(2, 86400, metavar="SECONDS", help="After how long without a sign of life a worker is replaced."),
    ] = 60.0
    memory: Annotated[
        float | None,
        number_option(
            0.1,
            1e5,
            metavar="GB",
            help="With --engine local: replace a process that holds more after a video. [default: no limit]",
        ),
    ] = None
    split_minutes: SplitMinutes = None
    metrics_port: Annotated[
        int | None,
        whole_option(0, 65535, metavar="PORT", help="Serve counts for Prometheus at 127.0.0.1:PORT/metrics."),
    ] = None
    resume: Annotated[bool, typer.Option(help="Always on: what is done already in OUT is not repeated.")] = True
    json_output: Json = False
    quiet: Quiet = False


def _job_command(job: str) -> Callable[..., None]:
    """Return the function of a subcommand: it takes the options of a batch and those of the job for one video."""

    def command(context: typer.Context, **values: Any) -> None:
        options = _Options(**{name: values[name] for name in own if name in values})
        if not options.resume:
            raise InputError(
                "finished videos are never repeated; choose another output for a new batch", option="resume"
            )
        _run(job, _given(context, names), options)

    own, theirs = parameters_of(_Options), parameters_of(JOBS[job])
    names = [name for name in theirs if name not in _OF_ONE_VIDEO]
    parameters = {**own, **{name: theirs[name] for name in names}}
    del parameters["split_minutes" if job == "track" else "masks"]  # a track depends on every frame before it
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    with_parameters(command, [context, *parameters.values()])
    command.__doc__ = f"""Run `twospeed {job}` over many videos.

    Results of each are in `OUT/videos/NAME`, as `twospeed {job}` writes them; `OUT/results.parquet` has a row a video,
    `OUT/report.html` shows counts, failures and thumbnails. The first Ctrl-C lets videos that are worked on end, the
    second stops at once; the same command continues. Exit code 2 when videos have failed.
    """
    return command


def _given(context: typer.Context, names: list[str]) -> list[str]:
    """Return the options that were given, among some, as a command line has them; paths as absolute ones."""
    arguments: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in names or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name]
        if isinstance(value, bool):
            arguments.append(parameter.opts[0] if value else parameter.secondary_opts[0])
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            path = Path(str(each))
            is_path = isinstance(each, Path) or (os.sep in str(each) and path.exists())
            text = "none" if each is None else str(each)  # as whole_or_none reads it
            arguments += [parameter.opts[0], str(path.absolute()) if is_path else text]
    return arguments


def _command_of(job: str) -> Any:
    """Return the command of a job by itself, as Typer runs it."""
    one = typer.Typer(add_completion=False)
    one.command(job)(JOBS[job])
    return typer.main.get_command(one)


def run_job(job: str, arguments: list[str]) -> None:
    """Run the command of a job in this process. Raises what it raises; InputError for options that are none.

    arguments: video, -o, folder, then options of a batch. Its folder may come from anyone: none may lead elsewhere.
    """
    command = _command_of(job)
    try:
        given = command.make_context(job, list(arguments)).params
        video = given["video"] if isinstance(given["video"], list | tuple) else [given["video"]]
        beside = Path(arguments[2]).parent  # where the worker keeps the answers of parts
        kept = [
            Path(text.split(",", 2)[-1]) for text in map(str, filter(None, (given.get("part"), given.get("parts"))))
        ]
        if (
            list(video) != arguments[:1]
            or str(given["output"]) != arguments[2]
            or given["overwrite"]
            or given.get("prompts")
            or any(path.parent != beside for path in kept)
        ):
            raise InputError("the batch's options name another video, or another place for results; begin a new batch")
        command.main(args=arguments, prog_name=f"twospeed {job}", standalone_mode=False)
    except TyperException as error:
        raise InputError(error.format_message()) from error


def count_parts(job: str, arguments: list[str], seconds: float) -> int:
    """Return in how many parts of so many seconds a job can compute the video of a command line; 1 for whole."""
    command = _command_of(job)
    return max(1, len(split(job, seconds, command.make_context(job, [*arguments]).params)))  # it takes its list apart


def _cells_to_arguments(job: str) -> Callable[[dict[str, str]], list[str]]:
    """Return what turns a line of a list into options of a job, and checks them as the command line does."""
    command = _command_of(job)
    known = {parameter.name: parameter for parameter in command.params if parameter.name not in _OF_ONE_VIDEO}
    flags = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

    def convert(cells: dict[str, str]) -> list[str]:
        arguments: list[str] = []
        for name, text in cells.items():
            parameter = known.get(name.replace("-", "_"))
            if parameter is None:
                raise InputError(f"there is no option {name!r} of {job} for this column; there are {', '.join(known)}")
            if parameter.is_flag:
                if text.lower() not in flags:
                    raise InputError(f"{name} is {text!r}; expected true or false")
                wanted = flags[text.lower()]
                options = parameter.opts if wanted else parameter.secondary_opts
                arguments += options[:1]
                continue
            for value in text.split(";") if parameter.multiple else [text]:
                arguments += [parameter.opts[0], value.strip()]
        try:
            chosen = command.make_context(job, ["video", *arguments]).params
        except TyperException as error:
            raise InputError(error.format_message()) from error
        check_range(chosen["start"], chosen["end"])
        return arguments

    return convert


def _run(job: str, arguments: list[str], options: _Options) -> None:
    from twospeed.batch.driver import Batch, Policy
    from twospeed.batch.inputs import find_videos, with_masks
    from twospeed.batch.storage import open_storage
    from twospeed.batch.tables import need_parquet

    need_parquet()
    videos = find_videos(options.inputs, _cells_to_arguments(job))
    if options.masks is not None:
        videos = with_masks(videos, options.masks)
    storage = open_storage(options.output)
    policy = Policy(attempts=options.attempts, lease_s=options.lease)
    with Batch(storage, job, arguments, policy) as batch:
        batch.add(videos)
        _finish(batch, job, arguments, options)


def _finish(batch: Batch, job: str, arguments: list[str], options: _Options) -> None:
    """Run what is pending, and report."""
    from twospeed.batch.worker import Work

    url = str(Path(options.output).absolute()) if "://" not in options.output else options.output
    work = Work(job, run_job, arguments, url, batch.batch_id)
    if options.split_minutes is not None:
        work = replace(work, count_parts=count_parts, part_s=60 * options.split_minutes)
    received: list[int] = []
    if not any(row.state == "pending" for row in batch.manifest.rows.values()):
        batch.write_reports(0.0, batch.manifest.counts())
        counts = batch.manifest.counts()
    else:
        with contextlib.ExitStack() as stack:
            show = stack.enter_context(show_progress(options.quiet))
            calls = [show]
            if options.metrics_port is not None:
                from twospeed.batch.endpoint import serve_metrics

                calls.append(stack.enter_context(serve_metrics(options.metrics_port)))

            def on_progress(progress: Progress) -> None:
                for call in calls:
                    call(progress)

            engine = _engine(work, options)
            received = stack.enter_context(_drain(options.quiet))
            counts = batch.run(engine, is_stopped=lambda: bool(received), on_progress=on_progress)
    report = {"output": options.output, "videos": len(batch.manifest.rows), **counts}
    if options.json_output:
        print_json(report)
    elif not options.quiet:
        print_note(f"{options.output}: {counts['done']} of {report['videos']} videos done, {counts['failed']} failed")
    if received:
        raise typer.Exit(128 + received[0])
    if counts["failed"]:
        first = next(row for row in batch.manifest.rows.values() if row.state == "failed")
        raise InputError(
            f"{counts['failed']} of {report['videos']} videos have failed; the first, {first.key}: {first.error}; "
            f"`twospeed batch status {options.output}` lists them"
        )


def _engine(work: Work, options: _Options) -> Engine:
    if options.engine == "ray":
        from twospeed.batch.cluster import RayEngine

        shares = {"cpus": options.cpus, "gpus": options.gpus}
        return RayEngine(work, address=options.address, slots=options.workers, **shares)
    from twospeed.batch.local import LocalEngine

    devices: list[str | None] = []
    if "--device" not in work.arguments:
        import torch

        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    cores = usable_cores()
    count = options.workers or len(devices) or cores
    places = [devices[index % len(devices)] if devices else None for index in range(count)]
    most = None if options.memory is None else int(options.memory * 1e9)
    return LocalEngine(work, places, threads=max(1, cores // count), lease_s=options.lease, most_memory=most)


@contextlib.contextmanager
def _drain(quiet: bool) -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM, after which the batch begins nothing more; the second interrupts."""
    received: list[int] = []

    def handle(signal_number: int, _: object) -> None:
        received.append(signal_number)
        if len(received) > 1:
            raise KeyboardInterrupt
        if not quiet:
            print_note("twospeed: stopping after the videos that are being computed; interrupt again to stop at once")

    kept = {}
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signal_number, handler in kept.items():
            signal.signal(signal_number, handler)


for _name in JOBS:
    app.command(_name)(_job_command(_name))


@app.command()
def status(out: Out, json_output: Json = False) -> None:
    """Print how many videos are done, and which have failed and why. Nothing is changed; works during a run."""
    from twospeed.batch.driver import read_settings
    from twospeed.batch.manifest import open_manifest
    from twospeed.batch.storage import FolderStorage, open_storage

    storage = open_storage(out)
    settings = read_settings(storage)
    manifest = open_manifest(storage, read_only=True)
    counts = manifest.counts()
    manifest.close()
    if isinstance(storage, FolderStorage) and not storage.is_held():
        counts["pending"] += counts["running"]  # of a run that is gone: the next one takes them over
        counts["running"] = 0
    failed = [row for row in manifest.rows.values() if row.state == "failed"]
    if json_output:
        facts = [
            {"video": r.key, "source": r.source, "kind": r.kind, "attempts": r.attempts, "error": r.error}
            for r in failed
        ]
        print_json({"job": settings["job"], "videos": len(manifest.rows), **counts, "failures": facts})
        return
    print_line(f"{settings['job']}: {len(manifest.rows)} videos")
    for state, count in counts.items():
        print_line(f"  {state:<8} {count}")
    for row in failed:
        attempts = f"{row.attempts} attempt" + ("s" if row.attempts != 1 else "")
        print_line(f"  failed: {row.key} ({row.kind}, {attempts}): {row.error}")


@app.command("retry-failed")
def retry_failed(
    out: Out,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="As for the batch itself.")] = "local",
    workers: Annotated[int | None, whole_option(1, 10_000, help="As above.")] = None,
    address: Annotated[str | None, option("ADDRESS", "As above.")] = None,
    split_minutes: SplitMinutes = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try the videos again that have failed, with the options of the batch."""
    from twospeed.batch.driver import Batch, Policy, read_settings
    from twospeed.batch.storage import open_storage

    storage = open_storage(out)
    settings = read_settings(storage)
    options = _Options(
        inputs=[], output=out, engine=engine, workers=workers, address=address, split_minutes=split_minutes,
        json_output=json_output, quiet=quiet,
    )  # fmt: skip
    with Batch(storage, settings["job"], settings["arguments"], Policy()) as batch:
        batch.manifest.retry_failed()
        _finish(batch, settings["job"], settings["arguments"], options)
