"""Masks of every format, and files that are none."""

from __future__ import annotations

import shutil

import numpy as np

from tests.hostile.inputs import ASSETS as A
from tests.hostile.inputs.drawing import flip_bits, mask_png, png_of


def mask_files() -> None:
    import cv2
    from PIL import Image

    m = A / "mask"
    m.mkdir()
    for size in ((96, 64), (64, 96), (97, 63), (1, 1), (3, 2), (16000, 16), (16, 16000)):
        mask_png(m / f"{size[0]}x{size[1]}.png", size)
    good = m / "96x64.png"
    mask_png(m / "two.png", labels=(1, 2))
    mask_png(m / "over.png", labels=tuple(range(60, 75)))
    mask_png(m / "void.png", labels=(1, 255))
    mask_png(m / "gap.png", labels=(3, 77))
    mask_png(m / "many.png", (200, 64), labels=tuple(range(1, 61)))
    grid = np.zeros((64, 96), np.uint8)
    for k in range(44):
        grid[k // 9 * 10 : k // 9 * 10 + 8, k % 9 * 10 : k % 9 * 10 + 8] = k + 1
    grid_image = Image.open(good).copy()
    grid_image.putdata(grid.ravel().tolist())
    grid_image.save(m / "fifty.png")
    block = np.array(Image.open(good)) > 0
    Image.fromarray(block.astype(np.uint8) * 255).save(m / "white.png")
    Image.fromarray(block).save(m / "onebit.png")
    Image.fromarray(block.astype(np.uint8) * 128).save(m / "half.png")
    Image.fromarray((block * 65535).astype(np.uint16)).save(m / "sixteen_white.png")
    Image.fromarray((block * 3).astype(np.uint16)).save(m / "sixteen_id.png")
    Image.fromarray((block * 3000).astype(np.uint16)).save(m / "sixteen_large.png")
    Image.fromarray((block * 0.5).astype(np.float32)).save(m / "float.tif")
    Image.fromarray((block * 2.0).astype(np.float32)).save(m / "float_whole.tif")
    Image.fromarray(np.where(block, np.nan, 0).astype(np.float32)).save(m / "nan.tif")
    Image.fromarray(np.where(block, np.inf, 0).astype(np.float32)).save(m / "inf.tif")
    Image.fromarray((block * -5).astype(np.int32)).save(m / "negative.tif")
    Image.fromarray((block * 70000).astype(np.int32)).save(m / "int32.tif")
    cv2.imwrite(str(m / "float64.tif"), block * 0.5)
    rgb = np.zeros((64, 96, 3), np.uint8)
    rgb[block] = (255, 0, 0)
    Image.fromarray(rgb).save(m / "rgb.png")
    Image.fromarray(rgb).save(m / "jpeg.jpg", quality=60)
    Image.fromarray(rgb).convert("CMYK").save(m / "cmyk.jpg")
    Image.fromarray(rgb).convert("LAB").save(m / "lab.tif")
    Image.fromarray(np.dstack([rgb, block.astype(np.uint8) * 255])).save(m / "rgba.png")
    Image.fromarray(np.dstack([rgb, block.astype(np.uint8) * 100])).save(m / "soft_alpha.png")
    Image.fromarray(cv2.GaussianBlur(block.astype(np.uint8) * 255, (9, 9), 3)).save(m / "blurred.png")
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(m / "background.png")
    Image.fromarray(np.full((64, 96), 255, np.uint8)).save(m / "all_white.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)).save(m / "noise.png")
    mask_png(m / "wrong_size.png", (50, 40))
    mask_png(m / "off_by_one.png", (97, 65))
    (m / "empty.png").touch()
    (m / "text.png").write_text("no picture")
    data = good.read_bytes()
    (m / "cut.png").write_bytes(data[: len(data) - 30])
    flip_bits(good, m / "flipped.png", 0, 0.02, skip=40)
    (m / "bomb.png").write_bytes(png_of(60_000, 60_000))
    (m / "huge.png").write_bytes(png_of(16_000, 12_000, 1))
    (m / "large.png").write_bytes(png_of(9_400, 9_400, 1))
    frames = [Image.fromarray((block * k).astype(np.uint8)) for k in (0, 1, 2)]
    frames[0].save(m / "animated.gif", save_all=True, append_images=frames[1:])
    frames[1].save(m / "animated.png", save_all=True, append_images=frames[2:])
    frames[1].save(m / "pages.tif", save_all=True, append_images=frames[2:])
    (m / "00000 (1).png").write_bytes(data)
    by_frame = m / "by_frame"
    by_frame.mkdir()
    shutil.copy(good, by_frame / "00000.png")
    shutil.copy(good, by_frame / "0.png")
    shutil.copy(good, m / "5=x.png")
    (m / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n%%EndComments\nshowpage\n")
