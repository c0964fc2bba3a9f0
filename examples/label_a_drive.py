"""Measure what a drive shows: the share of road, cars, people and so on in every frame, as a table.

python examples/label_a_drive.py drive.mp4 shares.csv --keyframe-every 4
"""

import argparse
import csv
from pathlib import Path

import twospeed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--keyframe-every", type=int, default=4, help="frames between two that are computed in full")
    chosen = parser.parse_args()

    segmenter = twospeed.Segmenter("segment_nano", keyframe_every=chosen.keyframe_every)
    with twospeed.open_video(chosen.clip) as frames, chosen.table.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        for frame in frames:
            result = segmenter.step(frame.image, time_s=frame.time_s)
            classes = range(len(result.scores))
            if frame.index == 0:
                table.writerow(["time_s", "keyframe", *map(result.class_name, classes)])
            shares = [(result.labels == class_id).mean() for class_id in classes]
            table.writerow([f"{frame.time_s:.3f}", int(result.is_keyframe), *(f"{share:.4f}" for share in shares)])
    print(chosen.table)


if __name__ == "__main__":
    main()
