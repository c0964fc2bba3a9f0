"""The command line: a module for each command, and the one place where an error becomes one line and an exit code.

Exit codes: 0 done; 1 a fault of ours; 2 bad usage or bad input (one line on stderr); 130 interrupted by Ctrl-C, 143 by
SIGTERM, 129 by SIGHUP (finished frames are kept).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Annotated

import typer
from typer.exceptions import TyperException

from twospeed import __version__
from twospeed.cli.app import app as open_app
from twospeed.cli.batch import app as batch
from twospeed.cli.bench import bench
from twospeed.cli.classify import classify
from twospeed.cli.convert import convert
from twospeed.cli.demo import demo
from twospeed.cli.detect import detect
from twospeed.cli.evaluate import app as evaluate
from twospeed.cli.export import export
from twospeed.cli.masks import masks
from twospeed.cli.models import models
from twospeed.cli.papers import papers
from twospeed.cli.printing import line_of, print_note
from twospeed.cli.segment import segment
from twospeed.cli.track import track
from twospeed.cli.train import CONTEXT_SETTINGS, train
from twospeed.environment import use_threads_well
from twospeed.errors import TwospeedError

_INTERRUPTED = 130

app = typer.Typer(
    name="twospeed",
    help=(
        "Understand video: what people do, where each object is, what every pixel is. "
        "Start with `twospeed demo`, then `twospeed track CLIP --mask FIRST.png`."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Understand video at two speeds."""


app.command()(demo)
app.command()(classify)
app.command()(detect)
app.command()(track)
app.command()(segment)
app.command(context_settings=CONTEXT_SETTINGS, add_help_option=False)(train)  # it has its own: recipes have help, too
app.add_typer(evaluate, name="evaluate")
app.command()(masks)
app.add_typer(batch, name="batch")
app.command()(convert)
app.command()(export)
app.command()(models)
app.command()(bench)
app.command()(papers)
app.command("app")(open_app)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; what `twospeed` starts."""
    use_threads_well()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # terminals that lack a character
    code = exit_code(sys.argv[1:] if arguments is None else arguments)
    if code > 128:
        # Python would end by SIGINT itself where that struck inside of exec(), as in the import of a dataclass
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code(arguments: list[str]) -> int:
    """Run a command line and return its exit code: the one place that turns errors into lines."""
    if "" in arguments and arguments[0] != "train":  # which has settings that may be empty
        before = arguments[arguments.index("") - 1]
        what = before if before.startswith("-") else "an argument"
        return _fail(f"{what} is empty, as where a variable of the shell is not set; give a value, or leave it out")
    received: list[int] = []  # typer turns KeyboardInterrupt into an exit code of its own
    try:
        with _signals(received), _levels_of_logs():
            result = typer.main.get_command(app)(args=arguments, prog_name="twospeed", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except TwospeedError as error:
        return _fail(line_of(error))
    except TyperException as error:
        # typer puts "Value error" before a wrong choice, and says nothing, after the help, of a missing command
        what = error.format_message().replace("Value error, ", "") or "no command is given"
        where = getattr(getattr(error, "ctx", None), "command_path", "twospeed COMMAND")
        return _fail(f"{what} (`{where} --help` lists the options)")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our pipe has left
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            return _fail(f"cannot write {error.filename or 'the results'} ({error.strerror}); free space")
        if error.errno == errno.ENAMETOOLONG:
            return _fail(f"{str(error.filename)[:80]}...: no file can have such a long name")
        if error.filename is not None:
            return _fail(f"{error.filename}: {error.strerror or error}; check the path and its permissions")
        raise
    if code == _INTERRUPTED:
        print_note("twospeed: interrupted; finished frames are kept")
        return 128 + received[0] if received else code
    return code


@contextlib.contextmanager
def _levels_of_logs() -> Iterator[None]:
    """Undo what a command has changed of the package's logs, which other code in this process uses, too."""
    loggers = [logging.getLogger(name) for name in ("twospeed", "twospeed.weights.load")]
    levels = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, with its finished frames kept; their numbers are collected."""

    def stop(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    kept = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP on purpose
                kept[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _fail(message: str) -> int:
    print_note("twospeed: " + " ".join(message.split()))
    return 2


if __name__ == "__main__":
    run()
