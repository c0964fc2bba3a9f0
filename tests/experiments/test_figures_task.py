"""The figures experiment: what each network sees and costs, and its first half turn."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from experiments import figures_task as script
from experiments.figures_set import ACTIONS, HEIGHT, LEFT, OWN, PLACES, RIGHT, WIDTH, write_figures_set
from twospeed.recipes.slowfast_ava import read_validation, train


@pytest.mark.parametrize("place", PLACES)
def test_without_context_a_box_hardly_sees_the_next_figure(place):
    scale = script.SHORT_SIDE / HEIGHT
    clip = torch.rand(1, 3, 4, script.SHORT_SIDE, int(scale * WIDTH))
    box = torch.tensor([[scale * (place - 7), 4.0, scale * (place + 7), 20.0]])
    columns = (torch.arange(clip.shape[-1]) + 0.5) / scale  # in pixels of the set
    others = torch.stack([(columns - other).abs() < 12 for other in PLACES if other != place]).any(dim=0)
    share = {}
    for name in script.NETWORKS:
        torch.manual_seed(0)
        seen = clip.clone().requires_grad_()
        script.network(name).eval()(seen, [box]).sum().backward()
        weight = seen.grad.abs().sum(dim=(0, 1, 2, 3))
        share[name] = float(weight[others].sum() / weight.sum())
    assert share["plain"] < 0.01
    assert share["context"] > share["plain"]


def test_both_networks_cost_nearly_the_same():
    cost = {name: script.multiply_adds(script.network(name)) for name in script.NETWORKS}
    assert cost["context"] == pytest.approx(cost["plain"], rel=0.03)
    assert all(script.network(name).num_classes == len(ACTIONS) for name in script.NETWORKS)


@pytest.mark.slow
def test_half_a_turn_lifts_what_figures_do_themselves_far_above_chance(tmp_path):
    write_figures_set(tmp_path / "set", keyframes=800, val_keyframes=200, images=True)
    settings = script.config(tmp_path, "context", 1, 150, 0)
    torch.manual_seed(0)
    run = train(dataclasses.replace(settings, stop_after_steps=75), network=script.network("context"))
    ((_, found),) = script.read_curve(run)
    validation = read_validation(settings)
    assert script.mean(script.chance(validation, 0), OWN) < 0.3
    assert script.mean(found, OWN) > 0.55
    assert min(found[LEFT], found[RIGHT]) > 0.8
