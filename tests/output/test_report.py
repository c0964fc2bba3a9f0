"""The page beside a run: what it shows, that it needs nothing else, and that texts stay texts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from twospeed.output.report import Report
from twospeed.results import ClassMap, Frame, LabelMap, ObjectMasks


def masks_at(index: int, confidence: float, *, seen: bool = True) -> tuple[Frame, ObjectMasks]:
    labels = np.zeros((48, 64), np.uint8)
    if seen:
        labels[10:30, 10:40] = 3
    frame = Frame(index, index / 10, np.full((48, 64, 3), index % 256, np.uint8))
    sure = np.array([confidence if seen else 0], np.float32)
    return frame, ObjectMasks(labels, np.zeros((0, 1, 1), np.float32), (3,), index, index / 10, sure)


class Parsed(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_least_sure_frames_are_shown_first():
    report = Report()
    for index in range(100):
        frame, masks = masks_at(index, 0.3 if index == 40 else 0.5 if index == 70 else 0.9, seen=index != 90)
        report.add_labels(frame, frame.image, masks)
    assert re.findall(r"<figcaption>frame (\d+), [\d.]+ s: (.*?)</figcaption>", report.html("", {})) == [
        ("90", "object 3 is no longer seen"),
        ("40", "object 3: confidence 0.30"),
        ("70", "object 3: confidence 0.50"),
    ]


def test_a_page_is_self_contained_and_escapes_what_it_shows():
    report = Report()
    nasty = '<img src="http://evil.example/x" onerror=alert(1)>'
    classes = LabelMap((nasty, "road"), ((1, 2, 3), (200, 100, 0)))
    for index in range(3):
        frame = Frame(index, index / 10, np.zeros((48, 64, 3), np.uint8))
        labels = np.eye(48, 64, dtype=np.uint8)
        report.add_labels(
            frame, frame.image, ClassMap(labels, np.zeros((2, 6, 8), np.float32), True, index, 0, classes)
        )
    report.warnings.append(nasty)
    report.links.append("frames.csv")
    report.tables.append((nasty, ["a"], [[nasty]]))
    page = report.html(nasty, {nasty: nasty}, failure=nasty)
    assert "evil.example" in page
    for tag, attributes in Parsed(page).tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/jpeg", "frames.csv")) or not value, (tag, value)
    assert "default-src 'none'" in page


def test_a_report_stays_small_however_long_the_video_is():
    sizes = []
    for frames in (2_000, 8_000):
        report = Report()
        for index in range(frames):
            frame, masks = masks_at(index, 0.9 - 1e-5 * index)
            report.add_labels(frame, frame.image, masks)
        page = report.html("", {})
        sizes.append(len(page))
        assert 12 <= len(re.findall("<img", page)) <= 30
    assert sizes[1] < 1.5 * sizes[0]


def test_settings_are_written_in_words():
    report = Report()
    report.tables.append(("Settings", (), [("exports", ("coco", "cvat")), ("audio", True), ("point", ["60,40"])]))
    page = report.html("", {})
    for name, words in (("exports", "coco, cvat"), ("audio", "yes"), ("point", "60,40")):
        assert f"<td>{name}</td><td>{words}</td>" in page
