"""What corrections, annotated frames in the middle, bounded memory and confidence are worth, on DAVIS.

python -m experiments.corrections DAVIS OUT [--model track_nano] [--size 240] [--parts corrections ...]

corrections   From a mask at frame 0 (GrabCut's of a box, or exact), corrected by an exact mask at frame 25: mean J at
              26, 30, 35, 40, 45 with the older memory kept, with the rule of `Tracker`, and with the new mask alone.
              Also backward, from frame 50.
between       Exact masks at frames 10 and 50 (or the last): mean J of the frames between, by how the two sides
              are combined.
middle        A mask in the middle (box or exact), tracked in both directions, against one at frame 0, tracked forward.
              Also Spearman's rank correlation of confidence and true J within each sequence.
memory        An exact mask at frame 0: mean J by the most frames in memory.

Frames and masks are scaled to a shorter side of `size`. J is DAVIS's region similarity of the one foreground. Each part
writes OUT/PART.csv, a line for each sequence, and prints means. docs/experiments/corrections.md holds the tables.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from twospeed.data.benchmarks.davis import Davis
from twospeed.data.samples import SequenceSample
from twospeed.pipelines.prompts import mask_from_prompts
from twospeed.pipelines.propagate import propagate, track_segments
from twospeed.pipelines.tracker import Tracker
from twospeed.results import Frame, ObjectMasks
from twospeed.weights.load import create_model

Labels = NDArray[np.uint8]
Row = dict[str, str | float]

CORRECTED, SCORED = 25, (26, 30, 35, 40, 45)
FIRST, SECOND = 10, 50
MEMORIES = (None, 10, 5)
STARTS = ("box", "exact")


class Clip:
    """A sequence in memory, at a smaller size: images uint8 (H, W, 3), labels uint8 (H, W) of one object."""

    def __init__(self, sample: SequenceSample, size: int) -> None:
        self.name = sample.name
        self.images: list[Labels] = []
        self.labels: list[Labels] = []
        for frame in sample.frames:
            image = cv2.cvtColor(cv2.imread(str(sample.images[frame])), cv2.COLOR_BGR2RGB)
            mask = cv2.imread(str(sample.annotations[frame]), cv2.IMREAD_GRAYSCALE) > 0
            to = (round(image.shape[1] * size / image.shape[0]), size)
            self.images.append(cv2.resize(image, to, interpolation=cv2.INTER_AREA))
            share = cv2.resize(mask.astype(np.float32), to, interpolation=cv2.INTER_AREA)
            self.labels.append((share > 0.5).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: range) -> Iterator[Frame]:
        """Give frames as `propagate` reads them."""
        return (Frame(index, index / 24, self.images[index]) for index in indices)

    def prompt(self, index: int, kind: str) -> Labels:
        """Return the exact mask of a frame, or what GrabCut makes of the box around it."""
        if kind == "exact" or not self.labels[index].any():
            return self.labels[index]
        ys, xs = np.nonzero(self.labels[index])
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        return mask_from_prompts(self.images[index], box=box).astype(np.uint8)

    def score(self, results: Mapping[int, Labels] | Mapping[int, NDArray[np.bool_]]) -> float:
        """Mean J of results by frame."""
        return float(np.mean([jaccard(labels, self.labels[index]) for index, labels in results.items()]))


def jaccard(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """J of two masks of one object; two empty ones agree."""
    a, b = first.astype(bool), second.astype(bool)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def corrections(clip: Clip, tracker: Tracker) -> Iterator[Row]:
    """Correct at frame 25, in both directions of the same clip."""
    last = min(len(clip) - 1, SCORED[-1])
    for direction, first in (("forward", 0), ("backward", min(2 * CORRECTED, len(clip) - 1))):
        step = 1 if direction == "forward" else -1
        start, fix = first, CORRECTED
        scored = [fix + step * (at - CORRECTED) for at in SCORED if at <= last]
        scored = [at for at in scored if 0 <= at < len(clip)]
        after = range(fix, scored[-1] + step, step)
        for kind in STARTS:
            row: Row = {"sequence": clip.name, "direction": direction, "start": kind}
            tracker.reset()
            for index in range(start, fix, step):
                tracker.step(clip.images[index], clip.prompt(index, kind) if index == start else None)
            with tempfile.TemporaryDirectory() as folder:
                tracker.save_state(state := Path(folder) / "state.safetensors")
                for way, agrees in (("kept", 0.0), ("rule", None), ("fresh", 0.0)):
                    tracker.reset()
                    if way != "fresh":
                        tracker.load_state(state)
                    with mock.patch("twospeed.pipelines.tracker.AGREES", agrees) if agrees is not None else _nothing():
                        found = {
                            index: tracker.step(clip.images[index], clip.labels[index] if index == fix else None).labels
                            for index in after
                        }
                    row[way] = clip.score({index: found[index] for index in scored})
            yield row


def _nothing() -> mock._patch[float]:
    from twospeed.pipelines import tracker

    return mock.patch("twospeed.pipelines.tracker.AGREES", tracker.AGREES)


def between(clip: Clip, tracker: Tracker) -> Iterator[Row]:
    """Track between two annotated frames from both sides, and combine."""
    second = min(SECOND, len(clip) - 1)
    keyframes = {index: clip.labels[index] for index in (FIRST, second)}
    forward, backward = range(FIRST + 1, second), range(second - 1, FIRST, -1)

    def planes(indices: range, given: Iterable[int], agrees: float | None = None) -> dict[int, ObjectMasks]:
        with mock.patch("twospeed.pipelines.tracker.AGREES", agrees) if agrees is not None else _nothing():
            known = {index: keyframes[index] for index in given}
            return {frame.index: result for frame, result in propagate(clip.read, tracker, known, indices)}

    row: Row = {"sequence": clip.name}
    alone = planes(forward, [FIRST])
    row["forward from the first"] = clip.score({i: r.labels for i, r in alone.items()})
    middle = (FIRST + second) // 2
    for name, agrees in (("nearest decides", None), ("both kept", 0.0)):
        a, b = planes(forward, [FIRST, second], agrees), planes(backward, [FIRST, second], agrees)
        row[f"to the middle, {name}"] = clip.score({i: (a if i <= middle else b)[i].labels for i in forward})
        weight = {i: (i - FIRST) / (second - FIRST) for i in forward}
        mixed = {i: (1 - weight[i]) * a[i].probabilities[1] + weight[i] * b[i].probabilities[1] > 0.5 for i in forward}
        row[f"blended by distance, {name}"] = clip.score(mixed)
        surer = {i: (a if a[i].confidence[0] >= b[i].confidence[0] else b)[i].labels for i in forward}
        row[f"surer, {name}"] = clip.score(surer)
    yield row


def middle(clip: Clip, tracker: Tracker) -> Iterator[Row]:
    """Track from a prompt in the middle in both directions, and from one at the first frame."""
    every, half = range(len(clip)), len(clip) // 2
    for kind in STARTS:
        row: Row = {"sequence": clip.name, "prompt": kind}
        for name, at in (("first", 0), ("middle", half)):
            found: dict[int, Labels] = {}
            sure: dict[int, float] = {}
            for frame, result in track_segments(clip.read, tracker, {at: clip.prompt(at, kind)}, every, "both"):
                if frame.index != at:
                    found[frame.index], sure[frame.index] = result.labels, float(result.confidence[0])
            row[name] = clip.score(found)
            if name == "first":
                true = [jaccard(found[index], clip.labels[index]) for index in found]
                ordered = len({*true}) > 1 and len({*sure.values()}) > 1
                row["rank correlation"] = float(spearmanr(list(sure.values()), true).statistic) if ordered else 0.0
        yield row


def memory(clip: Clip, tracker: Tracker) -> Iterator[Row]:
    """Track from the first frame with several bounds."""
    row: Row = {"sequence": clip.name}
    for most in MEMORIES:
        bounded = Tracker(tracker._given, size=tracker.size, max_memory_frames=most)
        found = {
            index: bounded.step(image, clip.labels[0] if index == 0 else None).labels
            for index, image in enumerate(clip.images)
        }
        row["no bound" if most is None else f"{most} frames"] = clip.score({i: f for i, f in found.items() if i})
    yield row


PARTS = {"between": between, "corrections": corrections, "middle": middle, "memory": memory}


def means(rows: Sequence[Row]) -> list[str]:
    """Lines of a table of means over the sequences, for each kind of row."""
    words = [name for name, value in rows[0].items() if isinstance(value, str) and name != "sequence"]
    lines = []
    for kind in dict.fromkeys(tuple(row[name] for name in words) for row in rows):
        chosen = [row for row in rows if tuple(row[name] for name in words) == kind]
        numbers = {
            name: np.array([float(row[name]) for row in chosen])
            for name, v in chosen[0].items()
            if isinstance(v, float)
        }
        text = ", ".join(f"{name} {values.mean():.4f}" for name, values in numbers.items())
        if "fresh" in numbers:
            text += f", rule less fresh at worst {(numbers['rule'] - numbers['fresh']).min():+.4f}"
        if "rank correlation" in numbers:
            text += f", median rank correlation {np.median(numbers['rank correlation']):.2f}"
        lines.append(" ".join(map(str, (*kind, text))))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("davis", type=Path, help="DAVIS-2016 folder (holds JPEGImages/480p and Annotations/480p)")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="track_nano")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sequences", nargs="+", help="only these")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(create_model(options.model, options.weights), size=options.size)
    samples = list(Davis(options.davis, 2016, sequences=options.sequences))
    for part in options.parts:
        rows: list[Row] = []
        for sample in samples:
            rows += PARTS[part](Clip(sample, options.size), tracker)
            print(part, rows[-1], flush=True)
            with (options.out / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in r.items()} for r in rows)
        print(f"\n{part}, mean of {len(samples)} sequences", *means(rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
