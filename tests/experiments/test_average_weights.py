"""The mean of weights is a file that loads, of the same network."""

from __future__ import annotations

import pytest
import torch

from experiments.average_weights import average
from twospeed import create_model
from twospeed.errors import InputError
from twospeed.weights.load import model_of, save_model


def test_the_mean_lies_in_the_middle(tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_model(create_model("track_tiny", None), file)
    average(files, tmp_path / "mean.safetensors")
    assert model_of(tmp_path / "mean.safetensors") == "track_tiny"
    mean, first, second = (
        create_model("track_tiny", file).state_dict() for file in (tmp_path / "mean.safetensors", *files)
    )
    for key, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first[key] + second[key]) / 2, rtol=1e-3, atol=1e-4)
    save_model(create_model("track_nano", None), files[1])
    with pytest.raises(InputError, match="2 of track_nano, track_tiny"):
        average(files, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
