"""Actions as subtitles (WebVTT, SRT), JSON lines, and CVAT's tracks of people."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from twospeed.errors import InputError
from twospeed.output.exports.base import dumps

FILES = {"jsonl": "results.jsonl", "vtt": "actions.vtt", "srt": "actions.srt", "cvat": "people.xml"}
"""Formats of actions, and the names of their files."""


@dataclass(frozen=True, slots=True)
class Cue:
    """A text that holds from start_s to end_s, in seconds."""

    start_s: float
    end_s: float
    text: str


def check_action_formats(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Read names of formats between commas. Raises InputError for one that is not known."""
    names = tuple(dict.fromkeys(filter(None, (text or "").split(","))))
    for name in names:
        if name not in known:
            raise InputError(f"{name!r} is no format; choose from {', '.join(known)}", option="export")
    return names


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines: one entry a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(dumps(entry) + "\n" for entry in entries)


def write_actions(path: Path, kind: str, entries: Iterable[Mapping[str, Any]], cues: Iterable[Cue]) -> None:
    """Write actions as jsonl (a line for each entry), or as the subtitles vtt or srt (the cues)."""
    if kind == "jsonl":
        write_lines(path, entries)
    elif kind == "vtt":
        write_vtt(path, cues)
    else:
        write_srt(path, cues)


def write_vtt(path: Path, cues: Iterable[Cue]) -> None:
    """Write WebVTT (https://www.w3.org/TR/webvtt1/), which web pages show as subtitles."""
    blocks = [
        f"{_time(cue.start_s, '.')} --> {_time(cue.end_s, '.')}\n{escape(_text(cue), quote=False)}\n" for cue in cues
    ]
    path.write_text("\n".join(["WEBVTT\n", *blocks]), encoding="utf-8", newline="\n")


def write_srt(path: Path, cues: Iterable[Cue]) -> None:
    """Write SubRip, which players show as subtitles."""
    blocks = [
        f"{number}\n{_time(cue.start_s, ',')} --> {_time(cue.end_s, ',')}\n{_text(cue)}\n"
        for number, cue in enumerate(cues, start=1)
    ]
    path.write_text("\n".join(blocks), encoding="utf-8", newline="\n")


def _text(cue: Cue) -> str:
    """Lines of a cue: an empty one would end it, an arrow begin another."""
    lines = ["".join(c for c in line if c.isprintable()).replace("-->", "->").strip() for line in cue.text.split("\n")]
    return "\n".join(line for line in lines if line)


def _time(seconds: float, point: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def timeline_cues(document: Mapping[str, Any]) -> list[Cue]:
    """Return cues of the timeline of `classify`; what overlaps is shown at the same time, in lines."""
    spans = document["timeline"]
    borders = sorted({border for span in spans for border in (span["start_s"], span["end_s"])})
    cues = []
    for start, end in itertools.pairwise(borders):
        names = [
            f"{span['label']} {100 * span['probability']:.0f} %"
            for span in spans
            if span["start_s"] < end and span["end_s"] > start
        ]
        if names:
            cues.append(Cue(start, end, "\n".join(names)))
    return cues


def people_cues(document: Mapping[str, Any], min_score: float, hold_s: float) -> list[Cue]:
    """Return cues of the keyframes of `detect`: a line for each person, from each keyframe to the next."""
    keyframes = document["keyframes"]
    cues = []
    for place, keyframe in enumerate(keyframes):
        following = keyframes[place + 1]["time_s"] if place + 1 < len(keyframes) else keyframe["time_s"] + hold_s
        lines = []
        for person in keyframe["people"]:
            names = [action["label"] for action in person["actions"] if action["score"] >= min_score]
            lines.append(f"person {person['id']}: {', '.join(names)}" if names else "")
        if any(lines):
            cues.append(Cue(keyframe["time_s"], following, "\n".join(lines)))
    return cues


def write_people(
    path: Path, document: Mapping[str, Any], frames: Sequence[tuple[int, float]], size: tuple[int, int]
) -> None:
    """Write CVAT for video 1.1: a track of boxes for each person, with the likeliest actions as an attribute.

    frames: index and time in seconds of every frame, in order. size: (H, W). CVAT draws straight lines in between;
    a track ends at the next keyframe where its person is not seen. Source: docs.cvat.ai, "XML annotation format".
    """
    times = np.array([time_s for _, time_s in frames])
    keyframes = [
        (frames[int(np.abs(times - keyframe["time_s"]).argmin())][0], keyframe["people"])
        for keyframe in document["keyframes"]
    ]
    tracks: dict[int, list[str]] = {}
    last: dict[int, Sequence[float]] = {}  # people who are seen at the keyframe before
    for index, people in keyframes:
        present = {person["id"]: person for person in people}
        for number, person in present.items():
            actions = "; ".join(f"{action['label']} {action['score']:.2f}" for action in person["actions"])
            tracks.setdefault(number, []).append(_box(index, person["box_xyxy"], actions, size))
        for number, box in last.items():
            if number not in present:
                tracks[number].append(_box(index, box, "", size, outside=True))
        last = {number: person["box_xyxy"] for number, person in present.items()}
    end = frames[-1][0] + 1 if frames else 0
    height, width = size
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <name>{escape(str(document['video']))}</name>\n      <size>{end}</size>\n"
            "      <mode>interpolation</mode>\n      <labels>\n        <label><name>person</name><type>any</type>"
            "<attributes><attribute><name>actions</name><mutable>True</mutable><input_type>text</input_type>"
            "<default_value></default_value><values></values></attribute></attributes></label>\n      </labels>\n"
            f"      <original_size><width>{width}</width><height>{height}</height></original_size>\n"
            "    </task>\n  </meta>\n"
        )
        for number, boxes in sorted(tracks.items()):
            file.write(f'  <track id="{number}" label="person" source="auto">\n{"".join(boxes)}  </track>\n')
        file.write("</annotations>\n")


def _box(index: int, box: Sequence[float], actions: str, size: tuple[int, int], *, outside: bool = False) -> str:
    height, width = size
    left, top, right, bottom = (
        min(max(value, 0), limit) for value, limit in zip(box, (width, height, width, height), strict=True)
    )
    return (
        f'    <box frame="{index}" keyframe="1" outside="{int(outside)}" occluded="0" xtl="{left:.2f}" ytl="{top:.2f}" '
        f'xbr="{right:.2f}" ybr="{bottom:.2f}" z_order="0">\n'
        f"      <attribute name={quoteattr('actions')}>{escape(actions)}</attribute>\n    </box>\n"
    )
