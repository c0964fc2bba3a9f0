"""Statistics of 8 clips, and exact ones before evaluation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.processes import run_processes
from twospeed.errors import InputError
from twospeed.training.batch_norm import GroupedClipsNorm, group_batch_norm, join_statistics, precise_bn


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 4, 1, bias=False), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 5, 1), nn.BatchNorm3d(5)
    )


def test_a_batch_of_groups_trains_as_that_many_processes():
    clips = torch.randn(6, 3, 2, 4, 4)
    target = torch.randn(6, 5, 2, 4, 4)
    whole, part = group_batch_norm(network(), 2).train(), network().train()
    assert sum(isinstance(m, GroupedClipsNorm) for m in whole.modules()) == 2
    nn.functional.mse_loss(whole(clips), target).backward()
    for i in range(0, 6, 2):
        (nn.functional.mse_loss(part(clips[i : i + 2]), target[i : i + 2]) / 3).backward()
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
    plain = copy.deepcopy(network()).train()
    nn.functional.mse_loss(plain(clips), target).backward()
    assert not torch.allclose(plain[0].weight.grad, whole[0].weight.grad, atol=1e-6)


def test_grouping_keeps_weights_names_and_evaluation():
    before = network()
    after = group_batch_norm(copy.deepcopy(before), 8)
    assert list(before.state_dict()) == list(after.state_dict())
    clips = torch.randn(20, 3, 1, 2, 2)
    assert torch.equal(before.eval()(clips), after.eval()(clips))
    after.train()(torch.randn(17, 3, 1, 2, 2))  # the last group has one clip
    with pytest.raises(InputError, match="at least 1 clip, got 0"):
        group_batch_norm(before, 0)


def test_precise_statistics_are_those_of_all_inputs_together():
    model = network().train()
    batches = [torch.randn(4, 3, 2, 5, 5) * scale + scale for scale in (1.0, 2.0, 3.0)]
    before = copy.deepcopy(model)
    assert precise_bn(model, batches) == 3
    everything = torch.cat([before[0](b) for b in batches]).transpose(0, 1).flatten(1)  # (C, positions)
    assert torch.allclose(model[1].running_mean, everything.mean(1), atol=1e-5)
    assert torch.allclose(model[1].running_var, everything.var(1), rtol=1e-4)
    # The second layer sees inputs normalised as in training: by each batch's own statistics.
    trained = torch.cat([before[:4](b) for b in batches]).transpose(0, 1).flatten(1)
    assert torch.allclose(model[4].running_mean, trained.mean(1), atol=1e-5)
    assert model.training
    assert model[1].momentum == 0.1
    for name, value in model.named_parameters():
        assert torch.equal(value, dict(before.named_parameters())[name])


def test_precise_statistics_ignore_dropout_and_need_a_batch():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2))
    precise_bn(model, [torch.ones(8, 2)])
    assert model[1].running_mean.tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match="no batch"):
        precise_bn(model, [])
    assert precise_bn(nn.Linear(2, 2), []) == 0


JOIN = """
import sys, torch
from torch import nn
from twospeed.training.batch_norm import join_statistics
from twospeed.training.distributed import processes
with processes("cpu") as process:
    layer = nn.BatchNorm2d(2)
    layer.running_mean.fill_(float(process.rank))
    layer.running_var.fill_(4.0)
    join_statistics(layer)
    assert layer.running_mean.tolist() == [0.5, 0.5], layer.running_mean
    assert layer.running_var.tolist() == [4.25, 4.25], layer.running_var
"""


def test_statistics_of_two_processes_are_joined():
    layer = nn.BatchNorm2d(2)
    join_statistics(layer)  # alone nothing changes
    assert layer.running_mean.tolist() == [0.0, 0.0]
    run_processes(JOIN)
