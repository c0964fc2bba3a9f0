"""Small data sets in the official layouts, with results to be scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs.drawing import encode


def datasets() -> None:
    """Small data sets in the official layouts, whole ones (`good`) and copies with one thing broken."""
    from PIL import Image

    d = A / "set"

    def picture(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    def palette(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        image.putpalette([v for k in range(256) for v in (k * 37 % 256, k * 91 % 256, k * 53 % 256)])
        image.save(path)

    def labels(t: int, objects=2) -> np.ndarray:
        array = np.zeros((48, 64), np.uint8)
        for k in range(objects):
            array[2 + 20 * k : 16 + 20 * k, 4 + 2 * t : 20 + 2 * t] = k + 1
        return array

    def frame(array: np.ndarray) -> np.ndarray:
        image = np.repeat((40 + 60 * (array % 4))[..., None], 3, 2).astype(np.uint8)
        image[..., 1] = np.arange(array.shape[1])
        return image

    for year in (16, 17):
        for t in range(6):
            for name in ("dog", "cat"):
                picture(d / f"davis{year}/good/JPEGImages/480p/{name}/{t:05d}.jpg", frame(labels(t)))
                note = d / f"davis{year}/good/Annotations/480p/{name}/{t:05d}.png"
                picture(note, (labels(t) > 0).astype(np.uint8) * 255) if year == 16 else palette(note, labels(t))
                result = d / f"davis{year}/results/{name}/{t:05d}.png"
                picture(result, (labels(t) > 0).astype(np.uint8) * 255) if year == 16 else palette(result, labels(t))
        lists = d / f"davis{year}/good/ImageSets/{'480p' if year == 16 else '2017'}/val.txt"
        lists.parent.mkdir(parents=True)
        lists.write_text("dog\ncat\n" if year == 17 else
                         "".join(f"/JPEGImages/480p/{n}/{t:05d}.jpg /Annotations/480p/{n}/{t:05d}.png\n"
                                 for n in ("dog", "cat") for t in range(6)))  # fmt: skip
    valid = d / "ytvos/good/valid"
    meta = {"videos": {"v1": {"objects": {str(k): {"category": "dog", "frames": ["00000", "00005"]} for k in (1, 2)}}}}
    for t in range(6):
        picture(d / f"ytvos/good/all_frames/valid_all_frames/JPEGImages/v1/{t:05d}.jpg", frame(labels(t)))
        if t % 5 == 0:
            picture(valid / f"JPEGImages/v1/{t:05d}.jpg", frame(labels(t)))
            palette(valid / f"Annotations/v1/{t:05d}.png", labels(t))
            palette(d / f"ytvos/results/v1/{t:05d}.png", labels(t))
    (valid / "meta.json").write_text(json.dumps(meta))
    for t in range(4):
        classes = ((np.arange(128) + 8 * t) // 32 % 4).astype(np.uint8)[None].repeat(64, 0)
        name = f"0016E5_{7959 + 2 * t:05d}.png"
        picture(d / f"camvid/good/val/images/{name}", frame(classes))
        picture(d / f"camvid/good/val/labels/{name}", classes)
        picture(d / f"camvid/results/{name}", classes)
    for start, name in enumerate(("ulm_000001_000019", "bonn_000000_012345")):
        city, sequence, number = name.split("_")
        ids_ = np.array([7, 11, 23, 26], np.uint8)[((np.arange(128) + 8 * start) // 32 % 4)][None].repeat(64, 0)
        for back in range(3):
            file = f"{city}_{sequence}_{int(number) - back:06d}_leftImg8bit.png"
            picture(d / f"cityscapes/good/leftImg8bit_sequence/val/{city}/{file}", frame(ids_))
        picture(d / f"cityscapes/good/gtFine/val/{city}/{name}_gtFine_labelIds.png", ids_)
        picture(d / f"cityscapes/results/{name}.png", ids_)
    notes = d / "ava/good/annotations"
    notes.mkdir(parents=True)
    (d / "ava/good/videos").mkdir()
    encode(d / "ava/good/videos/one.mp4", 150, (56, 32), rate=30)
    box = "0.1,0.2,0.5,0.9"
    (notes / "ava_val_v2.2.csv").write_text("".join(f"one,0{s},{box},{1 + s % 4},0\n" for s in (902, 903)))
    (notes / "ava_val_predicted_boxes.csv").write_text("".join(f"one,0{s},{box},,0.95\n" for s in (902, 903)))
    (notes / "ava_val_excluded_timestamps_v2.2.csv").write_text("one,0904\n")
    (notes / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(
        "".join(f'item {{ name: "a{n}" id: {n} }}\n' for n in range(1, 5)))  # fmt: skip
    (d / "ava/detections.csv").write_text(
        "".join(f"one,0{s},{box},{a},0.{a}\n" for s in (902, 903) for a in range(1, 5))
    )
    kinetics = d / "kinetics/good"
    kinetics.mkdir(parents=True)
    for name in ("a", "b"):
        encode(kinetics / f"{name}.mp4", 12)
    (kinetics / "val.csv").write_text("a.mp4 0\nb.mp4 1\n")
    np.savez(d / "kinetics/scores.npz", scores=np.eye(2, 4, dtype=np.float32), labels=np.array([0, 1]),
             videos=np.array(["a.mp4", "b.mp4"]))  # fmt: skip
