"""Fine-tune the shipped tracker on annotated videos of your own, and use the result.

    python examples/train_on_your_own_masks.py DATA runs/mine --iterations 300

DATA has JPEGImages/480p/<video>/00000.jpg and Annotations/480p/<video>/00000.png (palette images of object ids, or 0
and 255 for one object). The last video by name is held out and scored. A run that was stopped continues with --resume.
"""

import argparse
import dataclasses
from pathlib import Path

import twospeed
from twospeed.recipes import stcn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--crop", type=int, default=224, help="pixels")
    parser.add_argument("--resume", action="store_true")
    chosen = parser.parse_args()

    videos = sorted(path.name for path in next((chosen.data / "JPEGImages").iterdir()).iterdir())
    settings = dataclasses.replace(
        stcn.PRESETS["nano"](), davis=chosen.data, davis_year=2017, held_out=(videos[-1],), weights=Path("default"),
        lr=2e-4, minutes=None, iterations=chosen.iterations, crop=(chosen.crop,), batch=(4,), generated=0,
        generated_first=False, phase_borders=(), cache=None, freeze_norm=0.0, out=chosen.out,
    )  # fmt: skip
    weights = stcn.train(settings, resume=chosen.resume) / "weights.safetensors"
    twospeed.Tracker("track_nano", weights=weights)  # can be used; from a shell: twospeed track --weights
    print(f"{weights}: ready")


if __name__ == "__main__":
    main()
