"""What a case is: a command line, or a function, with what it must do."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.inputs import MASK

SECONDS, MEGABYTES = float(os.environ.get("HOSTILE_SECONDS", "60")), 2500  # more seconds for a machine that is busy


@dataclass(kw_only=True)
class Case:
    """One run of a command, in a folder of its own.

    argv: of twospeed; or `call`: a function run in the child, whose exceptions are faults. want: refuse, ok, or any
    (either is right, as long as it is clean). must: texts that the refusing line has to contain. keeps: a refusal may
    leave finished frames. lines: how many a refusal has. check: returns what is wrong with a result, or "".
    before: prepares the case's folder; after: tidies it up. fsize: largest file that may be written, in bytes.
    stdin: a file, or "closed".
    """

    name: str
    argv: list[str] = field(default_factory=list)
    want: str = "any"
    must: tuple[str, ...] = ()
    keeps: bool = False
    lines: int = 1
    check: Callable[[Path], str] | None = None
    before: Callable[[Path], object] | None = None
    after: Callable[[Path], object] | None = None
    call: Callable[[], object] | None = None
    stdin: Path | str | None = None
    seconds: float = SECONDS
    megabytes: int = MEGABYTES
    fsize: int | None = None


CASES: list[Case] = []


def case(name: str, *argv: object, **more: object) -> None:
    """Add a command line; see `Case` for the rest."""
    CASES.append(Case(name=name, argv=[str(word) for word in argv], **more))  # type: ignore[arg-type]


def calls(name: str, function: Callable[[], object], **more: object) -> None:
    """Add a function that must end without an exception."""
    CASES.append(Case(name=name, call=function, want="ok", **more))  # type: ignore[arg-type]


def track(name: str, video: object, mask: object = MASK, *more: object, **kwargs: object) -> None:
    """Add a `twospeed track` with a small network into `out`."""
    case(f"track {name}", "track", video, "--mask", mask, *SMALL, "-o", "out", "-q", *more, **kwargs)


SMALL = ("--model", "track_tiny", "--size", 64)


def count(pattern: str, wanted: int) -> Callable[[Path], str]:
    """Return a check that so many files match a pattern."""

    def check(folder: Path) -> str:
        found = len(list(folder.glob(pattern)))
        return "" if found == wanted else f"{found} files {pattern}, wanted {wanted}"

    return check


def ids(*wanted: int) -> Callable[[Path], str]:
    """Return a check that the masks hold these ids alone, and the first one all of them."""

    def check(folder: Path) -> str:
        files = sorted(folder.glob("out/masks/*.png"))
        seen = [set(np.unique(np.array(Image.open(file))).tolist()) - {0} for file in files]
        if not seen or seen[0] != set(wanted) or any(each - set(wanted) for each in seen):
            return f"ids {seen[:1]}, wanted {set(wanted)}"
        return ""

    return check
