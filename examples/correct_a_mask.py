"""Follow objects frame by frame, correct them where they go wrong, and watch the result as a video.

    python examples/correct_a_mask.py clip.mp4 out.mp4 --masks 0=first.png 40=corrected.png

Labels that are new add objects; labels that are known correct theirs. Here frames come from a file; a camera's would be
handled the same way.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import twospeed
from twospeed.video.writer import VideoWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--masks", nargs="+", required=True, metavar="FRAME=PNG", help="palette images of object ids")
    chosen = parser.parse_args()
    files = dict(pair.split("=", 1) for pair in chosen.masks)
    masks = {int(frame): np.asarray(Image.open(path)) for frame, path in files.items()}

    tracker = twospeed.Tracker("track_nano", max_memory_frames=50)
    with twospeed.open_video(chosen.clip) as frames, VideoWriter(chosen.out, frames.info.frame_rate) as writer:
        for frame in frames:
            result = tracker.step(frame.image, masks.get(frame.index), time_s=frame.time_s)
            writer.write(result.draw(frame.image))
            areas = {object_id: int((result.labels == object_id).sum()) for object_id in result.object_ids}
            print(f"frame {frame.index}: pixels of each object {areas}")


if __name__ == "__main__":
    main()
