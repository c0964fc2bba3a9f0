"""Exports of what classify, detect and segment found in a project's video."""

from __future__ import annotations

import bisect
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.app import wire
from twospeed.app.export_masks import Export, write_video
from twospeed.data.benchmarks.ava import detection_row
from twospeed.errors import InputError
from twospeed.output.action_overlay import draw_people
from twospeed.output.exports.actions import people_cues, timeline_cues, write_actions, write_people
from twospeed.output.overlay import draw_caption, draw_classes, draw_legend
from twospeed.output.plots import plot_areas, plot_timeline
from twospeed.pipelines.action_timeline import spans
from twospeed.results import ActionBoxes, ActionScores, LabelMap, ObjectMasks
from twospeed.video.indexed_png import write_indexed_png

Image = NDArray[np.uint8]
MOST_NAMED = 3  # actions in a caption


def actions(export: Export, path: Path) -> None:
    """Write actions and the spans in which they reach the threshold: JSON, JSON lines, WebVTT or SRT."""
    document, _ = _actions(export)
    if export.options["as"] == "actions":
        _write_json(path, document)
    else:
        kind = export.options["as"].removeprefix("actions-")
        write_actions(path, kind, document["views"], timeline_cues(document))


def actions_plot(export: Export, path: Path) -> None:
    """Draw the likeliest actions over time."""
    plot_timeline(path, _actions(export)[1], title=export.project.get("name"))


def actions_overlay(export: Export, path: Path) -> None:
    """Write the video with the likeliest actions of the nearest window."""
    views = _actions(export)[0]["views"]
    times = np.array([view["time_s"] for view in views])
    captions = [
        [f"{one['label']}  {100 * one['probability']:.1f} %" for one in view["top"][:MOST_NAMED]] for view in views
    ]

    def draw(image: Image, result: ObjectMasks) -> Image:
        return draw_caption(image, captions[int(np.abs(times - result.time_s).argmin())])

    write_video(export, path, draw, audio=True)


def people(export: Export, path: Path) -> None:
    """Write who does what: JSON, JSON lines, WebVTT, SRT, CVAT's tracks or AVA's csv."""
    project = export.project
    keyframes = _keyframes(export)
    document = {"video": project.get("name"), "keyframes": keyframes}
    cues = people_cues(document, export.options["threshold"], _gap([keyframe["time_s"] for keyframe in keyframes]))
    frames = [(index, export.time_of(index)) for index in range(export.first, export.last + 1)]
    match export.options["as"]:
        case "people":
            _write_json(path, document)
        case "people-cvat":
            write_people(path, document, frames, project.size)
        case "people-csv":
            _write_ava(path, project.get("name"), keyframes, project.size)
        case subtitles_or_lines:
            write_actions(path, subtitles_or_lines.removeprefix("people-"), keyframes, cues)


def people_overlay(export: Export, path: Path) -> None:
    """Write the video with boxes, numbers and actions; between keyframes boxes move in straight lines."""
    found = [_boxes(keyframe) for keyframe in _keyframes(export)]
    times = [one.time_s for one in found]
    hold_s = _gap(times)

    def texts(one: ActionBoxes, row: int) -> list[str]:
        return [f"{name} {score:.2f}" for name, score in one.top(row, MOST_NAMED)]

    def draw(image: Image, result: ObjectMasks) -> Image:
        place = bisect.bisect_right(times, result.time_s + 1e-6)
        before = found[place - 1] if place else None
        after = found[place] if place < len(found) else None
        return draw_people(image, result.time_s, before, after, texts, hold_s)

    write_video(export, path, draw, audio=True)


def labels(export: Export, path: Path) -> None:
    """Write a zip of label PNGs."""
    part = path.with_name(f".{path.name}.png")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for index in range(export.first, export.last + 1):
                data = export.project.result("segment", index)
                if data is not None:
                    write_indexed_png(part, wire.parse(data).labels())
                    archive.write(part, f"{index:05d}.png")
    finally:
        part.unlink(missing_ok=True)


def areas(export: Export, path: Path) -> None:
    """Write the share of each frame that every class takes, as `segment` of the command line does."""
    times, shares = _areas(export)
    _write_json(path, {"time_s": times, "areas": shares})


def areas_plot(export: Export, path: Path) -> None:
    """Draw the areas over time."""
    times, shares = _areas(export)
    classes = _classes(export)
    colours = tuple((r, g, b) for r, g, b in classes["colours"])
    plot_areas(path, times, shares, LabelMap(tuple(classes["names"]), colours), title=export.project.get("name"))


def labels_overlay(export: Export, path: Path) -> None:
    """Write the video in the colours of its classes, with a legend."""
    classes = _classes(export)
    colours = np.array(classes["colours"], np.uint8)

    def draw(image: Image, result: ObjectMasks) -> Image:
        data = export.project.result("segment", result.frame_index)
        shown: set[int] = set()
        if data is not None:
            found = wire.parse(data).labels()
            shown = set(np.unique(found).tolist())
            image = draw_classes(image, found, colours)
        return draw_legend(image, classes["names"], colours, shown)

    write_video(export, path, draw, audio=True)


def _actions(export: Export) -> tuple[dict[str, Any], ActionScores]:
    """Return what results.json of the command line says, with spans at or above the threshold that the page shows.

    Beside it the same as a result, whose actions are those that are known of any window.
    """
    ((_, data),) = export.project.results("classify")
    stored = json.loads(data)
    windows = [
        window
        for window in stored["windows"]
        if export.time_of(export.first) <= window["time_s"] <= export.time_of(export.last)
    ]
    if not windows:
        raise InputError("no window of actions lies between the in and out points")
    names = sorted({label for window in windows for label, _ in window["top"]})
    rows = np.zeros((len(windows), len(names)), np.float32)
    for row, window in zip(rows, windows, strict=True):
        for label, probability in window["top"]:
            row[names.index(label)] = probability
    centres = np.array([window["time_s"] for window in windows])
    half = _gap(centres.tolist()) / 2
    found = spans(centres - half, centres + half, rows, names, threshold=export.options["threshold"])  # type: ignore[arg-type]
    scores = ActionScores(rows.mean(axis=0), tuple(names), centres, rows, found)
    document = {
        "video": export.project.get("name"),
        "top": [{"label": label, "probability": round(p, 6)} for label, p in stored["top"]],
        "timeline": [
            {
                "label": span.label,
                "start_s": round(max(0.0, span.start_s), 6),
                "end_s": round(span.end_s, 6),
                "probability": round(span.probability, 6),
            }
            for span in found
        ],
        "views": [
            {
                "time_s": round(window["time_s"], 3),
                "top": [{"label": label, "probability": round(p, 6)} for label, p in window["top"]],
            }
            for window in windows
        ],
    }
    return document, scores


def _gap(times_s: Sequence[float]) -> float:
    """Return the usual time between two keyframes or windows; a second where there is one alone."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0


def _keyframes(export: Export) -> list[dict[str, Any]]:
    found = [json.loads(data) for _, data in export.project.results("detect")]
    first, last = export.time_of(export.first) - 1e-3, export.time_of(export.last) + 1e-3
    return [keyframe for keyframe in found if first <= keyframe["time_s"] <= last]


def _boxes(keyframe: dict[str, Any]) -> ActionBoxes:
    people = [person for person in keyframe["people"] if person["id"] is not None]
    names = sorted({action["label"] for person in people for action in person["actions"]})
    scores = np.zeros((len(people), len(names)), np.float32)
    for row, person in zip(scores, people, strict=True):
        for action in person["actions"]:
            row[names.index(action["label"])] = action["score"]
    return ActionBoxes(
        keyframe["time_s"],
        np.array([person["box_xyxy"] for person in people], np.float32).reshape(-1, 4),
        np.array([person["person_score"] for person in people], np.float32),
        scores,
        tuple(names),
        tuple(person["id"] for person in people),
    )


def _write_ava(path: Path, video: str, keyframes: list[dict[str, Any]], size: tuple[int, int]) -> None:
    """Write every box with every action that is known of it: time, corners as fractions, class id, score."""
    height, width = size
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for keyframe in keyframes:
            for person in keyframe["people"]:
                corners = np.array(person["box_xyxy"]) / (width, height, width, height)
                for action in sorted(person["actions"], key=lambda one: int(one["class_id"])):
                    of = corners, action["class_id"], action["score"]
                    file.write(detection_row(Path(video).stem, keyframe["time_s"], *of))


def _classes(export: Export) -> dict[str, Any]:
    ((_, data),) = export.project.results("classes")
    found: dict[str, Any] = json.loads(data)
    return found


def _areas(export: Export) -> tuple[list[float], dict[str, list[float]]]:
    rows = [
        (index, json.loads(data))
        for index, data in export.project.results("areas")
        if export.first <= index <= export.last
    ]
    names = _classes(export)["names"]
    times = [round(export.time_of(index), 6) for index, _ in rows]
    return times, {name: [shares[place] for _, shares in rows] for place, name in enumerate(names)}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
