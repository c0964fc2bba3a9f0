"""The entry point of the command line: `twospeed` and `python -m twospeed`."""

from __future__ import annotations

import os
import signal


def run() -> None:
    """Load the command line and run it. An interruption before that prints one line: nothing has been done yet."""

    def stop(number: int, _: object) -> None:
        os.write(2, b"twospeed: interrupted\n")
        os._exit(128 + number)  # raised as an exception here it would come out of a half-loaded module

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    from twospeed.cli.main import run as run_commands

    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_commands()


if __name__ == "__main__":
    run()
