"""Small data sets in the official layouts of DAVIS and YouTube-VOS, with squares that wander over noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def moving_squares(frames: int, objects: int, *, seed: int = 0, starts: Mapping[int, int] | None = None) -> np.ndarray:
    """Labels uint8 (T, H, W): each object a square on a row of its own; `starts`: first frame of an object, by id."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    rows = HEIGHT // max(objects, 1)
    for k in range(1, objects + 1):
        side, left = min(rows - 2, 12), int(rng.integers(2, 20))
        for t in range((starts or {}).get(k, 0), frames):
            top = (k - 1) * rows + 1
            labels[t, top : top + side, left + 2 * t : left + 2 * t + side] = k
    return labels


def write_mask(path: Path, labels: np.ndarray) -> None:
    """Save as a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette([v for k in range(256) for v in (k * 37 % 256, k * 91 % 256, k * 53 % 256)])
    image.save(path)


def write_grey(path: Path, labels: np.ndarray, white: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(((labels > 0) * white).astype(np.uint8)).save(path)


def write_frame(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.repeat((40 + 60 * (labels % 4))[..., None], 3, axis=2).astype(np.uint8)
    image[..., 1] = np.arange(labels.shape[1], dtype=np.uint8)  # no mirror symmetry
    Image.fromarray(image).save(path)


def write_davis(
    root: Path,
    sequences: Mapping[str, np.ndarray],
    *,
    year: int = 2017,
    kind: str = "Annotations",
    lists: Mapping[str, Sequence[str]] | None = None,
    images: bool = True,
) -> Path:
    """Write sequences of labels (T, H, W) as a DAVIS folder; `lists`: lines of files below ImageSets."""
    for name, labels in sequences.items():
        for t, frame in enumerate(labels):
            path = root / kind / "480p" / name / f"{t:05d}.png"
            write_grey(path, frame) if year == 2016 else write_mask(path, frame)
            if images:
                write_frame(root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg", frame)
    for file, lines in (lists or {}).items():
        path = root / "ImageSets" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return root


def write_results(folder: Path, sequences: Mapping[str, np.ndarray], *, every: int = 1) -> Path:
    for name, labels in sequences.items():
        for t, frame in enumerate(labels):
            if t % every == 0:
                write_mask(folder / name / f"{t:05d}.png", frame)
    return folder


def write_youtube_vos(
    root: Path,
    videos: Mapping[str, np.ndarray],
    categories: Mapping[str, Mapping[int, str]],
    *,
    every: int = 5,
    public: bool = True,
    all_frames: bool = True,
) -> Path:
    """Write videos of labels (T, H, W), annotated every `every` frames; not `public`: first masks alone."""
    meta: dict[str, dict[str, dict]] = {}
    for name, labels in videos.items():
        listed = range(0, len(labels), every)
        objects: dict[str, dict] = {}
        known: set[int] = set()
        for t in listed:
            ids = set(np.unique(labels[t]).tolist()) - {0}
            if public or ids - known:
                write_mask(root / "valid" / "Annotations" / name / f"{t:05d}.png", labels[t])
            known |= ids
            for k in sorted(ids):
                entry = objects.setdefault(str(k), {"category": categories[name][k], "frames": []})
                entry["frames"].append(f"{t:05d}")
        meta[name] = {"objects": objects}
        for t, frame in enumerate(labels):
            if t % every == 0:
                write_frame(root / "valid" / "JPEGImages" / name / f"{t:05d}.jpg", frame)
            if all_frames:
                folder = root / "all_frames" / "valid_all_frames" / "JPEGImages"
                write_frame(folder / name / f"{t:05d}.jpg", frame)
    (root / "valid" / "meta.json").write_text(json.dumps({"videos": meta}))
    return root
