"""Folders of images, each with something odd in it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs.drawing import flip_bits, png_of


def folders() -> None:
    import cv2
    from PIL import Image

    f = A / "frames"
    rng = np.random.default_rng(1)

    def picture(i: int, size=(96, 64)) -> np.ndarray:
        image = np.full((size[1], size[0], 3), 60, np.uint8)
        image[..., 1] = np.arange(size[0])[None] % 255
        cv2.circle(image, (size[0] // 3 + i, size[1] // 2), min(size) // 5, (220, 40, 40), -1)
        return image

    def fill(name: str, n=6, ending="jpg") -> Path:
        folder = f / name
        folder.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(picture(i)).save(folder / f"{i:05d}.{ending}")
        return folder

    fill("good")
    mixed = fill("mixed_sizes")
    Image.fromarray(picture(3, (64, 96))).save(mixed / "00003.jpg")
    bad = fill("corrupt")
    (bad / "00003.jpg").write_bytes(rng.bytes(2000))
    cut = fill("cut_jpeg")
    (cut / "00003.jpg").write_bytes((cut / "00003.jpg").read_bytes()[:700])
    for ending in ("png", "tif", "bmp", "webp"):
        cut = fill(f"cut_{ending}", ending=ending)
        data = (cut / f"00003.{ending}").read_bytes()
        (cut / f"00003.{ending}").write_bytes(data[: len(data) // 2])
    flipped = fill("flipped_png", ending="png")
    flip_bits(flipped / "00003.png", flipped / "00003.png", 3, 0.01, skip=60)
    zero = fill("empty_file")
    (zero / "00003.jpg").write_bytes(b"")
    loops = fill("loops")
    (loops / "00006.jpg").symlink_to("00007.jpg")
    (loops / "00007.jpg").symlink_to("00006.jpg")
    (loops / "deeper").symlink_to("..")
    dangling = fill("dangling")
    (dangling / "00003.jpg").unlink()
    (dangling / "00003.jpg").symlink_to("/nowhere/00003.jpg")
    locked = fill("locked")
    (locked / "00003.jpg").chmod(0)
    forbidden = fill("forbidden")
    forbidden.chmod(0)
    other = fill("other_files")
    (other / "notes.txt").write_text("hello")
    (other / "Thumbs.db").write_bytes(b"x")
    (other / ".hidden.jpg").write_bytes(b"x")
    (other / "sub").mkdir()
    (f / "nothing").mkdir()
    (f / "no_pictures").mkdir()
    (f / "no_pictures" / "a.txt").write_text("a")
    deep = fill("sixteen_bits", ending="png")
    for i in range(6):
        cv2.imwrite(str(deep / f"{i:05d}.png"), picture(i).astype(np.uint16) * 257)
    ink = fill("cmyk")
    for i in range(6):
        Image.fromarray(picture(i)).convert("CMYK").save(ink / f"{i:05d}.jpg")
    bomb = fill("bomb", ending="png")
    (bomb / "00003.png").write_bytes(png_of(60_000, 60_000))
    folder_named = fill("folder_named_picture")
    (folder_named / "00006.jpg").mkdir()
    fifo = fill("fifo")
    os.mkfifo(fifo / "00003x.jpg")
