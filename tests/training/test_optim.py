"""Who decays, and what clipping does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from twospeed.training.optim import gradient_norm, parameter_groups, set_learning_rate


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(3, 4, 1, bias=False), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 2))


def test_batch_norm_does_not_decay_everything_else_does():
    model = network()
    decayed, norms = parameter_groups(model, weight_decay=1e-4)
    assert decayed["weight_decay"] == 1e-4
    assert norms["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight), id(model[3].bias)}
    assert {id(p) for p in norms["params"]} == {id(model[1].weight), id(model[1].bias)}


def test_frozen_and_shared_parameters():
    model = network()
    model[0].weight.requires_grad_(False)
    model[1].requires_grad_(False)
    model.append(model[3])
    (only,) = parameter_groups(model, weight_decay=0.1)
    assert len(only["params"]) == 2


def test_learning_rate_reaches_every_group():
    optimizer = torch.optim.SGD(parameter_groups(network(), weight_decay=0.1), lr=1.0)
    optimizer.param_groups[1]["lr_scale"] = 0.5
    set_learning_rate(optimizer, 0.2)
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.1]


def test_gradient_norm_is_that_before_clipping():
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert gradient_norm(model).item() == pytest.approx(5.0)
    assert model.weight.grad.tolist() == [[3.0, 4.0]]
    assert gradient_norm(model, clip=1.0).item() == pytest.approx(5.0)
    assert model.weight.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
