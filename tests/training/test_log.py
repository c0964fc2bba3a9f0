"""What a training writes, and that an interrupted one continues its tables."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from twospeed.training.log import RunLog, resolved


@dataclass(frozen=True)
class Config:
    data: Path = Path("clips")
    lr: float = 0.1
    jitter: tuple[int, int] = (256, 340)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_config_origin_and_metrics(tmp_path):
    with closing(RunLog(tmp_path / "run", Config())) as run:
        run.log("train", 1, loss=2.25, lr=0.1)
        run.log("train", 2, loss=1 / 3, lr=0.1)
        run.log("validation", 2, top1=0.5)
    assert json.loads((run.path / "config.json").read_text()) == {
        "data": "clips",
        "lr": 0.1,
        "jitter": [256, 340],
    }
    assert json.loads((run.path / "origin.json").read_text())["versions"]["torch"]
    rows = read(run.path / "train.csv")
    assert [float(r["loss"]) for r in rows] == [2.25, 1 / 3]  # written to the last digit
    assert read(run.path / "validation.csv") == [{"step": "2", "top1": "0.5"}]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "validation"]


def test_curves_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with closing(RunLog(tmp_path, Config())) as run:
        run.log("train", 1, loss=0.5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5)]


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    with closing(RunLog(tmp_path, Config())) as run:
        for step in (1, 2, 3):
            run.log("train", step, loss=step / 3)
        run.log("validation", 3, top1=0.1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # cut while writing
    with closing(RunLog(tmp_path, Config(), resume_step=2)) as run:
        run.log("train", 3, loss=1.0)
    assert [(r["step"], float(r["loss"])) for r in read(tmp_path / "train.csv")] == [
        ("1", 1 / 3),
        ("2", 2 / 3),
        ("3", 1.0),
    ]
    assert not (tmp_path / "validation.csv").exists()


def test_rows_of_a_kind_have_the_same_fields(tmp_path):
    with closing(RunLog(tmp_path, Config())) as run:
        run.log("train", 1, loss=1.0)
        with pytest.raises(ValueError, match="have the fields"):
            run.log("train", 2, other=1.0)


def test_a_resumed_run_may_log_other_numbers_than_before(tmp_path):
    with closing(RunLog(tmp_path, Config())) as run:
        run.log("train", 1, lr=0.5, loss=1.0)
    with closing(RunLog(tmp_path, Config(), resume_step=1)) as run:
        run.log("train", 2, loss=0.8, jaccard=0.4)
    assert (tmp_path / "train.csv").read_text() == "step,loss,jaccard\n1,1.0,\n2,0.8,0.4\n"


def test_other_ranks_write_nothing(tmp_path):
    with closing(RunLog(tmp_path / "run", Config(), active=False)) as run:
        run.log("train", 1, loss=1.0)
    assert not (tmp_path / "run").exists()


def test_resolved_takes_plain_mappings_too():
    assert resolved({"a": (1, Path("b"))}) == {"a": [1, "b"]}


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\0", b"{}", b'{"kind": "train"}', b'{"step": "x", "kind": "train"}', b"[" * 5000,
        b'{"kind": "../../evil", "step": 1}', b'{"kind": ["train"], "step": 1}',
        b'{"kind": "train", "step": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_damaged_log_is_continued_from_its_sound_rows(tmp_path, damage):
    with closing(RunLog(tmp_path / "run", Config())) as run:
        run.log("train", 1, loss=0.5)
    lines = tmp_path / "run" / "metrics.jsonl"
    sound = lines.read_bytes()
    lines.write_bytes(damage + b"\n" + sound)
    (tmp_path / "run" / "notes.csv").write_text("what,why\n")
    with closing(RunLog(tmp_path / "run", Config(), resume_step=1)) as run:
        run.log("train", 2, loss=0.25)
    assert lines.read_bytes().startswith(sound)
    assert (tmp_path / "run" / "train.csv").read_text() == "step,loss\n1,0.5\n2,0.25\n"
    assert (tmp_path / "run" / "notes.csv").exists(), "a file of the user's"
    assert not list(tmp_path.glob("*.csv"))
    assert not list(tmp_path.parent.glob("evil*"))
