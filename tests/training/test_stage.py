"""The loop of small networks: it counts the time of steps alone, and resumes as the run it was."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from twospeed.errors import InputError
from twospeed.training import stage as stage_module
from twospeed.training.distributed import Process
from twospeed.training.run import Run
from twospeed.training.stage import FIRST_LIMIT_S, Stage, StageSettings, StepClock

ALONE = Process(0, 1, torch.device("cpu"))


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def counted(lengths: list[float]) -> list[float]:
    """Return what steps of these lengths count, with pauses of an hour between them."""
    time, seconds = Time(), []
    clock = StepClock(time)
    for length in lengths:
        time.seconds += 3600
        clock.begin()
        time.seconds += length
        seconds.append(clock.end())
    return seconds


def test_steps_count_as_long_as_they_take():
    lengths = [8.0, 0.5, 0.4, 0.6, 1.5, 0.5, 2.0, 3.0]  # the first starts loading processes
    assert counted(lengths) == pytest.approx(lengths)


def test_a_pause_within_a_step_is_not_counted():
    steps = counted([0.5] * 20 + [900.0] + [0.5] * 20)
    assert steps[20] == pytest.approx(5.0)
    assert sum(steps) == pytest.approx(25.0)
    assert counted([900.0]) == [FIRST_LIMIT_S]


@dataclass(frozen=True, kw_only=True)
class Settings(StageSettings):
    out: Path
    minutes: float | None = None
    iterations: int | None = None
    replicas: int = 2
    ema_decay: float | None = 0.9
    log_every: int = 1


def train(config: Settings, *, resume: bool = False, after_step=lambda step: None) -> nn.Module:
    """Fit a line, and return its averaged weights."""
    with Run.start_or_resume(config, ALONE, resume=resume) as run:
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        groups = [{"params": list(model.parameters())}]
        stage = Stage(run, config, model, groups, lr=0.1, minutes=config.minutes, iterations=config.iterations,
                      kept={"checks": 0})  # fmt: skip

        def loss(replica, number, batch):
            after_step(stage.step)
            share = batch[number::2]
            value = (replica(share)[:, 0] - share.sum(1)).square().mean()
            return value, {"loss": float(value.detach())}

        def check():
            stage.kept["checks"] += 1
            stage.log("validation", {"checks": stage.kept["checks"]})

        batches = (torch.randn(4, 2, generator=torch.Generator().manual_seed(n)) for n in itertools.count(stage.step))
        stage.fit(batches, loss, check)
        return stage.average


def test_a_schedule_in_minutes_leaves_out_the_time_in_which_the_process_was_stopped(tmp_path, monkeypatch):
    """20 steps of 3 s fill a minute, though the process is stopped for an hour in the fifth."""
    time = Time()
    monkeypatch.setattr(stage_module, "StepClock", lambda: StepClock(time))
    steps = []

    def after_step(step):
        if step not in steps:
            steps.append(step)
            time.seconds += 3.0 if step != 4 else 3600.0

    train(Settings(out=tmp_path, minutes=1.0), after_step=after_step)
    assert len(steps) == 11  # the fifth counts 30 s, ten times the others


def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path):
    config = Settings(out=tmp_path / "whole", iterations=6)
    whole = train(config).state_dict()
    halves = replace(config, out=tmp_path / "halves")
    train(replace(halves, stop_after_steps=2))
    for name, value in train(halves, resume=True).state_dict().items():
        assert torch.equal(value, whole[name])
    for run in (config.out, halves.out):
        assert [line.split(",")[0] for line in (run / "train.csv").read_text().splitlines()] == ["step", *"123456"]
        assert (run / "validation.csv").read_text().splitlines()[1].endswith(",1")  # at the end alone


def test_a_batch_that_replicas_cannot_share_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch 3 cannot be shared by 2 replicas"):
        Settings(out=tmp_path, batch=3)
