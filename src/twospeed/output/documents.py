"""What `results.json` holds of actions in a video, and of people and their actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from twospeed.results import ActionBoxes, ActionScores


def actions_document(video: str, model: str, scores: ActionScores, top: int) -> dict[str, Any]:
    """Return the content of `results.json` for one video. class_id: the class's place among the labels, from 0."""
    ids = {label: place for place, label in reversed([*enumerate(scores.labels)])}

    def best(probabilities: Any) -> list[dict[str, Any]]:
        order = (-probabilities).argsort(kind="stable")[:top].tolist()
        return [
            {"label": scores.labels[c], "class_id": c, "probability": round(float(probabilities[c]), 6)} for c in order
        ]

    rows = scores.view_probabilities
    views = [] if rows is None else zip(scores.view_times_s.tolist(), rows, strict=True)
    return {
        "video": video,
        "model": model,
        "top": best(scores.probabilities),
        "timeline": [
            {
                "label": span.label,
                "class_id": ids[span.label],
                "start_s": round(span.start_s, 6),
                "end_s": round(span.end_s, 6),
                "probability": round(span.probability, 6),
            }
            for span in scores.timeline
        ],
        "views": [{"time_s": round(time_s, 3), "top": best(row)} for time_s, row in views],
    }


def people_document(found: list[ActionBoxes], video: str, model: str, top: int) -> dict[str, Any]:
    """Return what `results.json` says: people keyframe by keyframe, and each person over the whole video."""
    keyframes: list[dict[str, Any]] = []
    sums: dict[int, list[Any]] = {}  # id -> [keyframes, first_s, last_s, summed scores]
    for result in found:
        people = []
        for row, person_id in enumerate(result.track_ids):
            scores = result.action_scores[row]
            people.append(
                {
                    "id": person_id,
                    "box_xyxy": [round(float(value), 2) for value in result.boxes_xyxy[row]],
                    "person_score": round(float(result.person_scores[row]), 4),
                    "actions": best_actions(scores, result.labels, top),
                }
            )
            person = sums.setdefault(person_id, [0, result.time_s, result.time_s, np.zeros(len(scores))])
            person[0] += 1
            person[2] = result.time_s
            person[3] = person[3] + scores
        keyframes.append({"time_s": round(result.time_s, 6), "people": people})
    return {
        "video": video,
        "model": model,
        "people": [
            {
                "id": person_id,
                "keyframes": count,
                "first_s": round(first, 6),
                "last_s": round(last, 6),
                "actions": best_actions(total / count, found[0].labels, top),
            }
            for person_id, (count, first, last, total) in sorted(sums.items())
        ],
        "keyframes": keyframes,
    }


def best_actions(scores: Any, labels: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    """Return the actions with the highest scores, best first."""
    order = (-scores).argsort(kind="stable")[:top].tolist()
    return [{"label": labels[c], "class_id": c + 1, "score": round(float(scores[c]), 4)} for c in order]


def people_table(document: dict[str, Any]) -> tuple[str, tuple[str, ...], list[list[object]]]:
    """The people of the whole video, for the report."""
    rows: list[list[object]] = [
        [
            person["id"],
            f"{person['first_s']:.2f} s to {person['last_s']:.2f} s",
            ", ".join(f"{action['label']} {action['score']:.2f}" for action in person["actions"]),
        ]
        for person in document["people"]
    ]
    return "People", ("person", "seen", "actions"), rows
