"""A run starts or resumes in one way, whatever stopped the one before."""

from __future__ import annotations

import errno
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from twospeed.errors import CheckpointError, InputError, OutputError
from twospeed.training.checkpoint import checkpoints
from twospeed.training.distributed import Process
from twospeed.training.run import Run

ALONE = Process(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Config:
    out: Path
    steps: int = 6
    lr: float = 0.1
    log_every: int = 1
    checkpoint_minutes: float = 0.0  # after every step
    stop_after_steps: int | None = None


def train(config: Config, *, resume: bool = False, on_progress=None, after_step=lambda step: None) -> list[float]:
    """A small training as recipes hold it; returns all weights after its last step."""
    with Run.start_or_resume(config, ALONE, resume=resume, on_progress=on_progress) as run:
        torch.manual_seed(0)
        network = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=config.lr, momentum=0.9)
        run.total_steps = config.steps
        step = run.restore(model=network, optimizer=optimizer).get("step", 0)
        while step < config.steps:
            loss = network(torch.randn(4, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            run.check_finite(step, lr=config.lr, loss=loss.item())
            run.log("train", step, loss=loss.item())
            after_step(step)
            if run.due(step):
                run.save(step, model=network, optimizer=optimizer)
            if run.ended(step):
                break
        run.check_weights(network)
        return network.weight.flatten().tolist()


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(tmp_path / "run")


def test_a_resumed_run_equals_one_that_was_not_interrupted(config, tmp_path):
    straight = train(replace(config, out=tmp_path / "straight"))
    train(replace(config, stop_after_steps=3))
    assert train(config, resume=True) == straight
    for name in ("train.csv", "metrics.jsonl"):
        assert (config.out / name).read_text() == (tmp_path / "straight" / name).read_text()


def test_the_rate_of_a_resumed_run_leaves_out_the_steps_before_it(config):
    train(replace(config, stop_after_steps=3))
    reports = []
    train(config, resume=True, on_progress=reports.append)
    assert [(one.done, one.done_before) for one in reports] == [(4, 3), (5, 3), (6, 3)]
    assert all(one.rate == pytest.approx((one.done - 3) / one.seconds) for one in reports)


@pytest.mark.parametrize("resume", [True, False])
def test_killed_before_its_first_checkpoint_it_starts_from_the_beginning(config, tmp_path, caplog, resume):
    straight = train(replace(config, out=tmp_path / "straight"))
    never = replace(config, checkpoint_minutes=60.0)

    def crash(step):
        if step == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(never, after_step=crash)
    assert train(never, resume=resume) == straight
    assert "no checkpoint yet; the training starts from the beginning" in caplog.text
    assert (config.out / "train.csv").read_text() == (tmp_path / "straight" / "train.csv").read_text()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_used(config, tmp_path, caplog, content):
    straight = train(replace(config, out=tmp_path / "straight"))
    train(replace(config, stop_after_steps=3))
    newest = checkpoints(config.out)[-1]
    newest.write_bytes(content)
    assert train(config, resume=True) == straight
    assert f"{newest}: damaged" in caplog.text
    assert newest.with_suffix(".damaged").is_file()


def test_all_checkpoints_damaged_is_one_line(config):
    train(replace(config, stop_after_steps=3))
    for path in checkpoints(config.out):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        train(config, resume=True)


def test_two_writers_are_refused(config):
    with (
        Run.start_or_resume(config, ALONE) as run,
        pytest.raises(InputError, match="another training is writing here"),
        Run.start_or_resume(config, ALONE, resume=True),
    ):
        pass
    assert not run.path.exists()  # nothing was written, nothing is left


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_the_step(config, tmp_path, number):
    straight = train(replace(config, out=tmp_path / "straight"))
    before = signal.getsignal(signal.SIGINT)

    def interrupt(step):
        if step == 4:
            os.kill(os.getpid(), number)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(replace(config, checkpoint_minutes=60.0), after_step=interrupt)
    assert [path.name for path in checkpoints(config.out)] == ["checkpoint_00000004.pt"]
    assert signal.getsignal(signal.SIGINT) is before
    assert train(config, resume=True) == straight


def test_a_diverged_training_says_so_and_keeps_the_last_good_checkpoint(config):
    with pytest.raises(InputError, match="lr is inf"):
        train(replace(config, lr=float("inf"), checkpoint_minutes=60.0))
    with pytest.raises(InputError, match="lower lr") as caught:
        train(replace(config, lr=1e30, checkpoint_minutes=60.0))
    assert caught.value.option == "lr"
    network = nn.Linear(2, 1)
    network.weight.data.fill_(float("nan"))
    run = Run.start_or_resume(replace(config, out=config.out / "other"), ALONE)
    with run, pytest.raises(InputError, match="1 of 2 tensors of the network are not finite"):
        run.save(1, model=network)
    assert not checkpoints(config.out / "other")


def test_other_settings_are_refused_but_for_those_that_do_not_matter(config):
    train(replace(config, stop_after_steps=3))
    with pytest.raises(InputError, match=r"lr was 0.1, now 0.2"):
        train(replace(config, lr=0.2), resume=True)
    train(replace(config, log_every=2), resume=True)


def test_a_full_disk_is_one_line(config, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"checkpoint could not be written .*No space left"):
        train(config)
    assert not list(config.out.glob("*.pt*")) + list(config.out.glob(".checkpoint*"))


def test_progress_is_reported(config):
    events = []
    train(config, on_progress=events.append)
    assert [(event.task, event.done, event.total, event.unit) for event in events][-1] == ("train", 6, 6, "steps")
    assert events[0].values["loss"] > 0


def test_no_loading_process_is_forked_beside_openvino(tmp_path, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "fork")
    monkeypatch.setitem(sys.modules, "openvino", object())
    for workers in (1, 0):
        config = dataclass(frozen=True)(type("Loading", (Config,), {"workers": workers}))(tmp_path / "run")
        if workers:
            with pytest.raises(InputError, match="OpenVINO is loaded in this process"):
                Run.start_or_resume(config, ALONE)
            assert not (tmp_path / "run").exists()
        else:
            with Run.start_or_resume(config, ALONE):
                pass
