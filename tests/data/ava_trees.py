"""Two small videos in the layout of AVA."""

from __future__ import annotations

from pathlib import Path

import cv2

from tests.video.footage import LOSSLESS, numbered, numbered_image

RATE, SECONDS = 30, 6
MAP = "".join(f'item {{ name: "action {n}" id: {n} }}\n' for n in range(1, 5))
BOXES = ("0.1,0.2,0.5,0.9", "0.55,0.1,0.9,0.8")


def make_ava(root: Path, version: str = "2.2") -> Path:
    """Two videos of six seconds, of which one is there as images, one as a file; four classes; two people a second."""
    notes = root / "annotations"
    for folder in (notes, root / "frames" / "two", root / "videos"):
        folder.mkdir(parents=True)
    numbered(root / "videos" / "one.mp4", RATE * SECONDS, size=(32, 56), rate=RATE, **LOSSLESS)
    for number in range(RATE * SECONDS):
        image = cv2.cvtColor(numbered_image(number, 32, 56), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(root / "frames" / "two" / f"two_{number + 1:06d}.png"), image)
    found = [
        f"{video},0{second},{box},,{score}\n"
        for video in ("one", "two")
        for second in (902, 903, 904, 905)
        for box, score in zip(BOXES, (0.95, 0.7 if second == 903 else 0.92), strict=True)
    ]
    (notes / "ava_val_predicted_boxes.csv").write_text("".join(found) + f"one,0901,{BOXES[0]},,0.3\n")
    truth = [
        f"{video},0{second},{BOXES[second % 2]},{1 + second % 4},0\n"
        for video in ("one", "two")
        for second in (902, 903, 904)
    ]
    (notes / f"ava_val_v{version}.csv").write_text("".join(truth))
    (notes / f"ava_val_excluded_timestamps_v{version}.csv").write_text("one,0905\ntwo,0905\n")
    (notes / f"ava_action_list_v{version}_for_activitynet_2019.pbtxt").write_text(MAP)
    return root
