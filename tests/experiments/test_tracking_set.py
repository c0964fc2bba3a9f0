"""A joined set for training trackers has every part's frames and masks, at their places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from experiments.tracking_set import write_set
from twospeed.errors import InputError
from twospeed.video.folders import read_image
from twospeed.video.indexed_png import read_label_map


def test_three_parts_become_one_set(tmp_path):
    davis, snippets, sequence = tmp_path / "davis", tmp_path / "snippets", tmp_path / "chair"
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)) for _ in range(5)]
    for kind in ("JPEGImages", "Annotations"):
        (davis / kind / "288p" / "bear").mkdir(parents=True)
        (sequence / kind / "video1").mkdir(parents=True)
    (snippets / "0ab_1").mkdir(parents=True)
    mask = Image.fromarray(np.pad(np.ones((20, 30), bool), ((10, 18), (20, 14))))
    for i, image in enumerate(noise):
        image.save(davis / "JPEGImages/288p/bear" / f"{i:05d}.jpg")
        mask.save(davis / "Annotations/288p/bear" / f"{i:05d}.png")
        image.save(snippets / "0ab_1" / f"gt_{i}.jpg")
        mask.convert("L").save(snippets / "0ab_1" / f"mask_{i}.png")
        image.save(sequence / "JPEGImages/video1" / f"{i}.jpg")
        mask.save(sequence / "Annotations/video1" / f"{i}.png")
    write_set(davis, snippets, sequence, tmp_path / "out")
    found = {path.name: path for path in (tmp_path / "out/Annotations/288p").iterdir()}
    assert found.keys() == {"bear", "yt-0ab-1", "chair"}
    for name, folder in found.items():
        masks = [read_label_map(path) for path in sorted(folder.iterdir())]
        images = sorted((tmp_path / "out/JPEGImages/288p" / name).iterdir())
        shape = (288, 384) if name == "chair" else (48, 64)
        assert [path.stem for path in images] == [f"{i:05d}" for i in range(5)]
        assert all(m.shape == read_image(i).shape[:2] == shape for m, i in zip(masks, images, strict=True))
        assert all(m.mean() == pytest.approx(600 / 3072, abs=1e-3) for m in masks)
    (sequence / "Annotations/video1/0.png").unlink()
    with pytest.raises(InputError, match="chair: needs images and a mask for each, found 5 and 4"):
        write_set(davis, snippets, sequence, tmp_path / "again")
