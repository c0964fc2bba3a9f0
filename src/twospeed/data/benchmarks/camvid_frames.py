"""Put frames of CamVid's videos beside its labelled ones, which lie one second apart: GSVNet needs those between.

    python -m twospeed.data.benchmarks.camvid_frames CAMVID 0006R0.MXF 0006R0

CAMVID is the release (701_StillsRaw_full, LabeledApproved_full); a video is one of its recordings. Which frame has
which number is found by comparing all frames with all stills of the sequence, and said. What is written are the frames
before each labelled one, as 701_StillsRaw_full/NAME.png; what is there already is left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.data.benchmarks.camvid import place_of
from twospeed.data.benchmarks.folders import files_by_stem, listing
from twospeed.errors import DatasetError, TwospeedError
from twospeed.files import atomic_file
from twospeed.video.folders import read_image
from twospeed.video.reader import open_video

STILLS = "701_StillsRaw_full"
SMALL = (64, 48)  # width and height at which images are compared
ALIKE = 8.0  # mean difference in grey levels of 255 between a still and its frame, at most; one second apart: about 25
TOLERANCE = 1.0  # by which a still may be closer to another frame: in a car that waits, they differ by noise alone


def find_offset(video: NDArray[np.uint8], stills: dict[int, NDArray[np.uint8]]) -> tuple[int, list[int]]:
    """Return the number of a video's first frame, and the stills that do not fit: their frame shows something else.

    video: all frames, small, uint8 (F, h, w). stills: by number, uint8 (h, w). The number returned is the one at which
    all stills together differ least from their frames.
    """
    apart = {
        number: np.array([cv2.norm(frame, still, cv2.NORM_L1) for frame in video]) / still.size
        for number, still in stills.items()
    }
    indices = np.arange(len(video))

    def at(number: int, first: int) -> float:
        return float(apart[number][number - first]) if number - first in indices else 255.0

    votes = {number - int(differences.argmin()) for number, differences in apart.items()}
    first = min(sorted(votes), key=lambda vote: sum(at(number, vote) for number in stills))
    return first, [n for n in stills if at(n, first) > min(ALIKE, float(apart[n].min()) + TOLERANCE)]


def write_frames(root: Path, video: Path, sequence: str, before: int = 4) -> tuple[int, int, list[int]]:
    """Write the frames before each labelled one. Returns the number of the video's first frame, how many were written,
    and the stills that found no place.

    Raises DatasetError where stills lack, have another size, or fewer than nine in ten fit; VideoError; OutputError.
    """
    places = {place_of(path): path for path in files_by_stem(root / STILLS, (".png",)).values()}
    labelled = {place_of(path) for path in files_by_stem(root / "LabeledApproved_full", (".png",)).values()}
    stills = {place[1]: path for place, path in places.items() if place in labelled and place[0] == sequence}
    if not stills:
        raise DatasetError(f"{root / STILLS}: no labelled still of {sequence!r}; sequences are 0001TP, 0006R0, ...")
    with open_video(video) as frames:
        small = np.stack([_small(frame.image) for frame in frames])
    first, lost = find_offset(small, {number: _small(read_image(path)) for number, path in stills.items()})
    if len(lost) > len(stills) // 10:
        raise DatasetError(
            f"{video}: {len(lost)} of {len(stills)} stills of {sequence} are none of its frames; is it the right video?"
        )
    wanted = {number - back for number in stills if number not in lost for back in range(1, before + 1)} - stills.keys()
    example = next(iter(stills.values()))
    digits = len(example.stem) - len(example.stem.rstrip("0123456789"))
    size, count = read_image(example).shape, 0
    with open_video(video) as frames:
        for frame in frames:
            number = first + frame.index
            to = example.with_stem(f"{example.stem[:-digits]}{number:0{digits}d}")
            if number not in wanted or to.exists():
                continue
            if frame.image.shape != size:
                raise DatasetError(f"{video}: its frames are {frame.image.shape[:2]}, the stills {size[:2]} pixels")
            with atomic_file(to) as temporary:
                Image.fromarray(frame.image).save(temporary, format="png")
            count += 1
    return first, count, lost


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), SMALL, interpolation=cv2.INTER_AREA), np.uint8
    )


def main() -> None:
    """Write one video's frames from the command line."""
    parser = argparse.ArgumentParser(description="Put the frames of one of CamVid's videos beside its stills.")
    parser.add_argument("root", type=Path, help=f"the release, with {STILLS}")
    parser.add_argument("video", type=Path)
    parser.add_argument("sequence", help="0001TP, 0006R0, 0016E5 or Seq05VD")
    parser.add_argument("--before", type=int, default=4, help="frames before each labelled one")
    chosen = parser.parse_args()
    try:
        first, count, lost = write_frames(chosen.root, chosen.video, chosen.sequence, chosen.before)
    except TwospeedError as error:
        parser.error(str(error))
    print(f"{chosen.video}: its first frame is number {first} of {chosen.sequence}; {count} frames written")
    if lost:
        print(f"no frames before the stills {listing([str(number) for number in lost])}: they are none of the video's")


if __name__ == "__main__":
    main()
