"""Sort a folder of clips by what happens in them: a table of each clip's most probable actions.

    python examples/sort_clips_by_action.py clips actions.csv
    python examples/sort_clips_by_action.py clips actions.csv --weights runs/actions/weights.safetensors

Without `--weights` the published ones of slowfast_r50_8x8, or of `--model`, are downloaded once.
"""

import argparse
import csv
from pathlib import Path

import twospeed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", help="default: that of the weights")
    parser.add_argument("--weights", default="default")
    chosen = parser.parse_args()

    classifier = twospeed.Classifier(chosen.model, weights=chosen.weights, clips=3, crops=1)
    with chosen.table.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["clip", "action", "probability"])
        for clip in sorted(chosen.folder.glob("*.mp4")):
            try:
                scores = classifier.classify(clip)
            except twospeed.VideoError as error:  # one damaged clip does not stop the others
                print(error)
                continue
            table.writerows([clip.name, label, f"{probability:.3f}"] for label, probability in scores.top(3))
    print(chosen.table)


if __name__ == "__main__":
    main()
