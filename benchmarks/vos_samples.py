"""How much processor time one training sample of STCN takes, beside a plain step-by-step version of the same recipe.

    python benchmarks/vos_samples.py                     stills and a video that are generated (480x854)
    python benchmarks/vos_samples.py --davis DIR         frames of DAVIS 2016 (JPEGImages/480p, Annotations/480p)

| sample | ours | plain |
|---|---|---|
| still | one warp a frame, spline on a coarse grid, colours as one matrix | step by step, spline at every pixel |
| video | crop, resize and one warp a frame, colours as one matrix | step by step |

Plain are Pillow and torchvision. Both read the same files and give three frames of 384x384 with masks. The clock counts
processor seconds of one thread, decoding included. Both ways take turns; the mean of all samples is kept, since some
have a spline and others not. Lines are appended to benchmarks/history/vos_samples.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from experiments.vos_sets import write_video
from record import append, machine_load, stamp
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.stills import StaticPair
from twospeed.data.benchmarks.video_folders import VideoFolders
from twospeed.data.clips.stills import StillClips
from twospeed.data.clips.synthetic import render_clip
from twospeed.data.clips.videos import VideoClips, choose_frames
from twospeed.data.samples import SequenceSample
from twospeed.transforms.warp import MEAN_COLOUR, draw_resized_crop, draw_spline

COLUMNS = ("date", "machine", "load", "commit", "what", "samples", "ours_ms", "plain_ms", "ratio", "clock")
CLOCK = "processor milliseconds of one thread a sample, decoding included"
SIZE = 384


def jitter(rng: np.random.Generator, image: Image.Image, spread: tuple[float, ...]) -> Image.Image:
    """Change brightness, contrast, saturation (and hue) one after the other."""
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    for step, s in zip(steps, spread, strict=False):
        image = step(image, float(rng.uniform(1 - s, 1 + s)))
    return TF.adjust_hue(image, float(rng.uniform(-spread[3], spread[3]))) if len(spread) > 3 else image


def bent(rng: np.random.Generator, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Bend an image and its mask by a spline that is evaluated at every pixel."""
    spline, (h, w) = draw_spline(rng), arrays[1].shape
    y, x = np.mgrid[0:h, 0:w]
    places = np.stack([(x + 0.5) / w, (y + 0.5) / h], -1).reshape(-1, 2)
    moved = (spline.displacement(places) * (w, h)).reshape(h, w, 2) + np.stack([x, y], -1)
    ways = (cv2.INTER_CUBIC, cv2.INTER_NEAREST)
    return [cv2.remap(a, moved.astype(np.float32), None, how) for a, how in zip(arrays, ways, strict=True)]


def plain_still(rng: np.random.Generator, pair: StaticPair) -> None:
    """One sample of stage 0, as published, step by step."""
    image, mask = Image.open(pair.image).convert("RGB"), Image.open(pair.mask).convert("L")
    shared = {"angle": 0.0, "translate": [0, 0], "scale": float(rng.uniform(0.8, 1.5)), "shear": [0.0]}
    image, mask = TF.affine(image, **shared, fill=list(MEAN_COLOUR)), TF.affine(mask, **shared)
    image = jitter(rng, image, (0.1, 0.05, 0.05, 0.05))
    for _ in range(3):
        own = {
            "angle": float(rng.uniform(-20, 20)),
            "translate": [0, 0],
            "scale": float(rng.uniform(0.9, 1.1)),
            "shear": [float(rng.uniform(-10, 10))],
            "interpolation": InterpolationMode.BICUBIC,
        }
        frame = TF.resize(TF.affine(image, **own, fill=list(MEAN_COLOUR)), SIZE, InterpolationMode.BICUBIC)
        labels = TF.resize(TF.affine(mask, **own), SIZE, InterpolationMode.NEAREST)
        top, left = (int(rng.integers(side - SIZE + 1)) for side in (frame.height, frame.width))
        frame, labels = (TF.crop(x, top, left, SIZE, SIZE) for x in (frame, labels))
        arrays = [np.asarray(jitter(rng, frame, (0.1, 0.05, 0.05))), np.asarray(labels)]
        if rng.random() < 0.33:
            bent(rng, arrays)


def plain_video(rng: np.random.Generator, video: SequenceSample) -> None:
    """One sample of the main training, as published, step by step."""
    files = [(video.images[frame], mask) for frame, mask in video.annotations.items()]
    box = None
    for index in choose_frames(rng, len(files), 10):
        image, mask = Image.open(files[index][0]).convert("RGB"), Image.open(files[index][1])
        box = box or draw_resized_crop(rng, image.height, image.width, area=(0.36, 1.0))
        image = TF.resized_crop(image, *box, [SIZE, SIZE], InterpolationMode.BICUBIC)
        mask = TF.resized_crop(mask, *box, [SIZE, SIZE], InterpolationMode.NEAREST)
        image = jitter(rng, image, (0.1, 0.03, 0.03))
        own = {
            "angle": float(rng.uniform(-15, 15)), "translate": [0, 0], "scale": 1.0,
            "shear": [float(rng.uniform(-10, 10))],
        }  # fmt: skip
        frame = TF.affine(image, **own, interpolation=InterpolationMode.BICUBIC, fill=list(MEAN_COLOUR))
        np.asarray(jitter(rng, frame, (0.01, 0.01, 0.01)))
        np.asarray(TF.affine(mask, **own))


def timed(ways: tuple[Callable[[int], object], Callable[[int], object]], samples: int) -> list[float]:
    """Return milliseconds of processor time a sample of each way."""
    spent = [0.0, 0.0]
    for i in range(samples + 1):
        for which, way in enumerate(ways):
            start = time.process_time()
            way(i)
            spent[which] += (time.process_time() - start) * (i > 0)  # the first warms up
    return [1000 * seconds / samples for seconds in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, help="a DAVIS folder; without: a generated video")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--no-history", action="store_true", help="only print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    load = machine_load()
    with tempfile.TemporaryDirectory() as folder:
        if options.davis is None:
            write_video(*(Path(folder) / kind / "x" for kind in ("JPEGImages", "Annotations")),
                        render_clip(0, 40, 480, 854, objects=2))  # fmt: skip
            videos: Sequence[SequenceSample] = list(VideoFolders(folder))
        else:
            videos = list(Davis(options.davis, 2016))
        pairs = [(video.images[frame], mask) for video in videos for frame, mask in video.annotations.items()]
        stills = [StaticPair(image, mask, "davis") for image, mask in pairs[::10]]
        still, clips = StillClips(stills), VideoClips(videos)
        rng = np.random.default_rng(0)
        rows = []
        for what, ours, plain in (
            ("still", lambda i: still.draw(rng, index=i), lambda i: plain_still(rng, stills[i % len(stills)])),
            ("video", lambda i: clips.draw(rng, index=i, gap=10), lambda i: plain_video(rng, videos[i % len(videos)])),
        ):
            mine, theirs = timed((ours, plain), options.samples)
            rows.append({
                **stamp(load), "what": what, "samples": options.samples, "ours_ms": f"{mine:.1f}",
                "plain_ms": f"{theirs:.1f}", "ratio": f"{theirs / mine:.2f}", "clock": CLOCK,
            })  # fmt: skip
            print(f"{what}: ours {mine:.1f} ms, plain {theirs:.1f} ms a sample, ratio {theirs / mine:.2f}")
    if not options.no_history:
        append("vos_samples", COLUMNS, rows)


if __name__ == "__main__":
    main()
