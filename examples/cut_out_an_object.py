"""Cut an object out of a clip: a mask of its first frame in, a mask and a transparent image of every frame out.

python examples/cut_out_an_object.py clip.mp4 mask.png out
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import twospeed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("mask", type=Path, help="PNG of the first frame, 0 where there is background")
    parser.add_argument("out", type=Path, help="folder for the results")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)

    frames = twospeed.open_video(chosen.clip)
    results = twospeed.track(chosen.clip, chosen.mask, max_memory_frames=50)  # memory stays constant
    for frame, result in zip(frames, results, strict=True):
        result.save(chosen.out / f"{frame.index:05d}_mask.png")
        foreground = 1 - result.probabilities[0]  # (H, W), soft along the outline
        image = np.dstack([frame.image, (255 * foreground).astype(np.uint8)])
        Image.fromarray(image).save(chosen.out / f"{frame.index:05d}.png")
    print(f"{chosen.out}: {frame.index + 1} frames")


if __name__ == "__main__":
    main()
