"""One data set to train trackers on, in DAVIS-2016's layout, of three: DAVIS-2016's training sequences, snippets of
YouTube-VOS, and a sequence of PUMaVOS.

    python -m experiments.tracking_set --davis DAVIS16_TRAIN --snippets YOUTUBE_VOS_5FRAMES --sequence CHAIR -o OUT

    DAVIS16_TRAIN          {JPEGImages,Annotations}/288p/<sequence>: copied as they are
    YOUTUBE_VOS_5FRAMES    <snippet>/{gt_0.jpg ... gt_4.jpg, mask_0.png ... mask_4.png}
    CHAIR                  {JPEGImages,Annotations}, images in any depth; scaled to 288 rows

Licences: DAVIS as docs/track_small.md says, YouTube-VOS for non-commercial research, PUMaVOS CC BY 4.0.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from twospeed.errors import InputError
from twospeed.files import make_folder
from twospeed.video.folders import read_image
from twospeed.video.indexed_png import read_label_map, write_indexed_png

SIZE = "288p"


def write_set(davis: Path, snippets: Path, sequence: Path, out: Path) -> None:
    """Write the joined set. Raises InputError where a part has no images, or not a mask for each."""
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(davis / kind / SIZE, out / kind / SIZE, dirs_exist_ok=True)
    for snippet in sorted(path for path in snippets.iterdir() if path.is_dir()):
        name = "yt-" + snippet.name.replace("_", "-")
        _write(out, name, sorted(snippet.glob("gt_*.jpg")), sorted(snippet.glob("mask_*.png")))
    images = sorted((sequence / "JPEGImages").rglob("*.jpg"))
    _write(out, sequence.name, images, sorted((sequence / "Annotations").rglob("*.png")), rows=288)


def _write(out: Path, name: str, images: Sequence[Path], masks: Sequence[Path], rows: int | None = None) -> None:
    if not images or len(images) != len(masks):
        raise InputError(f"{name}: needs images and a mask for each, found {len(images)} and {len(masks)}")
    folders = [make_folder(out / kind / SIZE / name) for kind in ("JPEGImages", "Annotations")]
    for number, (image_file, mask_file) in enumerate(zip(images, masks, strict=True)):
        image = Image.fromarray(read_image(image_file))
        mask = Image.fromarray(read_label_map(mask_file, allow_empty=True) > 0)
        if rows is not None:
            size = (round(image.width * rows / image.height), rows)
            image, mask = image.resize(size), mask.resize(size, Image.Resampling.NEAREST)
        image.save(folders[0] / f"{number:05d}.jpg", quality=95)
        write_indexed_png(folders[1] / f"{number:05d}.png", np.asarray(mask))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("--davis", "--snippets", "--sequence"):
        parser.add_argument(part, type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    chosen = parser.parse_args()
    write_set(chosen.davis, chosen.snippets, chosen.sequence, chosen.out)


if __name__ == "__main__":
    main()
