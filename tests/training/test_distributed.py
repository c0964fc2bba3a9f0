"""What each process of a run sees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twospeed.errors import InputError
from twospeed.training.distributed import Process, epoch_batches, gather, processes, shard, total

CPU = torch.device("cpu")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 40), st.integers(0, 3))
def test_processes_share_each_step_of_a_single_one(world, forwards, per_forward, extra, epoch):
    step = world * forwards * per_forward
    length = step + extra
    plan = {"epoch": epoch, "seed": 5, "batch": step, "batch_per_forward": per_forward}
    alone = epoch_batches(length, process=Process(0, 1, CPU), **plan)
    ranks = [epoch_batches(length, process=Process(r, world, CPU), **plan) for r in range(world)]
    assert {len(r) for r in ranks} == {forwards * (length // step)}
    assert [b for together in zip(*ranks, strict=True) for b in together] == alone
    keys = [key for batch in alone for key in batch]
    assert len(set(keys)) == len(keys) == length // step * step
    assert all(e == epoch and 0 <= i < length for e, i in keys)


def test_resume_in_mid_epoch_gives_the_rest():
    plan = {"epoch": 2, "seed": 0, "batch": 8, "batch_per_forward": 2, "process": Process(1, 2, CPU)}
    whole = epoch_batches(50, **plan)
    assert epoch_batches(50, skip_steps=3, **plan) == whole[3 * 2 :]
    assert epoch_batches(50, **{**plan, "epoch": 3}) != whole


def test_batches_that_cannot_be_shared_are_refused():
    plan = {"epoch": 0, "seed": 0, "process": Process(0, 3, CPU)}
    with pytest.raises(InputError, match="make it a multiple of 24"):
        epoch_batches(100, batch=64, batch_per_forward=8, **plan)
    with pytest.raises(InputError, match="10 samples do not fill one step of 24"):
        epoch_batches(10, batch=24, batch_per_forward=8, **plan)


@given(st.integers(0, 50), st.integers(1, 5))
def test_shards_count_every_sample_once(length, world):
    seen = [i for rank in range(world) for i in shard(length, Process(rank, world, CPU))]
    assert sorted(seen) == list(range(length))


def test_alone_nothing_is_communicated(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cpu") as process:
        assert (process.rank, process.world, process.is_main) == (0, 1, True)
        assert gather("x") == ["x"]
        assert total(torch.tensor(3)).item() == 3
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda' cannot be used here"), processes("cuda"):
            pass
    with pytest.raises(InputError, match="device 'gpu' cannot be used here"), processes("gpu"):
        pass
