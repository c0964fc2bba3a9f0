"""The door `twospeed`: a file per command, and the one place where an error becomes one line and an exit code.

Exit codes: 0 done, 1 unexpected fault, 2 bad usage or bad input (one line on stderr), 130 interrupted (finished frames
are kept).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from twospeed import __version__
from twospeed.cli.bench import bench
from twospeed.cli.classify import classify
from twospeed.cli.convert import convert
from twospeed.cli.demo import demo
from twospeed.cli.detect import detect
from twospeed.cli.evaluate import app as evaluate
from twospeed.cli.models import models
from twospeed.cli.segment import segment
from twospeed.cli.track import track
from twospeed.cli.train import CONTEXT_SETTINGS, train
from twospeed.errors import TwospeedError

app = typer.Typer(
    name="twospeed",
    help=(
        "Understand video: what people do, where each object is, what every pixel is. "
        "Start with `twospeed demo`, then `twospeed track CLIP --mask FIRST.png`."
    ),
    no_args_is_help=True,
    add_completion=False,
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
app.command(context_settings=CONTEXT_SETTINGS)(train)
app.add_typer(evaluate, name="evaluate")
app.command()(convert)
app.command()(models)
app.command()(bench)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; what `twospeed` starts."""
    sys.exit(exit_code(sys.argv[1:] if arguments is None else arguments))


def exit_code(arguments: list[str]) -> int:
    """Run a command line and return its exit code: the one place that turns errors into lines."""
    try:
        result = typer.main.get_command(app)(args=arguments, prog_name="twospeed", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except TwospeedError as error:
        flag = f" (--{error.option.replace('_', '-')})" if error.option else ""
        return _fail(f"{error}{flag}")
    except TyperException as error:
        return _fail(f"{error.format_message()} (`twospeed --help` and `twospeed COMMAND --help` tell more)")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our pipe has left
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return _fail(
                f"cannot write {error.filename or 'the results'} ({error.strerror}); free space, or choose another -o"
            )
        raise
    if code == 130:
        print("twospeed: interrupted; finished frames are kept", file=sys.stderr)
    return code


def _fail(message: str) -> int:
    print("twospeed: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    run()
