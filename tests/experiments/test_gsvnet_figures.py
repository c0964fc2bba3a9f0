"""GSVNet's pictures, from CamVid's layout to files."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from experiments import gsvnet_figures
from tests.data.driving_trees import make_camvid


def test_pictures_of_edges_errors_and_labels_are_written(tmp_path, monkeypatch, capsys):
    make_camvid(tmp_path / "camvid", frames=6)
    words = [tmp_path / "camvid", tmp_path / "out", "--steps", 2, "--frames", 2]
    monkeypatch.setattr(sys, "argv", ["gsvnet_figures", *map(str, words)])
    gsvnet_figures.main()
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name.rpartition("_")[2] for file in files] == ["edges.png", "labels.png"] * 2
    edges = np.asarray(Image.open(files[0]))
    height, width = 64, 128
    assert edges.shape[1] == 3 * width
    assert set(np.unique(edges[-height // 2 :, width : 2 * width])) <= {0, 255}
    assert (edges[-height // 2 :, width : 2 * width] == 255).any()
    assert "% of the pixels are at an edge" in capsys.readouterr().out
