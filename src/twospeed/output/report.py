"""`report.html`: a run at a glance, in one file that needs nothing else and asks nothing of the network."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.output.palette import class_colours, distinct_colours, object_colours
from twospeed.results import ClassMap, Frame, ObjectMasks
from twospeed.video.image_files import encoded_jpeg

_THUMBNAIL_WIDTH = 240  # pixels
_MOST_THUMBNAILS = 12  # up to twice as many are held
_MOST_POINTS = 400  # of a curve; up to twice as many are held
_WORST_HELD, _WORST_SHOWN = 48, 6
_LEAST_GAP_S = 0.5  # between two frames that are shown as worth a look
_TIES = 1e-3  # differences of confidence that mean nothing

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse}
td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}
figure{display:inline-block;margin:0 .6em .8em 0;vertical-align:top;width:240px}figcaption{font-size:.85em;color:#555}
img{max-width:100%;border-radius:3px}svg{width:100%;height:220px;background:#f6f6f6}
.warning{background:#fff3cd;padding:.5em 1em;margin:.5em 0}.failure{background:#f8d7da;padding:.5em 1em;margin:.5em 0}
.key{display:inline-block;width:.8em;height:.8em;margin:0 .4em 0 1em}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818}svg{background:#242424}td,th{border-color:#444}
figcaption{color:#aaa}.warning{background:#4d4118}.failure{background:#5a2328}a{color:#8ab4f8}}
"""


@dataclass
class _Thumbnail:
    """A frame as a small JPEG."""

    index: int | None
    time_s: float
    jpeg: bytes
    note: str = ""


@dataclass
class _Point:
    """Curves at one time: share of the frame and confidence, both 0..1, by name."""

    time_s: float
    areas: dict[str, float]
    confidence: dict[str, float]


@dataclass
class Report:
    """Gathers what a run's report shows, at constant memory however long the video is.

    warnings: lines about the whole run. tables: (title, header, rows) that a job adds. links: files beside the report.
    """

    warnings: list[str] = field(default_factory=list)
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[object]]]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._images: list[_Thumbnail] = []
        self._stride = self._frames = 0
        self._points: list[_Point] = []
        self._merged = 1  # frames that one point stands for
        self._worst: list[tuple[float, int, _Thumbnail]] = []  # a heap, the surest of them first
        self._best: dict[str, float] = {}
        self._colours: dict[str, str] = {}

    def add_labels(self, frame: Frame, image: NDArray[np.uint8], result: ObjectMasks | ClassMap) -> None:
        """Take a frame with its labels. image: the frame, perhaps with the labels drawn on it, uint8 (H, W, 3)."""
        counts = np.bincount(result.labels.ravel(), minlength=256) / result.labels.size
        if isinstance(result, ObjectMasks):
            names = {i: f"object {i}" for i in result.object_ids}
            confidence = {
                names[i]: float(sure)
                for i, sure in zip(result.object_ids, result.confidence.tolist(), strict=True)
                if counts[i]
            }
            table = object_colours()
        else:
            names = {i: result.class_name(i) for i in np.flatnonzero(counts).tolist() if i < 255}
            confidence = {} if result.confidence is None else {"all classes": result.confidence}
            known = None if result.classes is None else result.classes.colours
            table = class_colours(256) if known is None else distinct_colours(known)
            self._colours["all classes"] = "#777777"
        areas = {name: float(counts[i]) for i, name in names.items()}
        self._colours |= {name: f"#{bytes(table[i]).hex()}" for i, name in names.items()}
        self._look_at(frame, image, areas, confidence)
        self._points.append(_Point(frame.time_s, areas, confidence))
        if len(self._points) >= 2 * _MOST_POINTS:
            self._points = [_merge(*pair) for pair in zip(self._points[::2], self._points[1::2], strict=True)]
        self.add_image(frame.index, frame.time_s, image)

    def add_image(self, index: int | None, time_s: float, image: NDArray[np.uint8]) -> None:
        """Take a frame without labels, for the thumbnails."""
        stride = max(1, self._stride)
        if self._frames % stride == 0:
            self._images.append(_thumbnail(index, time_s, image))
            if len(self._images) >= 2 * _MOST_THUMBNAILS:
                self._images = self._images[::2]
                self._stride = 2 * stride
        self._frames += 1

    def _look_at(
        self, frame: Frame, image: NDArray[np.uint8], areas: Mapping[str, float], confidence: Mapping[str, float]
    ) -> None:
        """Keep the frame if it is among the least sure so far, compared with the same object's best."""
        lowest, note = 1.0, ""
        for name, value in confidence.items():
            self._best[name] = max(self._best.get(name, 0.0), value)
            relative = value / max(self._best[name], 1e-6)
            if relative < lowest - _TIES:
                lowest, note = relative, f"{name}: confidence {value:.2f}"
        before = self._points[-1].areas if self._points else {}
        for name, area in areas.items():
            if not area and before.get(name) and name in self._best:
                lowest, note = 0.0, f"{name} is no longer seen"
        if not note or (len(self._worst) >= _WORST_HELD and -lowest <= self._worst[0][0]):
            return
        entry = (-lowest, -self._frames, _thumbnail(frame.index, frame.time_s, image, note))
        if len(self._worst) < _WORST_HELD:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heapreplace(self._worst, entry)

    def _chosen(self) -> list[_Thumbnail]:
        """Return the frames to look at first, worst first."""
        chosen: list[_Thumbnail] = []
        for _, _, image in sorted(self._worst, key=lambda entry: (-entry[0], -entry[1])):
            if all(abs(image.time_s - other.time_s) >= _LEAST_GAP_S for other in chosen):
                chosen.append(image)
        return chosen[:_WORST_SHOWN]

    def html(self, title: str, facts: Mapping[str, object], *, failure: str = "") -> str:
        """Return the page. facts: rows of the table at the top."""
        body = [f"<h1>{escape(title)}</h1>"]
        body += [f'<p class="failure">{escape(failure)}</p>'] if failure else []
        body += [f'<p class="warning">{escape(warning)}</p>' for warning in self.warnings]
        body.append(_table((), facts.items()))
        if chosen := self._chosen():
            body.append("<h2>Frames worth a look</h2><p>Where confidence is lowest, compared within this video.</p>")
            body += [_figure(image) for image in chosen]
        if self._images:
            body.append("<h2>Overview</h2>")
            body += [_figure(image) for image in self._images]
        names = list(dict.fromkeys(name for point in self._points for name in point.areas))
        body.append(self._plot("Share of the frame over time", names, "areas"))
        names = list(dict.fromkeys(name for point in self._points for name in point.confidence))
        body.append(self._plot("Confidence over time", names, "confidence"))
        for heading, header, rows in self.tables:
            body.append(f"<h2>{escape(heading)}</h2>{_table(header, rows)}")
        if self.links:
            links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in self.links)
            body.append(f"<h2>Files</h2><p>{links}</p>")
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>{chr(10).join(body)}</body></html>\n"
        )

    def _plot(self, heading: str, names: Sequence[str], kind: str) -> str:
        """Draw a curve for each name; where nothing is known there is a gap."""
        if not names or len(self._points) < 2:
            return ""
        first, last = self._points[0].time_s, self._points[-1].time_s
        most = max(max(getattr(point, kind).values(), default=0.0) for point in self._points) or 1.0
        lines, keys = [], []
        for name in names:
            parts: list[list[str]] = [[]]
            for point in self._points:
                value = getattr(point, kind).get(name)
                if value is None:
                    parts.append([])
                else:
                    x = 1000 * (point.time_s - first) / max(last - first, 1e-9)
                    parts[-1].append(f"{x:.1f},{205 - 195 * value / most:.1f}")
            colour = self._colours[name]
            drawn = "".join(f'<polyline points="{" ".join(part)}"/>' for part in parts if part)
            lines.append(f'<g fill="none" stroke="{colour}" stroke-width="2">{drawn}</g>')
            keys.append(f'<span class="key" style="background:{colour}"></span>{escape(name)}')
        caption = f"{first:.1f} s to {last:.1f} s, 0 to {most:.2f}"
        svg = f'<svg viewBox="0 0 1000 210" preserveAspectRatio="none" role="img">{"".join(lines)}</svg>'
        return f"<h2>{escape(heading)}</h2>{svg}<p>{caption}{''.join(keys)}</p>"


def _thumbnail(index: int | None, time_s: float, image: NDArray[np.uint8], note: str = "") -> _Thumbnail:
    height, width = image.shape[:2]
    size = (min(_THUMBNAIL_WIDTH, width), max(1, round(height * min(_THUMBNAIL_WIDTH, width) / width)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _Thumbnail(index, time_s, encoded_jpeg(np.asarray(small, np.uint8), 80), note)


def _figure(shown: _Thumbnail) -> str:
    source = base64.b64encode(shown.jpeg).decode()
    words = f"{shown.time_s:.2f} s" if shown.index is None else f"frame {shown.index}, {shown.time_s:.2f} s"
    words += f": {shown.note}" if shown.note else ""
    image = f'<img src="data:image/jpeg;base64,{source}" alt="{escape(words)}">'
    return f"<figure>{image}<figcaption>{escape(words)}</figcaption></figure>"


def _table(header: Sequence[str], rows: Any) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(_words(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _words(value: object) -> str:
    """A value as people write it: yes and no, and lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_words(one) for one in value)
    return str(value)


def _merge(one: _Point, other: _Point) -> _Point:
    """Put two neighbouring points together: mean areas, the lower confidence."""
    areas = {name: (one.areas.get(name, 0.0) + other.areas.get(name, 0.0)) / 2 for name in {**one.areas, **other.areas}}
    confidence = dict(one.confidence)
    for name, value in other.confidence.items():
        confidence[name] = min(value, confidence.get(name, value))
    return _Point(one.time_s, areas, confidence)
