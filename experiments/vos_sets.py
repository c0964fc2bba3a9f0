"""Tiny generated data sets in the layouts of STCN's training: to try every stage, and to test it, without a download.

    python -m experiments.vos_sets OUT [--side 96] [--videos 6] [--frames 12] [--stills 8]

    OUT/static/{fss/<class>,DUTS-TR,DUTS-TE,ecssd,BIG_small,HRSOD_small}    stills with a mask
    OUT/DAVIS/2017/trainval      train and val, two objects a video, in every frame
    OUT/YouTube/train            every fifth frame of longer videos
    OUT/BL30K                    as rendered videos lie

Objects are textured cut-outs that move over a textured ground (`data.clips.synthetic.render_clip`); the same seed gives
the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twospeed.data.clips.synthetic import render_clip
from twospeed.data.clips.textures import procedural_texture, random_shape
from twospeed.errors import InputError, OutputError
from twospeed.video.indexed_png import write_indexed_png

Pixels = NDArray[np.uint8]

STILLS = ("fss/starfish", "fss/teapot", "DUTS-TR", "DUTS-TE", "ecssd", "BIG_small", "HRSOD_small")
"""Folders of stills that are written."""


def write_demo_sets(
    out: Path, *, side: int = 96, videos: int = 6, frames: int = 12, stills: int = 8, seed: int = 0
) -> Path:
    """Write all of them below `out` and return it.

    side: height of the images; they are half as wide again. videos: of each video set; the last quarter of DAVIS is
    its val. frames: of each video; YouTube-VOS's are drawn for 5 times as long and keep every fifth. stills: in each
    folder. Raises InputError for numbers that make no set, OutputError where it cannot be written.
    """
    if side < 32 or frames < 3 or videos < 2 or stills < 1:
        raise InputError(
            f"needs a side of 32, 3 frames, 2 videos and 1 still, got {side=}, {frames=}, {videos=}, {stills=}"
        )
    width = side * 3 // 2
    try:
        for place, folder in enumerate(STILLS):
            for i in range(stills):
                rng = np.random.default_rng([seed, 0, place, i])
                write_still(out / "static" / folder, f"{i + 1}", *draw_still(rng, side, width))
        names = [f"swim-{i:02d}" for i in range(videos)]
        trained = names[: videos - max(1, videos // 4)]
        for number, (root, step) in enumerate(
            ((out / "DAVIS/2017/trainval", 1), (out / "YouTube/train", 5), (out / "BL30K", 1))
        ):
            images, masks = root / "JPEGImages", root / "Annotations"
            if number == 0:
                images, masks = images / "480p", masks / "480p"
            for i, name in enumerate(names):
                clip = render_clip(seed * 1000 + number * 100 + i, frames * step, side, width, objects=2)
                write_video(images / name, masks / name, clip, step)
        lists = out / "DAVIS/2017/trainval/ImageSets/2017"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "train.txt").write_text("\n".join(trained) + "\n")
        (lists / "val.txt").write_text("\n".join(names[len(trained) :]) + "\n")
        every_fifth = [f"{5 * t:05d}" for t in range(frames)]
        objects = {str(k): {"category": "fish", "frames": every_fifth} for k in (1, 2)}
        meta = {"videos": {name: {"objects": objects} for name in names}}
        (out / "YouTube/train/meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{error.filename or out}: could not be written ({error.strerror or error})") from error
    return out


def draw_still(rng: np.random.Generator, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Draw an image, uint8 RGB (height, width, 3), of one textured thing, and its mask, uint8 of 0 and 255."""
    hue = float(rng.random())
    image = procedural_texture(rng, height, width, kind="cloud", hue=hue)
    extent = int(height * rng.uniform(0.4, 0.8))
    shape = random_shape(rng, extent)
    thing = procedural_texture(rng, extent, extent, hue=(hue + float(rng.uniform(0.3, 0.7))) % 1.0)
    top, left = int(rng.integers(height - extent + 1)), int(rng.integers(width - extent + 1))
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + extent, left : left + extent] = np.where(shape > 127, np.uint8(255), np.uint8(0))
    image[mask > 0] = thing[shape > 127]
    return image, mask


def write_still(folder: Path, name: str, image: Pixels, mask: Pixels) -> None:
    """Save an image and its mask side by side, as the authors of STCN keep them."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}.jpg", quality=95)
    Image.fromarray(mask).save(folder / f"{name}.png")


def write_video(images: Path, masks: Path, clip: Iterable[tuple[Pixels, Pixels]], step: int = 1) -> None:
    """Save every step-th frame of a clip, and its labels as palette PNG."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for t, (image, labels) in enumerate(clip):
        if t % step == 0:
            Image.fromarray(image).save(images / f"{t:05d}.jpg", quality=95)
            write_indexed_png(masks / f"{t:05d}.png", labels)


def main() -> None:
    """Write the sets from the command line."""
    parser = argparse.ArgumentParser(description="Write tiny sets in the layouts of STCN's training.")
    parser.add_argument("out", type=Path)
    for name, value, words in (
        ("side", 96, "height of the images in pixels"),
        ("videos", 6, "videos of each video set"),
        ("frames", 12, "frames of each video"),
        ("stills", 8, "stills in each folder"),
        ("seed", 0, "of everything drawn"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=words)
    options = vars(parser.parse_args())
    print(write_demo_sets(options.pop("out"), **options))


if __name__ == "__main__":
    main()
