"""What commands print: results on stdout, everything else on stderr, and no control characters of foreign texts."""

from __future__ import annotations

import json
import sys
from typing import Any

from twospeed.errors import TwospeedError, shortened


def printable(text: object) -> str:
    """Return a text for a terminal: characters that would move the cursor or change colours are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def line_of(error: TwospeedError) -> str:
    """Return an error as one line, with the flag of the parameter that it is about."""
    flag = f" (--{error.option.replace('_', '-')})" if error.option else ""
    return " ".join(f"{shortened(str(error))}{flag}".split())


def print_line(text: object = "") -> None:
    """Print a line of results on stdout."""
    print(printable(text), flush=True)


def print_note(text: object) -> None:
    """Print a line about the run on stderr."""
    print(printable(text), file=sys.stderr)


def print_json(content: Any) -> None:
    """Print results for programs, one document on stdout."""
    print(json.dumps(content, indent=2, default=str))
