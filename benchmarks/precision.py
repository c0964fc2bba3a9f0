"""What bfloat16 changes in tracked masks, and what it saves: J&F and processor seconds of each sequence, both ways.

    python benchmarks/precision.py --data DAVIS/2016 --sequences libby,goat,cows
    python benchmarks/precision.py --data DAVIS/2016 --model track_small

The first mask is given, all frames but the first and the last are scored, as the benchmark does; 480p, memory every
fifth frame. Both ways track a sequence one after the other; seconds are of the processor, all threads together, for a
frame with its masks, images decoded. Where this machine has no instructions for bfloat16 its seconds mean nothing.
Lines are appended to benchmarks/history/precision.csv.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from record import append, stamp
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.samples import SequenceSample
from twospeed.metrics.regions import score_frame
from twospeed.ops.bf16 import multiplies_bf16
from twospeed.pipelines.tracker import Tracker

COLUMNS = (
    *("date", "machine", "load", "threads", "commit", "model", "sequence", "frames"),
    *("fp32_jf", "bf16_jf", "fp32_cpu_s", "bf16_cpu_s"),
)


def tracked(tracker: Tracker, sample: SequenceSample) -> tuple[float, float]:
    """Track one sequence; return its J&F and the processor seconds of a frame."""
    tracker.reset()
    scores, seconds = [], 0.0
    for i, frame in enumerate(sample.frames):
        image, annotation = sample.image(frame), sample.labels(frame)
        started = time.process_time()
        labels = tracker.step(image, None if i else annotation).labels
        seconds += time.process_time() - started
        if 0 < i < len(sample.frames) - 1:
            j, f = score_frame(labels, annotation, 1)
            scores.append((j[0] + f[0]) / 2)
    return float(np.mean(scores)), seconds / len(sample.frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="DAVIS-2016 folder")
    parser.add_argument("--sequences", type=lambda text: text.split(","), help="only these, separated by commas")
    parser.add_argument("--model", default="track_nano")
    parser.add_argument("--no-history", action="store_true", help="only print")
    options = parser.parse_args()
    if not multiplies_bf16(torch.device("cpu")):
        print("this processor has no instructions for bfloat16: compare the scores alone")
    trackers = {name: Tracker(options.model, precision=name, device="cpu") for name in ("fp32", "bf16")}
    found: list[dict[str, float]] = []
    for sample in Davis(options.data, 2016, sequences=options.sequences):
        values = {}
        for name, tracker in trackers.items():
            values[f"{name}_jf"], values[f"{name}_cpu_s"] = tracked(tracker, sample)
        found.append(values)
        print(f"{sample.name:>18}  " + "  ".join(f"{key} {value:.4f}" for key, value in values.items()), flush=True)
        row = {key: f"{value:.4f}" for key, value in values.items()}
        facts = {"threads": torch.get_num_threads(), "model": options.model, "sequence": sample.name}
        if not options.no_history:
            append("precision", COLUMNS, [{**stamp(), **facts, "frames": len(sample.frames), **row}])
    means = {key: np.mean([values[key] for values in found]) for key in found[0]}
    print(f"{'mean':>18}  " + "  ".join(f"{key} {value:.4f}" for key, value in means.items()))


if __name__ == "__main__":
    main()
