"""A checkpoint is whole or absent, and brings every generator back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from twospeed.errors import CheckpointError, InputError, OutputError
from twospeed.training.checkpoint import checkpoints, load_checkpoint, restore_random_state, save_checkpoint
from twospeed.training.distributed import Process, seed_everything

ALONE = Process(0, 1, torch.device("cpu"))


def draws():
    return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()


def test_all_generators_continue_where_they_were(tmp_path):
    seed_everything(1)
    draws()
    path = save_checkpoint(tmp_path, 7, {"model": {}}, ALONE)
    expected = draws()
    seed_everything(2)
    state = load_checkpoint(path, ALONE)
    assert state["step"] == 7
    restore_random_state(state["random"][0])
    assert draws() == expected


def test_model_and_optimizer_come_back_exactly(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step():
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "position": {"epoch": 1}}
    save_checkpoint(tmp_path, 1, state, ALONE)
    straight = [step() for _ in range(3)]
    saved = load_checkpoint(checkpoints(tmp_path)[-1], ALONE)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    restore_random_state(saved["random"][0])
    assert saved["position"] == {"epoch": 1}
    assert [step() for _ in range(3)] == straight


def test_only_the_newest_stay_and_partial_files_do_not_count(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {}, ALONE)
    (tmp_path / ".checkpoint_00000009.pt.123").write_bytes(b"half")
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint_00000002.pt", "checkpoint_00000003.pt"]


def test_damaged_foreign_and_unwritable(tmp_path):
    path = save_checkpoint(tmp_path, 1, {}, ALONE)
    with pytest.raises(InputError, match="written by 1 processes, this run has 2"):
        load_checkpoint(path, Process(0, 2, torch.device("cpu")))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, ALONE)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.pt", ALONE)
    with pytest.raises(OutputError, match="could not be written"):
        save_checkpoint(tmp_path / "missing folder", 1, {}, ALONE)


def test_ranks_draw_differently_from_one_seed():
    values = []
    for rank in (0, 1, 0):
        seed_everything(9, rank)
        values.append((random.random(), torch.rand(1).item(), np.random.rand()))
    assert values[0] == values[2]
    assert values[0] != values[1]
