"""Draw when each action happens: curves of the likeliest classes over time, and their spans below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twospeed.errors import OutputError
from twospeed.output.figures import save_figure
from twospeed.results import ActionScores, ActionSpan

MOST_SPANS = 12  # rows of the lower image; the likeliest classes have priority


def plot_timeline(path: Path, scores: ActionScores, *, title: str = "", top: int = 5) -> None:
    """Write a PNG of `scores` over time, whole or not at all. top: curves drawn. Raises OutputError."""
    from matplotlib.figure import Figure

    rows = scores.view_probabilities
    if rows is None or not len(rows):
        raise OutputError(f"{path}: there are no views to draw over time")
    shown = np.argsort(-rows.max(axis=0), kind="stable")[:top]
    listed = _listed(scores.timeline)
    figure = Figure(figsize=(10, 4.2 + 0.28 * len(listed)), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 0.6 + 0.28 * len(listed)])
    for c in shown:
        upper.plot(scores.view_times_s, rows[:, c], marker="o", markersize=3, label=_short(scores.labels[c]))
    upper.set_ylim(0, max(float(rows[:, shown].max()) * 1.1, 1e-6))
    upper.set_ylabel("probability")
    upper.set_title(title)
    upper.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    upper.grid(alpha=0.3)
    for row, label in enumerate(listed):
        pieces = [span for span in scores.timeline if span.label == label]
        lower.broken_barh([(span.start_s, span.end_s - span.start_s) for span in pieces], (row - 0.4, 0.8))
    lower.set_yticks(range(len(listed)), [_short(label) for label in listed])
    lower.invert_yaxis()
    lower.set_xlabel("time (s)")
    lower.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def _listed(spans: Sequence[ActionSpan]) -> list[str]:
    """Return the labels to list, in order of first appearance; the longest-lasting ones where there are too many."""
    lasting: dict[str, float] = {}
    for span in spans:
        lasting[span.label] = lasting.get(span.label, 0.0) + span.end_s - span.start_s
    chosen = set(sorted(lasting, key=lambda label: -lasting[label])[:MOST_SPANS])
    return [label for label in lasting if label in chosen]


def _short(label: str) -> str:
    return label if len(label) <= 32 else label[:31] + "…"
