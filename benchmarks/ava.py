"""How long the AVA metric takes for a file of detections, reading included, against a plain reading of the rules.

    python benchmarks/ava.py --detections 100000

Detections and ground truth are drawn: keyframes with a few people, each with every scored class. Both ways score the
same files in one run and must agree for every class. The plain way is what the rules say, in loops: frame by frame
and class by class, one detection after the other. The clock counts reading the files and scoring; not the start of
Python and its imports. The best of the repetitions is kept. `load` is the machine's at the start: other work on it
lengthens wall seconds more than processor seconds. A line is appended to benchmarks/history/ava.csv.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from record import append, machine_load, stamp
from twospeed.data.benchmarks.ava import EVALUATED
from twospeed.evaluation.ava import evaluate_ava

COLUMNS = (
    *("date", "machine", "load", "commit", "rules", "detections", "keyframes", "seconds", "plain_seconds", "ratio"),
    *("cpu_seconds", "plain_cpu_seconds", "clock"),
)
CLOCK = "reading both files and scoring; without imports"


def draw(folder: Path, detections: int) -> tuple[Path, Path, int]:
    """Write ground truth and `detections` rows; every score is different, so that ties decide nothing."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    scores = rng.permutation(detections) / detections
    keyframe = 0
    while len(found) < detections:
        where = f"video{keyframe // 300:03d},{902 + keyframe % 300:04d}"
        for person in range(int(rng.integers(1, 5))):
            x, y = rng.uniform(0, 0.5, 2)
            width, height = rng.uniform(0.1, 0.5, 2)
            actions = rng.choice(EVALUATED, int(rng.integers(1, 4)), replace=False)
            corners = f"{x:.3f},{y:.3f},{x + width:.3f},{y + height:.3f}"
            truth += [f"{where},{corners},{action},{person}" for action in actions]
            box = np.array([x, y, x + width, y + height])
            x1, y1, x2, y2 = np.clip(box + rng.normal(0, 0.04, 4), 0, 1)
            for action in EVALUATED:
                if len(found) < detections:
                    score = 0.4 * scores[len(found)] + 0.6 * (action in actions)
                    found.append(f"{where},{x1:.3f},{y1:.3f},{x2:.3f},{y2:.3f},{action},{score:.8f}")
        keyframe += 1
    (folder / "truth.csv").write_text("\n".join(truth) + "\n")
    (folder / "found.csv").write_text("\n".join(found) + "\n")
    return folder / "found.csv", folder / "truth.csv", keyframe


def plain_iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def plain_ap(marks: list[tuple[float, bool]], positives: int) -> float:
    precision, recall, right = [], [], 0
    for count, (_, hit) in enumerate(sorted(marks, reverse=True), 1):
        right += hit
        precision.append(right / count)
        recall.append(right / positives)
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum(p * (r - before) for p, r, before in zip(precision, recall, [0.0, *recall], strict=False))


def plain_scores(found: Path, truth: Path, rules: str) -> dict[int, float]:
    """Average precision of each class that has ground truth."""
    wanted: dict[tuple[str, int], dict[int, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    given: dict[tuple[str, int], list[tuple[float, int, list[float]]]] = defaultdict(list)
    with truth.open() as file:
        for row in csv.reader(file):
            wanted[row[0], int(row[1])][int(row[6])].append([float(v) for v in row[2:6]])
    with found.open() as file:
        for row in csv.reader(file):
            given[row[0], int(row[1])].append((float(row[7]), int(row[6]), [float(v) for v in row[2:6]]))
    marks: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for keyframe, rows in given.items():
        if rules == "activitynet":
            if keyframe not in wanted:
                continue
            rows = sorted(rows, key=lambda row: -row[0])[:50]
        taken: set[tuple[int, int]] = set()
        for score, action, box in rows:
            if box[2] <= box[0] or box[3] <= box[1]:
                continue
            ious = [plain_iou(box, other) for other in wanted[keyframe][action]] if keyframe in wanted else []
            best = int(np.argmax(ious)) if ious else -1
            hit = best >= 0 and ious[best] >= 0.5 and (action, best) not in taken
            if hit:
                taken.add((action, best))
            marks[action].append((score, hit))
    positives: dict[int, int] = defaultdict(int)
    for classes in wanted.values():
        for action, boxes in classes.items():
            positives[action] += len(boxes)
    return {action: plain_ap(marks[action], count) for action, count in positives.items() if count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", type=int, default=100_000)
    parser.add_argument("--rules", choices=("activitynet", "pyslowfast"), default="activitynet")
    parser.add_argument("--repeat", type=int, default=3, help="how often each way runs")
    parser.add_argument("--no-history", action="store_true", help="only print")
    options = parser.parse_args()

    load = machine_load()
    ours: list[tuple[float, float]] = []  # (wall seconds, processor seconds) of each repetition
    plain: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        found, truth, keyframes = draw(Path(folder), options.detections)
        for _ in range(options.repeat):
            start, cpu = time.perf_counter(), time.process_time()
            report = evaluate_ava(found, truth, rules=options.rules)
            ours.append((time.perf_counter() - start, time.process_time() - cpu))
            start, cpu = time.perf_counter(), time.process_time()
            expected = plain_scores(found, truth, options.rules)
            plain.append((time.perf_counter() - start, time.process_time() - cpu))
            values = sorted(report.scores["class_AP"].values())
            apart = max(abs(a - b) for a, b in zip(values, sorted(expected.values()), strict=True))
            if apart > 1e-9:
                raise SystemExit(f"the two ways disagree by {apart}")
    (seconds, cpu), (plain_seconds, plain_cpu) = min(ours), min(plain)
    row = {
        **stamp(load),
        "rules": options.rules,
        "detections": options.detections,
        "keyframes": keyframes,
        "seconds": f"{seconds:.2f}",
        "plain_seconds": f"{plain_seconds:.2f}",
        "ratio": f"{plain_seconds / seconds:.2f}",
        "cpu_seconds": f"{cpu:.2f}",
        "plain_cpu_seconds": f"{plain_cpu:.2f}",
        "clock": CLOCK,
    }
    for column, value in row.items():
        print(f"{column:>18}  {value}")
    print(f"{'mAP':>18}  {report.scores['mAP']:.6f} both ways")
    if not options.no_history:
        append("ava", COLUMNS, [row])


if __name__ == "__main__":
    main()
