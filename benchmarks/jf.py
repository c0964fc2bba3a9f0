"""How long J and F of a folder of masks take, files included, against a plain reading of the formulas.

    python benchmarks/jf.py --data DAVIS/2016 --predictions results

Both ways score the same files in one run and must agree. The plain way is what the definitions say, on whole
images: one after the other, a boundary map of every mask, dilated with a disk of 8 pixels' radius at 480p.
The clock counts reading and comparing all files and summing up; not the start of Python and its imports. Both
are repeated in turn, and the best of each is kept. `load` is the machine's at the start: other work on it
lengthens wall seconds more than processor seconds. A line is appended to benchmarks/history/jf.csv.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from record import append, machine_load, stamp
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.samples import SequenceSample
from twospeed.evaluation.vos import evaluate_davis

COLUMNS = (
    *("date", "machine", "load", "commit", "sequences", "frames", "seconds", "plain_seconds", "ratio"),
    *("cpu_seconds", "plain_cpu_seconds", "clock"),
)
CLOCK = "reading and comparing all files and summing up; without imports"


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image) > 0


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    right, below, both = mask.copy(), mask.copy(), mask.copy()
    right[:, :-1], below[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ both)
    boundary[-1, :] = mask[-1, :] ^ right[-1, :]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def plain_j(result: np.ndarray, annotation: np.ndarray) -> float:
    union = np.sum(result | annotation)
    return float(np.sum(result & annotation) / union) if union else 1.0


def plain_f(result: np.ndarray, annotation: np.ndarray) -> float:
    radius = math.ceil(0.008 * math.hypot(*annotation.shape))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    found, wanted = plain_boundary(result), plain_boundary(annotation)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    near_found = cv2.dilate(found.astype(np.uint8), disk) > 0
    near_wanted = cv2.dilate(wanted.astype(np.uint8), disk) > 0
    precision, recall = np.sum(found & near_wanted) / found.sum(), np.sum(wanted & near_found) / wanted.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def plain_scores(samples: list[SequenceSample], predictions: Path) -> float:
    """Score all sequences and return mean J&F."""
    j_means, f_means = [], []
    for sample in samples:
        pairs = [
            (read_mask(predictions / sample.name / f"{frame}.png"), read_mask(sample.annotations[frame]))
            for frame in sample.frames[1:-1]
        ]
        j_means.append(np.mean([plain_j(*pair) for pair in pairs]))
        f_means.append(np.mean([plain_f(*pair) for pair in pairs]))
    return float((np.mean(j_means) + np.mean(f_means)) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="DAVIS-2016 folder (holds Annotations/480p)")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of <sequence>/<frame>.png")
    parser.add_argument("--sequences", type=lambda text: text.split(","), help="only these, separated by commas")
    parser.add_argument("--repeat", type=int, default=3, help="how often each way runs")
    parser.add_argument("--no-history", action="store_true", help="only print")
    options = parser.parse_args()

    samples = list(Davis(options.data, 2016, sequences=options.sequences, images=False))
    load = machine_load()
    ours: list[tuple[float, float]] = []  # (wall seconds, processor seconds of all threads) of each repetition
    plain: list[tuple[float, float]] = []
    for _ in range(options.repeat):
        start, cpu = time.perf_counter(), time.process_time()
        report = evaluate_davis(options.data, 2016, predictions=options.predictions, sequences=options.sequences)
        ours.append((time.perf_counter() - start, time.process_time() - cpu))
        start, cpu = time.perf_counter(), time.process_time()
        expected = plain_scores(samples, options.predictions)
        plain.append((time.perf_counter() - start, time.process_time() - cpu))
        found = report.scores["global"]["J&F-Mean"]
        if abs(found - expected) > 1e-9:
            raise SystemExit(f"the two ways disagree: J&F {found} and {expected}")
    (seconds, cpu), (plain_seconds, plain_cpu) = min(ours), min(plain)
    row = {
        **stamp(load),
        "sequences": len(samples),
        "frames": sum(len(sample.frames) - 2 for sample in samples),
        "seconds": f"{seconds:.2f}",
        "plain_seconds": f"{plain_seconds:.2f}",
        "ratio": f"{plain_seconds / seconds:.2f}",
        "cpu_seconds": f"{cpu:.2f}",
        "plain_cpu_seconds": f"{plain_cpu:.2f}",
        "clock": CLOCK,
    }
    for column, value in row.items():
        print(f"{column:>18}  {value}")
    print(f"{'J&F':>18}  {found:.6f} both ways")
    if not options.no_history:
        append("jf", COLUMNS, [row])


if __name__ == "__main__":
    main()
