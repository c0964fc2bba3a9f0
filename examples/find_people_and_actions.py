"""Find out who does what, second by second, with boxes of people from any detector.

    python examples/find_people_and_actions.py clip.mp4 people.csv

`people.csv` has the columns time_s, x1, y1, x2, y2 (pixels) and score. Without it people are found by Faster R-CNN.
Without `--weights` the published ones of the model are downloaded once.
"""

import argparse
from pathlib import Path

import twospeed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("boxes", type=Path, nargs="?")
    parser.add_argument("--model", default="slowfast_r50_8x8_ava")
    parser.add_argument("--weights", default="default")
    chosen = parser.parse_args()

    detector = twospeed.Detector(chosen.model, chosen.boxes, weights=chosen.weights, every_s=1.0, threshold=0.8)
    for result in detector.detect(chosen.clip):
        print(f"{result.time_s:.1f} s: {len(result.boxes_xyxy)} people")
        for row, (person, box) in enumerate(zip(result.track_ids, result.boxes_xyxy, strict=True)):
            actions = ", ".join(f"{label} {score:.2f}" for label, score in result.top(row, 3))
            print(f"  person {person} at {box.round().astype(int).tolist()}: {actions}")


if __name__ == "__main__":
    main()
