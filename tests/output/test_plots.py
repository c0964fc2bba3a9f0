"""Plots of segmentation: what is drawn is what was given, and nothing half-written stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twospeed.data.benchmarks.camvid import CLASSES
from twospeed.errors import OutputError
from twospeed.output.plots import plot_areas, plot_confusion, plot_timeline, plot_trade_off
from twospeed.results import ActionScores, ActionSpan, LabelMap


def colours_in(path) -> dict[tuple[int, int, int], int]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(int(v) for v in value): int(count) for value, count in zip(values, counts, strict=True)}


def test_areas_have_the_classes_colours_and_shares(tmp_path):
    areas = {name: [0.0] * 3 for name in CLASSES} | {"sky": [0.25] * 3, "road": [0.75] * 3}
    plot_areas(tmp_path / "areas.png", [0.0, 0.5, 1.0], areas, CLASSES, title="drive")
    found = colours_in(tmp_path / "areas.png")
    sky, road = found[CLASSES.colours[0]], found[CLASSES.colours[3]]
    assert road / sky == pytest.approx(3, rel=0.05)
    assert CLASSES.colours[8] not in found, "a class that never occurs is not listed"


def test_one_frame_is_drawn_and_none_is_refused(tmp_path):
    plot_areas(tmp_path / "one.png", [2.0], {"sky": [1.0]}, CLASSES)
    plot_areas(tmp_path / "one.png", [2.0, 2.0], {"sky": [1.0, 0.5]}, CLASSES)
    assert colours_in(tmp_path / "one.png")[CLASSES.colours[0]] > 10_000
    with pytest.raises(OutputError, match="no frames to draw"):
        plot_areas(tmp_path / "none.png", [], {}, CLASSES)
    with pytest.raises(OutputError, match="cannot write"):
        plot_areas(tmp_path / "gone" / "one.png", [0.0], {"sky": [1.0]}, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_accuracy_against_throughput(tmp_path):
    curves = [
        ("keyframe every l frames", [("l = 1", 10.0, 0.744), ("l = 2", 17.0, 0.737), ("l = 4", 28.0, 0.718)]),
        ("smaller images", [("x 0.75", 10.0, 0.744), ("x 0.5", 21.0, 0.687)]),
    ]
    plot_trade_off(tmp_path / "plot.png", curves, title="a network", x_label="frames per second")
    found = colours_in(tmp_path / "plot.png")
    assert len([count for colour, count in found.items() if max(colour) - min(colour) > 80 and count > 200]) >= 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["a $b", r"$\frac$", "\x1b[31m", "\U0001f600 猫"])
def test_names_are_drawn_as_they_are(tmp_path, text):
    classes = LabelMap((text, "other"), ((1, 2, 3), (200, 90, 20)))
    plot_areas(tmp_path / "areas.png", [0.0, 1.0], {text: [0.5, 0.5], "other": [0.5, 0.5]}, classes, title=text)
    rows = np.tile(np.array([[0.9, 0.1]], np.float32), (3, 1))
    scores = ActionScores(rows[0], (text, "other"), np.arange(3.0), rows, (ActionSpan(text, 0.0, 2.0, 0.9),))
    plot_timeline(tmp_path / "timeline.png", scores, title=text)
    plot_confusion(tmp_path / "confusion.png", np.eye(2, dtype=np.int64), (text, "other"), title=text)
    assert len(list(tmp_path.glob("*.png"))) == 3
