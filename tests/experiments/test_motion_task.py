"""The motion experiment in its smallest form: left or right, seen at sixteen frames or at four."""

from __future__ import annotations

import csv
import dataclasses

import pytest
import torch

from experiments import motion_task as script
from experiments.motion_set import CLASSES, write_motion_set
from twospeed.recipes.slowfast_kinetics import train


def test_both_networks_cost_the_same():
    cost = {name: script.multiply_adds(network) for name, network in script.networks().items()}
    assert cost["slow"] == pytest.approx(cost["slowfast"], rel=0.02)
    assert all(network.num_classes == len(CLASSES) for network in script.networks().values())


def test_the_three_lateral_connections_differ_in_nothing_else():
    networks = script.lateral_connections()
    clip = torch.randn(1, 3, 16, script.SIDE, script.SIDE)
    fusions = []
    for name, network in networks.items():
        assert network.eval()(clip[:, :, : network.frames]).shape == (1, 1, len(CLASSES)), name
        if name != "Slow pathway alone":
            fusions.append(network.get_submodule("s1_fuse").fusion)
    assert fusions == ["time_to_channel", "time_strided_sample", "time_strided_conv"]


@pytest.mark.slow
def test_a_fast_pathway_tells_left_from_right_and_a_slow_one_does_not(tmp_path):
    write_motion_set(tmp_path / "set", clips=80, val_clips=25, side=script.SIDE, classes=("drift_left", "drift_right"))
    top1 = {}
    torch.manual_seed(0)
    for name, network in script.networks().items():
        config = script.config(tmp_path, name, epochs=8, seed=0)
        run = train(dataclasses.replace(config, validate_every=8), network=network)
        with (run / "validation.csv").open(newline="") as file:
            top1[name] = float(list(csv.DictReader(file))[-1]["top1"])
    assert top1["slowfast"] > 0.8
    assert top1["slow"] < top1["slowfast"] - 0.15
