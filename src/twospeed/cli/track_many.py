"""Several videos in one `twospeed track`: prompts from a table, the network loaded once, a status for each."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twospeed.cli.options import folders_for, identities
from twospeed.cli.printing import line_of, print_json, print_line, print_note
from twospeed.errors import InputError, OutputError, TwospeedError
from twospeed.files import is_there, read_text

if TYPE_CHECKING:
    from twospeed.output.run import Run

COLUMNS = ("video", "frame", "object", "kind", "value")
KINDS = {"mask": "mask", "box": "box", "point": "point", "background-point": "background_point"}
"""Kinds of prompts in a table, and the options of the command that take them."""


@dataclass
class Clip:
    """One video: what is typed for it, where its results go, and how it went."""

    video: str
    folder: Path
    prompts: dict[str, list[str]] = field(default_factory=dict)
    status: str = "not started"
    error: str = ""
    summary: dict[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return the clip's entry in results.json."""
        facts: dict[str, Any] = {"video": self.video, "status": self.status, "output": str(self.folder)}
        if self.error:
            facts["error"] = self.error
        return facts | {key: value for key, value in self.summary.items() if key != "output"}


def read_prompts(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read a table of prompts: for each video the values of the command's options.

    Columns: video (a path, or the name of one that is given), frame (empty: the first), object (its number; empty: the
    next free one), kind (mask, box, point, background-point), value (a mask's file, beside the table unless absolute;
    x,y,width,height; x,y: numbers separated by commas or spaces). Raises InputError, with the line, for what is wrong.
    """
    table = csv.DictReader(read_text(path).splitlines())
    prompts: dict[str, dict[str, list[str]]] = {}
    try:
        missing = [name for name in ("video", "kind", "value") if name not in (table.fieldnames or ())]
        rows = [] if missing else [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise InputError(f"{path}:{table.line_num}: cannot be read as a table ({error})") from error
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}; its first line must be {','.join(COLUMNS)}")
    for line, row in rows:
        where = f"{path}:{line}"
        if any(cell.strip() for cell in row.get(None) or ()):
            raise InputError(f"{where}: has more values than there are columns; put values with commas into quotes")
        video, kind, value = ((row[name] or "").strip() for name in ("video", "kind", "value"))
        frame, number = ((row.get(name) or "").strip() for name in ("frame", "object"))
        if not video or kind not in KINDS or not value:
            found = f"video {video[:80]!r}, kind {kind[:80]!r}, value {value[:80]!r}"
            raise InputError(f"{where}: {found}; kinds are {', '.join(KINDS)}")
        for name, text in (("frame", frame), ("object", number)):
            if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise InputError(f"{where}: {name} is {text[:40]!r}, a whole number is expected")
        if kind == "mask":
            if number:
                raise InputError(f"{where}: a mask holds the numbers of its objects; leave the column object empty")
            value = str(path.parent / value)
        else:
            value = ",".join(value.replace(",", " ").split())
        value = (f"{number}@" if number else "") + (f"{frame}=" if frame else "") + value
        prompts.setdefault(video, {}).setdefault(KINDS[kind], []).append(value)
    if not prompts:
        raise InputError(f"{path}: holds no prompt")
    return prompts


def find_clips(videos: Iterable[str], table: Path | None, output: Path) -> list[Clip]:
    """Pair videos with their prompts. A folder of videos is all that it holds; without videos the table names them.

    Raises InputError for prompts of a video that is not given.
    """
    from twospeed.pipelines.classify import videos_in

    prompts = {} if table is None else read_prompts(table)
    given = [str(path) for item in videos for path in (videos_in([item]) if Path(item).is_dir() else [item])]
    if not given and table is not None:
        beside = {video: table.parent / video for video in prompts}
        given = [str(path) if is_there(path) else video for video, path in beside.items()]
    clips = [Clip(video, folder) for video, folder in zip(given, folders_for(given, output), strict=True)]
    for video, found in prompts.items():
        exact = [clip for clip in clips if Path(clip.video) == Path(video)]
        named = exact or [clip for clip in clips if Path(clip.video).name == Path(video).name]
        named = named or [clip for clip in clips if Path(clip.video).stem == video]
        if len(named) != 1:
            what = "is none of the videos given" if not named else f"stands for {len(named)} of the videos"
            raise InputError(f"{table}: {video} {what}; write its path as on the command line")
        for option, values in found.items():
            named[0].prompts.setdefault(option, []).extend(values)
    return clips


def track_clips(given: dict[str, Any], track: Callable[..., dict[str, Any]]) -> None:
    """Track all clips, one after the other, and report how each went.

    given: the arguments of the command. track: tracks one video and returns its summary. A clip that fails is reported
    and the others are tracked. Raises InputError at the end where any failed.
    """
    from twospeed.output.folder import ResultFolder
    from twospeed.output.run import Run

    output = given["output"] or Path("tracks")
    clips = find_clips(given["video"] or [], given["prompts"], output)
    common = {name: given[name] or [] for name in KINDS.values()}
    table = [] if given["prompts"] is None else [given["prompts"]]
    named = given["context"].get_parameter_source("model")
    default_model = named is None or named.name != "COMMANDLINE"
    with ExitStack() as stack:
        whole = stack.enter_context(ResultFolder(output, ["results.json"], inputs=table, overwrite=given["overwrite"]))
        run = Run(
            "track", model=given["model"], weights_sha256=None, options={"videos": [clip.video for clip in clips]},
            inputs=identities(dict(zip(["prompts"], table, strict=False))), folder=whole,
        )  # fmt: skip
        stack.enter_context(run)
        stack.callback(lambda: _write(run, clips))
        for number, clip in enumerate(clips, start=1):
            if not given["quiet"]:
                print_note(f"{number} of {len(clips)}: {clip.video}")
            arguments = {**given, "video": [clip.video], "prompts": None, "output": clip.folder, "json_output": False}
            arguments |= {name: [*values, *clip.prompts.get(name, [])] for name, values in common.items()}
            clip.status, begun = "stopped", time.perf_counter()
            try:
                if table and default_model and not any(arguments[name] for name in common):
                    raise InputError(
                        f"{table[0]} has no prompt of this video; add one, or track it without prompts by itself"
                    )
                clip.summary = track(**arguments)
                clip.status = "done"
                run.advance(clip.summary.get("frames", 0))  # a preview has none
            except TwospeedError as error:
                if isinstance(error, OutputError) and not given["quiet"]:
                    print_note(f"after {time.perf_counter() - begun:.0f} s:")
                clip.status, clip.error = "failed", line_of(error)
                print_note(f"twospeed: {clip.error}")
    if given["json_output"]:
        print_json({"clips": [clip.described() for clip in clips]})
    else:
        _print_table(clips)
    if failed := [clip for clip in clips if clip.status != "done"]:
        names = ", ".join(clip.video for clip in failed)
        raise InputError(
            f"{len(failed)} of {len(clips)} videos could not be tracked: {names}; see {output}/report.html"
        )


def _write(run: Run, clips: list[Clip]) -> None:
    """Write results.json and the report, also when the command is interrupted."""
    run.report.tables.append(
        (
            "Videos",
            ("video", "status", "frames", "objects", "frames/s", "why"),
            [(clip.video, clip.status, *_numbers(clip), clip.error) for clip in clips],
        )
    )
    run.report.links += [f"{clip.folder.name}/report.html" for clip in clips if (clip.folder / "report.html").is_file()]
    run.write_json("results.json", {"clips": [clip.described() for clip in clips]})


def _numbers(clip: Clip) -> tuple[object, ...]:
    if not clip.summary:
        return ("", "", "")
    return clip.summary["frames"], len(clip.summary["objects"]), f"{clip.summary['frames_per_second']:.1f}"


def _print_table(clips: list[Clip]) -> None:
    width = max(len(clip.video) for clip in clips)
    print_line(f"{'video':<{width}}  {'status':<11} {'frames':>7} {'objects':>7} {'frames/s':>8}")
    for clip in clips:
        frames, objects, speed = _numbers(clip)
        print_line(
            f"{clip.video:<{width}}  {clip.status:<11} {frames:>7} {objects:>7} {speed:>8}  {clip.error}".rstrip()
        )
