"""`twospeed app`: the page in the browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from twospeed.cli.options import Device, Weights, check_weights, option, whole_option
from twospeed.cli.printing import print_line
from twospeed.errors import InputError
from twospeed.weights.catalog import DEFAULT_TRACKER

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def app(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER|VIDEO|RUN]", help="A folder of videos, a video, or a run's folder.")
    ] = Path(),
    port: Annotated[int, whole_option(0, 65535, metavar="PORT", help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(" /--no-browser", help="Print the address only.")] = True,
    max_upload: Annotated[str, option("SIZE", "Largest video that the page may upload, such as 500MB or 8GB.")] = "8GB",
    model: Annotated[
        str, option("NAME", "Model that tracks; `twospeed models --task track` lists them.")
    ] = DEFAULT_TRACKER,
    weights: Weights = "default",
    device: Device = None,
    size: Annotated[
        int, whole_option(16, 4096, metavar="PIXELS", help="Shorter side at which the network tracks.")
    ] = 480,
) -> None:
    """Open a page in the browser: mark objects, track, correct, export.

    **Examples**

    `twospeed app` opens the videos of this folder in the browser: mark objects, track them, correct, export.

    `twospeed app clip.mp4` opens one video at once.

    `twospeed app clip_track` shows the results of a finished run of `track`, `segment`, `classify` or `detect`. Masks
    can be corrected and tracked further; the run's own files stay as they are.

    `twospeed app videos --no-browser --port 8000` prints the address. From another machine: `ssh -L 8000:127.0.0.1:8000
    THAT_MACHINE`, then open the printed address here.
    """
    try:
        from twospeed.app.runs import read_run
        from twospeed.app.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "websockets", "pydantic", "starlette"):
            raise
        raise InputError("the app needs further packages: pip install 'twospeed[app]'") from None
    from twospeed.weights.catalog import find

    if find(model).task != "track":
        raise InputError(f"{model} does not track; `twospeed models --task track` lists the models that do")
    check_weights([weights])
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder")
    video = folder if folder.is_file() else None
    run = folder if (folder / "run.json").is_file() else None
    if run is not None and read_run(run) is None:
        raise InputError(f"{folder}: holds no results of track, segment, classify or detect that can be shown")
    serve(
        folder.resolve().parent if video or run else folder, video=video, run=run, port=port, browser=browser,
        settings={"model": model, "weights": weights, "device": device, "size": size, "max_upload": _bytes(max_upload)},
        announce=print_line,
    )  # fmt: skip


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}) *([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(
            f"{text[:40]!r} is no size; give a number with a unit, such as 500MB or 8GB", option="max_upload"
        )
    return int(match[1]) * _UNITS[match[2].upper()]
